"""The row of metrics of a step. The host writes its part while the devices still compute theirs, which is fetched one
step later: the loop never waits for an optimizer step."""
from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial, reduce

import jax
import numpy as np

from nft_jax.runtime.clock import Clock
from nft_jax.train.tally import combine, summarise
from nft_jax.types import Group, TrainBatch


@dataclass
class Rollouts:
    """What one step trains on, and what was generated for it."""
    kept: list[Group]                  # groups with unequal rewards, in the order of the prompt stream
    seen: list[Group]                  # all that were generated


@dataclass
class Row:
    """`metrics` without what `complete` adds to them."""
    step: int
    clock: Clock
    metrics: dict
    tallies: list = field(default_factory=list)     # on the devices, one per optimizer step
    norms: list = field(default_factory=list)
    trained: Future[float] | None = None            # when the last optimizer step ended
    before: Future[float] | None = None             # when that of the step before did
    batches: list[tuple[TrainBatch, list[int]]] = field(default_factory=list)     # of the host, with prompt indices
    skipped: list[int] = field(default_factory=list)      # of these, by `complete`: those that were not finite

    def complete(self) -> dict:
        """All metrics of the step, with what the devices computed for it: over the optimizer steps that were taken, not
        those skipped as not finite. What sampling waited for the optimizer steps of the step before is not its own
        time."""
        seconds = self.clock.seconds
        if self.trained is not None:
            tallies, norms = jax.device_get((self.tallies, self.norms))
            self.skipped = [i for i, each in enumerate(tallies) if each["count/nonfinite"]]
            taken = [i for i in range(len(tallies)) if i not in self.skipped]
            if taken:
                total = reduce(partial(combine, maximum=np.maximum), [tallies[i] for i in taken])
                norms = np.array([norms[i] for i in taken])
                self.metrics |= summarise(total, len(taken))
                self.metrics |= {"grad_norm/mean": float(np.mean(norms)), "grad_norm/max": float(np.max(norms))}
            self.metrics["nonfinite/skipped"] = len(self.skipped)
            seconds["train"] = self.trained.result() - self.clock.first["train"]
        if self.before is not None:
            self.clock.subtract("rollout", self.before.result())
        for phase, tokens in (("rollout", self.clock.sampled), ("train", self.metrics["tokens/kept"])):
            if tokens and seconds.get(phase):
                self.metrics[f"tokens_per_second/{phase}"] = tokens / seconds[phase]
        return self.metrics | {f"seconds/{name}": value for name, value in seconds.items()}
