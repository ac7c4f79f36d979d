"""Where the time of a step goes: seconds of each phase, and a timeline of some steps for xprof or Perfetto."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax

PROFILED = range(1, 3)      # steps of a start that `--profile` records: after the one that still warms caches up


class Clock:
    """Seconds of each phase of a step. A phase is what the host does, or waits for; the optimizer steps run on the
    devices while the host goes on, so their end is noted by a thread (`watch`), and what the next phase waited for
    them is not its own (`subtract`)."""

    def __init__(self, show: Callable[[str], None] = lambda name: None):
        self.started, self.seconds, self._show = time.perf_counter(), {}, show
        self.first: dict[str, float] = {}          # when a phase began for the first time
        self.sampled = 0                           # tokens, in phase rollout

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Also a span of the timeline."""
        self._show(name)
        started = time.perf_counter()
        self.first.setdefault(name, started)
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def subtract(self, name: str, until: float) -> None:
        """Phase `name` waited until then for work that is counted elsewhere."""
        if name in self.first:
            waited = min(max(until - self.first[name], 0.0), self.seconds[name])
            self.seconds[name] -= waited

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started


class Watcher:
    """Notes when a value that the devices compute is there, without holding up who asks."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, "watch")

    def watch(self, value: jax.Array) -> Future[float]:
        """The time.perf_counter() at which `value` was ready."""
        def wait() -> float:
            jax.block_until_ready(value)
            return time.perf_counter()
        return self._pool.submit(wait)

    def close(self) -> None:
        self._pool.shutdown()


class Timeline:
    """Records the steps PROFILED of this start into `folder`, where one is given."""

    def __init__(self, folder: Path | None, say: Callable[[str], None]):
        self._folder, self._say, self._steps, self._recording = folder, say, 0, False

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step of the loop."""
        if self._folder is not None and self._steps == PROFILED.start:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._recording = True
        self._steps += 1
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield
        if self._steps == PROFILED.stop:
            self.close()

    def close(self) -> None:
        """Ends the recording, if one is going on."""
        if self._recording:
            jax.profiler.stop_trace()
            self._recording = False
            self._say(f"timeline: {self._folder} (xprof {self._folder}; or open its perfetto_trace.json.gz at "
                      "ui.perfetto.dev)")
        elif self._folder is not None and self._steps <= PROFILED.start:
            self._say("timeline: none, the run ended before its second step")
