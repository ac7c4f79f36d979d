"""Terms that any objective can be trained with: a KL penalty, an entropy bonus, weights against the sampler's mismatch.

Each is a pure function of one token, or of one answer, with its formula, its derivative and its source; `TermsConfig`
says which are on. The loss of a token is

    mismatch weight * (the objective's token loss + kl_weight * KL estimate - entropy_weight * entropy)

reduced as the objective's loss is (`token_weights`). The mismatch weight is constant, so it is multiplied into the
batch's weights on the host; terms that are off add nothing to the compiled step.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from nft_jax.config import TermsConfig
from nft_jax.types import Group

Array = Any
OFF = TermsConfig()
MAX_LOG_RATIO = 10.0        # k3 goes on as a straight line beyond it


def kl_estimate(kind: Literal["k1", "k2", "k3"], logprobs: Array, reference_logprobs: Array) -> Array:
    """An estimate of KL(policy || reference) from the sampled token, any shape, nats. With d = reference - policy:

    kind  value              derivative by logprobs   expected gradient where the tokens are the policy's own
    k1    -d                 1                        0: the mean of a score function. Nothing but noise
    k2    d^2 / 2            -d                       that of KL(policy || reference), exactly
    k3    exp(d) - 1 - d     1 - exp(d)               that of KL(reference || policy), exactly

    (E[score] = 0, so E[-d score] is the gradient of E[-d]; and E[-exp(d) score] is, over the reference's tokens, minus
    the expected score.) As values k1 and k3 are unbiased and k2 is not; k2 and k3 are never negative. All of this is of
    one token given those before it: how a token changes the divergence of those after it has no gradient here (Tang &
    Munos, arXiv 2506.09477), and tokens of an older policy weigh as that one sampled them.
    Beyond d = 10 k3 is its tangent, so that its derivative stays at 1 - exp(10) and keeps its sign.

    J. Schulman, "Approximating KL divergence" (2020); gradients: Liu et al., arXiv 2510.01555; k3: GRPO, 2402.03300."""
    d = reference_logprobs - logprobs
    if kind == "k1":
        return -d
    if kind == "k2":
        return d * d / 2
    near = jnp.minimum(d, MAX_LOG_RATIO)
    return jnp.expm1(near) - d + math.exp(MAX_LOG_RATIO) * jnp.maximum(d - MAX_LOG_RATIO, 0)


def entropy_bonus(entropy: Array) -> Array:
    """-H, any shape: added to the loss it raises the entropy of the policy at the states that were visited.

    By the logits l of a token, with probabilities p: d(-H)/dl = p (log p + H), which `head_logprobs` computes chunk by
    chunk. The distribution is that of rollout.temperature. Mnih et al., arXiv 1602.01783, section 4."""
    return -entropy


def mismatch_weights(kind: Literal["token", "sequence"], old_logprobs: np.ndarray, sampler_logprobs: np.ndarray,
                     cap: float) -> np.ndarray:
    """[n] float64: min(exp(old - sampler), cap) for each of an answer's n tokens, with "sequence" the same for all of
    them, of the sums. Constants: they have no derivative.

    The answer was sampled by one computation and is trained on by another, whose log-probs of the same parameters are
    `old_logprobs`: weighted so, and without the cap, sums over the sampler's answers have the expectation of sums over
    the trainer's (of the answers with "sequence"; token weights leave out what the tokens before have shifted).
    `sampler_logprobs` are those before truncation (top-k, top-p, min-p), which is no mismatch but a choice. A weight is
    at least 1e-20, so that a trained token is never taken for padding.

    Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025), fengyao.notion.site/
    off-policy-rl: truncated importance sampling (TIS), after Ionides, "Truncated Importance Sampling" (2008)."""
    difference = np.asarray(old_logprobs, np.float64) - np.asarray(sampler_logprobs, np.float64)
    if kind == "sequence":
        difference = np.full(difference.shape, difference.sum())
    return np.exp(np.clip(difference, np.log(1e-20), np.log(cap)))


def trained(group: Group, terms: TermsConfig) -> tuple[int, ...]:
    """Indices of the group's answers that are in the loss: those with a reward, without the truncated ones where
    `terms.mask_truncated` says so. There may be none.

    Overlong filtering of DAPO (Yu et al., arXiv 2503.14476, section 3.4)."""
    return tuple(i for i in group.judged
                 if not (terms.mask_truncated and group.rollouts[i].finish_reason == "length"))


def answer_terms(groups: Sequence[Group], terms: TermsConfig) -> dict[str, float]:
    """What the terms do to the answers that a step trains on, as metrics: share/masked, of the answers with a reward
    those left out; mismatch/weight and mismatch/capped, over the trained tokens the mean weight and the share whose
    weight (with "sequence": whose answer's weight) is the cap."""
    out, judged = {}, sum(len(group.judged) for group in groups)
    answers = [(group, i) for group in groups for i in trained(group, terms)]
    if terms.mask_truncated and judged:
        out["share/masked"] = 1 - len(answers) / judged
    if terms.mismatch != "off" and answers:
        weights = np.concatenate([mismatch_weights(terms.mismatch, group.old_logprobs[i], group.rollouts[i].logprobs,
                                                   terms.mismatch_cap) for group, i in answers])
        out |= {"mismatch/weight": float(weights.mean()),
                "mismatch/capped": float((weights >= terms.mismatch_cap * (1 - 1e-12)).mean())}
    return out


def term_losses(terms: TermsConfig, logprobs: Array, entropy: Array, reference_logprobs: Array | None) -> dict:
    """The terms that are on, by the name of their metric: what each adds to the loss of every token [R, T]."""
    found = {}
    if terms.kl_weight:
        found["kl"] = terms.kl_weight * kl_estimate(terms.kl_estimator, logprobs, reference_logprobs)
    if terms.entropy_weight:
        found["entropy_bonus"] = terms.entropy_weight * entropy_bonus(entropy)
    return found


def tally_terms(terms: TermsConfig, losses: dict, logprobs: Array, reference_logprobs: Array | None,
                weight: Array) -> dict[str, Array]:
    """Sums over the trained tokens, to be added up with the others of `nft_jax.train.step_metrics`: of what each term
    adds to the loss, and of the KL estimates, by k3 and by the chosen one."""
    out = {f"sum/term_{name}": (weight * loss).sum() for name, loss in losses.items()}
    for kind in {"k3", terms.kl_estimator} if terms.kl_weight else ():
        out[f"sum/kl_{kind}"] = jnp.where(weight > 0, kl_estimate(kind, logprobs, reference_logprobs), 0).sum()
    return out


def summarise_terms(total: dict[str, np.ndarray], updates: int) -> dict[str, float]:
    """Metrics from the combined sums of `updates` optimizer steps: loss/NAME, what a term adds to loss/total;
    kl/mean, nats per trained token, by k3, and kl/mean_k1 or kl/mean_k2 where that is the term's estimator."""
    out = {f"loss/{name.removeprefix('sum/term_')}": float(value) / updates for name, value in total.items()
           if name.startswith("sum/term_")}
    for name, value in total.items():
        if name.startswith("sum/kl_"):
            key = f"kl/mean_{name.removeprefix('sum/kl_')}".removesuffix("_k3")
            out[key] = float(value) / float(total["count/tokens"])
    return out
