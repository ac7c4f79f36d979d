"""What a person at a terminal sees: the progress of a run, and how a command ends when it does not end well."""
from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nft_jax.types import Halted, InputError

# The metrics shown beside a step, and their form. A metric that has not been measured yet is left out.
SHOWN = {"accuracy/all": "train {:.1%}", "evaluation/accuracy/all": "held-out {:.1%}", "entropy/all": "entropy {:.3f}",
         "tokens_per_second/rollout": "rollout {:,.0f} tok/s", "tokens_per_second/train": "train {:,.0f} tok/s"}


@contextmanager
def one_paragraph_errors(advice: str = "") -> Iterator[None]:
    """Ends the program without a traceback where the error is meant for the user.

    InputError prints one paragraph on stderr and ends with status 2, Halted does so with status 1.
    Ctrl-C prints "interrupted", followed by `advice`, and ends with status 130. Any other error
    keeps its traceback (status 1)."""
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
        self.rich = RichConsole(quiet=quiet, highlight=False)
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
        """Prints a line, at any time. The line is dropped if standard output cannot be written."""
        # Its disk is full or its reader is gone. That is no reason to end a run, and there is nowhere to say it.
        with suppress(OSError):
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
