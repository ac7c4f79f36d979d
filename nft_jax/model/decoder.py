"""The decoder: Flax Linen modules used as pure functions over a plain dict of parameters, layers stacked on axis 0.

    params = init(config, key)                                        float32
    hidden = hidden_states(params, config, tokens, positions, segment_ids)     training: scans the stacked layers
    keys, values = prefill(params, config, tokens, positions, segment_ids)     a prompt's cache entries
    logits, cache = decode(params, config, token, position, cache, ...)        one step; unrolls over the same arrays

Shape suffixes: B batch, S slots, T tokens, C cache, D hidden, F feed-forward, H heads, K kv heads, G queries per kv
head, V vocabulary; E is the head dimension.
"""
from __future__ import annotations

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from nft_jax.model.attention import align, attend, attend_cache, rotary_angles, rotate
from nft_jax.model.config import FLOAT32, Compute, ModelConfig
from nft_jax.model.sharded import gather_weights, look_up, over_mesh
from nft_jax.parallel import constrain

# What the backward pass finds instead of computing it, by `Compute.remat` (see `hidden_states`).
KEPT = {
    "none": jax.checkpoint_policies.save_only_these_names("product"),
    "attention": jax.checkpoint_policies.save_only_these_names("attended"),
    "block": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["layer_input"],
        offload_src="device", offload_dst="pinned_host"),
}


def rms_norm(x, scale, eps: float):
    """Zhang & Sennrich, arXiv 1910.07467. In float32; returns the type of x."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (normed * align(scale.astype(jnp.float32), x)).astype(x.dtype)


def matmul(x, weights):
    """x [B, T, in] @ weights [in, out] -> [B, T, out] of the type of x, in which products are taken."""
    return checkpoint_name(_product(x, weights), "product")


@jax.custom_vjp
def _product(x, weights):
    return x @ weights.astype(x.dtype)


def _product_backward(operands, g_BTO):
    """The gradient of the weights is summed in float32, over rows and over devices: autodiff would round each device's
    part to the type of x first."""
    x_BTI, weights = operands
    dx_BTI = jnp.einsum("bto,io->bti", g_BTO, weights.astype(g_BTO.dtype))
    return dx_BTI, jnp.einsum("bti,bto->io", x_BTI, g_BTO, preferred_element_type=jnp.float32).astype(weights.dtype)


_product.defvjp(lambda x, weights: (_product(x, weights), (x, weights)), _product_backward)


class Block(nn.Module):
    """One layer, in the two halves between which the attention stands (full, or against a cache)."""
    config: ModelConfig
    compute: Compute = FLOAT32

    def setup(self):
        c = self.config
        zeros, ones = nn.initializers.zeros, nn.initializers.ones      # `init` draws the matrices
        self.attention_norm = self.param("attention_norm", ones, (c.hidden_size,), jnp.float32)
        self.query = self.param("query", zeros, (c.hidden_size, c.num_heads, c.head_dim), jnp.float32)
        self.key = self.param("key", zeros, (c.hidden_size, c.num_kv_heads, c.head_dim), jnp.float32)
        self.value = self.param("value", zeros, (c.hidden_size, c.num_kv_heads, c.head_dim), jnp.float32)
        self.out = self.param("out", zeros, (c.num_heads, c.head_dim, c.hidden_size), jnp.float32)
        if c.qkv_bias:
            self.query_bias = self.param("query_bias", zeros, (c.num_heads, c.head_dim), jnp.float32)
            self.key_bias = self.param("key_bias", zeros, (c.num_kv_heads, c.head_dim), jnp.float32)
            self.value_bias = self.param("value_bias", zeros, (c.num_kv_heads, c.head_dim), jnp.float32)
        if c.qk_norm:
            self.query_norm = self.param("query_norm", ones, (c.head_dim,), jnp.float32)
            self.key_norm = self.param("key_norm", ones, (c.head_dim,), jnp.float32)
        self.mlp_norm = self.param("mlp_norm", ones, (c.hidden_size,), jnp.float32)
        self.gate = self.param("gate", zeros, (c.hidden_size, c.intermediate_size), jnp.float32)
        self.up = self.param("up", zeros, (c.hidden_size, c.intermediate_size), jnp.float32)
        self.down = self.param("down", zeros, (c.intermediate_size, c.hidden_size), jnp.float32)

    def project(self, x, cos, sin):
        """x [B, T, D] -> q [B, K, G, T, E] and k, v [B, K, T, E], rotated."""
        c, (batch, length, _) = self.config, x.shape
        h = rms_norm(x, self.attention_norm, c.norm_eps)
        q, k, v = (matmul(h, w.reshape(c.hidden_size, -1)).reshape(batch, length, -1, c.head_dim)
                   for w in (self.query, self.key, self.value))
        if c.qkv_bias:
            q, k, v = (y + align(b.astype(x.dtype), y) for y, b in
                       ((q, self.query_bias), (k, self.key_bias), (v, self.value_bias)))
        if c.qk_norm:
            q, k = rms_norm(q, self.query_norm, c.norm_eps), rms_norm(k, self.key_norm, c.norm_eps)
        q, k = rotate(q, cos[:, :, None], sin[:, :, None]), rotate(k, cos[:, :, None], sin[:, :, None])
        q, k, v = (jnp.swapaxes(y, 1, 2) for y in (q, k, v))
        return q.reshape(batch, c.num_kv_heads, c.queries_per_kv, length, c.head_dim), k, v

    def finish(self, x, attended):
        """x [B, T, D] and attended [B, K, G, T, E] -> the layer's output [B, T, D]."""
        c, (batch, length, _) = self.config, x.shape
        heads = jnp.swapaxes(attended.reshape(batch, c.num_heads, length, c.head_dim), 1, 2)
        x = x + matmul(heads.reshape(batch, length, -1), self.out.reshape(-1, c.hidden_size))
        h = rms_norm(x, self.mlp_norm, c.norm_eps)
        return x + matmul(nn.silu(matmul(h, self.gate)) * matmul(h, self.up), self.down)

    def __call__(self, x, cos, sin, segment_ids):
        q, k, v = self.project(x, cos, sin)
        attended = over_mesh(attend, self.compute.mesh)(q, k, v, segment_ids, scale=self.config.head_dim ** -0.5)
        return self.finish(x, attended), (k, v)


def parameter_shapes(config: ModelConfig) -> dict:
    """The tree of parameters as jax.ShapeDtypeStruct, float32."""
    def make(key):
        row = jnp.zeros((1, 1, config.hidden_size))
        angles = jnp.zeros((1, 1, config.head_dim // 2))
        return Block(config).init(key, row, angles, angles, jnp.ones((1, 1), int))["params"]

    layer = jax.eval_shape(make, jax.random.key(0))
    params = {
        "embed": jax.ShapeDtypeStruct((config.vocab_size, config.hidden_size), jnp.float32),
        "layers": jax.tree.map(lambda w: jax.ShapeDtypeStruct((config.num_layers, *w.shape), w.dtype), layer),
        "final_norm": jax.ShapeDtypeStruct((config.hidden_size,), jnp.float32),
    }
    if not config.tie_embeddings:
        params["head"] = jax.ShapeDtypeStruct((config.hidden_size, config.vocab_size), jnp.float32)
    return params


def init(config: ModelConfig, key) -> dict:
    """Random float32 parameters: norms 1, biases 0, the rest normal with `initializer_range`.

    All of them are cut from one draw, because XLA takes about half a second to compile each random generator.
    """
    leaves, tree = jax.tree.flatten_with_path(parameter_shapes(config))
    constants = [{"norm": 1.0, "bias": 0.0}.get(path[-1].key.split("_")[-1]) for path, _ in leaves]
    sizes = [leaf.size if constant is None else 0 for (_, leaf), constant in zip(leaves, constants, strict=True)]
    pieces = jnp.split(config.initializer_range * jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(tree, [
        piece.reshape(leaf.shape) if constant is None else jnp.full(leaf.shape, constant, leaf.dtype)
        for (_, leaf), constant, piece in zip(leaves, constants, pieces, strict=True)])


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters, without making any."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(config)))


def hidden_states(params, config: ModelConfig, tokens, positions, segment_ids, compute: Compute = FLOAT32):
    """States before the head: tokens, positions, segment_ids [B, T] int32 -> [B, T, D] of type
    `compute.dtype`.

    A token attends to the tokens before it in its own segment. For the backward pass remat "none" keeps the
    products with the weights, and recomputes what lies between them (elementwise work, attention scores: computing
    these again is cheaper than writing and reading them); "attention" keeps the input of each layer and the output of
    its attention; "block" no more than the input of each layer, "offload" the same in the host's memory.

    On a mesh the rows lie over the data axes and the tokens over `context`, all through the layers, and each layer's
    weights are gathered when it is their turn.
    """
    mesh = compute.mesh
    segment_ids = constrain(segment_ids, mesh, "batch", None)
    cos, sin = rotary_angles(positions, config.head_dim, config.rope_theta)

    def layer(x, weights):
        x, weights = checkpoint_name(x, "layer_input"), gather_weights(weights, compute)
        x, _ = Block(config, compute).apply({"params": weights}, x, cos, sin, segment_ids)
        return constrain(x, mesh, "batch", "context", None), None

    layer = jax.checkpoint(layer, prevent_cse=False, policy=KEPT[compute.remat])
    x, _ = jax.lax.scan(layer, look_up(params["embed"], tokens, compute), params["layers"])
    return rms_norm(x, params["final_norm"], config.norm_eps)


def head_weights(params):
    """The output projection [D, V]: the embedding's transpose when the two are tied."""
    return params["head"] if "head" in params else params["embed"].T


def logits(params, hidden):
    """hidden [..., D] -> [..., V] float32."""
    return jnp.matmul(hidden, head_weights(params).astype(hidden.dtype), preferred_element_type=jnp.float32)


def prefill(params, config: ModelConfig, tokens, positions, segment_ids, compute: Compute = FLOAT32):
    """Cache entries of prompts: tokens, positions, segment_ids [P, T] -> keys, values [L, P, K, T, E]. Their number
    need not divide over a mesh: where they lie is left to XLA."""
    compute = replace(compute, mesh=None)
    cos, sin = rotary_angles(positions, config.head_dim, config.rope_theta)

    def layer(x, weights):
        return Block(config, compute).apply({"params": weights}, x, cos, sin, segment_ids)

    _, cache = jax.lax.scan(layer, params["embed"][tokens].astype(compute.dtype), params["layers"])
    return cache


def decode(params, config: ModelConfig, tokens, positions, cache, write_index, valid):
    """One step: feed one token to every slot.

    tokens, positions [S] int32; cache: a (keys, values) pair per layer, each [S, K, C, E]; write_index: the cache
    index at which this token's entries are written (the same for all slots, so that it is one slice); valid [S, C]
    bool: what each slot attends to, the token itself included. Returns logits [S, V] float32 and the new cache.
    The layers are unrolled: a scan that carries the cache in and out would copy all of it at every step.
    """
    cos, sin = rotary_angles(positions[:, None], config.head_dim, config.rope_theta)
    x = params["embed"][tokens][:, None].astype(cache[0][0].dtype)
    new_cache = []
    for index, (keys, values) in enumerate(cache):
        block = partial(Block(config).apply, {"params": jax.tree.map(lambda w, i=index: w[i], params["layers"])})
        q, k, v = block(x, cos, sin, method="project")
        keys = jax.lax.dynamic_update_slice_in_dim(keys, k, write_index, axis=2)
        values = jax.lax.dynamic_update_slice_in_dim(values, v, write_index, axis=2)
        x = block(x, attend_cache(q[:, :, :, 0], keys, values, valid, scale=config.head_dim ** -0.5)[:, :, :, None],
                  method="finish")
        new_cache.append((keys, values))
    return logits(params, rms_norm(x[:, 0], params["final_norm"], config.norm_eps)), new_cache
