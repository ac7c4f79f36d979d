"""Attention for whole sequences and for one decode step. Head-major: [batch, kv_heads, sequence, head_dim], the layout
that XLA multiplies 4 to 5 times faster on CPU than sequence-major, and that a decode step updates in one slice."""
from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

MASKED = -1e30     # finite, so that a row with nothing to attend to gives a number and not nan


def align(weights, x):
    """weights with leading axes of 1, so that they broadcast against the last axes of x without rank promotion."""
    return weights.reshape((1,) * (x.ndim - weights.ndim) + weights.shape)


def rotary_angles(positions, head_dim: int, theta: float):
    """cos and sin of the rotary embedding: positions [...] int32 -> two of [..., head_dim/2] float32.

    Su et al., arXiv 2104.09864, in the half-split layout of the Hugging Face Llama and Qwen models.
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None].astype(jnp.float32) * align(frequencies, positions[..., None])
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x, cos, sin):
    """x [..., head_dim] turned by angles [..., head_dim/2], in float32, returned in the type of x."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def attend(q_BKGTD, k_BKSD, v_BKSD, segment_ids_BS, *, scale: float, window: int = 0, start=0):
    """Causal attention inside segments (0 = padding, which attends to padding before it: finite, and masked later).

    q [B, kv_heads, queries_per_kv, T, head_dim], k and v [B, kv_heads, S, head_dim] -> like q. The queries are those of
    the T tokens from `start` on (a value) in rows of S. Scores are multiplied by `scale`. A token sees itself and
    the `window` - 1 tokens before it; 0 is all of them. Softmax in float32.
    The queries that share a kv head are rows of one matrix, and the sums divide the result, not the T x T weights:
    both save passes over the largest arrays of the layer.
    """
    batch, kv_heads, group, length, head_dim = q_BKGTD.shape
    q_BKND = q_BKGTD.reshape(batch, kv_heads, group * length, head_dim) * scale
    scores = jnp.einsum("bknd,bksd->bkns", q_BKND, k_BKSD, preferred_element_type=jnp.float32)
    behind = start + jnp.arange(length)[:, None] - jnp.arange(k_BKSD.shape[2])[None]
    causal = (behind >= 0) & (behind < window) if window else behind >= 0
    asking = jax.lax.dynamic_slice_in_dim(segment_ids_BS, start, length, axis=1)
    same = asking[:, :, None] == segment_ids_BS[:, None, :]
    scores = jnp.where(jnp.tile(causal[None] & same, (1, group, 1))[:, None], scores, MASKED)
    exponents = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = checkpoint_name(exponents.sum(axis=-1, keepdims=True), "attended")
    weighted = checkpoint_name(jnp.einsum("bkns,bksd->bknd", exponents.astype(v_BKSD.dtype), v_BKSD,
                                          preferred_element_type=jnp.float32), "attended")
    return (weighted / total).astype(v_BKSD.dtype).reshape(q_BKGTD.shape)


def attend_cache(q_SKGD, k_SKCD, v_SKCD, valid_SC, *, scale: float):
    """One query per slot against its cache: q [S, kv_heads, queries_per_kv, head_dim], k and v
    [S, kv_heads, cache, head_dim], valid [S, cache] bool -> like q. Softmax in float32."""
    scores = jnp.einsum("skgd,skcd->skgc", q_SKGD, k_SKCD, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(valid_SC[:, None, None], scores * scale, MASKED), axis=-1)
    return jnp.einsum("skgc,skcd->skgd", weights.astype(v_SKCD.dtype), v_SKCD)
