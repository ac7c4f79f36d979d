"""The settings of a run: frozen dataclasses, one for each part. An experiment composes them into a
`Config`.

The string under a field is its help on the command line. Batch sizes are global (over all devices and
hosts), and each names its unit. Values that contradict each other are refused in `__post_init__`,
before anything heavy starts."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from nft_jax.config.checks import require
from nft_jax.config.differences import flat
from nft_jax.config.sampling import (
    AnswerConfig,
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    RolloutConfig,
    SamplingConfig,
    VerifierConfig,
)
from nft_jax.config.training import (
    MESHES,
    BatchConfig,
    LossAgg,
    MeshConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PolicyConfig,
    PromptWeight,
    Ratio,
    Remat,
    TermsConfig,
)

__all__ = ["MESHES", "AnswerConfig", "BatchConfig", "CheckpointConfig", "Config", "DataConfig", "DecodingConfig",
           "EvaluationConfig", "GuardConfig", "LossAgg", "MeshConfig", "ObjectiveConfig", "OptimizerConfig",
           "PolicyConfig", "PromptWeight", "Ratio", "Remat", "RolloutConfig", "SamplingConfig", "TermsConfig",
           "VerifierConfig", "WriterName", "flat"]

WriterName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class CheckpointConfig:
    """Saving and resuming."""
    every: int = 10
    """Steps between two checkpoints. The last step is always saved."""
    keep: int = 2
    """How many of the newest checkpoints stay on disk."""
    keep_every: int = 0
    """Checkpoints of every so many steps stay for ever; 0 = none."""
    best: str = ""
    """A metric of the evaluation, such as evaluation/accuracy/all. The checkpoint with its largest value stays,
    beside the newest ones, and a step with a new largest value is saved at once. Empty = off."""

    def __post_init__(self):
        for name in ("every", "keep"):
            require(getattr(self, name) >= 1, f"checkpoint.{name}", getattr(self, name), "use 1 or more.")
        require(self.keep_every >= 0 and self.keep_every % self.every == 0, "checkpoint.keep_every", self.keep_every,
                f"use 0, or a multiple of checkpoint.every = {self.every}: other steps are not saved.")
        require(not self.best or self.best.startswith("evaluation/"), "checkpoint.best", self.best,
                "name a metric of the evaluation, such as evaluation/accuracy/all.")


@dataclass(frozen=True)
class GuardConfig:
    """What a run does when something goes wrong."""
    max_nonfinite: int = 3
    """The run ends, with a checkpoint and status 1, after so many updates in a row whose loss or gradient was
    not finite. Each of them is skipped, counted (nonfinite/skipped) and written to the folder nonfinite/."""
    watchdog_seconds: float = 1800.0
    """A phase that makes no progress for so long is reported, with the stacks of all threads; 0 = off."""
    watchdog_ends: bool = False
    """End the process then, with status 1 (for a launcher that starts it again)."""

    def __post_init__(self):
        require(self.max_nonfinite >= 1, "guard.max_nonfinite", self.max_nonfinite, "use 1 or more.")
        require(self.watchdog_seconds >= 0, "guard.watchdog_seconds", self.watchdog_seconds,
                "use 0 (off) or a positive number of seconds.")
        require(not self.watchdog_ends or self.watchdog_seconds > 0, "guard.watchdog_ends", self.watchdog_ends,
                "it needs guard.watchdog_seconds > 0.")


@dataclass(frozen=True)
class Config:
    """A whole run."""
    name: str = "run"
    """Name of the run; the default folder is runs/NAME."""
    workdir: str = ""
    """Folder of the run. The same folder again continues the run; --fresh starts over."""
    seed: int = 0
    """Seed of sampling, and of the questions and their order unless data.seed is set."""
    steps: int = 320
    """Steps of training: each is one rollout phase, followed by batch.updates_per_step optimizer updates."""
    objective: str = "nft"
    """Name of the token loss: nft, rft, grpo, dr_grpo, dapo, dpo, nft_clip, naive_contrast, reinforce,
    maxrl, cispo, gspo, sapo, topr, psr, nsr, w_reinforce; or a function of your own,
    "package.module:function" or "file.py:function"."""
    writers: tuple[WriterName, ...] = ("tensorboard",)
    """Trackers that get the metrics, beside metrics.jsonl: any of tensorboard, wandb, trackio."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    loss: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    terms: TermsConfig = field(default_factory=TermsConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)

    def __post_init__(self):
        require(self.steps >= 1, "steps", self.steps, "use 1 or more.")
        require(len(set(self.writers)) == len(self.writers) and set(self.writers) <= set(get_args(WriterName)),
                "writers", self.writers, f"use each of {', '.join(get_args(WriterName))} at most once.")
        longest = self.data.max_prompt_tokens + self.rollout.max_new_tokens
        require(self.batch.row_length == 0 or self.batch.row_length >= longest, "batch.row_length",
                self.batch.row_length, f"the longest prompt and answer allowed (data.max_prompt_tokens + "
                f"rollout.max_new_tokens = {longest}) must fit in one row; use 0 or at least {longest}.")
        require(self.batch.updates_per_step <= self.rollout.prompts_per_step, "batch.updates_per_step",
                self.batch.updates_per_step, "every optimizer update takes whole groups, so use at most "
                f"rollout.prompts_per_step = {self.rollout.prompts_per_step}.")
        require(self.row_length % max(self.mesh.context, 1) == 0, "mesh.context", self.mesh.context,
                f"it does not divide the {self.row_length} tokens of a row (batch.row_length): choose a size that "
                "divides them, or another batch.row_length.")
        require(self.loss.overlong_buffer < self.rollout.max_new_tokens, "loss.overlong_buffer",
                self.loss.overlong_buffer, "the buffer is the last part of an answer's length, so use less than "
                f"rollout.max_new_tokens = {self.rollout.max_new_tokens}.")
        require(self.terms.mismatch == "off" or self.rollout.old_logprobs == "trainer", "terms.mismatch",
                self.terms.mismatch, "it compares the trainer's log-probs with the sampler's, and "
                f"rollout.old_logprobs is {self.rollout.old_logprobs!r}: use trainer there, or terms.mismatch off.")

    @property
    def row_length(self) -> int:
        """Tokens of the longest kind of packed row."""
        longest = self.data.max_prompt_tokens + self.rollout.max_new_tokens
        return self.batch.row_length or -(-longest // 64) * 64

    @property
    def groups_per_update(self) -> int:
        """The most groups that one update takes."""
        return -(-self.rollout.prompts_per_step // self.batch.updates_per_step)

    @property
    def folder(self) -> str:
        """Folder of the run."""
        return self.workdir or f"runs/{self.name}"

    def to_dict(self) -> dict:
        """Nested, as config.json has it."""
        return asdict(self)
