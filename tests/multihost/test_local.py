"""launch/local.py: processes on this machine, without jax."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LOCAL = [sys.executable, str(Path(__file__).parents[2] / "launch" / "local.py")]


def start(*arguments, code):
    return subprocess.Popen([*LOCAL, *arguments, "--", sys.executable, "-uc", code], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def run(*arguments, code):
    """Output and status."""
    process = start(*arguments, code=code)
    return process.communicate(timeout=60)[0], process.returncode


def test_every_process_has_its_place_and_its_lines():
    names = ["NFT_COORDINATOR", "NFT_NUM_PROCESSES", "NFT_PROCESS_ID", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES"]
    output, status = run("-n", "3", "-d", "2", code=f"import os; print(*(os.environ[name] for name in {names}))")
    lines = sorted(line.split() for line in output.splitlines())
    assert status == 0 and len({line[1] for line in lines}) == 1
    assert [[line[0], *line[2:]] for line in lines] == [[f"[{i}]", "3", str(i), "cpu", "2"] for i in range(3)]


def test_one_process_has_no_coordinator():
    assert run("-n", "1", code="import os; print('NFT_COORDINATOR' in os.environ)") == ("[0] False\n", 0)


@pytest.mark.parametrize(("end", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 128 + signal.SIGKILL)])
def test_the_first_failure_ends_all_and_is_the_status(end, status):
    """The others wait for something that never comes."""
    code = f"import os, sys, time; {end} if os.environ['NFT_PROCESS_ID'] == '1' else time.sleep(600)"
    assert run("-n", "3", code=code)[1] == status


def test_signals_are_handed_on():
    code = "import signal, sys, time\n" \
           "signal.signal(signal.SIGTERM, lambda *_: (print('asked'), sys.exit(0)))\n" \
           "print('ready')\ntime.sleep(600)"
    process = start("-n", "2", code=code)
    lines = [process.stdout.readline() for _ in range(2)]
    assert sorted(lines) == ["[0] ready\n", "[1] ready\n"]
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert sorted(output.splitlines()) == ["[0] asked", "[1] asked"] and process.returncode == 0
