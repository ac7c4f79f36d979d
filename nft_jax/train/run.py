"""An open run: the parts that the loop works with."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nft_jax.config import Config
from nft_jax.data.stream import PromptStream
from nft_jax.model.adapter import Adapter, wrap
from nft_jax.policy import Policy
from nft_jax.record.checkpoint import Checkpoints
from nft_jax.record.metrics import MetricsWriter
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.evaluation import HeldOut
from nft_jax.rollout.stored import Stored
from nft_jax.runtime.clock import Clock, Timeline
from nft_jax.runtime.compilation import CompileCounter
from nft_jax.runtime.stops import Stop
from nft_jax.runtime.terminal import Console
from nft_jax.runtime.watchdog import Watchdog
from nft_jax.runtime.writing import Writing
from nft_jax.train.plan import Plan
from nft_jax.verify import Verifier


@dataclass(repr=False)
class Run:
    """The parts of an open run. SIGINT and SIGTERM ask for `stop`."""
    plan: Plan
    folder: Path
    tokenizer: Any
    sampler: Sampler
    verifier: Verifier
    examiner: Verifier                         # judges the evaluation: the verifier, unless evaluation.reward is set
    stream: PromptStream
    stored: Stored | None                      # answers in the sampler's place; None where the run samples
    held_out: list[HeldOut]
    score: Any                                 # jitted: `train.step.score`; None where nothing is scored
    score_reference: Any                       # the same, of the reference's parameters
    count_otherwise: Any                       # jitted: `train.compared_experts`; None where no experts are compared
    train_step: Any                            # jitted: `train.step.train_step`
    average: Any                               # jitted: `train.state.averaged`; None without rollout.ema
    base: Any                                  # frozen parameters under the adapters; None without adapters
    reference: Any                             # parameters of the reference; None without a KL term
    checkpoints: Checkpoints
    writer: MetricsWriter | None               # of the first process: the metrics are the same in all
    compiles: CompileCounter
    console: Console
    stop: Stop
    timeline: Timeline
    watchdog: Watchdog
    writing: Writing
    halted: str = ""                           # why the run ends itself

    def __post_init__(self):
        self.clock = Clock(self.phase)

    def __repr__(self) -> str:
        config, model = self.config, self.plan.model
        return (f"Run {str(self.folder)!r}: {config.name}, {config.objective}, seed {config.seed}\n"
                f"  {config.steps} steps of {config.rollout.prompts_per_step} prompts x "
                f"{config.rollout.samples_per_prompt} answers in {config.batch.updates_per_step} updates\n"
                f"  {model.family}, {model.num_layers} layers of width {model.hidden_size}, on "
                f"{self.sampler.mesh.size} devices")

    @property
    def config(self) -> Config:
        """The settled configuration."""
        return self.plan.config

    def whole(self, trained: Any) -> Any:
        """The parameters of a pass, of what is trained: itself, or the base with these adapters."""
        return wrap(self.base, trained, self.config.adapter)

    def policy(self, trained: Any, base_digest: str) -> Policy:
        """The model in the hand, with these trained parameters."""
        config = self.config
        adapter = Adapter(config.adapter, config.policy.path, base_digest) if config.adapter.rank else None
        return Policy(self.plan.model, self.whole(trained), self.tokenizer, self.sampler.eos, adapter=adapter)

    def phase(self, name: str) -> None:
        """Tells the user and the watchdog what the host does now."""
        self.console.phase(name)
        self.watchdog.feed(name)

    def alive(self, tokens: int = 0) -> None:
        """Notes progress; called with every block of decoded tokens. Raises StopRun where the run is to stop."""
        self.watchdog.feed()
        self.console.decoded(tokens)
        self.stop.check(alone=not self.sampler.mesh.is_multi_process)
