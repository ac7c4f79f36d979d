"""The keys and values that decoding keeps of every slot, in the layout that the platform reads and writes best.

On CPU and GPU a layer has keys [S, K, E, C] and values [S, K, C, E]: S slots, K kv heads, E head dimension, C entries.
From these keys the scores are computed 20% faster on CPU.

On TPU a layer is `Rows`: keys and values [S, K/P, C, P*E], with P heads side by side where one is narrower than the 128
lanes of a tile. An entry is then a row of every tile that it touches. In the other layout it would be a column, and
the write of one column moves 128. So arranged, XLA also keeps the layout in which programs receive arrays, and copies
no ring at the start and the end of a block.
"""
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model.attention import MASKED
from nft_jax.model.config import Attention, LayerKind, ModelConfig
from nft_jax.model.kernels import LANES
from nft_jax.model.quantise import Quantized, quantise
from nft_jax.model.ring_kernels import attend_rows, write_row
from nft_jax.runtime.mesh import platform_of


class Rows(NamedTuple):
    """Keys and values of a layer in the layout for TPU. The scales of `Quantized` ones are [S, K, C, 1]."""
    keys: Any
    values: Any


def heads_in_row(config: ModelConfig, mesh: Mesh, kind: LayerKind) -> int:
    """P of `Rows` in layers of this kind; 0 for the other layout: away from TPUs, and where heads do not fill the lanes
    of a row."""
    kv_heads, head_dim = config.heads_of(kind)
    heads = max(1, LANES // head_dim)
    rows, tensor = kv_heads // heads, mesh.shape["tensor"]
    if platform_of(mesh) != "tpu" or heads * head_dim % LANES or rows * heads < kv_heads:
        return 0
    # Heads of different devices share no row.
    return 0 if kv_heads % tensor == 0 and rows % tensor else heads


def cache_entries(keys, values, quantised: bool, heads: int = 0):
    """keys, values [S, K, T, E] in the cache's layout. heads: P of `Rows`, 0 for the other.

    quantised: both in int8, with a scale for every token and head."""
    if quantised:
        keys, values = quantise(keys, -1), quantise(values, -1)
    if not heads:
        return jax.tree.map(lambda x: jnp.swapaxes(x, 2, 3), keys), values

    def pack(x):
        if isinstance(x, Quantized):
            return Quantized(pack(x.values), x.scale)
        slots, kv_heads, length, size = x.shape
        side_by_side = jnp.swapaxes(x.reshape(slots, kv_heads // heads, heads, length, size), 2, 3)
        return side_by_side.reshape(slots, kv_heads // heads, length, heads * size)

    return Rows(pack(keys), pack(values))


def ring_axes(layer) -> tuple[int, int]:
    """The axes of the entries, of a layer's keys and of its values."""
    before = jax.tree.leaves(layer)[0].ndim - 2
    return (before, before) if isinstance(layer, Rows) else (before + 1, before)


def without_heads(layer):
    """A layer of one kv head without the axis of heads: [S, E, C] and [S, C, E]. `Rows`, and layers of more heads, as
    they are. For the loop over decode steps: XLA's CPU compiler drops an axis of size 1 of a product's operand, and
    then writes the entry twice, into two copies of the ring."""
    heads = jax.tree.leaves(layer)[0].shape[1]
    return layer if isinstance(layer, Rows) or heads > 1 else jax.tree.map(lambda x: jnp.squeeze(x, 1), layer)


def with_heads(layer):
    """The inverse of `without_heads`."""
    return jax.tree.map(lambda x: jnp.expand_dims(x, 1) if x.ndim == 3 else x, layer)


def write_entries(layer, keys, values, index, mesh: Mesh | None = None, attention: Attention = "xla"):
    """The layer with one more entry of each slot, keys and values [S, K, 1, E], at the ring index `index`. It may be
    `without_heads`.

    attention: with "splash" a kernel for TPU writes the entries of `Rows`."""
    quantised, rows = isinstance(layer[0], Quantized), isinstance(layer, Rows)
    heads = keys.shape[1] // jax.tree.leaves(layer)[0].shape[1] if rows else 0
    entries = cache_entries(keys, values, quantised, heads)
    if jax.tree.leaves(layer)[0].ndim == 3:
        entries = without_heads(entries)

    def write(ring, entry, axis):
        entry = entry.astype(ring.dtype)
        if attention == "splash" and rows and ring.shape[3] % LANES == 0:
            return write_row(ring, entry, index, mesh)
        return jax.lax.dynamic_update_slice_in_dim(ring, entry, index, axis)

    written = [jax.tree.map(partial(write, axis=axis), ring, entry) for axis, ring, entry in zip(
        ring_axes(layer), layer, entries, strict=True)]
    return Rows(*written) if rows else tuple(written)


def attended(write_index, length, capacity: int):
    """[S, C] bool: the entry being written and the `length` entries of the slot behind it."""
    behind = (write_index - jnp.arange(capacity)) % capacity
    return behind[None] <= length[:, None]


def attend_cache(q_SKGD, layer, write_index, length, *, scale: float, attention: Attention = "xla",
                 mesh: Mesh | None = None):
    """One query per slot against the slot's entries: the one at `write_index`, and the `length` [S] behind it.

    q [S, kv_heads, queries_per_kv, head_dim], layer of `cache_entries` or `without_heads` -> like q. Scales of
    `Quantized` keys and values multiply the scores and the weights, not the cache. The softmax is taken in float32.

    attention: with "splash" a kernel for TPU reads `Rows` that are not `Quantized`."""
    (k, k_scale), (v, v_scale) = (x if isinstance(x, Quantized) else (x, None) for x in layer)
    dtype, rows, head = q_SKGD.dtype, isinstance(layer, Rows), "k" if k.ndim == 4 else ""
    if attention == "splash" and rows and k_scale is None:
        return attend_rows(q_SKGD, k, v, length, write_index, mesh, scale=scale)
    valid_SC = attended(write_index, length, v.shape[-2])
    k_scale, v_scale = with_heads((k_scale, v_scale))
    if rows:
        scores = jnp.einsum("srqd,srcd->srqc", beside_zeros(q_SKGD, k.shape[1]), k.astype(dtype),
                            preferred_element_type=jnp.float32).reshape(*q_SKGD.shape[:3], -1) * scale
        k_scale = None if k_scale is None else jnp.swapaxes(k_scale, 2, 3)
    else:
        scores = jnp.einsum(f"skgd,s{head}dc->skgc", q_SKGD, k.astype(dtype),
                            preferred_element_type=jnp.float32) * scale
    scores = jnp.where(valid_SC[:, None, None], scores if k_scale is None else scores * k_scale, MASKED)
    exponents = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = exponents.sum(axis=-1, keepdims=True)
    weights = (exponents if v_scale is None else exponents * jnp.swapaxes(v_scale, 2, 3)).astype(dtype)
    if rows:
        weighted = own(jnp.einsum("srqc,srcd->srqd", weights.reshape(len(weights), v.shape[1], -1, v.shape[2]),
                                  v.astype(dtype), preferred_element_type=jnp.float32), q_SKGD.shape)
    else:
        weighted = jnp.einsum(f"skgc,s{head}cd->skgd", weights, v.astype(dtype), preferred_element_type=jnp.float32)
    return (weighted / total).astype(dtype)


def beside_zeros(q_SKGD, rows: int):
    """Queries [S, K, G, E] as rows [S, K/P, P*G, P*E]: each stands at its head's place, with zeros at the other
    heads'. A product is as fast: the zeros fill lanes that would be empty."""
    slots, kv_heads, group, size = q_SKGD.shape
    heads = kv_heads // rows
    placed = q_SKGD.reshape(slots, rows, heads, group, 1, size) * _places(heads, q_SKGD.dtype)
    return placed.reshape(slots, rows, heads * group, heads * size)


def own(weighted, shape: tuple[int, ...]):
    """Of weighted sums of whole rows [S, K/P, P*G, P*E], the part of each query's own head, as `shape` [S, K, G, E]."""
    slots, kv_heads, group, size = shape
    heads = kv_heads // weighted.shape[1]
    parts = weighted.reshape(slots, -1, heads, group, heads, size) * _places(heads, weighted.dtype)
    return parts.sum(axis=4).reshape(shape)


def _places(heads: int, dtype):
    """[1, 1, P, 1, P, 1]: 1 where a query's head is the head of the row."""
    return jnp.eye(heads, dtype=dtype)[None, None, :, None, :, None]
