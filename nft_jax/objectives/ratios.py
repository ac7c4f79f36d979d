"""What token losses are made of: the ratio, sums over an answer or a group, omega(q), the advantage, the clip."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from nft_jax.config import ObjectiveConfig, PromptWeight
from nft_jax.types import InputError

Array = Any

MAX_LOG_RATIO = 10.0        # the ratio stops at exp(10) = 22026, without gradient beyond
ACCURACY_RANGE = (0.02, 0.98)
STD_FLOOR = 1e-6            # a smaller spread of rewards is rounding of equal rewards: no signal


def required(extras: Mapping[str, Array], key: str, objective: str, meaning: str) -> Array:
    """extras[key]; InputError that names it when it is missing."""
    if key not in extras:
        raise InputError(f"extras has no {key!r}: {objective} needs it. Pass extras={{{key!r}: ...}}, {meaning}.")
    return extras[key]


# ---- weights of a prompt and of an answer ----------------------------------------------------------------------


def prompt_weight(kind: PromptWeight, right: Array, wrong: Array) -> Array:
    """omega(q) from r = `right` and 1 - r = `wrong`, any shape (arXiv 2505.18116; "maxrl" is ours).

    On-policy NFT with 1-r is Dr. GRPO, with sqrt((1-r)/r) GRPO, with (1-r)/r MaxRL."""
    return {"1": jnp.ones_like, "1-r": lambda r: wrong, "sqrt": lambda r: jnp.sqrt(wrong / r),
            "maxrl": lambda r: wrong / r}[kind](right)


def right_and_wrong(group_accuracy: Array) -> tuple[Array, Array]:
    """r and 1 - r, clipped one by one: 1 - clip(r) would lose digits near r = 0.98."""
    return jnp.clip(group_accuracy, *ACCURACY_RANGE), jnp.clip(1 - group_accuracy, *ACCURACY_RANGE)


def group_advantage(rewards: Array, group_accuracy: Array, config: ObjectiveConfig,
                    extras: Mapping[str, Array]) -> Array:
    """GRPO's A = (s - r) / std. std is extras["group_std"], or without it the population std sqrt(r (1-r)) of 0/1
    rewards; A = 0 where std < 1e-6. Raises InputError: std_ddof 1 without extras["group_std"] (the group's size is not
    known here)."""
    std = extras.get("group_std")
    if std is None:
        if config.std_ddof:
            raise InputError("loss.std_ddof is 1 and extras has no 'group_std': the sample standard deviation needs "
                             "the group's size. Pass extras={'group_std': ...} [B] or [B, T], or use std_ddof=0.")
        std = jnp.sqrt(jnp.clip(group_accuracy * (1 - group_accuracy), 0, None))
    centred = rewards - group_accuracy
    return jnp.where(std < STD_FLOOR, 0, centred / jnp.maximum(std, STD_FLOOR))


# ---- ratios ----------------------------------------------------------------------------------------------------


def log_ratio(logprobs: Array, old_logprobs: Array) -> Array:
    """min(logprobs - old_logprobs, 10), the gradient whole up to the tie and 0 beyond it. Any shape."""
    difference = logprobs - old_logprobs
    return jnp.where(difference > MAX_LOG_RATIO, MAX_LOG_RATIO, difference)


def segment_sum(values: Array, segment_ids: Array | None) -> Array:
    """[B, T]: at each token, the sum of `values` [B, T] over the tokens of its row with the same id (any integers);
    over the whole row when `segment_ids` is None. Static shapes, O(T log T) per row."""
    if segment_ids is None:
        return jnp.broadcast_to(values.sum(axis=1, keepdims=True), values.shape)

    def row(values_T: Array, ids_T: Array) -> Array:
        slot_T = jnp.searchsorted(jnp.sort(ids_T), ids_T)       # equal ids, equal slot, all below T
        return jax.ops.segment_sum(values_T, slot_T, num_segments=ids_T.shape[0])[slot_T]

    return jax.vmap(row)(values, segment_ids)


def answer_sums(logprobs: Array, old_logprobs: Array, mask: Array, extras: Mapping[str, Array]) -> tuple[Array, Array]:
    """At each token [B, T] the sum of logp - old over its answer, and the answer's length (at least 1). Answers are the
    rows, or the segments of extras["segment_ids"]."""
    ids = extras.get("segment_ids")
    lengths = segment_sum(mask.astype(logprobs.dtype), ids)
    return segment_sum(jnp.where(mask, logprobs - old_logprobs, 0), ids), jnp.maximum(lengths, 1)


def ratio_and_share(logprobs: Array, old_logprobs: Array, mask: Array, config: ObjectiveConfig,
                    extras: Mapping[str, Array]) -> tuple[Array, Array]:
    """log R [B, T] of the token or of its whole answer (sum or mean of the tokens' log ratios), at most 10, and the
    share [B, T] of one loss that the token carries. In each case a token's derivative is that of its one loss in log R:
    1 as it is, of the sum 1 times n shares of 1/n, of the mean 1/n times n shares of 1."""
    if config.ratio == "token":
        return log_ratio(logprobs, old_logprobs), jnp.ones_like(logprobs)
    total, lengths = answer_sums(logprobs, old_logprobs, mask, extras)
    if config.ratio == "sequence_mean":
        return log_ratio(total / lengths, jnp.zeros_like(total)), jnp.ones_like(logprobs)
    return log_ratio(total, jnp.zeros_like(total)), 1 / lengths


def group_softmax(values: Array, share: Array, group_ids: Array) -> tuple[Array, Array]:
    """log softmax [B, T] of `values` over the answers of a group, and a function that sums any [B, T] over a group.

    share: 1 / length on an answer's tokens and 0 elsewhere, so that sums over tokens are sums over answers. Answers may
    lie anywhere in [B, T]: all tokens with the same id are one group. Static shapes, O(B T log(B T))."""
    flat = group_ids.ravel()
    slot = jnp.searchsorted(jnp.sort(flat), flat)

    def group_sum(numbers: Array) -> Array:
        return jax.ops.segment_sum((share * numbers).ravel(), slot, num_segments=flat.size)[slot].reshape(share.shape)

    inside = share > 0
    top = jax.ops.segment_max(jnp.where(inside, stop_gradient(values), -jnp.inf).ravel(), slot,
                              num_segments=flat.size)[slot].reshape(share.shape)
    below = jnp.where(inside, values - jnp.where(inside, top, 0), 0)
    return below - jnp.log(jnp.where(inside, group_sum(jnp.exp(below)), 1)), group_sum


# ---- PPO's clip ------------------------------------------------------------------------------------------------


def clipped_surrogate(log_r: Array, advantage: Array, config: ObjectiveConfig) -> tuple[Array, dict[str, Array]]:
    """PPO's loss -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)); its derivative in log R is -A R, or 0 where the
    clip is active (A > 0 and R > 1 + clip_high, or A < 0 and R < 1 - clip_low). The bounds are inside."""
    ratio = jnp.exp(log_r)
    low, high = 1 - config.clip_low, 1 + config.clip_high
    clipped = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    loss = -advantage * jnp.where(clipped, jnp.clip(stop_gradient(ratio), low, high), ratio)
    return loss, by_sign(loss, advantage) | {"ratio": ratio, "clipped": clipped}


def by_sign(loss: Array, advantage: Array) -> dict[str, Array]:
    """The parts of `loss` with A > 0 and with A < 0, as metrics."""
    return {"positive_loss": jnp.where(advantage > 0, loss, 0), "negative_loss": jnp.where(advantage < 0, loss, 0)}
