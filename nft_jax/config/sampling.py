"""Settings of what is trained and measured on: questions, sampling, verdicts, evaluation."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nft_jax.config.checks import require


@dataclass(frozen=True)
class DataConfig:
    """Where questions come from, and how a question becomes a prompt."""
    source: str = "arithmetic"
    """"arithmetic" or "arithmetic-hard" (our generators), "reasoning-gym:TASK", a .jsonl or .parquet file, a folder
    saved by datasets, or a data set on the hub: NAME, NAME:SUBSET or NAME:FILE.parquet."""
    split: str = "train"
    """Split of a hub data set, or of the generator: base, train or heldout (disjoint by construction)."""
    template: str = "{problem}"
    """User message; {problem} is replaced by the question. Chat messages in the data are taken as they are."""
    system: str = ""
    """System message put before the question when not empty."""
    thinking: bool | None = None
    """Passed to the chat template as enable_thinking (Qwen3); None leaves it to the template."""
    max_prompt_tokens: int = 512
    """Longer prompts are skipped and counted."""
    limit: int = 0
    """Use only the first so many questions; 0 = all of them (the generator makes 20,000)."""
    seed: int | None = None
    """Seed of the order (a new permutation every epoch) and of generated questions; None = that of the run."""

    def __post_init__(self):
        require("{problem}" in self.template, "data.template", self.template, "it must contain {problem}.")
        require(self.max_prompt_tokens >= 1, "data.max_prompt_tokens", self.max_prompt_tokens, "use 1 or more.")
        require(self.limit >= 0, "data.limit", self.limit, "use 0 for all questions, or a positive number.")


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling answers. Slots and block size are speed settings: the samples do not depend on them."""
    prompts_per_step: int = 64
    """Groups with unequal rewards that one step trains on (and prompts of one generation batch)."""
    samples_per_prompt: int = 16
    """K: answers per prompt."""
    max_new_tokens: int = 3584
    """An answer that reaches it is cut (finish_reason "length"), keeps its tokens and is judged as it is."""
    temperature: float = 1.0
    """Divides the logits; log-probs are those of the tempered distribution."""
    top_k: int = 0
    """Sample from the k most likely tokens; 0 = off."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this probability; 1 = off."""
    min_p: float = 0.0
    """Sample from the tokens at least this many times as likely as the most likely one; 0 = off."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, beside the end-of-sequence ids: it is cut behind the token that completes one
    (finish_reason "stop")."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end an answer, beside the model's end-of-sequence ids."""
    kv_dtype: Literal["compute", "int8"] = "compute"
    """Keys and values while decoding: in policy.compute_dtype, or int8 with a scale for every token and head (half the
    memory of bfloat16, and other log-probs than the trainer's: see the metrics mismatch/*)."""
    weight_dtype: Literal["compute", "int8"] = "compute"
    """The layers' matrices while decoding: in policy.compute_dtype, or int8 with a scale for every output channel."""
    slots: int = 0
    """Answers decoded at the same time; 0 = as many as fit in memory, up to a quarter of a step's answers (ended ones
    make room for the next) and 512."""
    block_size: int = 16
    """Decode steps between two looks of the host at what has finished."""
    max_generation_batches: int = 10
    """A step generates at most so many batches of prompts_per_step prompts while it collects groups with unequal
    rewards, then trains on those there are (on none: the step is skipped and counted)."""
    old_logprobs: Literal["trainer", "sampler", "truncated"] = "trainer"
    """Which log-probs are pi_old in the ratio: recomputed by the trainer's own graph, the sampler's, or the sampler's
    after truncation. The sampler's are those of the distribution that was sampled: with kv_dtype or weight_dtype int8,
    of the quantised policy. With top_k, top_p or min_p the trainer's are not (a remark says so). The metrics mismatch/*
    compare the trainer's with the sampler's, so there are none with "sampler" and "truncated"."""

    def __post_init__(self):
        for name in ("prompts_per_step", "samples_per_prompt", "max_new_tokens", "block_size",
                    "max_generation_batches"):
            require(getattr(self, name) >= 1, f"rollout.{name}", getattr(self, name), "use 1 or more.")
        require(self.samples_per_prompt >= 2, "rollout.samples_per_prompt", self.samples_per_prompt,
                "a group needs at least 2 answers to have a right and a wrong one.")
        require(self.temperature > 0, "rollout.temperature", self.temperature,
                "use a positive number (for greedy text, nft_jax.sample takes temperature=0).")
        require(0 < self.top_p <= 1, "rollout.top_p", self.top_p, "use a number in (0, 1]; 1 is off.")
        require(self.top_k >= 0, "rollout.top_k", self.top_k, "use 0 (off) or a positive number.")
        require(0 <= self.min_p < 1, "rollout.min_p", self.min_p, "use a number in [0, 1); 0 is off.")
        require(all(self.stop), "rollout.stop", self.stop, "an empty string ends every answer; leave it out.")
        require(all(i >= 0 for i in self.stop_token_ids), "rollout.stop_token_ids", self.stop_token_ids,
                "ids are 0 or more.")
        require(self.slots >= 0, "rollout.slots", self.slots, "use 0 (automatic) or a positive number.")

    @property
    def truncates(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class VerifierConfig:
    """Judging answers."""
    reward: str = "math"
    """What decides: math (the boxed answer against the gold), code or code-share (hidden tests), reasoning-gym or
    reasoning-gym-soft, or a function of your own: a registered name, "package.module:function", "file.py:function"."""
    mode: Literal["equivalent", "strict", "lenient"] = "equivalent"
    """equivalent: the last complete \\boxed{} means the same as the gold. strict: the very same string in the last
    100 characters (the official NFT training reward). lenient: as equivalent, or the last number without a box."""
    workers: int = 2
    """Processes that run math-verify, or the reward. Most answers of maths are decided without them."""
    deadline: float = 3.0
    """Seconds of wall clock after which a worker is killed and its answer is a timeout (more where a busy machine has
    hardly let it run)."""
    memory_mb: int = 2048
    """Address space of a worker, in MiB."""
    allow_weak_sandbox: bool = False
    """Run the model's programs (reward code) even where bubblewrap is missing: with resource limits only, which is
    not a sandbox. They can then read your files."""

    def __post_init__(self):
        require(bool(self.reward), "verifier.reward", self.reward, "name a reward; the default is math.")
        require(self.workers >= 1, "verifier.workers", self.workers, "use 1 or more.")
        require(self.deadline > 0, "verifier.deadline", self.deadline, "use a positive number of seconds.")
        require(self.memory_mb >= 256, "verifier.memory_mb", self.memory_mb, "a worker needs at least 256 MiB.")


@dataclass(frozen=True)
class EvaluationConfig:
    """Accuracy on held-out questions (avg@k), before the first step, during the run and after the last step."""
    source: str = ""
    """As data.source; empty = no evaluation, except that a generator evaluates on its own held-out split. Or sets of
    nft_jax.data.benchmarks, each with its own prompts and metrics: math, paper, or names with commas, where NAME=SOURCE
    reads a file of your own (aime24,amc23=amc.jsonl,mine=questions.jsonl)."""
    split: str = "heldout"
    """As data.split; the sets of nft_jax.data.benchmarks know theirs."""
    reward: str = ""
    """What judges these answers, as verifier.reward; empty = the reward trained on. Another one where the two are not
    the same thing: a run on a wrong, partial or shaped reward is still measured by the true one."""
    questions: int = 128
    """The first so many questions of the source (of each set)."""
    samples: int = 8
    """k: answers per question; 0 = as each set of nft_jax.data.benchmarks says (32 for AIME and AMC, 1 for the
    others)."""
    every: int = 10
    """Steps between two evaluations; 0 = only before the first and after the last step."""
    temperature: float = 1.0
    """As rollout.temperature; 0 is greedy."""
    top_p: float = 1.0
    """As rollout.top_p."""
    min_p: float = 0.0
    """As rollout.min_p."""

    def __post_init__(self):
        require(self.questions >= 1, "evaluation.questions", self.questions, "use 1 or more.")
        require(self.samples >= 0, "evaluation.samples", self.samples, "use 1 or more, or 0 (as the set says).")
        require(self.every >= 0, "evaluation.every", self.every, "use 0 or more steps.")
        require(self.temperature >= 0, "evaluation.temperature", self.temperature, "use 0 (greedy) or more.")
        require(0 < self.top_p <= 1, "evaluation.top_p", self.top_p, "use a number in (0, 1]; 1 is off.")
        require(0 <= self.min_p < 1, "evaluation.min_p", self.min_p, "use a number in [0, 1); 0 is off.")
