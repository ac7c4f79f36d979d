"""The processes of one run on this machine, started as launch/local.py does, but with nothing that ends one when
another fails."""
import importlib.util
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(command, processes=2):
    """`command` in so many processes with a device each. Their PYTHONPATH is that of the test."""
    spec = importlib.util.spec_from_file_location("local", ROOT / "launch" / "local.py")
    local = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(local)
    return local.start(command, processes, 1)


def wait_until(condition, processes, seconds=300, statuses=(None,)):
    """Waits for `condition()`, while every process runs or has ended with one of `statuses`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until and all(process.poll() in statuses for process in processes)
        time.sleep(0.05)


def outputs(processes, seconds):
    """What they printed, once all have ended. They must end within `seconds`."""
    until = time.monotonic() + seconds
    try:
        return [process.communicate(timeout=max(until - time.monotonic(), 0.1))[0].decode(errors="replace")
                for process in processes]
    finally:
        for process in processes:
            process.kill()
