"""An open run: the parts that the loop works with, and how far it has come."""
from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.data.stream import PromptStream
from nft_jax.model.config import ModelConfig
from nft_jax.record.checkpoint import Checkpoints
from nft_jax.record.metrics import CompileCounter, MetricsWriter
from nft_jax.record.rollouts import groups_to_table
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.evaluation import HeldOut
from nft_jax.runtime.clock import Timeline, Watcher
from nft_jax.runtime.distributed import is_first
from nft_jax.runtime.files import replaced
from nft_jax.runtime.stops import Stop
from nft_jax.runtime.terminal import Console
from nft_jax.runtime.watchdog import Watchdog
from nft_jax.runtime.writing import Writing
from nft_jax.train.batch import BatchShape
from nft_jax.train.nonfinite import count_skipped, write_batches
from nft_jax.train.row import Rollouts, Row
from nft_jax.types import Group
from nft_jax.verify import Verifier

ROLLOUTS_KEPT = 8      # steps whose answers wait in memory, at most, while their files cannot be written


@dataclass
class Progress:
    """Where a run stands, beside its train state: saved with every checkpoint."""
    step: int = 0
    updates: int = 0
    cursor: int = 0                    # prompts taken from the stream
    tokens_generated: int = 0
    tokens_kept: int = 0               # tokens of answers that were trained on
    skipped_steps: int = 0             # steps without a single group to learn from
    skipped_updates: int = 0           # optimizer steps whose loss or gradient was not finite
    skipped_in_a_row: int = 0          # of these, the newest, without one between them that was taken
    seconds: float = 0.0
    base_accuracy: float | None = None
    accuracy: float | None = None      # of the latest evaluation
    unfinished: dict | None = None     # metrics of the newest step, where its evaluation is still to be done
    best_metric: str = ""              # checkpoint.best; its largest value so far, and the step that has it
    best: float | None = None
    best_step: int | None = None
    carried: list[Group] = field(default_factory=list)      # surplus, for the next rollouts to be collected
    ahead: Rollouts | None = None                           # collected already (rollout.rollout_ahead)

    def improves(self, value: float | None) -> bool:
        """Whether this step's value of the metric checkpoint.best is the largest so far, which is then noted."""
        if value is None or (self.best is not None and value <= self.best):
            return False
        self.best, self.best_step = value, self.step
        return True

    def counters(self) -> dict:
        """The JSON part; groups are saved apart."""
        values = asdict(replace(self, carried=[], ahead=None))
        return {name: value for name, value in values.items() if name not in ("carried", "ahead")}

    def groups(self) -> dict[str, list[Group]]:
        """The groups that later steps train on."""
        ahead = self.ahead or Rollouts([], [])
        return {"carried": self.carried, "kept": ahead.kept, "seen": ahead.seen}

    @classmethod
    def of(cls, counters: dict, groups: dict[str, list[Group]]) -> Progress:
        """The inverse of `counters` and `groups`."""
        ahead = Rollouts(groups["kept"], groups["seen"]) if groups["kept"] or groups["seen"] else None
        return cls(**counters, carried=groups["carried"], ahead=ahead)


@dataclass
class Run:
    """The parts of an open run. `stop` is asked for by SIGINT and SIGTERM."""
    config: Config
    folder: Path
    model: ModelConfig
    tokenizer: Any
    mesh: Mesh
    sampler: Sampler
    verifier: Verifier
    examiner: Verifier                         # judges the evaluation: the verifier, unless evaluation.reward is set
    stream: PromptStream
    held_out: list[HeldOut]
    shapes: tuple[BatchShape, ...]
    score: Any
    train_step: Any
    reference: Any                             # parameters of the reference; None without a KL term
    checkpoints: Checkpoints
    writer: MetricsWriter
    compiles: CompileCounter
    console: Console
    stop: Stop
    timeline: Timeline
    watcher: Watcher
    watchdog: Watchdog
    writing: Writing
    halted: str = ""                           # why the run ends itself
    trained: Future[float] | None = None       # when the newest optimizer step ended
    row: Row | None = None                     # of the newest step, until it is written
    late_seconds: dict[str, float] = field(default_factory=dict)    # of phases that end after their step's row

    def phase(self, name: str) -> None:
        """What the host does now."""
        self.console.phase(name)
        self.watchdog.feed(name)

    def alive(self, tokens: int = 0) -> None:
        """Called with every block of decoded tokens: there is progress. Raises StopRun where the run is to stop."""
        self.watchdog.feed()
        self.stop.check(alone=not self.sampler.mesh.is_multi_process)

    def completed(self, progress: Progress) -> dict:
        """All metrics of the newest step; waits for its optimizer steps. Those that were not finite are counted, their
        batches written, and the run ends where there were guard.max_nonfinite in a row."""
        row, self.row = self.row, None
        metrics = row.complete()
        progress.skipped_updates += len(row.skipped)
        progress.skipped_in_a_row, most = count_skipped(row, progress.skipped_in_a_row)
        if row.skipped:
            paths = write_batches(row, self.folder / "nonfinite", self.writing) if is_first() else []
            self.console.say(f"step {row.step}: {len(row.skipped)} of {len(row.batches)} optimizer steps were skipped, "
                             "as their loss or gradient is not finite. Their batches: "
                             f"{', '.join(map(str, paths)) or 'not written, there are enough'}")
        if most >= self.config.guard.max_nonfinite:
            progress.skipped_in_a_row = 0          # who goes on gets as many again
            self.halted = (f"{most} optimizer steps in a row, up to step {row.step}, had a loss or gradient that is "
                           f"not finite (guard.max_nonfinite is {self.config.guard.max_nonfinite}).")
        return metrics

    def write_row(self, progress: Progress) -> None:
        """The row of the newest step, if it is not written yet."""
        if self.row is not None:
            step, metrics = self.row.step, self.completed(progress)
            self.writer.write(step, metrics)
            self.console.step(step, metrics)

    def write_rollouts(self, step: int, groups: list[Group], kept: list[Group]) -> None:
        """`rollouts/step_NNNNNN.parquet`: every answer that the step generated or trained on."""
        if not is_first():
            return
        seen = {group.prompt.index: group for group in kept} | {group.prompt.index: group for group in groups}
        table = groups_to_table([seen[index] for index in sorted(seen)], frozenset(g.prompt.index for g in kept))
        path = self.folder / "rollouts" / f"step_{step:06d}.parquet"

        def write() -> None:
            with replaced(path) as partial:
                pq.write_table(table, partial, compression="zstd")

        self.writing("rollouts", path.name, write, most=ROLLOUTS_KEPT)
