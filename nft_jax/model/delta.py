"""The gated delta net, which stands in place of attention in most layers of Qwen3.5.

A head has a memory [I, O] in place of keys and values. Each token does four things with it:

1. It forgets: the memory is multiplied by a decay in (0, 1).
2. It reads what the memory holds under its key.
3. It writes: a share of the difference between its value and what it read, under its key.
4. Its query reads the memory that results.

Queries, keys and values first pass a short causal convolution over the tokens. `mix` computes whole rows, chunk by
chunk. Inside a chunk the writes depend on each other, which is one triangular system; between chunks a scan hands the
memory on. The memory of a segment's first token is empty, and so is the past of its convolutions. `step` computes one
token of every slot, for decoding, from the `Memory` that the tokens before it left.

Everything here is float32, because the memory sums over all tokens.

Letters beside those of `decoder`: N key heads, G value heads for each of them, U = N * G value heads, I and O sizes of
a head's key and value, W tokens of a convolution, M chunks, C tokens of a chunk. Source: Yang et al., arXiv 2412.06464;
`Qwen3_5GatedDeltaNet` in transformers.
"""
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nft_jax.model.config import ModelConfig
from nft_jax.runtime.mesh import partition_spec

CHUNK = 64                # tokens: the products of a chunk fill the units of an accelerator
NORM_EPS = 1e-6           # of the norms of queries and keys, whatever the model's norm_eps

# At full precision, whatever products do elsewhere: errors of the memory stay in it.
exact = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Inputs(NamedTuple):
    """What a layer's products make of its tokens."""
    query: jax.Array                   # [B, T, N, I]
    key: jax.Array                     # [B, T, N, I]
    value: jax.Array                   # [B, T, U, O]
    write: jax.Array                   # [B, T, U]: before the sigmoid, the share of the difference that is written
    forget: jax.Array                  # [B, T, U]: before its bias and the softplus, how much is forgotten


class Memory(NamedTuple):
    """What the tokens so far have left in a layer, for S sequences."""
    heads: jax.Array                   # [S, U, I, O] float32
    # The last inputs of each convolution, oldest first, in the type of the activations.
    query: jax.Array                   # [S, N, I, W-1]
    key: jax.Array                     # [S, N, I, W-1]
    value: jax.Array                   # [S, U, O, W-1]


MEMORY_AXES = ("heads", None, None)    # of all its arrays, behind the sequences
# The arrays of a layer, beside its matrices, that `mix` and `step` take.
SMALL = ("delta_query_convolution", "delta_key_convolution", "delta_value_convolution", "delta_log_decay",
         "delta_forget_bias")


def empty(config: ModelConfig, sequences: int, dtype) -> Memory:
    """The memory before the first token."""
    keys = (sequences, config.delta_key_heads, config.delta_key_dim, config.delta_conv - 1)
    values = (sequences, config.delta_value_heads, config.delta_value_dim, config.delta_conv - 1)
    heads = (sequences, config.delta_value_heads, config.delta_key_dim, config.delta_value_dim)
    return Memory(jnp.zeros(heads, jnp.float32), *(jnp.zeros(shape, dtype) for shape in (keys, keys, values)))


def mix(inputs: Inputs, weights: dict[str, Any], segment_ids_BT, mesh: Mesh | None):
    """The heads' outputs [B, T, U, O] float32, and the `Memory` after the last token of each row; it is empty where
    that token is padding (segment 0).

    weights: the small arrays of one layer, by their names in the table. On a mesh each device takes its rows and
    heads. Over `context` every device computes all tokens of its rows, since each needs the memory of those before."""
    if mesh is None or mesh.size == 1:
        return _local(inputs, weights, segment_ids_BT)
    context = mesh.shape["context"]
    tokens = Inputs(*(partition_spec(("batch", "context", "heads", None)[:x.ndim]) for x in inputs))
    heads = {name: partition_spec(("heads", None, None)[:x.ndim]) for name, x in weights.items()}

    def local(inputs, weights, segment_ids):
        if context > 1:
            # In one exchange, which waits for the other devices once.
            flat = jnp.concatenate([x.reshape(*x.shape[:2], -1) for x in inputs], -1)
            whole = jax.lax.all_gather(flat, "context", axis=1, tiled=True)
            parts = jnp.split(whole, np.cumsum([x[0, 0].size for x in inputs])[:-1], axis=-1)
            inputs = Inputs(*(part.reshape(*whole.shape[:2], *x.shape[2:]) for part, x in
                              zip(parts, inputs, strict=True)))
        out, memory = _local(inputs, weights, segment_ids)
        if context > 1:
            length = out.shape[1] // context
            out = jax.lax.dynamic_slice_in_dim(out, jax.lax.axis_index("context") * length, length, axis=1)
        return out, memory

    memory = Memory(*(partition_spec(("batch", *MEMORY_AXES)),) * 4)
    # check_vma is off because every device of `context` computes the memory.
    return jax.shard_map(local, mesh=mesh, in_specs=(tokens, heads, partition_spec(("batch", None))),
                         out_specs=(tokens.value, memory), check_vma=False)(inputs, weights, segment_ids_BT)


def step(inputs: Inputs, weights: dict[str, Any], memory: Memory):
    """One token of every slot: inputs with T = 1 -> outputs [S, 1, U, O] float32, and the memory with the token."""
    query, key, value = (_newest(x, past, weights[f"delta_{name}_convolution"]) for name, x, past in (
        ("query", inputs.query, memory.query), ("key", inputs.key, memory.key), ("value", inputs.value, memory.value)))
    query_SNI, key_SNI = _unit(query) * query.shape[-1] ** -0.5, _unit(key)
    write_SU, log_decay_SU = (x[:, 0] for x in _rates(inputs, weights))
    slots, key_heads, key_dim = key_SNI.shape
    value_SNGO = value.reshape(slots, key_heads, -1, value.shape[-1])
    heads = memory.heads.reshape(*value_SNGO.shape[:3], key_dim, -1)
    heads = heads * jnp.exp(log_decay_SU).reshape(*value_SNGO.shape[:3], 1, 1)
    read_SNGO = exact(key_SNI[:, :, None, None], heads)[..., 0, :]
    change_SNGO = write_SU.reshape(*value_SNGO.shape[:3], 1) * (value_SNGO - read_SNGO)
    heads = heads + key_SNI[:, :, None, :, None] * change_SNGO[..., None, :]
    out = exact(query_SNI[:, :, None, None], heads)
    past = (jnp.concatenate([old[..., 1:], jnp.moveaxis(x, 1, -1).astype(old.dtype)], -1)
            for old, x in zip(memory[1:], inputs, strict=False))
    return out.reshape(slots, 1, -1, value.shape[-1]), Memory(heads.reshape(memory.heads.shape), *past)


def gated_norm(x, scale, gate, eps: float):
    """RMSNorm of x [..., n] float32, times `scale` [n] and SiLU of `gate` [..., n]."""
    normed = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return normed * scale.reshape((1,) * (x.ndim - 1) + scale.shape) * jax.nn.silu(gate.astype(x.dtype))


def operations(config: ModelConfig) -> int:
    """Of one token in one delta net, beside its products with the matrices: those with the memory, the products and the
    triangular system of a chunk, and the convolutions."""
    n, u, i, o = config.delta_key_heads, config.delta_value_heads, config.delta_key_dim, config.delta_value_dim
    return u * 6 * i * o + CHUNK * (n * 4 * i + u * (i + 3 * o)) + 2 * config.delta_conv * (2 * n * i + u * o)


# ---- on one device ---------------------------------------------------------------------------------------------


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _unit(x):
    """x [..., I] of length 1."""
    return x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + NORM_EPS)


def _rates(inputs: Inputs, weights):
    """The share that each token writes, and the logarithm of its decay: two of [B, T, U]."""
    scale, bias = (_wide(weights[name])[None, None] for name in ("delta_log_decay", "delta_forget_bias"))
    return jax.nn.sigmoid(_wide(inputs.write)), -jnp.exp(scale) * jax.nn.softplus(_wide(inputs.forget) + bias)


def _convolve(x_BTHE, weight_HEW, segment_ids_BT):
    """SiLU of the causal convolution inside segments, and the inputs that the next token of each row will see."""
    length, before = x_BTHE.shape[1], weight_HEW.shape[-1] - 1
    padded = jnp.pad(x_BTHE, ((0, 0), (before, 0), (0, 0), (0, 0)))
    # No segment has this number.
    segments = jnp.pad(segment_ids_BT, ((0, 0), (before, 0)), constant_values=-1)
    total = 0
    for first in range(before + 1):
        seen = segments[:, first:first + length] == segment_ids_BT
        x = jnp.where(seen[:, :, None, None], padded[:, first:first + length], 0)
        total = total + _wide(x) * _wide(weight_HEW[..., first])[None, None]
    last = segment_ids_BT[:, -1:]
    kept = (segments[:, length:] == last) & (last > 0)
    past = jnp.where(kept[:, :, None, None], padded[:, length:], 0)
    return jax.nn.silu(total), jnp.moveaxis(past, 1, -1)


def _newest(x_S1HE, past_SHEW, weight_HEW):
    """`_convolve` of one more token: [S, H, E]."""
    seen = jnp.concatenate([past_SHEW, jnp.moveaxis(x_S1HE, 1, -1).astype(past_SHEW.dtype)], -1)
    return jax.nn.silu((_wide(seen) * _wide(weight_HEW)[None]).sum(-1))


def _local(inputs: Inputs, weights, segment_ids_BT):
    mixed = [_convolve(x, weights[f"delta_{name}_convolution"], segment_ids_BT)
             for name, x in zip(("query", "key", "value"), inputs, strict=False)]
    query, key, value = (x for x, _ in mixed)
    out, heads = chunked(_unit(query) * query.shape[-1] ** -0.5, _unit(key), value, *_rates(inputs, weights),
                         segment_ids_BT)
    return out, Memory(heads, *(past for _, past in mixed))


_solve = partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True, unit_diagonal=True)


def _solve_each(system, right):
    """`_solve`, one system after another. Before jax 0.11 LAPACK's kernel shares a batch of them among the threads that
    run the devices, and waits: with a device on every thread, nobody is left to do the work."""
    flat = jax.lax.map(lambda pair: _solve(*pair), tuple(x.reshape(-1, *x.shape[-2:]) for x in (system, right)))
    return flat.reshape(right.shape)


def chunked(query_BTNI, key_BTNI, value_BTUO, write_BTU, log_decay_BTU, segment_ids_BT):
    """The heads' outputs [B, T, U, O], and their memories [B, U, I, O] after the last token of each row, which are 0
    where that token is padding.

    Source: equations 8 to 10 of Yang et al., arXiv 2412.06464."""
    (batch, length, key_heads, key_dim), (_, _, value_heads, value_dim) = key_BTNI.shape, value_BTUO.shape
    size = min(CHUNK, length)
    more, group = -length % size, value_heads // key_heads

    def chunks(x, heads):
        """[B, T, H, ...] -> [M, B, N, G, C, ...]; the tokens that fill the last chunk write and forget nothing."""
        x = jnp.pad(x, ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2)))
        x = x.reshape(batch, -1, size, *heads, *x.shape[3:])
        return jnp.moveaxis(jnp.moveaxis(x, 1, 0), 2, 4)

    query, key = (chunks(x, (key_heads, 1)) for x in (query_BTNI, key_BTNI))
    value, write, log_decay = (chunks(x, (key_heads, group)) for x in (value_BTUO, write_BTU, log_decay_BTU))
    segments = jnp.pad(segment_ids_BT, ((0, 0), (0, more)), mode="edge").reshape(batch, -1, size)
    segments = jnp.moveaxis(segments, 1, 0)[:, :, None, None]                              # [M, B, 1, 1, C]
    before = jnp.concatenate([segments[:1, ..., :1], segments[:-1, ..., -1:]])             # the chunk's last neighbour

    # The logarithm of what is left of the memory since the chunk began.
    left = jnp.cumsum(log_decay, -1)
    earlier = jnp.tril(jnp.ones((size, size), bool))[None, None, None, None]
    linked = earlier & (segments[..., :, None] == segments[..., None, :])
    # Masked before the exponential, which would overflow for later tokens.
    decay = jnp.exp(jnp.where(linked, left[..., :, None] - left[..., None, :], -jnp.inf))
    from_start = jnp.exp(left) * (segments == before)
    to_end = jnp.exp(left[..., -1:] - left) * (segments == segments[..., -1:])

    transposed = jnp.swapaxes(key, -1, -2)
    system = write[..., None] * exact(key, transposed) * decay
    attention = exact(query, transposed) * decay
    # Each token's change: without the memory of the chunks before, and what that memory adds for each of its numbers.
    right = jnp.concatenate([write[..., None] * value, (write * from_start)[..., None] * key], -1)
    solved = jax.lax.platform_dependent(system, right, cpu=_solve_each, default=_solve)
    change, reads = solved[..., :value_dim], solved[..., value_dim:]

    def one(heads, chunk):
        change, reads, query, attention, key, kept = chunk
        change = change - exact(reads, heads)
        out = exact(query, heads) + exact(attention, change)
        return heads * kept + exact(jnp.swapaxes(key, -1, -2), change), out

    empty = jnp.zeros((batch, key_heads, group, key_dim, value_dim), value.dtype)
    heads, out = jax.lax.scan(one, empty, (
        change, reads, query * from_start[..., None], attention, key * to_end[..., None], from_start[..., -1:, None]))
    out = jnp.moveaxis(jnp.moveaxis(out, 4, 2), 0, 1).reshape(batch, -1, value_heads, value_dim)[:, :length]
    heads = heads * (segment_ids_BT[:, -1] > 0)[:, None, None, None, None]
    return out, heads.reshape(batch, value_heads, key_dim, value_dim)
