"""What a person at a terminal sees: the progress of a run, and how a command ends when it does not end well.

Nobody may be reading. `output_guarded` keeps a closed pipe or a full log disk from ending a run."""
from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nft_jax.types import Halted, InputError

# The metrics shown beside a step, and their form. A metric that has not been measured yet is left out.
SHOWN = {"accuracy/all": "train {:.1%}", "evaluation/accuracy/all": "held-out {:.1%}", "entropy/all": "entropy {:.3f}",
         "tokens_per_second/rollout": "rollout {:,.0f} tok/s", "tokens_per_second/train": "train {:,.0f} tok/s"}


class _Guarded:
    """A text stream whose writes never fail: what cannot be written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            code = self._stream.encoding
            return self.write(text.encode(code, "replace").decode(code))
        except (OSError, ValueError):           # ValueError: the stream is closed
            return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


@contextmanager
def output_guarded() -> Iterator[None]:
    """While the block runs, and at the end of the process, no write to standard output or error fails.

    Their reader may be gone (`| head`, a closed terminal), or their disk full. Output is dropped as long as it
    cannot be written. Without a guard rich ends the process for the first, and Python for the second."""
    usual = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Guarded(stream) for stream in usual)
    atexit.unregister(_last_flush)
    atexit.register(_last_flush)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = usual


def _last_flush() -> None:
    """Lets a stream that cannot be written go nowhere: Python's own last flush would change the exit status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


@contextmanager
def one_paragraph_errors(advice: str = "") -> Iterator[None]:
    """Ends the program without a traceback where the error is meant for the user. Its output is guarded.

    InputError prints one paragraph on stderr and ends with status 2, Halted does so with status 1.
    Ctrl-C prints "interrupted", followed by `advice`, and ends with status 130. Any other error
    keeps its traceback (status 1)."""
    with output_guarded():
        try:
            yield
        except (InputError, Halted) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.status)
        except KeyboardInterrupt:
            print(f"interrupted; {advice}" if advice else "interrupted", file=sys.stderr)
            sys.exit(130)


class Console:
    """Shows a run of `steps` steps, starting at step `first`: a rich bar on a terminal, one line a
    step elsewhere."""

    def __init__(self, steps: int, first: int = 0, quiet: bool = False):
        # What is said may quote a token such as [/INST], which is no markup.
        self.rich = RichConsole(quiet=quiet, highlight=False, markup=False, emoji=False)
        self.steps, self.first, self.started = steps, first, time.monotonic()
        self._shown: dict[str, float] = {}
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), TextColumn("{task.fields[numbers]}"),
            TextColumn("left"), TimeRemainingColumn(), console=self.rich, transient=True,
            disable=not self.rich.is_terminal)
        self._task = self._bar.add_task("run", total=steps, completed=first, numbers="")

    def __enter__(self) -> Console:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: object) -> None:
        """Prints a line, at any time."""
        self.rich.print(text, soft_wrap=True)

    def phase(self, name: str) -> None:
        """Shows what the run is doing now, beside the numbers."""
        self._bar.update(self._task, numbers=f"{self._numbers()} [dim]{name}[/dim]")

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the numbers of a finished step. Numbers that it lacks keep their last value."""
        self._shown |= metrics
        self._bar.update(self._task, completed=step, numbers=self._numbers())
        if not self.rich.is_terminal:
            done = step - self.first
            left = (time.monotonic() - self.started) / max(done, 1) * (self.steps - step)
            self.say(f"step {step}/{self.steps}  {self._numbers()}  left {left:.0f} s")

    def _numbers(self) -> str:
        return "  ".join(form.format(self._shown[key]) for key, form in SHOWN.items()
                         if self._shown.get(key) is not None)
