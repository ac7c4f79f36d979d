"""Writing to a disk that may be full for a while: what could not be written is kept, tried again, and reported.

A full disk is no reason to end a run that took hours of many devices."""
from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path

from nft_jax.types import Halted

FULL = (errno.ENOSPC, errno.EDQUOT)


def append(path: Path, data: bytes) -> None:
    """Appends all of `data` to the file, or nothing: a write that fails cuts the file to its old length. Raises
    OSError when the disk refuses the write."""
    with path.open("ab", buffering=0) as file:
        size, rest = file.tell(), memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest):]
        except OSError:
            os.truncate(path, size)
            raise


def reason(error: BaseException) -> str:
    """The error's type and the first line of its message, for the user."""
    first = next(iter(str(error).splitlines()), "")[:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that there is no room on the disk, or in the user's share of it."""
    # Only the text of errors of tokenizers (Rust), tensorstore (C++) and other processes names the system.
    words = "|".join(re.escape(os.strerror(number)) for number in FULL)
    return getattr(error, "errno", None) in FULL or bool(re.search(words, str(error), re.IGNORECASE))


def cannot_be_written(what: str, error: Exception) -> Exception:
    """What a write that nothing will mend ends the run with: `error` itself, or Halted where the system refused."""
    if not isinstance(error, OSError):
        return error
    return Halted(f"{what} cannot be written ({reason(error)}), and no waiting mends that: see to the disk and the "
                  "rights there. The same command goes on from the newest checkpoint.")


class Writing:
    """Queues of writes. Every queue has a name and keeps the order of its writes.

    A write for which the disk has no room stays at the head of its queue. The next write of that queue tries it
    again, and so does `retry`. `say` gets a line when a queue begins to fail, when it recovers, and for everything
    given up. Any other error of a write is raised, as `cannot_be_written`."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self._queues, self._failing = say, {}, {}

    def __call__(self, name: str, what: str, write: Callable[[], object], most: int = 1_000_000) -> None:
        """Calls `write()` now or later, in the queue `name`; `what` names the write to the user. At most `most`
        writes wait; the oldest of more is lost."""
        queue = self._queues.setdefault(name, deque())
        queue.append((what, write))
        if len(queue) > most:
            self.say(f"{name}: {queue.popleft()[0]} is lost: no more than {most} are kept until they can be written")
        self._work_off(name)

    def _work_off(self, name: str) -> None:
        queue = self._queues[name]
        while queue:
            try:
                queue[0][1]()
            except Exception as error:
                if not disk_is_full(error):
                    raise cannot_be_written(f"{name}: {queue[0][0]}", error) from error
                if name not in self._failing:
                    self.say(f"{name}: {queue[0][0]} cannot be written ({reason(error)}). It is kept and tried again; "
                              "the run goes on")
                self._failing[name] = reason(error)
                return
            queue.popleft()
        if self._failing.pop(name, None):
            self.say(f"{name}: written again, and nothing waits")

    def retry(self) -> bool:
        """Tries every waiting write. Returns True when none waits any more."""
        for name in self._queues:
            self._work_off(name)
        return not any(self._queues.values())

    @property
    def waiting(self) -> list[str]:
        """One text for each queue with waiting writes: its name, the writes, and the last error."""
        return [f"{name} ({', '.join(what for what, _ in queue)}): {self._failing[name]}"
                for name, queue in self._queues.items() if queue]
