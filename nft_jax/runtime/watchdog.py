"""Reports where a run hangs."""
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from nft_jax.runtime.stops import crashed
from nft_jax.types import Halted


def stacks() -> str:
    """The stack of every other thread of this process, the innermost call last."""
    # Not faulthandler: it shows no source lines, and before Python 3.14 no names of threads.
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
                     for ident, frame in sys._current_frames().items() if ident != threading.get_ident())


class Watchdog:
    """A thread that expects a `feed` at least every `seconds`: at the beginning of a phase, after a
    block of tokens.

    Without one it reports the phase, the step and the stacks of all threads, on stderr and in the
    file `path`. It reports again only after another feed. With `ends` the report also ends the
    process, with status 1. With `seconds` 0 it never reports."""

    def __init__(self, seconds: float, path: Path, *, ends: bool = False, end: Callable[[int], object] = os._exit):
        self.seconds, self.path, self._ends, self._end = seconds, path, ends, end
        self._phase, self._step, self._fed, self._reported = "", 0, time.monotonic(), False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nft-watchdog", daemon=True)
        if seconds:
            self._thread.start()

    def feed(self, phase: str = "", step: int | None = None) -> None:
        """Notes that there is progress. `phase` and `step`, if given, name the work from now on."""
        if self._reported:
            print(f"step {self._step}, phase {self._phase}: goes on, after "
                  f"{time.monotonic() - self._fed:.0f} seconds without progress", file=sys.stderr, flush=True)
            self._reported = False
        self._fed = time.monotonic()
        self._phase, self._step = phase or self._phase, self._step if step is None else step

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(min(self.seconds / 4, 5.0)):
            if time.monotonic() - self._fed > self.seconds and not self._reported:
                self._reported = True
                self._report()

    def _report(self) -> None:
        head = f"no progress for {self.seconds:.0f} seconds in step {self._step}, phase {self._phase}"
        text = f"{head}; what every thread is doing:\n\n{stacks()}"
        print(text, file=sys.stderr, flush=True)
        try:
            with self.path.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError as error:
            print(f"{self.path} cannot be written: {error}", file=sys.stderr, flush=True)
        if self._ends:
            crashed(Halted(f"{head}, and guard.watchdog_ends is set."))
            self._end(1)
