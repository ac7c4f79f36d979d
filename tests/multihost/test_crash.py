"""Two real processes: one crashes, is asked to stop, or is killed."""
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from nft_jax.runtime.distributed import ends_together, initialise
from nft_jax.runtime.stops import stop_on_signals

def the_work_of_the_second():
    raise ValueError("no room on the second")

folder, what, second = Path(sys.argv[1]), sys.argv[2], os.environ["NFT_PROCESS_ID"] == "1"
initialise()
with ends_together(), stop_on_signals() as stop:
    (folder / os.environ["NFT_PROCESS_ID"]).write_text(str(os.getpid()))
    if what == "crash" and second:
        the_work_of_the_second()
    if what == "kill" and second:
        os.kill(os.getpid(), signal.SIGKILL)
    points = 0
    while not stop.reached():
        points += 1
        time.sleep(0.02 if second else 0.005)
    print(f"stopped at point {points}")
"""


def start(folder, what):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"PYTHONPATH": str(ROOT), "NFT_COORDINATOR": f"127.0.0.1:{port}", "NFT_NUM_PROCESSES": "2",
                           "JAX_NUM_CPU_DEVICES": "1"}
    return [subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), what], cwd=ROOT, text=True,
                             env=common | {"NFT_PROCESS_ID": str(index)}, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT) for index in range(2)]


def outputs(processes, seconds):
    """What they said, once all have ended, which takes no longer than this."""
    until = time.monotonic() + seconds
    try:
        return [process.communicate(timeout=max(until - time.monotonic(), 0.1))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for_both(folder, processes):
    until = time.monotonic() + 120
    while not all((folder / name).exists() for name in "01"):
        assert time.monotonic() < until and all(process.poll() in (None, 1, -9) for process in processes)
        time.sleep(0.05)


def test_a_crash_ends_both_with_its_traceback(tmp_path):
    """jax alone ends the other after minutes, without a word on why."""
    processes = start(tmp_path, "crash")
    wait_for_both(tmp_path, processes)
    said = outputs(processes, 30)
    assert [process.returncode for process in processes] == [1, 1], said
    assert "in the_work_of_the_second" in said[1] and "ValueError: no room on the second" in said[1]
    first = said[0].splitlines()[0]
    assert first.startswith("host 1 (") and first.endswith("ended, and with it this job. It said:"), said[0]
    assert "in the_work_of_the_second" in said[0] and "no answer from" not in said[0]


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_stops_both_at_the_same_point(tmp_path, asked):
    processes = start(tmp_path, "stop")
    wait_for_both(tmp_path, processes)
    processes[asked].send_signal(signal.SIGTERM)
    said = outputs(processes, 60)
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0].splitlines()[-1].startswith("stopped at point ")
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]


@pytest.mark.slow
def test_one_that_is_killed_is_named_and_the_other_ends(tmp_path):
    processes = start(tmp_path, "kill")
    wait_for_both(tmp_path, processes)
    said = outputs(processes, 30)
    assert processes[1].returncode == -signal.SIGKILL and processes[0].returncode not in (0, None)
    pid = (tmp_path / "1").read_text()
    assert f"process {pid}) has not been heard of for 10 seconds" in said[0], said[0]
