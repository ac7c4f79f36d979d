"""The pool's end of the processes: the forker and its workers (`nft_jax.verify.worker`)."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nft_jax.config import VerifierConfig
from nft_jax.types import InputError
from nft_jax.verify.rewards.registry import Reward

CPU_SECONDS = 1.0
"""A worker gives up an answer of maths after this much CPU time. The deadline (wall clock) only has
to end what ignores that. A reward of the user's own may compute until its deadline."""
MOST_EXTENSIONS = 9
"""How often the deadline of one task is extended while its worker is starved of CPU."""
START_SECONDS = 300.0
"""Loading math-verify takes two seconds. A reward's module that takes longer than this hangs."""


@dataclass
class Worker:
    """One worker as the pool sees it."""
    connection: Connection
    pid: int
    task: Any = None                  # what it judges now
    deadline: float = 0.0             # time.monotonic() at which the task is out of time
    extensions: int = 0               # of this task's deadline so far
    cpu_before: float = 0.0           # CPU seconds of the worker when it got the task

    def begin(self, task: Any, seconds: float) -> None:
        self.task, self.deadline, self.extensions = task, time.monotonic() + seconds, 0
        self.cpu_before = self._cpu()[1]

    def is_starved(self, seconds: float) -> bool:
        """Whether the worker wants to run but has had less than `seconds` of CPU for its task. Then the machine
        is busy, and the answer may not be slow. False where there is no /proc."""
        state, cpu = self._cpu()
        return state == "R" and cpu - self.cpu_before < seconds and self.extensions < MOST_EXTENSIONS

    def _cpu(self) -> tuple[str, float]:
        """State of the process ("R" = it wants to run), and its CPU seconds so far."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "", 0.0
        return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Forker:
    """A fresh interpreter with the judge loaded, which forks and ends workers on request."""

    def __init__(self, config: VerifierConfig, reward: Reward | None):
        """Starts the process and returns at once. `reward` None is maths."""
        self.control, theirs = socket.socketpair()
        home = None if reward is None else (reward.home, reward.name)
        cpu_seconds = min(CPU_SECONDS, config.deadline) if reward is None else config.deadline
        arguments = theirs.fileno(), config.memory_mb << 20, cpu_seconds, home, config.allow_weak_sandbox
        paths = [os.path.abspath(path) for path in [str(Path(__file__).parents[2]), *sys.path]]
        code = f"import sys; sys.path[:] = {paths!r}; from nft_jax.verify.worker import forker; forker{arguments!r}"
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], env={**kept, **single, "PYTHONHASHSEED": "0"}, cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], start_new_session=True)
        self.replies = self.control.makefile("rb")
        self.ready = False
        self.must_be_ready = time.monotonic() + START_SECONDS

    def reply(self, wanted: str) -> int:
        """The value of the next reply. Raises EOFError at the forker's end, else InputError."""
        line = self.replies.readline()
        if not line:
            raise EOFError("the process that forks the verifier's workers has ended")
        message = json.loads(line)
        if "failed" in message:
            raise InputError(f"The verifier's workers could not start: {message['failed']}")
        return message[wanted]

    def patience(self) -> float:
        """Seconds left to get ready. Raises InputError when they are over."""
        left = self.must_be_ready - time.monotonic()
        if left <= 0:
            raise InputError(f"The verifier's workers could not start within {START_SECONDS:g} s: if verifier.reward "
                             "is a function of yours, see what its module does when it is imported.")
        return left

    def fork(self) -> Worker:
        """A new worker. The first call waits until the judge is loaded."""
        if not self.ready:
            self.reply("ready")
            self.ready = True
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"fork\n"], [theirs.fileno()])
            return Worker(Connection(ours.detach()), self.reply("forked"))

    def end(self, worker: Worker) -> None:
        worker.connection.close()
        self.control.sendall(f"end {worker.pid}\n".encode())
        self.reply("ended")

    def close(self) -> None:
        """Kill the forker, and all its workers with it."""
        self.replies.close()
        self.control.close()
        self.process.kill()
        self.process.wait()
