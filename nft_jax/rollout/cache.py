"""The decode state: an aligned ring of keys and values.

Every decode step writes the entries of all slots at one shared ring index, one slice per layer and no scatter. A
slot's tokens are therefore the `length` entries just behind the write index, wherever in the ring it stands, and a
prompt is admitted by laying its prefilled entries there. Rotary positions count a slot's own tokens, not ring indices.
The sequence axis is never sharded (a clamped update on a sharded axis is dropped by XLA, openxla/xla#49118).
"""
from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model.config import ModelConfig
from nft_jax.parallel import sharding


class DecodeState(NamedTuple):
    """S slots over a ring of C entries. Donated to every program that takes it."""
    cache: list[tuple[jax.Array, jax.Array]]   # per layer: keys, values [S, kv_heads, C, head_dim]
    write_index: jax.Array                     # [] int32: ring index that the next step writes
    length: jax.Array                          # [S] int32: entries of the slot behind the write index
    token: jax.Array                           # [S] int32: next token to feed
    generated: jax.Array                       # [S] int32: tokens sampled so far
    limit: jax.Array                           # [S] int32: most tokens to sample
    stream: jax.Array                          # [S] uint32: identity of the sample, prompt_index * K + sample
    active: jax.Array                          # [S] bool


def empty_state(config: ModelConfig, slots: int, capacity: int, dtype) -> DecodeState:
    """All slots free. `capacity` is the ring's length: the longest prompt and answer together."""
    zeros = jnp.zeros(slots, jnp.int32)
    shape = (slots, config.num_kv_heads, capacity, config.head_dim)
    cache = [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers)]
    return DecodeState(cache, jnp.int32(0), zeros, zeros, zeros, zeros, zeros.astype(jnp.uint32), zeros.astype(bool))


def state_shardings(config: ModelConfig, mesh: Mesh) -> DecodeState:
    """Slots over the data-parallel axes, kv heads over `tensor` where they divide."""
    heads = "kv_heads" if config.num_kv_heads % mesh.shape["tensor"] == 0 else None
    entries, slots = sharding(mesh, "batch", heads, None, None), sharding(mesh, "batch")
    return DecodeState([(entries, entries)] * config.num_layers, sharding(mesh), *(slots,) * 6)


def attended(write_index, length, capacity: int):
    """[S, C] bool: the entry being written and the `length` entries of the slot behind it."""
    behind = (write_index - jnp.arange(capacity)) % capacity
    return behind[None] <= length[:, None]


def admit(state: DecodeState, keys, values, tokens, lengths, slots, source, stream, limit) -> DecodeState:
    """Put samples into slots: A samples of P prefilled prompts.

    keys, values [L, P, kv_heads, T, head_dim] and tokens [P, T] of right-padded prompts of `lengths` [P]; slots [A]
    (an index >= S is dropped), source [A] the prompt of each sample, stream [A], limit [A]. The entries of all prompt
    tokens but the last are laid behind the write index; the last is the first token that decoding feeds.
    """
    capacity = state.cache[0][0].shape[2]
    cached = lengths[source] - 1
    behind = (state.write_index - jnp.arange(capacity)) % capacity
    entry = jnp.clip(cached[:, None] - behind[None], 0, keys.shape[3] - 1)            # [A, C]

    def lay(ring, prompt_entries):                                                    # [P, K, T, E] -> rows of the ring
        rows = jnp.take_along_axis(prompt_entries[source], entry[:, None, :, None], axis=2)
        return ring.at[slots].set(rows.astype(ring.dtype), mode="drop")

    def put(old, new):
        return old.at[slots].set(new.astype(old.dtype), mode="drop")

    return DecodeState(
        cache=[(lay(k, keys[i]), lay(v, values[i])) for i, (k, v) in enumerate(state.cache)],
        write_index=state.write_index,
        length=put(state.length, cached),
        token=put(state.token, tokens[source, cached]),
        generated=put(state.generated, jnp.zeros_like(cached)),
        limit=put(state.limit, limit),
        stream=put(state.stream, stream),
        active=put(state.active, jnp.ones_like(cached, bool)),
    )
