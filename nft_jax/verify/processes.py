"""The pool's end of the processes behind it: the nursery, and the workers that it forks (`nft_jax.verify.worker`)."""
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

from nft_jax.config import VerifierConfig
from nft_jax.types import InputError
from nft_jax.verify.rewards.registry import Reward

CPU_SECONDS = 1.0
"""A worker gives an answer of maths up after this much CPU time; the deadline (wall clock) only has to catch what
ignores it. A reward of the user's may compute until its deadline."""
MOST_EXTENSIONS = 9
"""A deadline passes at most so many times while its worker is starved of CPU."""
START_SECONDS = 300.0
"""Loading math-verify takes two seconds; a reward's module that takes longer than this is a hang."""


@dataclass
class Worker:
    """One worker as the pool sees it."""
    connection: Connection
    pid: int
    task: int | None = None
    deadline: float = 0.0
    extensions: int = 0               # of the deadline, for this task
    cpu_before: float = 0.0           # seconds it had used when it got the task

    def begin(self, task: int, seconds: float) -> None:
        """It has a task, and so much wall clock for it."""
        self.task, self.deadline, self.extensions = task, time.monotonic() + seconds, 0
        self.cpu_before = self._cpu()[1]

    def is_starved(self, seconds: float) -> bool:
        """Whether it wants to run and the machine has not given it these seconds of CPU since it got the task: a busy
        machine, not a slow answer. (False where there is no /proc.)"""
        state, cpu = self._cpu()
        return state == "R" and cpu - self.cpu_before < seconds and self.extensions < MOST_EXTENSIONS

    def _cpu(self) -> tuple[str, float]:
        """State and CPU seconds so far."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "", 0.0
        return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Nursery:
    """The process that forks workers; see `nft_jax.verify.worker`."""

    def __init__(self, config: VerifierConfig, reward: Reward | None):
        self.control, theirs = socket.socketpair()
        home = None if reward is None else (reward.home, reward.name)
        cpu_seconds = min(CPU_SECONDS, config.deadline) if reward is None else config.deadline
        arguments = theirs.fileno(), config.memory_mb << 20, cpu_seconds, home, config.allow_weak_sandbox
        paths = [os.path.abspath(path) for path in [str(Path(__file__).parents[2]), *sys.path]]
        code = f"import sys; sys.path[:] = {paths!r}; from nft_jax.verify.worker import nursery; nursery{arguments!r}"
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
        """The value of the next reply; EOFError when the nursery is gone."""
        line = self.replies.readline()
        if not line:
            raise EOFError("the nursery of the verifier's workers has died")
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
        self.replies.close()
        self.control.close()
        self.process.kill()
        self.process.wait()
