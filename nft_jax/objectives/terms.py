"""Terms that any objective can be trained with: a KL penalty, an entropy bonus, weights against the sampler's
mismatch. `TermsConfig` says which are on; terms that are off add nothing to the compiled step. A token's loss is

    mismatch weight * (the objective's token loss + kl_weight * KL estimate - entropy_weight * entropy)

and is reduced like the objective's loss (`token_weights`). `kl_ratio` multiplies the estimate (`with_ratio`).
"""
import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from nft_jax.config import TermsConfig
from nft_jax.objectives.ratios import log_ratio
from nft_jax.types import Group

OFF = TermsConfig()
MAX_LOG_RATIO = 10.0      # beyond it k3 continues as a straight line


def kl_estimate(kind: Literal["k1", "k2", "k3"], logprobs: Array, reference_logprobs: Array) -> Array:
    """An estimate of KL(policy || reference) from the sampled token, any shape, nats. With
    d = reference - policy:

    kind  value              derivative by logprobs   expected gradient where the tokens are the policy's own
    k1    -d                 1                        0: the mean of a score function. Nothing but noise
    k2    d^2 / 2            -d                       grad KL(policy || reference), exactly
    k3    exp(d) - 1 - d     1 - exp(d)               grad KL(reference || policy), exactly

    Why: E[score] = 0, so E[-d score] is the gradient of E[-d]. And E[-exp(d) score] is minus the expected score
    over the reference's tokens. As values, k1 and k3 are unbiased and k2 is not; k2 and k3 are never negative.

    All of this holds for one token given the tokens before it. How a token changes the divergence of later
    tokens has no gradient here (Tang & Munos, arXiv 2506.09477). Tokens of an older policy weigh as that policy
    sampled them. Beyond d = 10, k3 is its tangent: its derivative stays at 1 - exp(10) and keeps its sign.

    J. Schulman, "Approximating KL divergence" (2020); gradients: Liu et al., arXiv 2510.01555; k3:
    GRPO, 2402.03300."""
    d = reference_logprobs - logprobs
    if kind == "k1":
        return -d
    if kind == "k2":
        return d * d / 2
    near = jnp.minimum(d, MAX_LOG_RATIO)
    return jnp.expm1(near) - d + math.exp(MAX_LOG_RATIO) * jnp.maximum(d - MAX_LOG_RATIO, 0)


def mismatch_weights(kind: Literal["token", "sequence"], old_logprobs: np.ndarray, sampler_logprobs: np.ndarray,
                     cap: float) -> np.ndarray:
    """[n] float64: min(exp(old - sampler), cap) for each of an answer's n tokens; with "sequence",
    of the sums, the same for all n. Constants, without a derivative.

    The sampler computed the answer's tokens, and the trainer computes `old_logprobs` [n] of the same
    parameters, in another way. Weighted so, and without the cap, sums over the sampler's answers have the
    expectation of sums over the trainer's. That holds for answers with "sequence"; "token" leaves out the shift
    by the tokens before. `sampler_logprobs` [n] are before truncation (top-k, top-p, min-p), which is a choice
    and no mismatch. A weight is at least 1e-20, so that a trained token is never taken for padding.

    Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025),
    fengyao.notion.site/ off-policy-rl: truncated importance sampling (TIS), after Ionides,
    "Truncated Importance Sampling" (2008)."""
    difference = np.asarray(old_logprobs, np.float64) - np.asarray(sampler_logprobs, np.float64)
    if kind == "sequence":
        difference = np.full(difference.shape, difference.sum())
    return np.exp(np.clip(difference, np.log(1e-20), np.log(cap)))


def answers_in_loss(group: Group, terms: TermsConfig) -> tuple[int, ...]:
    """Indices of the group's answers that the loss is over: the answers with a reward and a trained token, with
    `terms.mask_truncated` only answers that were not cut at rollout.max_new_tokens. There may be none.

    Overlong filtering of DAPO (Yu et al., arXiv 2503.14476, section 3.4)."""
    return tuple(i for i in group.judged if group.rollouts[i].trained
                 and not (terms.mask_truncated and group.rollouts[i].finish_reason == "length"))


def answer_terms(weights: Sequence[np.ndarray | float], judged: int, terms: TermsConfig) -> dict[str, float]:
    """Metrics of what the terms do to the answers of a step.

        share/masked       of the `judged` answers with a reward, the share left out of the loss
        mismatch/weight    mean weight over the trained tokens
        mismatch/capped    share of the trained tokens whose weight is the cap

    weights: for each answer in the loss, its `mismatch_weights` [n] (of any value where terms.mismatch is off).
    """
    metrics = {}
    if terms.mask_truncated and judged:
        metrics["share/masked"] = 1 - len(weights) / judged
    if terms.mismatch != "off" and weights:
        every = np.concatenate(weights)
        metrics |= {"mismatch/weight": float(every.mean()),
                    "mismatch/capped": float((every >= terms.mismatch_cap * (1 - 1e-12)).mean())}
    return metrics


def with_ratio(estimate: Array, logprobs: Array, old_logprobs: Array) -> Array:
    """R times an estimate of the KL divergence, any shape, with the token's ratio R = exp(logprobs - old_logprobs).

    Its derivative by logprobs is R (estimate + the estimate's derivative): for k3, -R d. Tokens of the old policy
    then give exactly grad KL(policy || reference), and R k3 is an unbiased value, given the tokens before. Beyond a
    log-ratio of 10, R is constant.

    `use_bias_correction_kl` of TRL's GRPO trainer (github.com/huggingface/trl), after DeepSeek-V3.2, arXiv
    2512.02556."""
    return jnp.exp(log_ratio(logprobs, old_logprobs)) * estimate


def term_losses(terms: TermsConfig, logprobs: Array, entropy: Array, old_logprobs: Array,
                reference_logprobs: Array | None) -> dict:
    """What each term that is on adds to the loss of every token, [R, T] nats, by the name of its metric.

    The entropy bonus adds -H: d(-H)/dl = p (log p + H) for the logits l of a token, with probabilities p at
    rollout.temperature (`model.logprobs.head_logprobs`). Mnih et al., arXiv 1602.01783, section 4."""
    found = {}
    if terms.kl_weight:
        kl = kl_estimate(terms.kl_estimator, logprobs, reference_logprobs)
        found["kl"] = terms.kl_weight * (with_ratio(kl, logprobs, old_logprobs) if terms.kl_ratio else kl)
    if terms.entropy_weight:
        found["entropy_bonus"] = -terms.entropy_weight * entropy
    return found


def tally_terms(terms: TermsConfig, losses: dict, logprobs: Array, reference_logprobs: Array | None,
                weight: Array) -> dict[str, Array]:
    """Sums over the trained tokens of a micro-batch: of what each term adds to the loss, and of the
    KL estimates, by k3 and by the chosen estimator. The sums of all micro-batches add up."""
    out = {f"sum/term_{name}": (weight * loss).sum() for name, loss in losses.items()}
    for kind in {"k3", terms.kl_estimator} if terms.kl_weight else ():
        out[f"sum/kl_{kind}"] = jnp.where(weight > 0, kl_estimate(kind, logprobs, reference_logprobs), 0).sum()
    return out


def summarise_terms(total: dict[str, np.ndarray], updates: int) -> dict[str, float]:
    """Metrics from the combined sums of `updates` optimizer updates.

        loss/NAME                  what a term adds to loss/total
        kl/mean                    nats per trained token, by k3
        kl/mean_k1, kl/mean_k2     the same by the term's estimator, if it is another one
    """
    out = {f"loss/{name.removeprefix('sum/term_')}": float(value) / updates for name, value in total.items()
           if name.startswith("sum/term_")}
    for name, value in total.items():
        if name.startswith("sum/kl_"):
            key = f"kl/mean_{name.removeprefix('sum/kl_')}".removesuffix("_k3")
            out[key] = float(value) / float(total["count/tokens"])
    return out
