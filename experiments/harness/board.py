"""What a person sees of many runs: a line for every run that is being made, and a line for each that has ended."""
from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from experiments.harness.results import ACCURACY
from experiments.harness.runner import Job
from nft_jax.runtime.terminal import duration

SECONDS = 1.0                   # between two looks at the running runs
TAIL = 1 << 16                  # bytes at the end of metrics.jsonl that are read


class Board:
    """On a terminal, a bar for every running run: its step, held-out accuracy, time left. Elsewhere a line as it
    begins. `say` prints above the bars."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._bars = Progress(TextColumn("{task.description}", markup=False), MofNCompleteColumn(), BarColumn(None),
                              TextColumn("{task.fields[told]}", markup=False), console=self._console, transient=True,
                              disable=not self._console.is_terminal)
        self._running: dict[Path, tuple[Job, TaskID]] = {}
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._look_again, daemon=True)

    def __enter__(self) -> Board:
        self._bars.start()
        if self._console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bars.stop()

    def say(self, text: str) -> None:
        self._console.print(text)

    def begin(self, job: Job) -> None:
        with self._lock:
            self._running[job.folder] = job, self._bars.add_task(job.name, total=job.steps, told="starting")
        if not self._console.is_terminal:
            self.say(f"{job.name}: begins, output in {job.folder / 'log.txt'}")

    def end(self, job: Job) -> None:
        with self._lock:
            self._bars.remove_task(self._running.pop(job.folder)[1])

    def look(self) -> None:
        """Brings the bars up to date."""
        with self._lock:
            for job, task in self._running.values():
                step, told = progress_of(job)
                if told:
                    self._bars.update(task, completed=step, told=told)

    def _look_again(self) -> None:
        while not self._closing.wait(SECONDS):
            self.look()


def progress_of(job: Job) -> tuple[int, str]:
    """The newest step in the run's metrics.jsonl; its held-out accuracy and the time left, as text. (0, "") while
    there is no row."""
    rows = newest_rows(job.folder / "metrics.jsonl")
    if not rows:
        return 0, ""
    step, parts = rows[-1]["step"], []
    accuracy = next((row[ACCURACY] for row in reversed(rows) if row.get(ACCURACY) is not None), None)
    if accuracy is not None:
        parts.append(f"held-out {accuracy:.1%}")
    if step and rows[-1].get("seconds/step"):
        parts.append(f"{duration(rows[-1]['seconds/step'] * max(job.steps - step, 0))} left")
    return step, ", ".join(parts) or "running"


def newest_rows(path: Path) -> list[dict]:
    """The last rows of a metrics.jsonl that is being written; whole lines only."""
    rows: list[dict] = []
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        lines = file.read().splitlines(keepends=True)
        for line in lines[1 if size > TAIL else 0:]:
            # The first may be cut by the look, the last by its writer.
            if line.endswith(b"\n"):
                with suppress(json.JSONDecodeError):
                    rows.append(json.loads(line))
    return [row for row in rows if "step" in row]
