"""The processes behind the pool: a forker that has the judge loaded, and its workers.

1. The forker is a fresh interpreter: no fork of a process that runs JAX, and it never imports the user's script.
2. The pool sends it "fork" with one end of a new socket; the forker forks a worker that owns this end.
3. The worker judges the tasks that arrive on its socket, until the pool closes the other end.
4. The pool sends "end PID", and the forker kills and reaps the worker. Only the parent can do this safely: it
   keeps the process id reserved until it reaps, so no other process is hit.
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
from functools import partial
from multiprocessing.connection import Connection

from nft_jax.types import InputError
from nft_jax.verify.rewards.registry import Reward, resolve

ANSWERS_PER_WORKER = 5_000
"""A worker is replaced after so many answers."""
RESIDENT_LIMIT = 500 << 20
"""A worker that has grown beyond this many bytes is replaced after its answer."""
PARENT_CHECK_SECONDS = 1.0
_DIE_WITH_PARENT = 1                    # PR_SET_PDEATHSIG

Finding = tuple[str, str, float | None]
"""Of one answer: outcome, reason, and the reward (None for maths: the outcome decides)."""
Judge = Callable[[list[str], list[str], list[str]], list[Finding]]
"""(prompts, responses, golds) of one task -> one finding for each answer."""


class _CpuLimit(BaseException):
    """Not an Exception: neither sympy nor math-verify may swallow it."""


class _CpuClock:
    """Raises `_CpuLimit` in the main thread after these CPU seconds, again until it is off."""

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


def _guarded(clock: _CpuClock, judge: Judge, prompts: list[str], responses: list[str], golds: list[str],
             ) -> list[Finding]:
    """The judge's findings, or the same failure for every answer of the task."""
    try:
        with clock:
            return judge(prompts, responses, golds)
    except _CpuLimit:
        # The clock may have rung while it was being switched off.
        clock.off()
        failure = "timeout", f"more than {clock.seconds:g} s of CPU time", None
    except (MemoryError, SystemError):
        # SystemError: an allocation failed inside of CPython's C code, which did not say so.
        failure = "too_large", "more memory than a worker may have", None
    except RecursionError:
        failure = "too_large", "nested too deeply", None
    except InputError as problem:     # the reward itself is wrong: the pool raises this error
        failure = "unusable", str(problem), None
    except Exception as problem:      # the verifier's own failure: it is reported, and earns no reward
        failure = "error", f"{type(problem).__name__}: {problem}", None
    return [failure] * len(responses)


def _judge_maths(prompts: list[str], answers: list[str], golds: list[str]) -> list[Finding]:
    from nft_jax.verify.maths.judge import judge
    return [(*judge(gold, answer), None) for gold, answer in zip(golds, answers, strict=True)]


def _judge_by(reward: Reward) -> Judge:
    def judge(prompts: list[str], responses: list[str], golds: list[str]) -> list[Finding]:
        return [("wrong", f"{value:g} by {reward.name}", value) for value in reward.score(prompts, responses, golds)]
    return judge


def _load_judge(home: tuple[str, str] | None, allow_weak_sandbox: bool) -> tuple[Judge, bool]:
    """The judge, and whether it starts processes. Raises InputError when the reward cannot be loaded."""
    reward = None if home is None else resolve(*home)
    if reward is not None and "jax" in sys.modules:
        raise InputError(f"the module {reward.home} of the reward {reward.name!r} imports jax. Put the reward in a "
                         "module of its own, or import jax inside the functions that need it.")
    if reward is not None and reward.prepare is not None:
        reward.prepare(allow_weak_sandbox)
    if reward is None or reward.symbolic:
        try:
            from nft_jax.verify.maths.algebra import warm_up
            warm_up()
        except ImportError as problem:
            raise InputError(f"{type(problem).__name__}: {problem}. Install math-verify[antlr4-13-2] (pip install -r "
                             "requirements.txt).") from problem
    return (_judge_maths, False) if reward is None else (_judge_by(reward), reward.starts_processes)


def _limit(memory_bytes: int, starts_processes: bool) -> None:
    """Limit this process's memory, and forbid it files and processes unless the judge needs them."""
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
            # macOS refuses RLIMIT_AS; the deadline still holds there.
            if sys.platform == "linux":
                raise


def _resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve(connection: Connection, judge: Judge, memory_bytes: int, cpu_seconds: float, starts_processes: bool) -> None:
    """A worker's life: [prompts, responses, golds] in, [findings, retiring] out. `cpu_seconds` are for one
    answer."""
    _limit(memory_bytes, starts_processes)
    judged = 0
    while True:
        try:
            prompts, responses, golds = json.loads(connection.recv_bytes())
        except EOFError:
            return
        findings = _guarded(_CpuClock(cpu_seconds * len(responses)), judge, prompts, responses, golds)
        judged += len(responses)
        retiring = (judged >= ANSWERS_PER_WORKER or _resident_bytes() > RESIDENT_LIMIT
                    or any(outcome in ("timeout", "too_large") for outcome, _, _ in findings))
        findings = [(outcome, reason[:2000 if outcome == "unusable" else 300], value)
                    for outcome, reason, value in findings]
        connection.send_bytes(json.dumps([findings, retiring]).encode())
        if retiring:
            return


def _fork(connection: socket.socket, control: socket.socket, prctl, work: Callable[[Connection], None]) -> int:
    forker_pid = os.getpid()
    pid = os.fork()
    if pid:
        connection.close()
        return pid
    status = 1
    try:
        if prctl is not None:
            prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        # Otherwise the forker died before prctl, and nothing would end this worker.
        if os.getppid() == forker_pid:
            control.close()
            work(Connection(connection.detach()))
            status = 0
    finally:
        os._exit(status)


def _wait_for_request(control: socket.socket, parent: int) -> bool:
    """Wait for a request. False once the pool's process is gone (a child may hold the socket)."""
    while not select.select([control], [], [], PARENT_CHECK_SECONDS)[0]:
        if os.getppid() != parent:
            return False
    return os.getppid() == parent


def forker(control_fd: int, memory_bytes: int, cpu_seconds: float, home: tuple[str, str] | None,
           allow_weak_sandbox: bool) -> None:
    """Answer the pool's requests: "fork" with a socket, "end PID". `home` is the reward's module and name; None
    is maths. The forker and its workers end when the pool's process dies or closes its end of the control
    socket."""
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    # Ctrl-C is for the training process, which closes the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    try:
        judge, starts_processes = _load_judge(home, allow_weak_sandbox)
    except Exception as problem:
        told = str(problem) if isinstance(problem, InputError) else f"{type(problem).__name__}: {problem}"
        control.sendall(json.dumps({"failed": told}).encode() + b"\n")
        return
    work = partial(serve, judge=judge, memory_bytes=memory_bytes, cpu_seconds=cpu_seconds,
                   starts_processes=starts_processes)
    # What is loaded stays shared between the workers: their collectors do not touch it.
    gc.freeze()
    control.sendall(json.dumps({"ready": os.getpid()}).encode() + b"\n")
    children: set[int] = set()
    try:
        while _wait_for_request(control, parent):
            request, fds, _, _ = socket.recv_fds(control, 64, 1)
            if not request:
                return
            word, _, argument = request.decode().strip().partition(" ")
            if word == "fork":
                pid = _fork(socket.socket(fileno=fds[0]), control, prctl, work)
                children.add(pid)
                control.sendall(json.dumps({"forked": pid}).encode() + b"\n")
            elif int(argument) in children:
                _end(int(argument))
                children.discard(int(argument))
                control.sendall(json.dumps({"ended": int(argument)}).encode() + b"\n")
    except OSError:
        # The pool's end closed in the middle of a message.
        return
    finally:
        for pid in children:
            _end(pid)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
