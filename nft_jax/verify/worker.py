"""The processes behind the pool: one nursery that has math-verify loaded, and the workers it forks.

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
from multiprocessing.connection import Connection

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


def _judge(clock: _CpuClock, gold: str, answer: str) -> tuple[str, str]:
    from nft_jax.verify.math import judge

    try:
        with clock:
            return judge(gold, answer)
    except _CpuLimit:
        clock.off()                         # it may have rung on the way out
        return "timeout", f"more than {clock.seconds:g} s of CPU time"
    except MemoryError:
        return "too_large", "more memory than a worker may have"
    except RecursionError:
        return "too_large", "nested too deeply"
    except Exception as problem:        # reported as the verifier's own failure: it earns no reward
        return "error", f"{type(problem).__name__}: {problem}"


def _limit(memory_bytes: int) -> None:
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_AS: memory_bytes}
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


def serve(connection: Connection, memory_bytes: int, cpu_seconds: float) -> None:
    """A worker's life: [task, gold, answer] in, [task, outcome, reason, retiring] out, as ASCII JSON."""
    _limit(memory_bytes)
    clock, judged = _CpuClock(cpu_seconds), 0
    while True:
        try:
            task, gold, answer = json.loads(connection.recv_bytes())
        except EOFError:
            return
        outcome, reason = _judge(clock, gold, answer)
        judged += 1
        retiring = (judged >= ANSWERS_PER_WORKER or outcome in ("timeout", "too_large")
                    or _resident_bytes() > RESIDENT_LIMIT)
        connection.send_bytes(json.dumps([task, outcome, reason[:300], retiring]).encode())
        if retiring:
            return


def _fork(connection: socket.socket, control: socket.socket, prctl, memory_bytes: int, cpu_seconds: float) -> int:
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
            serve(Connection(connection.detach()), memory_bytes, cpu_seconds)
            status = 0
    finally:
        os._exit(status)


def _parent_died_or_request(control: socket.socket, parent: int) -> bool:
    """Wait for a request; False when the pool's process is gone, even if a child of its holds the socket open."""
    while not select.select([control], [], [], PARENT_CHECK_SECONDS)[0]:
        if os.getppid() != parent:
            return False
    return os.getppid() == parent


def nursery(control_fd: int, memory_bytes: int, cpu_seconds: float) -> None:
    """Answer the pool's requests: "fork" with a socket, "end PID". Ends, and all its workers with it, when the
    pool's end of the control socket closes or its process dies."""
    parent = os.getppid()
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is the training process's to handle
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    try:
        from nft_jax.verify.symbolic import warm_up
        warm_up()
    except Exception as problem:
        control.sendall(json.dumps({"failed": f"{type(problem).__name__}: {problem}"}).encode() + b"\n")
        return
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
                pid = _fork(socket.socket(fileno=fds[0]), control, prctl, memory_bytes, cpu_seconds)
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
