"""`Verifier`: one verdict per answer, in order, whatever the answers do to the processes that judge them.

1. `submit` extracts the answers and decides the cheap ones in the calling thread (see `nft_jax.verify.math`).
2. The rest, without repetitions, join the queue of one dispatcher thread.
3. The dispatcher gives a task to an idle worker with a deadline. A worker past its deadline is killed (outcome
   timeout); a task whose worker died is tried once more in a fresh one (then outcome error, no reward).
4. A future is done when the last of its answers is.

Processes are Linux or macOS; on macOS the memory limit is not enforced, deadlines are.
"""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from nft_jax.config import VerifierConfig
from nft_jax.types import InputError, Outcome, Verdict
from nft_jax.verify.math import extract, quick_verdict, verdict

CPU_SECONDS = 1.0
"""A worker gives an answer up after this much CPU time; the deadline (wall clock) only has to catch what ignores it."""
REMEMBERED = 1 << 16
ATTEMPTS = 2


@dataclass
class _Task:
    """One (gold, answer) pair to be judged, and every place that waits for its verdict."""
    gold: str
    answer: str
    waiting: list[tuple[_Batch, int]] = field(default_factory=list)
    attempts: int = 0


class _Batch:
    """The verdicts of one `submit`, filled in any order."""

    def __init__(self, size: int):
        self.future: Future[list[Verdict]] = Future()
        self.future.set_running_or_notify_cancel()
        self.verdicts: list[Verdict | None] = [None] * size


@dataclass
class _Worker:
    connection: Connection
    pid: int
    task: int | None = None
    deadline: float = 0.0


class _Nursery:
    """The process that forks workers; see `nft_jax.verify.worker`."""

    def __init__(self, config: VerifierConfig):
        self.control, theirs = socket.socketpair()
        arguments = theirs.fileno(), config.memory_mb << 20, min(CPU_SECONDS, config.deadline)
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

    def reply(self, wanted: str) -> int:
        """The value of the next reply; EOFError when the nursery is gone."""
        line = self.replies.readline()
        if not line:
            raise EOFError("the nursery of the verifier's workers has died")
        message = json.loads(line)
        if "failed" in message:
            raise InputError(f"The verifier's workers could not start: {message['failed']}. Install "
                             "math-verify[antlr4-13-2] (pip install -r requirements.txt).")
        return message[wanted]

    def fork(self) -> _Worker:
        if not self.ready:
            self.reply("ready")
            self.ready = True
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"fork\n"], [theirs.fileno()])
            return _Worker(Connection(ours.detach()), self.reply("forked"))

    def end(self, worker: _Worker) -> None:
        worker.connection.close()
        self.control.sendall(f"end {worker.pid}\n".encode())
        self.reply("ended")

    def close(self) -> None:
        self.replies.close()
        self.control.close()
        self.process.kill()
        self.process.wait()


class Verifier:
    """Judges answers against golds, one verdict per answer and in order; safe to use from any thread.

    `start` returns at once and loads the workers in the background, so it may be called before JAX starts; otherwise
    the first `submit` does it. A context manager; `close` ends every process. `counts` holds the outcomes so far.
    """

    def __init__(self, config: VerifierConfig | None = None):
        self.config = config or VerifierConfig()
        self.counts: Counter[str] = Counter()
        self.restarts = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, str], Verdict] = OrderedDict()
        self._tasks: dict[int, _Task] = {}
        self._pending: dict[tuple[str, str], int] = {}
        self._queue: deque[int] = deque()
        self._issued = 0
        self._deaths = 0                                 # since the last answer of any worker
        self._workers: list[_Worker] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._closing = False

    def __enter__(self) -> Verifier:
        return self.start()

    def __exit__(self, *exception) -> None:
        self.close()

    def start(self) -> Verifier:
        """Begin loading the workers in the background. Does nothing when they are there."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._closing, self._failure = False, None
                self._wake_reader, self._wake_writer = socket.socketpair()
                self._wake_writer.setblocking(False)
                self._thread = threading.Thread(target=self._dispatch, name="nft-verifier", daemon=True)
                self._thread.start()
        return self

    def judge(self, responses: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
        """Verdicts on the responses, in order; blocks until the last one. Errors as `submit`."""
        return self.submit(responses, golds).result()

    def submit(self, responses: Sequence[str], golds: Sequence[str]) -> Future[list[Verdict]]:
        """The verdicts of one group as a future; what needs no worker is decided before this returns.

        Raises InputError when the two lengths differ or an element is not a string; the future raises it when the
        workers cannot start, and RuntimeError when the verifier is closed before the verdicts are there.
        """
        responses, golds = _checked(responses, golds)
        mode, batch, left = self.config.mode, _Batch(len(responses)), []
        for i, (response, gold) in enumerate(zip(responses, golds, strict=True)):
            answer = extract(response, mode)
            known = self._recall(mode, gold, answer) or quick_verdict(gold, answer, mode)
            batch.verdicts[i] = known
            if known is None:
                left.append((i, gold, answer))
            elif answer is not None:
                self._remember(gold, answer, known)
        if left:
            self.start()
            with self._lock:
                if self._failure is not None or self._closing:
                    batch.future.set_exception(self._failure or RuntimeError("the verifier is closed"))
                    return batch.future
                for i, gold, answer in left:
                    self._enqueue(gold, answer, batch, i)
            self._wake()
        else:
            self._finish(batch)
        return batch.future

    def close(self) -> None:
        """End all processes. Futures that are not done raise RuntimeError."""
        with self._lock:
            thread, self._closing = self._thread, True
        if thread is None:
            return
        self._wake()
        thread.join()
        with self._lock:
            self._thread = None

    @property
    def worker_pids(self) -> tuple[int, ...]:
        return tuple(worker.pid for worker in self._workers)

    # The calling threads' side.

    def _recall(self, mode: str, gold: str, answer: str | None) -> Verdict | None:
        with self._lock:
            known = self._known.get((mode, gold, answer or ""))
            if known is not None:
                self._known.move_to_end((mode, gold, answer or ""))
            return known if answer else None

    def _remember(self, gold: str, answer: str, found: Verdict) -> None:
        if found.outcome in ("timeout", "error"):        # the machine's doing, perhaps: ask again next time
            return
        with self._lock:
            self._known[self.config.mode, gold, answer] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def _enqueue(self, gold: str, answer: str, batch: _Batch, i: int) -> None:
        number = self._pending.get((gold, answer))
        if number is None:
            self._issued += 1
            number = self._pending[gold, answer] = self._issued
            self._tasks[number] = _Task(gold, answer)
            self._queue.append(number)
        self._tasks[number].waiting.append((batch, i))

    def _wake(self) -> None:
        try:
            self._wake_writer.send(b"\0")
        except OSError:                                  # full: it is awake already; closed: it has ended
            return

    def _finish(self, batch: _Batch) -> None:
        with self._lock:
            self.counts.update(found.outcome for found in batch.verdicts)
        batch.future.set_result(list(batch.verdicts))

    # The dispatcher thread's side.

    def _dispatch(self) -> None:
        nursery: _Nursery | None = None
        failure: BaseException | None = None
        try:
            nursery = _Nursery(self.config)
            while not self._closing:
                try:
                    self._round(nursery)
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    if not nursery.ready:
                        raise InputError("The verifier's workers could not start: their parent process died while "
                                         f"loading (exit status {nursery.process.poll()}). Check that `{sys.executable}"
                                         " -c 'import math_verify'` works and that memory is not exhausted.") from None
                    nursery = self._again(nursery)
        except BaseException as problem:
            failure = problem
        self._end(nursery, failure)

    def _round(self, nursery: _Nursery) -> None:
        """Fill the pool, hand out tasks, wait for whatever comes first, collect."""
        if not nursery.ready and nursery.control not in wait([self._wake_reader, nursery.control]):
            self._wake_reader.recv(4096)
            return
        while len(self._workers) < self.config.workers and not self._closing:
            time.sleep(min(self._deaths, 20) * 0.05)     # workers that die at birth must not keep the machine busy
            self._workers.append(nursery.fork())
        for worker in self._workers:
            if worker.task is None:
                self._hand_out(worker)
        busy = [worker.deadline for worker in self._workers if worker.task is not None]
        patience = max(0.0, min(busy) - time.monotonic()) if busy else None
        ready = wait([self._wake_reader, nursery.control, *(worker.connection for worker in self._workers)], patience)
        if nursery.control in ready:                     # it speaks only when spoken to: this is its end
            raise EOFError
        if self._wake_reader in ready:
            self._wake_reader.recv(4096)
        for worker in list(self._workers):
            if worker.connection in ready:
                self._collect(nursery, worker)
            elif worker.task is not None and time.monotonic() >= worker.deadline:
                self._settle(worker.task, "timeout", f"killed after {self.config.deadline:g} s")
                self._replace(nursery, worker)

    def _hand_out(self, worker: _Worker) -> None:
        with self._lock:
            if not self._queue:
                return
            number = self._queue.popleft()
            task = self._tasks[number]
        task.attempts += 1
        worker.task, worker.deadline = number, time.monotonic() + self.config.deadline
        message = json.dumps([number, task.gold, task.answer]).encode()      # ASCII: half surrogates pass as escapes
        try:
            worker.connection.send_bytes(message)
        except OSError:
            return                                       # it has died: its end of the pipe is ready, `_collect` sees

    def _collect(self, nursery: _Nursery, worker: _Worker) -> None:
        try:
            number, outcome, reason, retiring = json.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            self._deaths += 1
            self._retry(worker)
            self._replace(nursery, worker)
            return
        self._deaths = 0
        if number == worker.task:
            worker.task = None
            self._settle(number, outcome, reason)
        if retiring:
            self._replace(nursery, worker)

    def _retry(self, worker: _Worker) -> None:
        if worker.task is None:
            return
        if self._tasks[worker.task].attempts >= ATTEMPTS:
            self._settle(worker.task, "error", f"its worker died {ATTEMPTS} times")
        else:
            with self._lock:
                self._queue.appendleft(worker.task)
        worker.task = None

    def _replace(self, nursery: _Nursery, worker: _Worker) -> None:
        self._workers.remove(worker)
        self.restarts += 1
        nursery.end(worker)

    def _again(self, nursery: _Nursery) -> _Nursery:
        """A new nursery for one that died, and its workers with it."""
        for worker in self._workers:
            self._retry(worker)
            worker.connection.close()
        self._workers.clear()
        self.restarts += 1
        nursery.close()
        return _Nursery(self.config)

    def _settle(self, number: int, outcome: Outcome, reason: str) -> None:
        with self._lock:
            task = self._tasks.pop(number)
            del self._pending[task.gold, task.answer]
        found = verdict(outcome, task.answer, reason)
        self._remember(task.gold, task.answer, found)
        for batch, i in task.waiting:
            batch.verdicts[i] = found
            if None not in batch.verdicts:
                self._finish(batch)

    def _end(self, nursery: _Nursery | None, failure: BaseException | None) -> None:
        for worker in self._workers:
            worker.connection.close()
        self._workers.clear()
        if nursery is not None:
            nursery.close()
        with self._lock:
            self._failure, self._closing = failure, True
            unfinished = {id(batch): batch for task in self._tasks.values() for batch, _ in task.waiting}
            self._tasks.clear()
            self._pending.clear()
            self._queue.clear()
        self._wake_reader.close()
        self._wake_writer.close()
        for batch in unfinished.values():
            batch.future.set_exception(failure or RuntimeError("the verifier was closed before this verdict"))


def _checked(responses: Sequence[str], golds: Sequence[str]) -> tuple[list[str], list[str]]:
    responses, golds = list(responses), list(golds)
    if len(responses) != len(golds):
        raise InputError(f"{len(responses)} responses and {len(golds)} golds were given: every response needs its own "
                         "gold, in the same order (repeat the gold for the answers of a group).")
    for name, values in (("responses", responses), ("golds", golds)):
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(f"{name}[{i}] is {value!r} ({type(value).__name__}): answers and golds are strings.")
    return responses, golds
