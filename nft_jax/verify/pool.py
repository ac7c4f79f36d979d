"""`Verifier`: one verdict per answer, in order, whatever the answers do to the processes that judge them.

The life of an answer:
1. `submit` extracts it and decides the cheap cases in the calling thread (`maths.judge.quick_verdict`). With
   another reward than maths (`rewards.registry`), all answers go to workers.
2. The answers left over, each once, join the queue of one dispatcher thread as tasks.
3. The dispatcher gives a task to an idle worker with a deadline. A worker past its deadline is killed (outcome
   timeout), unless the machine is so busy that it has hardly run. A task whose worker died is tried once more
   in a fresh worker; if that one dies too, its outcome is error, without a reward.
4. A future is done when its last answer has a verdict.

Linux and macOS. On macOS the memory limit is not enforced, deadlines are, and `start` says so.
"""
from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import NamedTuple

from nft_jax.config import VerifierConfig
from nft_jax.types import InputError, Outcome, Verdict
from nft_jax.verify.maths.extract import extract, tail_of, with_open_thought
from nft_jax.verify.maths.judge import answer_of, copied_verdict, quick_verdict, strictly_right, verdict
from nft_jax.verify.processes import CPU_SECONDS, Forker, Worker
from nft_jax.verify.rewards.registry import Reward, lookup

REMEMBERED = 1 << 16
"""Verdicts of maths that are kept for the same gold and answer; the oldest make room."""
ATTEMPTS = 2
"""Workers that may die over one task."""


class _Key(NamedTuple):
    """What a task judges: for maths one extracted answer. Equal keys are judged once."""
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    golds: tuple[str, ...]


@dataclass
class _Task:
    """What one worker judges in one go, and every (batch, places in it) that waits for the verdicts."""
    key: _Key
    waiting: list[tuple[_Batch, tuple[int, ...]]] = field(default_factory=list)
    attempts: int = 0


class _Batch:
    """The verdicts of one `submit`, filled in any order; `strict` as in `Verdict`."""

    def __init__(self, size: int):
        self.future: Future[list[Verdict]] = Future()
        self.future.set_running_or_notify_cancel()
        self.verdicts: list[Verdict | None] = [None] * size
        self.strict: list[bool] | None = None


class Verifier:
    """Judges answers against golds, one verdict per answer and in order; safe to use from any thread. A context
    manager; `close` ends every process. `counts` holds the outcomes so far, `restarts` the replaced workers."""

    def __init__(self, config: VerifierConfig | None = None):
        """Raises InputError for a reward that does not exist, or that a worker cannot import."""
        self.config = config or VerifierConfig()
        self.reward = None if self.config.reward == "math" else lookup(self.config.reward)
        if self.reward is not None and not self.reward.home:
            raise InputError(f"verifier.reward is {self.reward.name!r}: no worker can import what a notebook or "
                             "standard input defines. Write it to a file and pass file.py:function.")
        self.counts: Counter[str] = Counter()
        self.restarts = 0
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str | None], Verdict] = {}                 # (gold, answer) -> verdict
        self._tasks: dict[_Key, _Task] = {}              # until their verdicts are there
        self._queue: deque[_Task] = deque()
        self._deaths = 0                                 # since any worker last answered
        self._workers: list[Worker] = []
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._closing = False

    def __enter__(self) -> Verifier:
        return self.start()

    def __exit__(self, *exception) -> None:
        self.close()

    def start(self) -> Verifier:
        """Begin loading the workers in the background (before JAX starts, say; the first `submit` calls it
        too). Raises InputError when the reward refuses this machine (no sandbox for programs)."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                if self.reward is not None and self.reward.prepare is not None:
                    self.reward.prepare(self.config.allow_weak_sandbox)
                if sys.platform != "linux":
                    logging.getLogger(__name__).warning(
                        "verifier.memory_mb = %d is not enforced on %s: deadlines and kills hold, memory limits need "
                        "Linux.", self.config.memory_mb, sys.platform)
                self._closing, self._failure = False, None
                self._wake_reader, self._wake_writer = socket.socketpair()
                self._wake_writer.setblocking(False)
                self._thread = threading.Thread(target=self._dispatch, name="nft-verifier", daemon=True)
                self._thread.start()
        return self

    def judge(self, responses: Sequence[str], golds: Sequence[str],
              prompts: Sequence[str] | None = None) -> list[Verdict]:
        """Verdicts in order; blocks until the last one. Raises as `submit` and its future."""
        return self.submit(responses, golds, prompts).result()

    def submit(self, responses: Sequence[str], golds: Sequence[str],
               prompts: Sequence[str] | None = None) -> Future[list[Verdict]]:
        """The verdicts of one group as a future. `prompts` are the questions: an answer must not repeat one, and
        rewards read them. A prompt that ends with <think> has begun the response. Raises InputError when the lengths
        differ or an element is not a string. The future raises InputError when the workers cannot start or a reward
        is not in [0, 1], and RuntimeError when the verifier is closed first."""
        responses, golds, prompts = _checked(responses, golds, prompts)
        responses = list(map(with_open_thought, prompts, responses))
        batch = _Batch(len(responses))
        if self.reward is not None:
            open_tasks = _tasks_of(self.reward, prompts, responses, golds)
        else:
            open_tasks = self._decide(batch, prompts, responses, golds)
            if self.config.disagreement:
                batch.strict = [strictly_right(response, gold)
                                for response, gold in zip(responses, golds, strict=True)]
        if open_tasks:
            self.start()
            with self._lock:
                if self._failure is not None or self._closing:
                    batch.future.set_exception(self._failure or RuntimeError("the verifier is closed"))
                    return batch.future
                for key, places in open_tasks:
                    self._enqueue(key, batch, places)
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

    # In the calling thread.

    def _decide(self, batch: _Batch, prompts: list[str], responses: list[str],
                golds: list[str]) -> list[tuple[_Key, tuple[int, ...]]]:
        """Fill in what needs no worker; returns the tasks for the others, with their places."""
        mode, left = self.config.mode, []
        for i, (prompt, response, gold) in enumerate(zip(prompts, responses, golds, strict=True)):
            answer = answer_of(response, gold, mode)
            # What is remembered depends on no question.
            found = copied_verdict(prompt, gold, answer, mode) or self._known.get((gold, answer))
            if found is None:
                found = quick_verdict(gold, answer, mode)
                self._remember(gold, answer, found)
            if found is None:
                left.append((_Key(("",), (answer,), (gold,)), (i,)))
            batch.verdicts[i] = found
        return left

    def _remember(self, gold: str, answer: str | None, found: Verdict | None) -> None:
        # A busy machine may be the reason for timeout and error: the next time may go better.
        if found is not None and found.outcome not in ("timeout", "error"):
            with self._lock:
                self._known[gold, answer] = found
                if len(self._known) > REMEMBERED:
                    del self._known[next(iter(self._known))]

    def _enqueue(self, key: _Key, batch: _Batch, places: tuple[int, ...]) -> None:
        if key not in self._tasks:
            self._tasks[key] = _Task(key)
            self._queue.append(self._tasks[key])
        self._tasks[key].waiting.append((batch, places))

    def _wake(self) -> None:
        try:
            self._wake_writer.send(b"\0")
        except OSError:               # full: the dispatcher is awake already; closed: it has ended
            return

    def _finish(self, batch: _Batch) -> None:
        verdicts = list(batch.verdicts)
        if batch.strict is not None:
            # Three times as fast as dataclasses.replace, for every answer of a run.
            verdicts = [Verdict(found.outcome, found.reward, found.extracted, found.reason, strict)
                        for found, strict in zip(verdicts, batch.strict, strict=True)]
        with self._lock:
            self.counts.update(found.outcome for found in verdicts)
        batch.future.set_result(verdicts)

    # In the dispatcher's thread.

    def _dispatch(self) -> None:
        forker: Forker | None = None
        failure: BaseException | None = None
        try:
            forker = Forker(self.config, self.reward)
            while not self._closing:
                try:
                    self._round(forker)
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    if not forker.ready:
                        raise InputError("The verifier's workers could not start: their parent process died while "
                                         f"loading (exit status {forker.process.poll()}). Check that `{sys.executable}"
                                         " -c 'import math_verify'` works and that memory is not exhausted.") from None
                    forker = self._replace_forker(forker)
        except BaseException as problem:
            failure = problem
        self._end(forker, failure)

    def _round(self, forker: Forker) -> None:
        """Hand out tasks, wait for an event, collect. Raises EOFError when the forker died."""
        if not forker.ready:
            ready = wait([self._wake_reader, forker.control], forker.patience())
            if forker.control not in ready:
                if ready:
                    self._wake_reader.recv(4096)
                return
        while len(self._workers) < self.config.workers and not self._closing:
            # Workers that die at birth must not keep the machine busy.
            time.sleep(min(self._deaths, 20) * 0.05)
            self._workers.append(forker.fork())
        for worker in self._workers:
            if worker.task is None:
                self._hand_out(worker)
        busy = [worker.deadline for worker in self._workers if worker.task is not None]
        patience = max(0.0, min(busy) - time.monotonic()) if busy else None
        ready = wait([self._wake_reader, forker.control, *(worker.connection for worker in self._workers)], patience)
        # The forker only answers requests: without one, its control socket is ready when it has ended.
        if forker.control in ready:
            raise EOFError
        if self._wake_reader in ready:
            self._wake_reader.recv(4096)
        for worker in list(self._workers):
            if worker.connection in ready:
                self._collect(forker, worker)
            elif worker.task is not None and time.monotonic() >= worker.deadline:
                if worker.is_starved(min(CPU_SECONDS, self.config.deadline / 2)):
                    worker.deadline, worker.extensions = time.monotonic() + self.config.deadline, worker.extensions + 1
                    continue
                self._deliver_same(worker.task, "timeout", f"killed after {self.config.deadline:g} s")
                self._replace_worker(forker, worker)

    def _hand_out(self, worker: Worker) -> None:
        with self._lock:
            if not self._queue:
                return
            task = self._queue.popleft()
        task.attempts += 1
        worker.begin(task, self.config.deadline * len(task.key.responses))
        try:
            # ASCII JSON: half surrogates pass as escapes.
            worker.connection.send_bytes(json.dumps(task.key).encode())
        except OSError:               # the worker has died: its connection is ready, and `_collect` sees the end
            return

    def _collect(self, forker: Forker, worker: Worker) -> None:
        """Take what a worker sent: its findings, or its end."""
        try:
            findings, retiring = json.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            self._deaths += 1
            self._retry(worker)
            self._replace_worker(forker, worker)
            return
        self._deaths, task, worker.task = 0, worker.task, None
        self._deliver(task, findings)
        if retiring:
            self._replace_worker(forker, worker)

    def _retry(self, worker: Worker) -> None:
        """Put the task of a dead worker first in the queue, or give it up after ATTEMPTS."""
        if worker.task is None:
            return
        if worker.task.attempts >= ATTEMPTS:
            self._deliver_same(worker.task, "error", f"its worker died {ATTEMPTS} times")
        else:
            with self._lock:
                self._queue.appendleft(worker.task)
        worker.task = None

    def _replace_worker(self, forker: Forker, worker: Worker) -> None:
        """End a worker; the next round forks another."""
        self._workers.remove(worker)
        self.restarts += 1
        forker.end(worker)

    def _replace_forker(self, forker: Forker) -> Forker:
        """A new forker for one that died, and its workers with it."""
        for worker in self._workers:
            self._retry(worker)
            worker.connection.close()
        self._workers.clear()
        self.restarts += 1
        forker.close()
        return Forker(self.config, self.reward)

    def _deliver_same(self, task: _Task, outcome: Outcome, reason: str) -> None:
        self._deliver(task, [(outcome, reason, None)] * len(task.key.responses))

    def _deliver(self, task: _Task, findings: Sequence[tuple[Outcome, str, float | None]]) -> None:
        """Turn the findings of a task into verdicts for every batch that waits for them. A finding is (outcome,
        reason, reward); the reward is None for maths, whose outcome decides."""
        with self._lock:
            del self._tasks[task.key]
        extracted = task.key.responses if self.reward is None else list(map(extract, task.key.responses))
        verdicts = [verdict(outcome, answer, reason, value)
                    for (outcome, reason, value), answer in zip(findings, extracted, strict=True)]
        if self.reward is None:
            self._remember(task.key.golds[0], extracted[0], verdicts[0])
        unusable = next((reason for outcome, reason, _ in findings if outcome == "unusable"), None)
        for batch, places in task.waiting:
            for place, each in zip(places, verdicts, strict=True):
                batch.verdicts[place] = each
            if batch.future.done():
                continue
            if unusable is not None:
                batch.future.set_exception(InputError(unusable))
            elif None not in batch.verdicts:
                self._finish(batch)

    def _end(self, forker: Forker | None, failure: BaseException | None) -> None:
        """End every process, and every open future with the failure (None: it was closed)."""
        for worker in self._workers:
            worker.connection.close()
        self._workers.clear()
        if forker is not None:
            forker.close()
        with self._lock:
            self._failure, self._closing = failure, True
            unfinished = {id(batch): batch for task in self._tasks.values() for batch, _ in task.waiting}
            self._tasks.clear()
            self._queue.clear()
        self._wake_reader.close()
        self._wake_writer.close()
        for batch in (each for each in unfinished.values() if not each.future.done()):
            batch.future.set_exception(failure or RuntimeError("the verifier was closed before this verdict"))


def _tasks_of(reward: Reward, prompts: list[str], responses: list[str],
              golds: list[str]) -> list[tuple[_Key, tuple[int, ...]]]:
    """The tasks of a group with their places: one for each answer, or one for all of a batch."""
    responses = list(map(tail_of, responses))
    if reward.batch and responses:
        return [(_Key(tuple(prompts), tuple(responses), tuple(golds)), tuple(range(len(responses))))]
    return [(_Key((prompt,), (response,), (gold,)), (i,))
            for i, (prompt, response, gold) in enumerate(zip(prompts, responses, golds, strict=True))]


def _checked(responses: Sequence[str], golds: Sequence[str],
             prompts: Sequence[str] | None) -> tuple[list[str], list[str], list[str]]:
    responses, golds = list(responses), list(golds)
    prompts = [""] * len(responses) if prompts is None else list(prompts)
    if not len(responses) == len(golds) == len(prompts):
        raise InputError(f"{len(responses)} responses and {len(golds)} golds were given (and {len(prompts)} prompts): "
                         "every response needs its own gold, in the same order (repeat it for the answers of a group).")
    for name, values in (("responses", responses), ("golds", golds), ("prompts", prompts)):
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(f"{name}[{i}] is {value!r} ({type(value).__name__}): answers and golds are strings.")
    return responses, golds, prompts
