"""The decode state: an aligned ring of keys and values, and the memories of delta nets.

Every decode step writes the entries of all slots at one shared ring index: one slice per layer, and no scatter. The
tokens of a slot are therefore the `length` entries just behind the write index. A prompt is admitted by laying its
prefilled entries there. Rotary positions count a slot's own tokens, not ring indices. The ring grows from bucket to
bucket, so a step reads the bucket, not the longest answer allowed.

A memory (`model.delta.Memory`) is all that a delta net has of a slot's tokens. It has no ring: each step replaces it,
admission overwrites it, and it does not grow.

The sequence axis is never sharded: XLA drops a clamped update on a sharded axis (openxla/xla#49118).
"""
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model import delta
from nft_jax.model.config import LayerKind, ModelConfig
from nft_jax.model.entries import Rows, cache_entries, ring_axes
from nft_jax.runtime.compilation import with_shardings
from nft_jax.runtime.mesh import sharding


class DecodeState(NamedTuple):
    """S slots over a ring of C entries. Donated to every program that takes it."""
    # per layer that has its own: keys and values, in the layout of `model.entries`
    cache: list[tuple[Any, Any]]
    memories: list[delta.Memory]      # per layer with a delta net, of S sequences
    write_index: jax.Array            # [] int32: ring index that the next step writes
    length: jax.Array                 # [S] int32: entries of the slot behind the write index
    token: jax.Array                  # [S] int32: next token to feed
    generated: jax.Array              # [S] int32: tokens sampled so far
    limit: jax.Array                  # [S] int32: most tokens to sample
    stream: jax.Array                 # [S] uint32: identity of the sample, prompt_index * K + sample,
    rollout: jax.Array                # [S] uint32: and the rollout index in which its prompt was asked
    active: jax.Array                 # [S] bool

    @property
    def capacity(self) -> int:
        """C, also where the cache is quantised: the scales of the values are [S, kv_heads, C, 1]."""
        return jax.tree.leaves(self.cache[0][1])[0].shape[2]


class Prefilled(NamedTuple):
    """What P prompts leave behind, like the fields of `DecodeState`. The ring axis has T entries, and the last entry of
    a prompt is last."""
    cache: list[tuple[Any, Any]]
    memories: list[delta.Memory]


def buckets_up_to(longest: int, smallest: int = 1) -> tuple[int, ...]:
    """The lengths to which rings and prompts are padded: 64 * 2^k from `smallest` on and below `longest`, and
    `longest` itself, rounded up to a multiple of 8. Each has compiled programs of its own."""
    longest, size, sizes = -(-longest // 8) * 8, 64, []
    while size < longest:
        sizes += [size] if size >= smallest else []
        size *= 2
    return (*sizes, longest)


def ring_lengths(longest: int, platform: str) -> tuple[int, ...]:
    """The buckets of rings: powers of two from a sixteenth of `longest` on, at least 128. On TPU, where a step's time
    is that of reading its ring, eighths of the longest from its half on."""
    powers = buckets_up_to(longest, max(128, longest // 16))
    if platform != "tpu":
        return powers
    # Whole tiles of 16 entries.
    upper = sorted({-(-powers[-1] * eighths // 128) * 16 for eighths in range(4, 8)})
    return (*(size for size in powers if size < upper[0]), *(size for size in upper if size < powers[-1]), powers[-1])


def no_rows(kind: LayerKind) -> int:
    """No layer lies in rows (`model.entries`)."""
    return 0


def empty_layer(config: ModelConfig, kind: LayerKind, slots: int, length: int, dtype, quantised: bool, heads: int = 0):
    kv_heads, head_dim = config.heads_of(kind)
    zeros = jnp.zeros((slots, kv_heads, length, head_dim), dtype)
    return cache_entries(zeros, zeros, quantised, heads)


def cached_kinds(config: ModelConfig) -> list[LayerKind]:
    """Of the layers in the cache."""
    return [config.kinds[layer] for layer in config.cached_layers]


def empty_state(config: ModelConfig, slots: int, capacity: int, dtype, quantised: bool = False,
                heads: Callable[[LayerKind], int] = no_rows) -> DecodeState:
    """All slots free, over a ring of `capacity` entries. heads: of a layer of this kind, as of `cache_entries`."""
    zeros = jnp.zeros(slots, jnp.int32)
    cache = [empty_layer(config, kind, slots, capacity, dtype, quantised, heads(kind)) for kind in cached_kinds(config)]
    memories = [delta.empty(config, slots, dtype) for _ in config.delta_layers]
    return DecodeState(cache, memories, write_index=jnp.int32(0), length=zeros, token=zeros, generated=zeros,
                       limit=zeros, stream=zeros.astype(jnp.uint32), rollout=zeros.astype(jnp.uint32),
                       active=zeros.astype(bool))


def entry_sharding(config: ModelConfig, kind: LayerKind, mesh: Mesh, slots: str | None = "batch"):
    """Sharding of a layer's keys and values: slots over the data axes, kv heads over `tensor` where it divides them."""
    kv_heads, _ = config.heads_of(kind)
    return sharding(mesh, slots, None if kv_heads % mesh.shape["tensor"] else "kv_heads", None, None)


def cache_shardings(config: ModelConfig, mesh: Mesh, slots: str | None = "batch") -> list:
    return [entry_sharding(config, kind, mesh, slots) for kind in cached_kinds(config)]


def memory_sharding(mesh: Mesh, slots: str | None = "batch"):
    """Sharding of memories: slots over the data axes, heads over `tensor`."""
    return sharding(mesh, slots, *delta.MEMORY_AXES)


def state_shardings(config: ModelConfig, mesh: Mesh) -> DecodeState:
    """Shardings of a state: of the cache and the memories by their own; arrays [S] are split like the slots."""
    slots = sharding(mesh, "batch")
    return DecodeState(cache_shardings(config, mesh), memory_sharding(mesh), sharding(mesh), *(slots,) * 7)


def prefilled_shardings(config: ModelConfig, mesh: Mesh) -> Prefilled:
    """Prompts are whole on every device of the data axes."""
    return Prefilled(cache_shardings(config, mesh, None), memory_sharding(mesh, None))


def abstract_decode_state(config: ModelConfig, mesh: Mesh, *sizes) -> DecodeState:
    """`empty_state(config, *sizes)` as jax.ShapeDtypeStruct with shardings."""
    return with_shardings(jax.eval_shape(partial(empty_state, config, *sizes)), state_shardings(config, mesh))


def each_part(change, layer, *others):
    """The layer with `change(ring, ..., axis)` of its keys and of its values; `axis` is that of the ring. `others` are
    layers too, whose keys or values `change` takes beside."""
    changed = [jax.tree.map(partial(change, axis=axis), *parts)
               for axis, *parts in zip(ring_axes(layer), layer, *others, strict=True)]
    return Rows(*changed) if isinstance(layer, Rows) else tuple(changed)


def admit(state: DecodeState, prefilled: Prefilled, slots, source, token, length, generated, limit, stream,
          rollout) -> DecodeState:
    """Step 2 of the life of a sample: puts A samples of P prefilled prompts into slots. Samples of one prompt take
    copies of what it left behind, and nothing remains of the slots' earlier samples.

    slots [A]: an index >= S is dropped. source [A]: the prompt of each sample. token [A]: the prompt's last token,
    which decoding feeds first. length [A]: the entries before that token. generated [A]: the prompt's last tokens that
    are of the answer already. limit [A], stream [A], rollout [A]: of the sample."""
    def lay(ring, prompts, axis):
        # The last entry of the prompt comes to stand just behind the write index.
        capacity, given = ring.shape[axis], prompts.shape[axis]
        kept = jax.lax.slice_in_dim(prompts, max(given - capacity, 0), given, axis=axis)
        pad = [(0, 0)] * ring.ndim
        pad[axis] = (capacity - kept.shape[axis], 0)
        rows = jnp.roll(jnp.pad(kept, pad), state.write_index, axis=axis)
        return ring.at[slots].set(rows[source], mode="drop")

    def put(old, new):
        return old.at[slots].set(new.astype(old.dtype), mode="drop")

    cache = [each_part(lay, layer, new) for layer, new in zip(state.cache, prefilled.cache, strict=True)]
    memories = jax.tree.map(lambda old, prompts: put(old, prompts[source]), state.memories, prefilled.memories)
    new = {"length": length, "token": token, "generated": generated, "limit": limit, "stream": stream,
           "rollout": rollout, "active": jnp.ones_like(length, bool)}
    return state._replace(cache=cache, memories=memories,
                          **{name: put(getattr(state, name), value) for name, value in new.items()})


def grow_layer(layer, write_index, rows=None, *, capacity: int):
    """One layer's keys and values in a longer ring, of `capacity` entries; of the slots `rows` alone, if given.

    The old ring of C entries is unrolled: its newest entry comes to stand at C - 1, and the new write index is
    C % capacity. One layer at a time grows, so that only one layer's old and new rings are in memory together."""
    def grow(ring, axis):
        ring = ring if rows is None else ring[rows]
        pad = [(0, 0)] * ring.ndim
        pad[axis] = (0, capacity - ring.shape[axis])
        return jnp.pad(jnp.roll(ring, -write_index, axis=axis), pad)

    return each_part(grow, layer)


def keep_slots(state: DecodeState, rows) -> DecodeState:
    """The slots `rows` [S'] of a state whose cache is left out; a row of -1 becomes a free slot."""
    kept = jax.tree.map(lambda x: x[rows] if x.ndim else x, state)
    return kept._replace(active=kept.active & (rows >= 0))
