"""Writing that may fail without ending a run: what could not be written is kept, tried again, and said.

A disk may be full for a while, and a tracker's server away for a night; neither is worth an hour of a pod.
"""
from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

MIRRORED_ROWS = 10_000      # that wait for a tracker at most
CLOSE_SECONDS = 30.0        # so long the end of a run waits for a tracker


class Writer(Protocol):
    """Takes a run's rows of metrics, in the order of their steps."""

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def append(path: Path, data: bytes) -> None:
    """All of `data` at the end of the file, or nothing: where it fails the file is cut to its old length."""
    with path.open("ab", buffering=0) as file:
        size, rest = file.tell(), memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest):]
        except OSError:
            os.truncate(path, size)
            raise


def reason(error: BaseException) -> str:
    """One line for the user."""
    first = next(iter(str(error).splitlines()), "")[:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def of_the_disk(error: Exception) -> bool:
    """Whether writing to a file failed (of tokenizers' errors, which are of Rust, only the text says it)."""
    return isinstance(error, OSError) or "(os error" in str(error)


class Writing:
    """Queues of writes by name, each in its order. A write that the disk refuses waits; it is tried again before
    the next one of its name, and by `retry`. `say` gets a line when a queue begins to fail, when it goes on, and for
    everything that is given up."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self._queues, self._failing = say, {}, {}

    def __call__(self, name: str, what: str, write: Callable[[], object], most: int = 1_000_000) -> None:
        """`write()`, now or later; `what` names it to the user. At most so many wait: the oldest then go, for good."""
        queue = self._queues.setdefault(name, deque())
        queue.append((what, write))
        if len(queue) > most:
            self.say(f"{name}: {queue.popleft()[0]} is lost: no more than {most} are kept until they can be written")
        self._go_on(name)

    def _go_on(self, name: str) -> None:
        queue = self._queues[name]
        while queue:
            try:
                queue[0][1]()
            except Exception as error:
                if not of_the_disk(error):
                    raise
                if name not in self._failing:
                    self.say(f"{name}: {queue[0][0]} cannot be written ({reason(error)}). It is kept and tried again; "
                              "the run goes on")
                self._failing[name] = reason(error)
                return
            queue.popleft()
        if self._failing.pop(name, None):
            self.say(f"{name}: written again, and nothing waits")

    def retry(self) -> bool:
        """Tries everything that waits; whether nothing waits any more."""
        for name in self._queues:
            self._go_on(name)
        return not any(self._queues.values())

    @property
    def waiting(self) -> list[str]:
        """What is not written, by name, and why."""
        return [f"{name} ({', '.join(what for what, _ in queue)}): {self._failing[name]}"
                for name, queue in self._queues.items() if queue]


class Mirror:
    """A Writer that never fails and never waits: the rows go to `writer` in a thread, those that it refuses (with
    whatever exception) again every `pause` seconds. Of more than MIRRORED_ROWS that wait the oldest are dropped, and
    counted."""

    def __init__(self, writer: Writer, name: str, say: Callable[[str], None], pause: float = 10.0):
        self._writer, self._name, self._say, self._pause = writer, name, say, pause
        self._rows: deque[tuple[int, dict]] = deque()
        self._dropped, self._failing, self._closing = 0, "", False
        self._changed = threading.Condition()           # of the rows, and of `_closing`
        self._thread = threading.Thread(target=self._work, name=f"nft-{name}", daemon=True)
        self._thread.start()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        with self._changed:
            self._rows.append((step, metrics))
            if len(self._rows) > MIRRORED_ROWS:
                self._rows.popleft()
                self._dropped += 1
            self._changed.notify_all()

    def _work(self) -> None:
        while row := self._next():
            try:
                self._writer.write(*row)
            except Exception as error:
                if self._fails(error):
                    break
                continue
            with self._changed:
                if self._rows[0] is row:
                    self._rows.popleft()
                self._changed.notify_all()
            if self._failing:
                self._say(f"{self._name}: takes metrics again")
                self._failing = ""
        try:
            self._writer.close()
        except Exception as error:
            self._fails(error)

    def _next(self) -> tuple[int, dict] | None:
        """The oldest row that waits, when there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._closing)
            return self._rows[0] if self._rows else None

    def _fails(self, error: Exception) -> bool:
        """Says it, once, and waits before the next try; whether there is to be none, as the run ends."""
        if not self._failing:
            self._say(f"{self._name}: does not take metrics ({reason(error)}). They are kept and tried again; the run "
                      "goes on, and metrics.jsonl has them")
        self._failing = reason(error)
        with self._changed:
            if self._closing:
                return True
            self._changed.wait_for(lambda: self._closing, self._pause)
            return False

    def flush(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Waits until no row waits, so long at most; whether none does."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._rows, seconds)

    def close(self) -> None:
        """Waits for what is still to be sent, CLOSE_SECONDS at most, and says what was not."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        left = len(self._rows) + self._dropped
        if left or self._thread.is_alive():
            self._say(f"{self._name}: {left} rows were not taken ({self._failing or 'it does not answer'}); "
                      "metrics.jsonl has them")
