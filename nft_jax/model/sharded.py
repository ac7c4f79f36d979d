"""A layer on a device mesh.

Its pieces are written out because XLA, left alone, gathers queries and weights that it need not.
Without a mesh, and on one device, they do nothing.
"""
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model.config import Compute
from nft_jax.model.parameters import ARRAYS, part_axes
from nft_jax.model.quantise import Quantized, dequantise
from nft_jax.runtime.mesh import partition_spec, sharding


def look_up(params, name: str, tokens, compute: Compute):
    """Rows of the float32 table `name`, [V, D] or [V, L, P], for tokens [B, T] -> [B, T, D] or [B, T, L, P] of
    `compute.dtype`.

    Each device looks up its fsdp group's tokens in its own slice; an all-to-all then exchanges slices for rows.
    Only activations travel. The table's gradient is summed in float32, in the table's place."""
    mesh, table = compute.mesh, params[name]
    if mesh is None or mesh.size == 1:
        return table[tokens].astype(compute.dtype)

    def local(piece, tokens):
        tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        index = tokens - jax.lax.axis_index("tensor") * piece.shape[0]
        mine = (index >= 0) & (index < piece.shape[0])
        x = jnp.where(jnp.expand_dims(mine, range(2, 1 + piece.ndim)), piece[jnp.where(mine, index, 0)], 0)
        return jax.lax.all_to_all(jax.lax.psum(x.astype(compute.dtype), "tensor"), "fsdp", split_axis=0,
                                  concat_axis=x.ndim - 1, tiled=True)

    rows = partition_spec(("batch", "context"))
    return jax.shard_map(local, mesh=mesh, in_specs=(partition_spec(ARRAYS[name].logical_axes), rows),
                         out_specs=partition_spec(("batch", "context", *(None,) * (table.ndim - 1))))(table, tokens)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(weights, dtype: str, here, whole):
    """`weights` rounded to `dtype`, gathered from the sharding `here` to the sharding `whole`, as float32 again."""
    # In bfloat16 half the bytes travel. The cast back is free, since the product undoes it; its gradient is float32.
    cast = jax.lax.with_sharding_constraint(weights.astype(dtype), here)
    return jax.lax.with_sharding_constraint(cast, whole).astype(weights.dtype)


def _gather_backward(dtype, here, whole, _, gradient):
    # Autodiff would sum the whole gradient onto every device.
    return (jax.lax.with_sharding_constraint(gradient, here),)


_gather.defvjp(lambda weights, *static: (_gather(weights, *static), None), _gather_backward)


def layer_weights(weights: dict, compute: Compute) -> dict:
    """One layer's weights as its products need them: rounded to `compute.dtype`, whole over `fsdp`, sharded over
    `tensor`. Called inside the scan, so only one layer is whole at a time. The gradient is summed in float32,
    straight into the sharded parameter. ZeRO-3: Rajbhandari et al., arXiv 1910.02054.

    `Quantized` weights, which have no gradient, are gathered in int8 and become arrays of `compute.dtype`."""
    mesh = compute.mesh
    if mesh is not None and mesh.size > 1:
        weights = jax.tree_util.tree_map_with_path(partial(_whole, compute), weights)
    return jax.tree.map(lambda x: dequantise(x).astype(compute.dtype) if isinstance(x, Quantized) else x, weights,
                        is_leaf=lambda x: isinstance(x, Quantized))


def _whole(compute: Compute, path, x):
    axes = part_axes(path, x.shape, compute.mesh)
    # Norms and biases are small, and never sharded over fsdp.
    if "embed" not in axes:
        return x
    here, whole = (sharding(compute.mesh, *each)
                   for each in (axes, [None if axis == "embed" else axis for axis in axes]))
    if x.dtype == jnp.int8:
        return jax.lax.with_sharding_constraint(x, whole)
    return _gather(x, compute.dtype, here, whole)


def over_mesh(attend: Callable, mesh: Mesh | None) -> Callable:
    """`attend(q, k, v, segment_ids, start=)` of `model.attention`, each device with its rows, heads and queries.

    Keys and values are gathered over `context`: with grouped queries they are the smaller part. A device's
    scores are [T / context, T]. Where `tensor` exceeds the kv heads, the kv heads are repeated until `tensor`
    divides them. Rows must divide by data * fsdp, tokens by `context`, heads by `tensor`."""
    if mesh is None or mesh.size == 1:
        return attend
    tensor, context = mesh.shape["tensor"], mesh.shape["context"]
    queries = partition_spec(("batch", "kv_heads", None, "context", None))
    keys = partition_spec(("batch", "kv_heads", "context", None))

    def call(q_BKGTD, k_BKTD, v_BKTD, segment_ids_BT):
        batch, kv_heads, group, length, head_dim = q_BKGTD.shape
        repeats = 1 if kv_heads % tensor == 0 else tensor // kv_heads if tensor % kv_heads == 0 else group
        if repeats > 1:
            q_BKGTD = q_BKGTD.reshape(batch, kv_heads * repeats, group // repeats, length, head_dim)
            k_BKTD, v_BKTD = jnp.repeat(k_BKTD, repeats, axis=1), jnp.repeat(v_BKTD, repeats, axis=1)

        def local(q, k, v, segment_ids):
            if context == 1:
                return attend(q, k, v, segment_ids)
            k, v = (jax.lax.all_gather(x, "context", axis=2, tiled=True) for x in (k, v))
            return attend(q, k, v, segment_ids, start=jax.lax.axis_index("context") * q.shape[3])

        # check_vma is off: kernels do not support it, and it has nothing to find, because every
        # array with a gradient is sharded over every axis.
        specs = (queries, keys, keys, partition_spec(("batch", None)))
        out = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=queries, check_vma=False)(
            q_BKGTD, k_BKTD, v_BKTD, segment_ids_BT)
        return out.reshape(batch, kv_heads, group, length, head_dim)

    return call
