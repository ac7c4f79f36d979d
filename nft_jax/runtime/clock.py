"""Where the time of a step goes: seconds of each phase, and a timeline of some steps for xprof or Perfetto."""
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

# The steps of a start that `--profile` records. The first one, number 0, still warms caches up.
PROFILED = range(1, 3)


class Clock:
    """Seconds of each phase of a run, between two rows of its metrics. A phase is what the host does, or waits
    for. `show` gets the name of each phase that begins."""

    def __init__(self, show: Callable[[str], None] = lambda name: None):
        self._show = show
        self._begin()

    def _begin(self) -> None:
        self.started, self.seconds, self._first = time.perf_counter(), {}, {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block as phase `name`, and marks it in the timeline."""
        self._show(name)
        started = time.perf_counter()
        self._first.setdefault(name, started)
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def span(self, name: str) -> None:
        """Counts phase `name` from its first beginning until now, whatever the host did meanwhile."""
        # For work that the devices do while the host already does something else.
        self.seconds[name] = time.perf_counter() - self._first[name]

    def lap(self) -> dict[str, float]:
        """Starts the next lap. Returns the seconds of each phase in this lap, and of the whole lap as "step"."""
        seconds = self.seconds | {"step": time.perf_counter() - self.started}
        self._begin()
        return seconds


class Timeline:
    """Records the steps PROFILED of this start into `folder`; nothing if `folder` is None."""

    def __init__(self, folder: Path | None, say: Callable[[str], None]):
        self._folder, self._say, self._steps, self._recording = folder, say, 0, False

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Encloses a step of the loop."""
        if self._folder is not None and self._steps == PROFILED.start:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._recording = True
        self._steps += 1
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield
        if self._steps == PROFILED.stop:
            self.close()

    def close(self) -> None:
        """Ends a running recording. Reports where it is, or that the run was too short for one."""
        if self._recording:
            jax.profiler.stop_trace()
            self._recording = False
            self._say(f"timeline: {self._folder} (xprof {self._folder}; or open its perfetto_trace.json.gz at "
                      "ui.perfetto.dev)")
        elif self._folder is not None and self._steps <= PROFILED.start:
            self._say("timeline: none, the run ended before its second step")
