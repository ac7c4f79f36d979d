"""The processes behind the pool: one nursery that has math-verify (or the reward) loaded, and the workers it forks.

The nursery is a fresh interpreter (it never forks from a process that runs JAX, and never imports the user's script).
On its control socket it is handed one end of a socket per worker and forks; a worker judges what arrives there until
the other end closes. The nursery, not the pool, kills and reaps workers: a process id stays reserved until then.
"""
from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

from nft_jax.types import InputError
from nft_jax.verify.rewards.registry import Reward, resolve

ANSWERS_PER_WORKER = 5_000
RESIDENT_LIMIT = 500 << 20
"""A worker that has grown beyond this many bytes is replaced after its answer."""
PARENT_CHECK_SECONDS = 1.0
_DIE_WITH_PARENT = 1                    # PR_SET_PDEATHSIG


class _CpuLimit(BaseException):
    """Not an Exception: neither sympy nor math-verify may swallow it."""


class _CpuClock:
    """Raises `_CpuLimit` in the main thread after so many seconds of CPU time, again and again until it is off."""

    def __init__(self, seconds: float):
        self.seconds, self.armed = seconds, False
        signal.signal(signal.SIGPROF, self._ring)

    def _ring(self, signum, frame):
        if self.armed:
            raise _CpuLimit

    def __enter__(self):
        self.armed = True
        signal.setitimer(signal.ITIMER_PROF, self.seconds, 0.1)

    def __exit__(self, *exception):
        self.off()

    def off(self):
        self.armed = False
        signal.setitimer(signal.ITIMER_PROF, 0)


Word = tuple[str, str, float | None]     # outcome, reason, and the reward where a function decides


def _guarded(clock: _CpuClock, size: int, judge: Callable[..., list[Word]], arguments: list) -> list[Word]:
    """The judge's words, or the same failure for every answer of the task."""
    try:
        with clock:
            return judge(*arguments)
    except _CpuLimit:
        clock.off()                         # it may have rung on the way out
        failure = "timeout", f"more than {clock.seconds:g} s of CPU time", None
    except MemoryError:
        failure = "too_large", "more memory than a worker may have", None
    except RecursionError:
        failure = "too_large", "nested too deeply", None
    except InputError as problem:           # the reward itself is wrong: the pool raises it
        failure = "unusable", str(problem), None
    except Exception as problem:            # reported as the verifier's own failure: it earns no reward
        failure = "error", f"{type(problem).__name__}: {problem}", None
    return [failure] * size


def _judge_maths(gold: str, answer: str) -> list[Word]:
    from nft_jax.verify.maths.judge import judge
    return [(*judge(gold, answer), None)]


def _judge_by(reward: Reward) -> Callable[..., list[Word]]:
    def judge(prompts: list[str], responses: list[str], golds: list[str]) -> list[Word]:
        return [("wrong", f"{value:g} by {reward.name}", value) for value in reward.score(prompts, responses, golds)]
    return judge


def _load_judge(home: tuple[str, str] | None, allow_weak_sandbox: bool) -> tuple[Callable[..., list[Word]], bool]:
    """What judges, and whether it starts processes. Raises InputError when the reward cannot be had."""
    reward = None if home is None else resolve(*home)
    if reward is not None and "jax" in sys.modules:
        raise InputError(f"the module {reward.home} of the reward {reward.name!r} imports jax. Put the reward in a "
                         "module of its own, or import jax inside the functions that need it.")
    if reward is not None and reward.prepare is not None:
        reward.prepare(allow_weak_sandbox)
    if reward is None or reward.symbolic:
        try:
            from nft_jax.verify.maths.symbolic import warm_up
            warm_up()
        except ImportError as problem:
            raise InputError(f"{type(problem).__name__}: {problem}. Install math-verify[antlr4-13-2] (pip install -r "
                             "requirements.txt).") from problem
    return (_judge_maths, False) if reward is None else (_judge_by(reward), reward.starts_processes)


def _limit(memory_bytes: int, starts_processes: bool) -> None:
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_AS: memory_bytes}
    if not starts_processes:
        limits[resource.RLIMIT_FSIZE] = 0
        if hasattr(resource, "RLIMIT_NPROC"):
            limits[resource.RLIMIT_NPROC] = 0
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            if sys.platform == "linux":     # macOS refuses RLIMIT_AS; the deadline still holds there
                raise


def _resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Life(NamedTuple):
    """What a worker needs to know."""
    judge: Callable[..., list[Word]]
    memory_bytes: int
    cpu_seconds: float                      # for one answer
    starts_processes: bool


def serve(connection: Connection, life: Life) -> None:
    """A worker's life: [task, *what to judge] in, [task, words, retiring] out, as ASCII JSON."""
    _limit(life.memory_bytes, life.starts_processes)
    judged = 0
    while True:
        try:
            task, *arguments = json.loads(connection.recv_bytes())
        except EOFError:
            return
        size = len(arguments[1]) if isinstance(arguments[1], list) else 1
        words = _guarded(_CpuClock(life.cpu_seconds * size), size, life.judge, arguments)
        judged += size
        retiring = (judged >= ANSWERS_PER_WORKER or any(word[0] in ("timeout", "too_large") for word in words)
                    or _resident_bytes() > RESIDENT_LIMIT)
        words = [(outcome, reason[:2000 if outcome == "unusable" else 300], value) for outcome, reason, value in words]
        connection.send_bytes(json.dumps([task, words, retiring]).encode())
        if retiring:
            return


def _fork(connection: socket.socket, control: socket.socket, prctl, life: Life) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid:
        connection.close()
        return pid
    status = 1
    try:
        if prctl is not None:
            prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() == nursery:
            control.close()
            serve(Connection(connection.detach()), life)
            status = 0
    finally:
        os._exit(status)


def _parent_died_or_request(control: socket.socket, parent: int) -> bool:
    """Wait for a request; False when the pool's process is gone, even if a child of its holds the socket open."""
    while not select.select([control], [], [], PARENT_CHECK_SECONDS)[0]:
        if os.getppid() != parent:
            return False
    return os.getppid() == parent


def nursery(control_fd: int, memory_bytes: int, cpu_seconds: float, home: tuple[str, str] | None,
            allow_weak_sandbox: bool) -> None:
    """Answer the pool's requests: "fork" with a socket, "end PID". Ends, and all its workers with it, when the
    pool's end of the control socket closes or its process dies. `home` and name of the reward; None is maths."""
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is the training process's to handle
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    try:
        judge, starts_processes = _load_judge(home, allow_weak_sandbox)
    except Exception as problem:
        told = str(problem) if isinstance(problem, InputError) else f"{type(problem).__name__}: {problem}"
        control.sendall(json.dumps({"failed": told}).encode() + b"\n")
        return
    life = Life(judge, memory_bytes, cpu_seconds, starts_processes)
    gc.freeze()
    control.sendall(json.dumps({"ready": os.getpid()}).encode() + b"\n")
    children: set[int] = set()
    try:
        while _parent_died_or_request(control, parent):
            request, fds, _, _ = socket.recv_fds(control, 64, 1)
            if not request:
                return
            word, _, argument = request.decode().strip().partition(" ")
            if word == "fork":
                pid = _fork(socket.socket(fileno=fds[0]), control, prctl, life)
                children.add(pid)
                control.sendall(json.dumps({"forked": pid}).encode() + b"\n")
            elif int(argument) in children:
                _end(int(argument))
                children.discard(int(argument))
                control.sendall(json.dumps({"ended": int(argument)}).encode() + b"\n")
    except OSError:                                      # the pool's end is gone in the middle of a message
        return
    finally:
        for pid in children:
            _end(pid)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
