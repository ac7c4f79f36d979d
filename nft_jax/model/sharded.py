"""A layer on a device mesh: when its weights are gathered, and which part of the attention each device computes.

Both are written out because XLA, left alone, gathers queries and weights that it need not. Without a mesh, and on one
device, nothing of this is there.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model.config import Compute
from nft_jax.model.parameters import ARRAYS, parameter_axes
from nft_jax.runtime.mesh import partition_spec, sharding


def look_up(table, tokens, compute: Compute):
    """Rows of the float32 `table` [V, D] for tokens [B, T] -> [B, T, D] of `compute.dtype`.

    On a mesh each device looks up all rows of the batch's `fsdp` group in its own piece of the table, and then gives
    the others their rows for its rows' other pieces: what travels are the states, not the (larger) table, and the
    table's gradient is summed in float32 where it lies.
    """
    mesh = compute.mesh
    if mesh is None or mesh.size == 1:
        return table[tokens].astype(compute.dtype)

    def local(piece, tokens):
        tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        index = tokens - jax.lax.axis_index("tensor") * piece.shape[0]
        mine = (index >= 0) & (index < piece.shape[0])
        x = jnp.where(mine[:, :, None], piece[jnp.where(mine, index, 0)], 0).astype(compute.dtype)
        return jax.lax.all_to_all(jax.lax.psum(x, "tensor"), "fsdp", split_axis=0, concat_axis=2, tiled=True)

    rows = partition_spec(("batch", "context"))
    return jax.shard_map(local, mesh=mesh, in_specs=(partition_spec(ARRAYS["embed"].logical_axes), rows),
                         out_specs=partition_spec(("batch", "context", None)))(table, tokens)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(weights, dtype: str, here, whole):
    """Cast, gather (in bfloat16 half the bytes travel), call it float32 again: that costs nothing, since the product
    casts it back, and lets the gradient come as float32. `here`, `whole`: the shardings before and after."""
    cast = jax.lax.with_sharding_constraint(weights.astype(dtype), here)
    return jax.lax.with_sharding_constraint(cast, whole).astype(weights.dtype)


def _gather_backward(dtype, here, whole, _, gradient):
    # By autodiff's rule the gradient would be summed whole onto every device.
    return (jax.lax.with_sharding_constraint(gradient, here),)


_gather.defvjp(lambda weights, *static: (_gather(weights, *static), None), _gather_backward)


def gather_weights(weights: dict, compute: Compute) -> dict:
    """One layer's weights as its products take them: rounded to `compute.dtype`, whole over `fsdp`, and still divided
    over `tensor`. Called inside the scan over the layers, so that one layer's weights are whole at a time (ZeRO-3:
    Rajbhandari et al., arXiv 1910.02054). Their gradient is summed in float32, straight into the parameter's place."""
    mesh = compute.mesh
    if mesh is None or mesh.size == 1:
        return weights

    def one(name, x):
        axes = parameter_axes(name, x.shape, mesh)
        if "embed" not in axes:                          # norms and biases: small, and never sharded over fsdp
            return x
        whole = [None if axis == "embed" else axis for axis in axes]
        return _gather(x, compute.dtype, sharding(mesh, *axes), sharding(mesh, *whole))

    return {name: one(name, x) for name, x in weights.items()}


def over_mesh(attend: Callable, mesh: Mesh | None) -> Callable:
    """`attend` of `nft_jax.model.attention`, each device with its rows, its heads, and the queries of its tokens.

    Keys and values, which grouped queries make the smaller part, are gathered over `context`; the scores of a device
    are [T / context, T]. Where `tensor` exceeds the kv heads, these are repeated until it divides them. Rows must
    divide by data * fsdp, tokens by `context`, heads by `tensor`.
    """
    if mesh is None or mesh.size == 1:
        return attend
    tensor, context = mesh.shape["tensor"], mesh.shape["context"]
    queries = partition_spec(("batch", "kv_heads", None, "context", None))
    keys = partition_spec(("batch", "kv_heads", "context", None))

    def call(q_BKGTD, k_BKTD, v_BKTD, segment_ids_BT, **settings):
        batch, kv_heads, group, length, head_dim = q_BKGTD.shape
        repeats = 1 if kv_heads % tensor == 0 else tensor // kv_heads if tensor % kv_heads == 0 else group
        if repeats > 1:
            q_BKGTD = q_BKGTD.reshape(batch, kv_heads * repeats, group // repeats, length, head_dim)
            k_BKTD, v_BKTD = jnp.repeat(k_BKTD, repeats, axis=1), jnp.repeat(v_BKTD, repeats, axis=1)

        def local(q, k, v, segment_ids):
            if context == 1:
                return attend(q, k, v, segment_ids, **settings)
            k, v = (jax.lax.all_gather(x, "context", axis=2, tiled=True) for x in (k, v))
            return attend(q, k, v, segment_ids, start=jax.lax.axis_index("context") * q.shape[3], **settings)

        # Every array that has a gradient is divided over every axis: there is nothing for check_vma to find, and
        # kernels do not know of it.
        specs = (queries, keys, keys, partition_spec(("batch", None)))
        out = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=queries, check_vma=False)(
            q_BKGTD, k_BKTD, v_BKTD, segment_ids_BT)
        return out.reshape(batch, kv_heads, group, length, head_dim)

    return call
