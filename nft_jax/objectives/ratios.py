"""The pieces of token losses. Notation as in `nft_jax.objectives.registry`."""
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from nft_jax.config import ObjectiveConfig, PromptWeight
from nft_jax.types import InputError

MAX_LOG_RATIO = 10.0      # the ratio stops at exp(10) = 22026, without gradient beyond
ACCURACY_RANGE = (0.02, 0.98)
STD_FLOOR = 1e-6          # a smaller spread is rounding of equal rewards, which carry no signal


# ---- weights of a prompt and of an answer ----------------------------------------------------------------------


def prompt_weight(kind: PromptWeight, right: Array, wrong: Array) -> Array:
    """omega(q) from r = `right` and 1 - r = `wrong`, any shape.

    On-policy NFT with "1-r" has the gradient of Dr. GRPO, with "sqrt" of GRPO, with "maxrl" of MaxRL.

    H. Chen et al., arXiv 2505.18116; "maxrl" is ours."""
    odds = wrong / right
    return {"1": jnp.ones_like(right), "1-r": wrong, "sqrt": jnp.sqrt(odds), "maxrl": odds}[kind]


def right_and_wrong(group_accuracy: Array) -> tuple[Array, Array]:
    """r and 1 - r, each clipped to [0.02, 0.98]. Any shape."""
    # Each is clipped by itself: 1 - clip(r) would lose digits near r = 0.98.
    return jnp.clip(group_accuracy, *ACCURACY_RANGE), jnp.clip(1 - group_accuracy, *ACCURACY_RANGE)


def group_advantage(rewards: Array, group_accuracy: Array, config: ObjectiveConfig,
                    extras: Mapping[str, Array]) -> Array:
    """GRPO's A = (s - r) / std, [B, T]; 0 where std < 1e-6.

    std is extras["group_std"], or without it the population std sqrt(r (1-r)) of 0/1 rewards. Raises InputError
    for std_ddof 1 without extras["group_std"]: the group's size is not known here."""
    std = extras.get("group_std")
    if std is None:
        if config.std_ddof:
            raise InputError("loss.std_ddof is 1 and extras has no 'group_std': the sample standard deviation needs "
                             "the group's size. Pass extras={'group_std': ...} [B] or [B, T], or use std_ddof=0.")
        std = jnp.sqrt(jnp.clip(group_accuracy * (1 - group_accuracy), 0, None))
    return jnp.where(std < STD_FLOOR, 0, (rewards - group_accuracy) / jnp.maximum(std, STD_FLOOR))


# ---- ratios ----------------------------------------------------------------------------------------------------


def log_ratio(logprobs: Array, old_logprobs: Array) -> Array:
    """min(logprobs - old_logprobs, 10). Any shape. The gradient is whole up to 10, included, and 0 beyond."""
    difference = logprobs - old_logprobs
    return jnp.where(difference > MAX_LOG_RATIO, MAX_LOG_RATIO, difference)


def segment_sum(values: Array, segment_ids: Array | None) -> Array:
    """[B, T]: at each token, the sum of `values` [B, T] over the tokens of its row with the same id.

    Ids are any integers [B, T]; None sums over the whole row. Static shapes, O(T log T) per row."""
    if segment_ids is None:
        return jnp.broadcast_to(values.sum(axis=1, keepdims=True), values.shape)

    def row(values_T: Array, ids_T: Array) -> Array:
        # Equal ids get equal slots, all below T.
        slot_T = jnp.searchsorted(jnp.sort(ids_T), ids_T)
        return jax.ops.segment_sum(values_T, slot_T, num_segments=ids_T.shape[0])[slot_T]

    return jax.vmap(row)(values, segment_ids)


def answer_sums(logprobs: Array, old_logprobs: Array, mask: Array, extras: Mapping[str, Array]) -> tuple[Array, Array]:
    """At each token, the sum of logp - old over its answer, and the answer's length (at least 1): two of [B, T].
    The answers are the segments of extras["segment_ids"], or the rows without it."""
    ids = extras.get("segment_ids")
    lengths = segment_sum(mask.astype(logprobs.dtype), ids)
    return segment_sum(jnp.where(mask, logprobs - old_logprobs, 0), ids), jnp.maximum(lengths, 1)


def ratio_and_share(logprobs: Array, old_logprobs: Array, mask: Array, config: ObjectiveConfig,
                    extras: Mapping[str, Array]) -> tuple[Array, Array]:
    """log R [B, T], at most 10, and the share [B, T] of one loss that the token carries, by `config.ratio`.

    ratio            log R                             share    tokens of one answer of length n
    token            of the token                      1        each has its own loss
    sequence         sum of the answer's log ratios    1/n      n shares of 1/n, each with derivative 1
    sequence_mean    mean of the answer's log ratios   1        n shares of 1, each with derivative 1/n

    So in each case the derivative at a token is the derivative of one loss in log R."""
    if config.ratio == "token":
        return log_ratio(logprobs, old_logprobs), jnp.ones_like(logprobs)
    total, lengths = answer_sums(logprobs, old_logprobs, mask, extras)
    if config.ratio == "sequence_mean":
        return log_ratio(total / lengths, jnp.zeros_like(total)), jnp.ones_like(logprobs)
    return log_ratio(total, jnp.zeros_like(total)), 1 / lengths


def group_softmax(values: Array, share: Array, group_ids: Array) -> tuple[Array, Array]:
    """log softmax [B, T] of `values` [B, T] over a group's answers, and a function that sums [B, T] over a group.

    share: [B, T], 1 / length on an answer's tokens and 0 elsewhere: a sum over tokens is then a sum over answers.
    group_ids: [B, T] int; all tokens of [B, T] with the same id are one group. Static shapes, O(B T log(B T))."""
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
    """PPO's loss -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)), [B, T], and its metrics.

    Its derivative in log R is -A R, and 0 where the clip is active: where A > 0 and
    R > 1 + clip_high, or A < 0 and R < 1 - clip_low. The bounds are inside.

    Schulman et al., arXiv 1707.06347."""
    ratio = jnp.exp(log_r)
    low, high = 1 - config.clip_low, 1 + config.clip_high
    clipped = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    loss = -advantage * jnp.where(clipped, jnp.clip(stop_gradient(ratio), low, high), ratio)
    return loss, by_sign(loss, advantage) | {"ratio": ratio, "clipped": clipped}


def by_sign(loss: Array, advantage: Array) -> dict[str, Array]:
    """The metrics positive_loss and negative_loss: the parts of `loss` with A > 0 and with A < 0."""
    return {"positive_loss": jnp.where(advantage > 0, loss, 0), "negative_loss": jnp.where(advantage < 0, loss, 0)}
