"""N processes on this machine, each with D virtual CPU devices: a run over several hosts, tried on one.

    python launch/local.py -n 2 -d 4 -- python -m experiments.quickstart --mesh.data 2 --mesh.fsdp 4 --workdir runs/two

Each line of process i is shown behind [i]. The first process that fails ends all others, and this command ends with
its status; with 0 if none fails. SIGINT and SIGTERM are passed on to every process."""
from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import BinaryIO

GRACE = 10.0        # seconds between asking the other processes to end and killing them
NOISE = b"[Gloo]"   # begins the lines that collectives of CPU devices print when they connect


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("launch/local.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--processes", type=int, default=2, help="processes (default 2)")
    parser.add_argument("-d", "--devices", type=int, default=1, help="virtual CPU devices of each (default 1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what every process runs, after --")
    given = parser.parse_args(arguments)
    given.command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if given.processes < 1 or given.devices < 1 or not given.command:
        parser.error("give -n and -d of 1 or more, and a command after --")
    return given


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def start(command: Sequence[str], processes: int, devices: int) -> list[subprocess.Popen]:
    """Starts the processes, each the head of a process group. A single process gets no coordinator."""
    address = f"127.0.0.1:{free_port()}"
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONUNBUFFERED": "1"}
    if processes > 1:
        settings |= {"NFT_COORDINATOR": address, "NFT_NUM_PROCESSES": str(processes)}
    return [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                             start_new_session=True,
                             env=os.environ | settings | ({"NFT_PROCESS_ID": str(index)} if processes > 1 else {}))
            for index in range(processes)]


def show(index: int, stream: BinaryIO) -> None:
    """Prints every line of process `index` behind its number."""
    for line in stream:
        if not line.startswith(NOISE):
            sys.stdout.buffer.write(b"[%d] %s\n" % (index, line.rstrip(b"\n")))
            sys.stdout.buffer.flush()


def signal_all(processes: Sequence[subprocess.Popen], number: int) -> None:
    """Sends a signal to the process group of every process that still runs."""
    for process in processes:
        if process.poll() is None:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                continue                       # it has ended since the poll


def wait(processes: Sequence[subprocess.Popen]) -> int:
    """Waits until all have ended. Returns the status of the first that failed, as a shell gives it, or 0. After a
    failure the others are asked to end, and killed if they do not within GRACE seconds."""
    failed, ask, kill = 0, False, 0.0
    while None in [process.poll() for process in processes]:
        failed = failed or next((process.returncode for process in processes if process.returncode), 0)
        if failed and not ask:
            ask, kill = True, time.monotonic() + GRACE
            signal_all(processes, signal.SIGTERM)
        if ask and time.monotonic() > kill:
            signal_all(processes, signal.SIGKILL)
        time.sleep(0.05)
    failed = failed or next((process.returncode for process in processes if process.returncode), 0)
    return 128 - failed if failed < 0 else failed


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    processes = start(given.command, given.processes, given.devices)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signal_all(processes, number))
    shown = [threading.Thread(target=show, args=(index, process.stdout), daemon=True)
             for index, process in enumerate(processes)]
    for thread in shown:
        thread.start()
    status = wait(processes)
    for thread in shown:
        # Not forever: a grandchild may hold the pipe.
        thread.join(5)
    return status


if __name__ == "__main__":
    sys.exit(main())
