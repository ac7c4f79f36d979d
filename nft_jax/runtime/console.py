"""What a run shows while it works: a rich bar on a terminal, plain lines elsewhere."""
from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Console:
    """Progress of a run of `steps` steps, from `first` on. `say` prints a line at any time."""

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._bar.stop()

    def say(self, text: object) -> None:
        """Where standard output cannot be written (its disk is full, its reader gone), the line is dropped: no reason
        to end a run, and nowhere to say it."""
        with suppress(OSError):
            self.rich.print(text, soft_wrap=True)

    def phase(self, name: str) -> None:
        """What is being done now, shown beside the numbers."""
        self._bar.update(self._task, numbers=f"{self._numbers()} [dim]{name}[/dim]")

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """The numbers of a finished step."""
        self._shown |= metrics
        self._bar.update(self._task, completed=step, numbers=self._numbers())
        if not self.rich.is_terminal:
            done = step - self.first
            left = (time.monotonic() - self.started) / max(done, 1) * (self.steps - step)
            self.say(f"step {step}/{self.steps}  {self._numbers()}  left {left:.0f} s")

    def _numbers(self) -> str:
        columns = (("accuracy/all", "train {:.1%}"), ("evaluation/accuracy/all", "held-out {:.1%}"),
                   ("entropy/all", "entropy {:.3f}"), ("tokens_per_second/rollout", "rollout {:,.0f} tok/s"),
                   ("tokens_per_second/train", "train {:,.0f} tok/s"))
        return "  ".join(form.format(self._shown[key]) for key, form in columns if self._shown.get(key) is not None)
