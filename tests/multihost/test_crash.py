"""Two real processes: one crashes, is asked to stop, or is killed."""
import signal
import sys
from pathlib import Path

import pytest

from local_processes import outputs, start, wait_until

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


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run("crash" | "kill" | "stop")`: two processes, each past its start."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def started(what):
        processes = start([sys.executable, "-c", PROGRAM, str(tmp_path), what])
        wait_until(lambda: all((tmp_path / name).exists() for name in "01"), processes, 120, (None, 1, -9))
        return processes
    return started


def test_a_crash_ends_both_with_its_traceback(run):
    """jax alone ends the other after minutes, without a word on why."""
    processes = run("crash")
    said = outputs(processes, 30)
    assert [process.returncode for process in processes] == [1, 1], said
    assert "in the_work_of_the_second" in said[1] and "ValueError: no room on the second" in said[1]
    first = said[0].splitlines()[0]
    assert first.startswith("host 1 (") and first.endswith("ended, and with it this job. It said:"), said[0]
    assert "in the_work_of_the_second" in said[0] and "no answer from" not in said[0]


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_stops_both_at_the_same_point(run, asked):
    processes = run("stop")
    processes[asked].send_signal(signal.SIGTERM)
    said = outputs(processes, 60)
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[0].splitlines()[-1].startswith("stopped at point ")
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]


@pytest.mark.slow
def test_one_that_is_killed_is_named_and_the_other_ends(run, tmp_path):
    processes = run("kill")
    said = outputs(processes, 30)
    assert processes[1].returncode == -signal.SIGKILL and processes[0].returncode not in (0, None)
    pid = (tmp_path / "1").read_text()
    assert f"process {pid}) has not been heard of for 10 seconds" in said[0], said[0]
