"""Settings of questions, sampling, verdicts and evaluation."""
from dataclasses import dataclass
from typing import Literal

from nft_jax.config.checks import Checked, is_day


def columns_named(text: str) -> dict[str, str] | None:
    """"problem=instruction,answer=final" -> {"problem": "instruction", "answer": "final"}; None for other text."""
    pairs = [part.strip().partition("=")[::2] for part in text.split(",")] if text else []
    found = dict(pairs)
    return found if len(found) == len(pairs) and found.keys() <= {"problem", "answer"} and all(found.values()) else None


@dataclass(frozen=True)
class DataConfig(Checked, prefix="data."):
    """Where questions come from, and how a question becomes a prompt."""
    source: str = "arithmetic"
    """"arithmetic" or "arithmetic-hard" (our generators), "reasoning-gym:TASK", a .jsonl or .parquet file, a
    folder saved by datasets, or a data set on the hub: NAME, NAME:SUBSET or NAME:FILE.parquet. Empty: to be
    given."""
    split: str = "train"
    """Split of a hub data set, or of the generator: base, train or heldout (disjoint by construction)."""
    columns: str = ""
    """Columns with names of their own: problem=NAME,answer=NAME, or one of the two. A point leads into a column of
    objects (extra_info.answer). Empty = the names that the README gives."""
    template: str = "{problem}"
    """User message; {problem} is replaced by the question. Chat messages in the data are taken as they are. For a
    model without a chat template (a base model), this is the whole prompt."""
    chat_template: str = ""
    """In place of the model's own chat template: a .jinja file, the folder of another model (the instruct version), or
    none, which makes data.template the whole prompt. Empty = the model's own, if it has one."""
    system: str = ""
    """System message put before the question when not empty."""
    thinking: bool | None = None
    """Passed to the chat template as enable_thinking (Qwen3); None leaves it to the template."""
    date: str = ""
    """The day, YYYY-MM-DD, for chat templates that write the date (strftime_now, as Llama 3.1's). Empty: the day
    on which the run is made; it then stays."""
    max_prompt_tokens: int = 512
    """Longer prompts are skipped and counted."""
    limit: int = 0
    """Use only the first so many questions; 0 = all of them (a generator makes 20,000)."""
    order: Literal["permutation", "accuracy"] = "permutation"
    """Which questions are asked. permutation: all of them in every epoch. accuracy: a question comes again after 3,
    9, then 27 epochs where all its answers were right, and after 2, 3, then 4 where all were wrong. This saves
    samples in runs of several epochs."""
    seed: int | None = None
    """Seed of the order (a new permutation every epoch) and of generated questions; None = the run's seed."""

    def __post_init__(self):
        self.require(columns_named(self.columns) is not None, "columns",
                     "write problem=NAME,answer=NAME, or one of the two.")
        self.require("{problem}" in self.template, "template", "it must contain {problem}.")
        self.require(not self.date or is_day(self.date), "date", "write a day as YYYY-MM-DD, or nothing.")
        self.require_least(1, "max_prompt_tokens")
        self.require_least(0, "limit")

    @property
    def renamed(self) -> dict[str, str]:
        """problem and answer -> the column that `columns` names for it."""
        return columns_named(self.columns) or {}


@dataclass(frozen=True)
class SamplingConfig(Checked):
    """How a token is drawn."""
    temperature: float = 1.0
    """Divides the logits; log-probs are of the tempered distribution. 0 is greedy, which training refuses."""
    top_k: int = 0
    """Sample from the k most likely tokens; 0 = off."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this probability; 1 = off."""
    min_p: float = 0.0
    """Sample from the tokens at least this many times as likely as the most likely one; 0 = off."""

    def __post_init__(self):
        self.require_least(0, "temperature", "top_k")
        self.require(0 < self.top_p <= 1, "top_p", "use a number in (0, 1]; 1 is off.")
        self.require(0 <= self.min_p < 1, "min_p", "use a number in [0, 1); 0 is off.")

    @property
    def truncates(self) -> bool:
        """Whether top-k, top-p or min-p removes tokens."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class DecodingConfig(SamplingConfig):
    """What a sampler is built for. Slots and block_size are for speed: the samples do not depend on them."""
    max_new_tokens: int = 3584
    """An answer that reaches it is cut (finish_reason "length"), keeps its tokens and is judged as it is."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, beside the end-of-sequence ids. The token that completes one is
    the last (finish_reason "stop"). A string that is one added token (<|im_end|>) ends it as its id does."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end an answer, beside the model's end-of-sequence ids. The start of a run prints all of them."""
    kv_dtype: Literal["compute", "int8"] = "compute"
    """Keys and values while decoding: in the compute dtype, or int8 with a scale for every token and head. int8
    takes half the memory of bfloat16. Its log-probs differ from the trainer's: see the metrics mismatch/*."""
    weight_dtype: Literal["compute", "int8"] = "compute"
    """The layers' matrices while decoding: in the compute dtype, or int8 with a scale for every
    output channel."""
    slots: int = 0
    """Answers decoded at the same time; 0 = as many as fit in memory, up to 512 and up to a quarter
    of the answers asked for. Ended answers make room for the next."""
    block_size: int = 16
    """Decode steps between two looks of the host at what has finished."""

    def __post_init__(self):
        super().__post_init__()
        self.require_least(1, "max_new_tokens", "block_size")
        self.require_least(0, "slots")
        self.require(all(self.stop), "stop", "an empty string ends every answer; leave it out.")
        self.require(all(i >= 0 for i in self.stop_token_ids), "stop_token_ids", "ids are 0 or more.")


@dataclass(frozen=True)
class RolloutConfig(DecodingConfig, prefix="rollout."):
    """Answers to train on: sampled, or stored."""
    answers: str = ""
    """Stored answers take the sampler's place: a .parquet or .jsonl file, a folder of them, or a run's folder. Its rows
    are groups of answers, each with a reward or a gold. data.source is then not asked. Empty: sample."""
    prompts_per_step: int = 64
    """Groups with unequal rewards that one step trains on."""
    samples_per_prompt: int = 16
    """K: answers per prompt; of stored answers, the most that a group may have."""
    max_generation_batches: int = 10
    """To collect groups with unequal rewards, a step samples at most so many times prompts_per_step prompts. Then it
    trains on the groups it has. Without any, the step is skipped and counted. A batch is as large as the share of
    groups accepted in earlier steps calls for."""
    tokens_per_step: int = 0
    """The most tokens of an answer that one generation batch samples. An answer that has not ended then goes on in the
    next step, under the new parameters. Its tokens keep the log-probs of the policies that sampled them, and its group
    is judged and trained on once all its answers have ended (partial rollouts, Kimi k1.5, arXiv 2501.12599). 0 = off,
    and so is max_new_tokens or more. See experiments/studies/budget.md."""
    old_logprobs: Literal["trainer", "sampler", "truncated"] = "trainer"
    """Which log-probs are pi_old in the ratio. trainer: recomputed by the trainer's own graph; with one update a
    step (batch.updates_per_step 1) by that update, without a pass of their own.
    sampler: the sampler's before truncation; with int8, of the quantised policy. truncated: the
    sampler's after truncation. With top_k, top_p or min_p, only truncated is of the distribution
    that was sampled; a run with trainer prints a remark. The metrics mismatch/* compare the
    trainer's log-probs with the sampler's, so only trainer has them.
    Of rollout.answers: with trainer pi_old is the model that the run starts from; with sampler and truncated, the
    stored log-probs, and that model for answers without any. Either is computed once, and kept."""

    compare_experts: bool = False
    """Of a model with experts: record those of the first answer to each prompt as it is sampled, and count how many of
    them the trainer chooses otherwise (mismatch/experts, mismatch/rerouted_tokens). The trainer passes over these
    answers once more, and the host holds them with layers x experts per token bytes for each token."""

    ema: float = 0.0
    """Answers are sampled by, and pi_old is, an exponential moving average of the parameters, of which every step
    keeps this share and takes the rest of the trained parameters (DiffusionNFT, arXiv 2509.16117). 0 = off: the
    trained parameters sample. It takes the memory of the trained parameters once more."""

    def __post_init__(self):
        super().__post_init__()
        self.require_least(1, "prompts_per_step", "max_generation_batches")
        self.require_least(0, "tokens_per_step")
        self.require(not (self.tokens_per_step and self.answers), "tokens_per_step",
                     f"rollout.answers is {self.answers!r}, and nothing is sampled; leave it at 0.")
        self.require(0 <= self.ema < 1, "ema", "use a number in [0, 1): 0 is off, and 1 would never follow the policy.")
        # Answers that go on were sampled by several policies, and stored ones by none that is here.
        self.require(not (self.compare_experts and (self.budget or self.answers)), "compare_experts",
                     f"rollout.tokens_per_step is {self.tokens_per_step} and rollout.answers is {self.answers!r}; "
                     "leave it off, or leave both of these.")
        self.require(not (self.ema and self.answers), "ema", f"rollout.answers is {self.answers!r}, and nothing is "
                     "sampled; leave it at 0.")
        self.require(self.samples_per_prompt >= 2, "samples_per_prompt",
                     "a group needs at least 2 answers to have a right and a wrong one.")
        self.require(self.temperature > 0, "temperature",
                     "use a positive number (for greedy text, nft_jax.sample takes temperature=0).")

    @property
    def max_prompts(self) -> int:
        """The most prompts that one step samples."""
        return self.max_generation_batches * self.prompts_per_step

    @property
    def budget(self) -> int:
        """`tokens_per_step` where it ends a batch before some answers end; else 0."""
        return self.tokens_per_step if self.tokens_per_step < self.max_new_tokens else 0

    @property
    def begun_tokens(self) -> int:
        """The most tokens of an answer that goes on."""
        return self.max_new_tokens - 1 if self.budget else 0


@dataclass(frozen=True)
class VerifierConfig(Checked, prefix="verifier."):
    """Judging answers."""
    reward: str = "math"
    """What decides: math (the boxed answer against the gold), code or code-share (hidden tests),
    reasoning-gym or reasoning-gym-soft, or a function of your own: a registered name,
    "package.module:function", "file.py:function"."""
    mode: Literal["equivalent", "strict", "lenient"] = "equivalent"
    """equivalent: the last complete \\boxed{} means the same as the gold. strict: the very same string
    in the last 100 characters (the official NFT training reward). lenient: as equivalent, or the
    last number without a box."""
    disagreement: bool = False
    """Beside mode equivalent, judge every answer by mode strict too, and log how often the two differ
    (verdicts/strict_disagreement)."""
    workers: int = 2
    """Processes that run math-verify, or the reward. Most answers of maths are decided without them."""
    deadline: float = 3.0
    """Seconds of wall clock after which a worker is killed and its answer is a timeout. A worker
    that a busy machine has hardly let run gets more."""
    memory_mb: int = 2048
    """Address space of a worker, in MiB."""
    allow_weak_sandbox: bool = False
    """Run the model's programs (reward code) even where bubblewrap is missing, with limits and a filter of
    system calls only. That is no sandbox: the programs can then read your files."""

    def __post_init__(self):
        self.require(bool(self.reward), "reward", "name a reward; the default is math.")
        self.require(not self.disagreement or (self.mode == "equivalent" and self.reward == "math"), "disagreement",
                     "only reward math in mode equivalent is compared with mode strict; leave it off.")
        self.require_least(1, "workers")
        self.require(self.deadline > 0, "deadline", "use a positive number of seconds.")
        self.require_least(256, "memory_mb")


@dataclass(frozen=True)
class EvaluationConfig(SamplingConfig, prefix="evaluation."):
    """Accuracy on held-out questions (avg@k): before the first step, during the run and at its end."""
    source: str = ""
    """As data.source; empty = no evaluation, but a generator evaluates on its own held-out split. Or sets of
    nft_jax.data.benchmarks, each with its own prompts and metrics: math, paper, or names with commas.
    NAME=SOURCE reads a file of your own (aime24,amc23=amc.jsonl,mine=questions.jsonl)."""
    split: str = "heldout"
    """As data.split; the sets of nft_jax.data.benchmarks know theirs."""
    columns: str = ""
    """As data.columns; the sets of nft_jax.data.benchmarks know theirs."""
    reward: str = ""
    """What judges these answers, as verifier.reward; empty = the reward trained on. With it, a run
    on a wrong, partial or shaped reward is still measured by the true one."""
    questions: int = 128
    """The first so many questions of the source (of each set)."""
    samples: int = 8
    """k: answers per question; 0 = as each set of nft_jax.data.benchmarks says (32 for AIME and AMC,
    1 for the others)."""
    every: int = 10
    """Steps between two evaluations; 0 = only before the first and after the last step."""

    def __post_init__(self):
        super().__post_init__()
        self.require(columns_named(self.columns) is not None, "columns",
                     "write problem=NAME,answer=NAME, or one of the two.")
        self.require_least(1, "questions")
        self.require_least(0, "samples", "every")


@dataclass(frozen=True, kw_only=True)
class AnswerConfig(DecodingConfig, prefix="--"):
    """Answers without training: what nft_jax.rollout.generate and experiments.evaluate share."""
    model: str
    """Folder in Hugging Face layout, hub model, or folder of a run."""
    step: str = "latest"
    """Of a run: the checkpoint, latest, best or its step."""
    ema: bool = False
    """Of a run with rollout.ema: the average that samples, instead of the trained parameters."""
    seed: int = 0
    """Seed of sampling."""
    chat_template: str = ""
    """As data.chat_template. Empty: as in the run whose model answers, else the model's own."""
    date: str = ""
    """As data.date. Empty: as in the run whose model answers, else the day of the first start."""
    max_prompt_tokens: int = 2048
    """Longer prompts are skipped and counted."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation."""
    tensor: int = 1
    """Devices that share one copy of the model."""
    part_prompts: int = 0
    """Questions of a part; 0 = chosen from the slots."""

    def __post_init__(self):
        super().__post_init__()
        self.require(not self.date or is_day(self.date), "date", "write a day as YYYY-MM-DD, or nothing.")
        self.require_least(1, "max_prompt_tokens")
        self.require_least(0, "part_prompts")
