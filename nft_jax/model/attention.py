"""Attention of whole sequences. `entries.attend_cache` is that of a decode step.

Arrays are head-major: [batch, kv_heads, sequence, head_dim]. XLA multiplies this layout 4 to 5
times faster on CPU than sequence-major, and a decode step updates it in one slice.
"""
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nft_jax.model.config import (
    Attention,
    LinearRope,
    Llama3Rope,
    LongRope,
    ProportionalRope,
    RopeScaling,
    YarnRope,
)
from nft_jax.model.kernels import cudnn, splash

# Finite, so that a row with nothing to attend to gives a number and not nan.
MASKED = -1e30


def align(weights, x):
    """`weights` with leading axes of 1, to broadcast against the last axes of `x` without rank promotion."""
    return weights.reshape((1,) * (x.ndim - weights.ndim) + weights.shape)


def rotary_angles(positions, rotary_dim: int, theta: float, scaling: RopeScaling | None = None,
                  stretches: bool = False):
    """positions [...] int32 -> cos and sin of the rotary embedding, two of [..., rotary_dim/2] float32.

    stretches: whether the long factors of a LongRope hold.

    Su et al., arXiv 2104.09864, in the half-split layout of the Hugging Face Llama and Qwen models."""
    frequencies = theta ** (-jnp.arange(0, rotary_dim, 2, dtype=jnp.float32) / rotary_dim)
    if scaling is not None:
        frequencies = scaled_frequencies(frequencies, theta, scaling, stretches)
    angles = positions[..., None].astype(jnp.float32) * align(frequencies, positions[..., None])
    cos, sin, grown = jnp.cos(angles), jnp.sin(angles), attention_factor(scaling)
    return (cos, sin) if grown == 1 else (grown * cos, grown * sin)


def scaled_frequencies(frequencies, theta: float, scaling: RopeScaling, stretches: bool):
    """frequencies [rotary_dim/2], radians per token, of the base `theta` -> the frequencies stretched as the class of
    `scaling` describes."""
    if isinstance(scaling, LongRope):
        return frequencies / jnp.array(scaling.long_factor if stretches else scaling.short_factor)
    slow = frequencies / scaling.factor
    if isinstance(scaling, LinearRope):
        return slow
    if isinstance(scaling, ProportionalRope):
        # By the angle 0, which changes nothing.
        return jnp.where(jnp.arange(len(slow)) < int(scaling.partial_rotary_factor * len(slow)), slow, 0)
    if isinstance(scaling, Llama3Rope):
        # Turns of each frequency in the original context.
        turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    else:
        first, last = yarn_range(2 * len(frequencies), theta, scaling)
        kept = 1 - (jnp.arange(len(frequencies), dtype=jnp.float32) - first) / (last - first)
    kept = jnp.clip(kept, 0.0, 1.0)
    return kept * frequencies + (1 - kept) * slow


def yarn_range(rotary_dim: int, theta: float, scaling: YarnRope) -> tuple[float, float]:
    """Numbers of the frequencies between which YaRN blends: where it begins to stretch, and from where it does so
    wholly."""
    # The frequency that turns so many times in the original context has this number.
    first, last = (rotary_dim * math.log(scaling.original_max_position_embeddings / (turns * 2 * math.pi))
                   / (2 * math.log(theta)) for turns in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    return first, last if first != last else last + 0.001


def attention_factor(scaling: RopeScaling | None) -> float:
    """By which cosines and sines grow, and so the scores by its square."""
    def grown(mscale: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * mscale * math.log(scaling.factor) + 1.0

    if not isinstance(scaling, YarnRope | LongRope):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if isinstance(scaling, LongRope):
        original = scaling.original_max_position_embeddings
        return math.sqrt(1 + max(math.log(scaling.max_position_embeddings / original), 0) / math.log(original))
    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
    return grown(1.0)


def rotate(x, cos, sin):
    """x [..., head_dim] rotated in float32 by angles with `cos` and `sin` [..., rotary_dim/2]; the type of x stays.

    What stands behind the first rotary_dim numbers of a head stays as it is."""
    if (rotary_dim := 2 * cos.shape[-1]) < x.shape[-1]:
        return jnp.concatenate([rotate(x[..., :rotary_dim], cos, sin), x[..., rotary_dim:]], -1)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def attend(q_BKGTD, k_BKSD, v_BKSD, segment_ids_BS, *, scale: float, window: int = 0, start=0,
           implementation: Attention = "xla"):
    """Causal attention inside segments.

    q [B, kv_heads, queries_per_kv, T, head_dim], k, v [B, kv_heads, S, head_dim], segment_ids [B, S] -> like q.

    scale: factor of the scores. The softmax is taken in float32.
    window: a token sees itself and the `window` - 1 tokens before it; 0: all tokens before it.
    start: of a row's S tokens the first of the T queries: 0, or a multiple of T that divides S; may be traced.
    implementation: the choice of `nft_jax.model.kernels.choose_attention`. All of them compute the same.

    Segment 0 is padding. It attends to the padding before it, so its rows are finite; they are masked later."""
    if implementation == "splash":
        return splash(q_BKGTD, k_BKSD, v_BKSD, segment_ids_BS, scale=scale, window=window, start=start)
    batch, kv_heads, group, length, head_dim = q_BKGTD.shape
    behind = start + jnp.arange(length)[:, None] - jnp.arange(k_BKSD.shape[2])[None]
    causal = (behind >= 0) & (behind < window) if window else behind >= 0
    asking = jax.lax.dynamic_slice_in_dim(segment_ids_BS, start, length, axis=1)
    seen_BTS = causal[None] & (asking[:, :, None] == segment_ids_BS[:, None, :])
    if implementation == "cudnn":
        return cudnn(q_BKGTD, k_BKSD, v_BKSD, seen_BTS, scale=scale)
    # The queries that share a kv head are rows of one matrix, and the sums divide the result, not
    # the T x S weights. Both save passes over the largest arrays of the layer.
    q_BKND = q_BKGTD.reshape(batch, kv_heads, group * length, head_dim) * scale
    scores = jnp.einsum("bknd,bksd->bkns", q_BKND, k_BKSD, preferred_element_type=jnp.float32)
    # Added to a score, MASKED leaves nothing of it: the same bits as a choice. XLA for CPUs keeps the added array, the
    # same for all layers and heads, and fuses the sum into the softmax.
    unseen = jnp.tile(jnp.where(seen_BTS, 0.0, MASKED), (1, group, 1))[:, None]
    scores += unseen
    exponents = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = checkpoint_name(exponents.sum(axis=-1, keepdims=True), "attended")
    weighted = checkpoint_name(jnp.einsum("bkns,bksd->bknd", exponents.astype(v_BKSD.dtype), v_BKSD,
                                          preferred_element_type=jnp.float32), "attended")
    return (weighted / total).astype(v_BKSD.dtype).reshape(q_BKGTD.shape)
