"""What the rooms hand to each other, and nothing else. No jax here: verifier workers import this module.

The life of a sample:

1. a `Prompt` leaves the prompt stream;
2. the sampler answers it K times, each answer a `Rollout`;
3. the verifier judges every answer, a `Verdict` each;
4. the prompt with its judged answers is a `Group`;
5. the groups of an update are packed into a `TrainBatch`.
"""
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Outcome = Literal["right", "wrong", "copied", "no_answer", "timeout", "too_large", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class InputError(ValueError):
    """Input that the user can mend. The message names the field, its value and the way out, in one paragraph."""

    status = 2                        # exit status of a command line


class Unreachable(InputError):
    """A name that only the Hugging Face hub could resolve, and did not: no network, no access, or no such name."""


class Halted(RuntimeError):
    """A run that ended itself. The message says why, what was saved and the way out, in one paragraph."""

    status = 1


def _cut(text: str, most: int = 90) -> str:
    """A text on one line, quoted; of a long one both ends."""
    return repr(text if len(text) <= most else f"{text[:most // 2]} … {text[-most // 2:]}")


@dataclass(frozen=True)
class Prompt:
    """One question, rendered and tokenised. `index` is its position in the prompt stream; a second epoch goes on
    counting. With the seed, it decides the random numbers of its answers."""
    index: int
    problem: str
    gold: str
    text: str
    tokens: np.ndarray                # [n] int32


@dataclass(frozen=True, repr=False)
class Rollout:
    """One answer, sampled or stored. `tokens` are the sampled ids, with the end-of-sequence id when
    `finish_reason` is "stop". These ids are trained on; nothing is tokenised again. Numbers that a stored answer lacks
    are arrays [0]."""
    prompt: Prompt
    sample: int                       # 0 .. K-1
    text: str                         # decoded without the end-of-sequence or stop id
    tokens: np.ndarray                # [n] int32
    logprobs: np.ndarray              # [n] float32, at the sampling temperature, before truncation
    truncated_logprobs: np.ndarray    # [n] float32, after top-k / top-p; equal to logprobs when both are off
    entropies: np.ndarray             # [n] float32, nats, of the distribution of `logprobs`
    finish_reason: Literal["stop", "length", "budget"]       # budget: it goes on in the next step
    mask: np.ndarray | None = None    # [n] bool: the tokens that are trained on; the others are context. None: all
    steps: np.ndarray | None = None   # [n] int32: the step that sampled each token, with rollout.tokens_per_step
    experts: np.ndarray | None = None # [n, L, K]: in each layer, those of the token before each; see
                                      # rollout.compare_experts

    @cached_property
    def trained(self) -> int:
        """Tokens that are trained on. An answer without any counts in its group's accuracy alone."""
        return len(self.tokens) if self.mask is None else int(self.mask.sum())

    def __repr__(self) -> str:
        ended = {"stop": "ended", "length": "cut short", "budget": "goes on"}.get(
            self.finish_reason, self.finish_reason)
        told = (f"log-prob {self.logprobs.sum():.2f}" if len(self.logprobs) else "no log-probs") + (
            f", entropy {self.entropies.mean():.3f} nats per token" if len(self.entropies) else "")
        return (f"Rollout: answer {self.sample + 1} to {_cut(self.prompt.problem)}\n"
                f"  {_cut(self.text)}\n"
                f"  {len(self.tokens)} tokens, {ended}; {told}")


@dataclass(frozen=True)
class Verdict:
    """The verifier's word on one answer. `reward` is in [0, 1], or None when the verifier itself failed
    (outcome "error"): such a sample is left out and counted, never trained on."""
    outcome: Outcome
    reward: float | None
    extracted: str | None = None
    reason: str = ""
    strict: bool | None = None        # whether mode strict calls it right; only with verifier.disagreement


@dataclass(frozen=True)
class Group:
    """A prompt with its K judged answers. Each answer has old log-probs [n], of the parameters that
    sampled it, and in a run with a KL term log-probs [n] of the reference.

    An open group has answers that go on in the next step (finish_reason "budget"), and no verdicts. Its old log-probs
    may end before its tokens do."""
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]
    old_logprobs: tuple[np.ndarray, ...] | None = None
    reference_logprobs: tuple[np.ndarray, ...] | None = None

    @property
    def is_open(self) -> bool:
        """Whether an answer has not ended."""
        return any(rollout.finish_reason == "budget" for rollout in self.rollouts)

    @cached_property
    def judged(self) -> tuple[int, ...]:
        """Indices of the answers that have a reward."""
        return tuple(i for i, verdict in enumerate(self.verdicts) if verdict.reward is not None)

    @cached_property
    def rewards(self) -> np.ndarray:
        """[len(judged)] float32."""
        return np.array([self.verdicts[i].reward for i in self.judged], np.float32)

    @property
    def accuracy(self) -> float:
        """Mean reward r(q) over the answers that have one; nan when there is none."""
        return float(self.rewards.mean()) if len(self.rewards) else float("nan")

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ. A group of equal rewards teaches nothing under any objective."""
        return len(self.rewards) > 0 and bool(self.rewards.min() != self.rewards.max())

    @property
    def all_wrong(self) -> bool:
        """Whether every reward is 0."""
        return len(self.rewards) > 0 and not self.rewards.any()


class TrainBatch(NamedTuple):
    """The packed sequences of one update: M micro-batches of R rows of T tokens. The first
    `num_micro` are in use.

    Several sequences share a row; `segment_ids` tells them apart (0 = padding). A value stands at
    its own token: `old_logprobs[m, i, t]` is the log-prob of `tokens[m, i, t]` given the tokens
    before it in its segment.

    `weight` is 0 outside the responses. Inside, it carries the reduction (`loss_agg`) with its one
    global denominator, so the loss is sum(weight * token loss), whatever the layout."""
    tokens: Any                       # [M, R, T] int32
    segment_ids: Any                  # [M, R, T] int32
    positions: Any                    # [M, R, T] int32, from 0 in each segment
    weight: Any                       # [M, R, T] float32
    rewards: Any                      # [M, R, T] float32, the sequence's reward at each of its tokens
    group_accuracy: Any               # [M, R, T] float32
    group_std: Any                    # [M, R, T] float32
    old_logprobs: Any                 # [M, R, T] float32
    num_micro: Any                    # [] int32
    group_ids: Any = None             # [M, R, T] int32, one number a group, 0 outside; None unless the loss uses it
    reference_logprobs: Any = None    # [M, R, T] float32; None without a KL term
    fresh: Any = None                 # [M, R, T] int32: 1 where the parameters that are trained sampled the token and
                                      # its old log-prob is left to the update; None where every one is given
