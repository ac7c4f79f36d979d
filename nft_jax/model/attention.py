"""Attention for whole sequences and for one decode step. Head-major: [batch, kv_heads, sequence, head_dim], the layout
that XLA multiplies 4 to 5 times faster on CPU than sequence-major, and that a decode step updates in one slice."""
from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nft_jax.model.config import Attention, RopeScaling
from nft_jax.model.kernels import cudnn, splash
from nft_jax.model.quantise import Quantized

MASKED = -1e30     # finite, so that a row with nothing to attend to gives a number and not nan


def align(weights, x):
    """weights with leading axes of 1, so that they broadcast against the last axes of x without rank promotion."""
    return weights.reshape((1,) * (x.ndim - weights.ndim) + weights.shape)


def rotary_angles(positions, head_dim: int, theta: float, scaling: RopeScaling | None = None):
    """cos and sin of the rotary embedding: positions [...] int32 -> two of [..., head_dim/2] float32.

    Su et al., arXiv 2104.09864, in the half-split layout of the Hugging Face Llama and Qwen models.
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = scaled_frequencies(frequencies, scaling)
    angles = positions[..., None].astype(jnp.float32) * align(frequencies, positions[..., None])
    return jnp.cos(angles), jnp.sin(angles)


def scaled_frequencies(frequencies, scaling: RopeScaling):
    """frequencies [head_dim/2], radians a token -> the same, stretched (`RopeScaling` says how)."""
    slow = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slow
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)      # in the original context
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = jnp.clip(kept, 0.0, 1.0)
    return kept * frequencies + (1 - kept) * slow


def rotate(x, cos, sin):
    """x [..., head_dim] turned by angles [..., head_dim/2], in float32, returned in the type of x."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def attend(q_BKGTD, k_BKSD, v_BKSD, segment_ids_BS, *, scale: float, window: int = 0, start=0,
           implementation: Attention = "xla"):
    """Causal attention inside segments (0 = padding, which attends to padding before it: finite, and masked later).

    q [B, kv_heads, queries_per_kv, T, head_dim], k and v [B, kv_heads, S, head_dim] -> like q. The queries are those of
    the T tokens from `start` on (a value; 0, or a multiple of T where S is one) of rows of S tokens. Scores are
    multiplied by `scale`. A token sees itself and the `window` - 1 tokens before it; 0 is all of them. Softmax in
    float32. `implementation`: what `nft_jax.model.kernels.choose_attention` chose; all of them compute the same.
    """
    if implementation == "splash":
        return splash(q_BKGTD, k_BKSD, v_BKSD, segment_ids_BS, scale=scale, window=window, start=start)
    length = q_BKGTD.shape[3]
    behind = start + jnp.arange(length)[:, None] - jnp.arange(k_BKSD.shape[2])[None]
    causal = (behind >= 0) & (behind < window) if window else behind >= 0
    asking = jax.lax.dynamic_slice_in_dim(segment_ids_BS, start, length, axis=1)
    seen_BTS = causal[None] & (asking[:, :, None] == segment_ids_BS[:, None, :])
    if implementation == "cudnn":
        return cudnn(q_BKGTD, k_BKSD, v_BKSD, seen_BTS, scale=scale)
    return attend_xla(q_BKGTD, k_BKSD, v_BKSD, seen_BTS, scale=scale)


def attend_xla(q_BKGTD, k_BKSD, v_BKSD, seen_BTS, *, scale: float):
    """`attend` by plain products. The queries that share a kv head are rows of one matrix, and the sums divide the
    result, not the T x S weights: both save passes over the largest arrays of the layer."""
    batch, kv_heads, group, length, head_dim = q_BKGTD.shape
    q_BKND = q_BKGTD.reshape(batch, kv_heads, group * length, head_dim) * scale
    scores = jnp.einsum("bknd,bksd->bkns", q_BKND, k_BKSD, preferred_element_type=jnp.float32)
    scores = jnp.where(jnp.tile(seen_BTS, (1, group, 1))[:, None], scores, MASKED)
    exponents = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = checkpoint_name(exponents.sum(axis=-1, keepdims=True), "attended")
    weighted = checkpoint_name(jnp.einsum("bkns,bksd->bknd", exponents.astype(v_BKSD.dtype), v_BKSD,
                                          preferred_element_type=jnp.float32), "attended")
    return (weighted / total).astype(v_BKSD.dtype).reshape(q_BKGTD.shape)


def attend_cache(q_SKGD, k_SKDC, v_SKCD, valid_SC, *, scale: float):
    """One query per slot against its cache: q [S, kv_heads, queries_per_kv, head_dim], k [S, kv_heads, head_dim,
    cache], v [S, kv_heads, cache, head_dim] (each may be `Quantized`), valid [S, cache] bool -> like q. Softmax in
    float32; the scales of a quantised cache multiply the scores and the weights, not the cache."""
    k, k_scale = k_SKDC if isinstance(k_SKDC, Quantized) else (k_SKDC, None)
    v, v_scale = v_SKCD if isinstance(v_SKCD, Quantized) else (v_SKCD, None)
    scores = jnp.einsum("skgd,skdc->skgc", q_SKGD, k.astype(q_SKGD.dtype), preferred_element_type=jnp.float32) * scale
    scores = jnp.where(valid_SC[:, None, None], scores if k_scale is None else scores * k_scale, MASKED)
    exponents = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = exponents.sum(axis=-1, keepdims=True)
    weights = exponents if v_scale is None else exponents * jnp.swapaxes(v_scale, 2, 3)
    weighted = jnp.einsum("skgc,skcd->skgd", weights.astype(q_SKGD.dtype), v.astype(q_SKGD.dtype),
                          preferred_element_type=jnp.float32)
    return (weighted / total).astype(q_SKGD.dtype)
