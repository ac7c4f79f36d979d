"""The settings of a run: frozen dataclasses, one for each part, composed into a `Config`.

The string under a field is its help on the command line. Batch sizes are global (over all devices and hosts).
Values that contradict each other are refused in `__post_init__`, before anything heavy starts."""
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from nft_jax.config.checks import Checked
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
    AdapterConfig,
    BatchConfig,
    LossAgg,
    MeshConfig,
    ObjectiveConfig,
    OptimizerConfig,
    Own,
    PolicyConfig,
    PromptWeight,
    Ratio,
    Remat,
    Setting,
    TermsConfig,
)

WriterName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class CheckpointConfig(Checked, prefix="checkpoint."):
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
        self.require_least(1, "every", "keep")
        self.require(self.keep_every >= 0 and self.keep_every % self.every == 0, "keep_every",
                     f"use 0, or a multiple of checkpoint.every = {self.every}: other steps are not saved.")
        self.require(not self.best or self.best.startswith("evaluation/"), "best",
                     "name a metric of the evaluation, such as evaluation/accuracy/all.")


@dataclass(frozen=True)
class GuardConfig(Checked, prefix="guard."):
    """What a run does when something goes wrong."""
    max_nonfinite: int = 3
    """The run ends, with a checkpoint and status 1, with the step in which so many updates in a row had a loss or
    gradient that is not finite (a step's updates are handed to the devices together). Each of them is skipped, counted
    (nonfinite/skipped) and written to the folder nonfinite/."""
    watchdog_seconds: float = 1800.0
    """A phase that makes no progress for so long is reported, with the stacks of all threads; 0 = off."""
    watchdog_ends: bool = False
    """End the process then, with status 1 (for a launcher that starts it again)."""

    def __post_init__(self):
        self.require_least(1, "max_nonfinite")
        self.require_least(0, "watchdog_seconds")
        self.require(not self.watchdog_ends or self.watchdog_seconds > 0, "watchdog_ends",
                     "it needs guard.watchdog_seconds > 0.")


@dataclass(frozen=True)
class Config(Checked):
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
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
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
        rollout, row_length = self.rollout, self.batch.row_length
        self.require_least(1, "steps")
        self.require(len(set(self.writers)) == len(self.writers) and set(self.writers) <= set(get_args(WriterName)),
                     "writers", f"use each of {', '.join(get_args(WriterName))} at most once.")
        longest = self.longest_sequence
        self.require(row_length == 0 or row_length >= longest, "batch.row_length",
                     "the longest prompt and answer allowed (data.max_prompt_tokens + rollout.max_new_tokens = "
                     f"{longest}) must fit in one row; use 0 or at least {longest}.")
        self.require(self.batch.updates_per_step <= rollout.prompts_per_step, "batch.updates_per_step",
                     "every optimizer update takes whole groups, so use at most rollout.prompts_per_step = "
                     f"{rollout.prompts_per_step}.")
        self.require(self.row_length % max(self.mesh.context, 1) == 0, "mesh.context",
                     f"it does not divide the {self.row_length} tokens of a row: change it or batch.row_length.")
        self.require(self.loss.overlong_buffer < rollout.max_new_tokens, "loss.overlong_buffer",
                     f"use less than rollout.max_new_tokens = {rollout.max_new_tokens}, of which it is the last part.")
        self.require(self.terms.mismatch == "off" or rollout.old_logprobs == "trainer", "terms.mismatch",
                     "it compares the trainer's log-probs with the sampler's, and rollout.old_logprobs is "
                     f"{rollout.old_logprobs!r}: use trainer there, or terms.mismatch off.")
        self.require(not (self.loss.all_wrong and rollout.answers), "loss.all_wrong",
                     f"rollout.answers is {rollout.answers!r}, and stored groups of wrong answers are left out: use 0.")
        self.require(self.data.order == "permutation" or not rollout.answers, "data.order",
                     f"rollout.answers is {rollout.answers!r}, whose groups all have right and wrong answers: use "
                     "permutation.")
        self.require(self.terms.mismatch == "off" or not rollout.answers, "terms.mismatch",
                     f"rollout.answers is {rollout.answers!r}, and stored answers have no sampler to compare with the "
                     "trainer: leave it off.")

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest prompt with its longest answer."""
        return self.data.max_prompt_tokens + self.rollout.max_new_tokens

    @property
    def row_length(self) -> int:
        """Tokens of the longest kind of packed row."""
        return self.batch.row_length or -(-self.longest_sequence // 64) * 64

    @property
    def groups_per_update(self) -> int:
        """The most groups with right and wrong answers that one update takes."""
        return -(-self.rollout.prompts_per_step // self.batch.updates_per_step)

    @property
    def sequences_per_update(self) -> int:
        """The most answers that one update takes: of its groups, and with loss.all_wrong of as many wrong ones."""
        return self.groups_per_update * self.rollout.samples_per_prompt * (2 if self.loss.all_wrong else 1)

    @property
    def on_policy(self) -> bool:
        """Whether a step's only update computes the old log-probs itself: its policy is pi_old. An average that samples
        is another policy, and weights against the sampler's mismatch need the old log-probs before."""
        return (self.batch.updates_per_step == 1 and self.rollout.old_logprobs == "trainer"
                and self.terms.mismatch == "off" and not self.rollout.ema and not self.rollout.answers)

    @property
    def scores(self) -> bool:
        """Whether every step scores its answers before the updates. Stored answers come with their log-probs."""
        return self.rollout.old_logprobs == "trainer" and not self.on_policy and not self.rollout.answers

    @property
    def folder(self) -> str:
        """Folder of the run."""
        return os.path.expanduser(self.workdir) or f"runs/{self.name}"

    def to_dict(self) -> dict:
        """Nested, as config.json has it. Settings of an objective of one's own stand beside its name, under the names
        of their flags: "objective.threshold"."""
        found = asdict(self)
        own = {f"objective.{name}": value for name, value in found["loss"].pop("own").items()}
        place = list(found).index("objective") + 1
        return dict([*list(found.items())[:place], *own.items(), *list(found.items())[place:]])

    @classmethod
    def own_settings(cls, settings: Mapping) -> dict[str, Setting]:
        """The settings of an objective of one's own among fields by dotted name: {"threshold": 0.5}."""
        return {name.removeprefix("objective."): value for name, value in settings.items()
                if name.startswith("objective.")}
