"""The decoder: pure functions of a plain dict of parameters. `block` is one layer, `stack` how they follow each other.

    params = init(config, key)                                                 float32, layers stacked on axis 0
    hidden = hidden_states(params, config, tokens, positions, segment_ids)     training scans the stacked layers
    split = stack.split_layers(params, config)                                 sampling unrolls them
    entries, memories = prefill(split, config, tokens, positions, segment_ids) a prompt's keys and values
    logits, cache, memories = decode(split, config, token, position, cache, memories, ...)     one token of every slot

Shape suffixes: B batch, S slots, T tokens, C cache, D hidden, F feed-forward, H heads, K kv heads,
G queries per kv head, V vocabulary, E head dimension, X experts.
"""
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from nft_jax.model.block import Block, angles_by_kind
from nft_jax.model.config import FLOAT32, Attention, Compute, ModelConfig
from nft_jax.model.entries import attend_cache, write_entries
from nft_jax.model.experts import load_of
from nft_jax.model.kernels import attention_of
from nft_jax.model.parameters import ARRAYS, IN_LAYERS, OUTSIDE_LAYERS, arrays_of
from nft_jax.model.products import matmul, rms_norm
from nft_jax.model.sharded import layer_weights, look_up
from nft_jax.model.stack import scan_layers
from nft_jax.runtime.mesh import constrain, data_parallel_size, platform_of

# What the forward pass keeps for the backward pass, by `Compute.remat`. Elementwise work and attention scores are
# cheaper to compute again than to write and read.
KEPT = {
    "none": jax.checkpoint_policies.save_only_these_names("product"),
    "attention": jax.checkpoint_policies.save_only_these_names("attended"),
    "block": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["layer_input"],
        offload_src="device", offload_dst="pinned_host"),
}


def embed(params, config: ModelConfig, tokens, compute: Compute):
    """tokens [B, T] -> [B, T, D] of type `compute.dtype`."""
    x = look_up(params, "embed", tokens, compute)
    # The factor is rounded to the type of x, as in transformers.
    return x * jnp.asarray(config.hidden_size ** 0.5, x.dtype) if config.scale_embeddings else x


def layer_inputs(params, config: ModelConfig, tokens, x, compute: Compute):
    """What every layer has for each token, [L, B, T, P], from the layers' own tables and from the embeddings x
    [B, T, D] of `embed`. () in a model without."""
    if not config.layer_input_size:
        return ()
    size = config.layer_input_size
    own = look_up(params, "layer_embed", tokens, compute) * jnp.asarray(size ** 0.5, x.dtype)
    weights = layer_weights({"layer_projection": params["layer_projection"]}, compute)["layer_projection"]
    projected = matmul(x, weights.reshape(config.hidden_size, -1)) * config.hidden_size ** -0.5
    projected = rms_norm(projected.reshape(own.shape), params["layer_norm"], config)
    return jnp.moveaxis((projected + own) * 2 ** -0.5, 2, 0)


def soft_cap(logits, cap: float):
    """cap * tanh(logits / cap); with `cap` 0, the logits unchanged."""
    return cap * jnp.tanh(logits / cap) if cap else logits


def parameter_shapes(config: ModelConfig) -> dict:
    """The dict of parameters as jax.ShapeDtypeStruct, float32."""
    def struct(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params: dict = {name: struct(*shape) for name, _, shape in arrays_of(OUTSIDE_LAYERS, config)}
    params["layers"] = {name: struct(len(array.layers(config)), *shape)
                        for name, array, shape in arrays_of(IN_LAYERS, config)}
    return params


def init(config: ModelConfig, key) -> dict:
    """Random float32 parameters: matrices normal with `initializer_range`, norms that multiply by 1, biases 0. The
    heads of a delta net decay at rates from 0.01 to 16, as far as transformers draws them."""
    leaves, tree = jax.tree.flatten_with_path(parameter_shapes(config))
    decays = np.log(np.linspace(0.01, 16, config.delta_value_heads, dtype=np.float32))
    constants = [{"norm": 1.0 - config.norm_offset, "bias": 0.0, "gain": 1.0, "constant": 1.0, "decay": decays}.get(
        ARRAYS[path[-1].key].kind) for path, _ in leaves]
    # One draw for all matrices: XLA takes about half a second to compile each random generator.
    sizes = [leaf.size if constant is None else 0 for (_, leaf), constant in zip(leaves, constants, strict=True)]
    pieces = jnp.split(config.initializer_range * jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(tree, [
        piece.reshape(leaf.shape) if constant is None else jnp.full(leaf.shape, constant, leaf.dtype)
        for (_, leaf), constant, piece in zip(leaves, constants, pieces, strict=True)])


def count_parameters(config: ModelConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(config)))


def count_active_parameters(config: ModelConfig) -> int:
    """The parameters that one token meets: all, without the experts that it does not pass, and without the layers'
    own tables of tokens."""
    idle = config.num_layers * 3 * config.hidden_size * config.expert_size
    tables = config.num_layers * config.vocab_size * config.layer_input_size
    return count_parameters(config) - idle * (config.num_experts - config.experts_per_token) - tables


def told_parameters(config: ModelConfig) -> str:
    """The number of parameters in words, with the number of active ones where that is another."""
    count, active = count_parameters(config), count_active_parameters(config)
    return f"{count:,} parameters" + (f", of which a token meets {active:,}" if active < count else "")


def hidden_states(params, config: ModelConfig, tokens, positions, segment_ids, compute: Compute = FLOAT32):
    """States before the head: tokens, positions, segment_ids [B, T] int32 -> [B, T, D] of type `compute.dtype`.

    A token attends to the tokens before it in its own segment. `KEPT` says what is kept for the backward pass, beside
    each layer's input; everything else is recomputed. Around a kernel queries, keys and values are kept too.

    On a mesh the rows are sharded over the data axes and the tokens over `context`, through all
    layers. Each layer's weights are gathered when the scan reaches the layer.

    Matrices of the layers may be `Adapted` or `Quantized`."""
    return states_and_load(params, config, tokens, positions, segment_ids, compute)[0]


def states_and_load(params, config: ModelConfig, tokens, positions, segment_ids, compute: Compute = FLOAT32,
                    tell: Callable[..., Any] = load_of) -> tuple[jax.Array, Any]:
    """`hidden_states`, and the load of the experts in each layer over all tokens but padding: a `Load` of arrays with
    a leading axis of the layers. None for a model without experts.

    tell: what is told of a layer's router in place of `load_of`, from the same arguments."""
    mesh = compute.mesh
    segment_ids = constrain(segment_ids, mesh, "batch", None)
    angles = angles_by_kind(config, positions)

    kept = partial(jax.checkpoint, prevent_cse=False, policy=KEPT[compute.remat])

    def part(method, weights, kind, *arguments):
        return Block(config, compute, mesh, kind.form).apply({"params": weights}, *arguments, method=method)

    def left(x, routed):
        load = tell(*routed, segment_ids > 0) if routed else None
        return constrain(x, mesh, "batch", "context", None), load

    def layer(x, weights, kind, layer_input, handed):
        x, weights = checkpoint_name(x, "layer_input"), layer_weights(weights, compute)
        x, routed, entry = part("__call__", weights, kind, x, angles, segment_ids, kind, layer_input, handed)
        return *left(x, routed), entry

    def layer_around_kernel(x, weights, kind, layer_input, handed):
        # What a kernel's backward pass needs has no name for `kept` to keep, so the kernel stays outside.
        if kind.delta or attention_of(compute.attention, config.heads_of(kind)[1]) == "xla":
            return kept(lambda x, weights, *given: layer(x, weights, kind, *given))(x, weights, layer_input, handed)
        q, k, v, gate = kept(lambda x, weights, handed: part(
            "enter", layer_weights(weights, compute), kind, x, angles, kind, handed))(x, weights, handed)
        attended = part("attend", weights, kind, q, k, v, segment_ids, kind)
        return *left(*kept(lambda weights, *xs: part("finish", layer_weights(weights, compute), kind, *xs))(
            weights, x, attended, gate, layer_input)), (k, v)

    x = embed(params, config, tokens, compute)
    inputs = layer_inputs(params, config, tokens, x, compute)
    # Where layers differ, cuDNN's mask would be kept once for each layer.
    differ = 0 < len(config.local_layers) < config.num_layers
    if compute.remat in ("none", "attention") and compute.attention in (("splash",) if differ else ("splash", "cudnn")):
        x, load = scan_layers(layer_around_kernel, x, params, config, inputs=inputs)
    else:
        x, load = scan_layers(layer, x, params, config, kept, inputs)
    return rms_norm(x, params["final_norm"], config), load


def logits(params, config: ModelConfig, hidden):
    """hidden [..., D] -> [..., V] float32."""
    weights = params["head"] if "head" in params else params["embed"].T
    product = jnp.matmul(hidden, weights.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return soft_cap(product, config.final_softcap)


def logits_by_column(params, config: ModelConfig, hidden):
    """`logits` of hidden [S, D] -> [S, V], on TPU with a token's logits side by side in memory, as
    `sampling.sample_by_column` reads them."""
    weights, axes = (params["head"], (1, 0)) if "head" in params else (params["embed"], (0, 1))
    # A product, written as a convolution without a window: XLA makes one of a dot too, but with the slots first.
    by_column = jax.lax.ConvDimensionNumbers(lhs_spec=axes, rhs_spec=(0, 1), out_spec=(0, 1))
    product = jax.lax.conv_general_dilated(weights.astype(hidden.dtype), hidden, (), (), dimension_numbers=by_column,
                                           preferred_element_type=jnp.float32)
    return soft_cap(product.T, config.final_softcap)


def prefill(params, config: ModelConfig, tokens, positions, segment_ids, compute: Compute = FLOAT32):
    """What prompts leave behind, tokens, positions, segment_ids [P, T] int32: a list of the keys and values, two of
    [P, K, T, E], for each layer that has its own; and of the memories after the last tokens, for each layer with a
    delta net. params: of `stack.split_layers`."""
    # Prompts need not divide over a mesh, so XLA places them. A kernel, which XLA cannot divide, needs that they do.
    anywhere, mesh = replace(compute, mesh=None), compute.mesh
    angles, x = angles_by_kind(config, positions), embed(params, config, tokens, anywhere)
    if compute.attention == "xla" or mesh is None or mesh.size == 1:
        compute = anywhere
    elif len(tokens) % data_parallel_size(mesh) or tokens.shape[1] % mesh.shape["context"]:
        compute = replace(anywhere, attention="xla")

    inputs = layer_inputs(params, config, tokens, x, anywhere)

    entries, memories = [], []
    for layer, (weights, kind) in enumerate(zip(params["layers"], config.kinds, strict=True)):
        if kind.shared:
            # These layers and all after them leave nothing behind.
            break
        block, own = Block(config, compute, mesh, kind.form), inputs[layer] if config.layer_input_size else ()
        x, _, left = block.apply({"params": weights}, x, angles, segment_ids, kind, own)
        (memories if kind.delta else entries).append(left)
    return entries, memories


def decode(params, config: ModelConfig, tokens, positions, cache, memories, write_index,
           mesh: Mesh | None = None, attention: Attention = "xla"):
    """Feed one token to every slot. Returns logits [S, V] float32, the new cache, the new memories, and the experts of
    the tokens [L, S, K] (None in a model without).

    params: of `stack.split_layers`. Activations have the type of the embedding.
    tokens, positions: [S] int32. A token at position n attends to itself and to the n entries written before it; in
        local layers to `window` - 1 of them.
    cache: its keys and values of each layer that has its own, as `entries.cache_entries` lays them out; it may be
        `entries.without_heads`.
    memories: a `delta.Memory` per layer with a delta net.
    write_index: the cache index of this token's entries, the same for all slots, so that writing is one slice.
    mesh: that experts and slots lie on. attention: as of `entries.attend_cache` and `write_entries`."""
    # The layers are unrolled: a scan that carries the cache in and out would copy all of it at every step.
    angles = angles_by_kind(config, positions[:, None])
    compute, tokens = Compute(params["embed"].dtype.name), tokens[:, None]
    x = embed(params, config, tokens, compute)
    inputs = layer_inputs(params, config, tokens, x, compute)
    new_cache, new_memories, latest, experts = [], [], {}, []
    cache, memories = iter(cache), iter(memories)
    near = jnp.minimum(positions, config.window - 1)

    for layer, (weights, kind) in enumerate(zip(params["layers"], config.kinds, strict=True)):
        block = partial(Block(config, mesh=mesh, form=kind.form).apply, {"params": weights})
        if kind.delta:
            x, routed, memory = block(x, next(memories), method="remember_one")
            new_memories.append(memory)
            experts += routed[1:]
            continue
        q, k, v, gate = block(x, angles, kind, latest, method="enter")
        if not kind.shared:
            latest[kind.local] = write_entries(next(cache), k, v, write_index, mesh, attention)
            new_cache.append(latest[kind.local])
        # A shared ring has the token already.
        behind, own = near if kind.local else positions, inputs[layer] if config.layer_input_size else ()
        attended = attend_cache(q[:, :, :, 0], latest[kind.local], write_index, behind, scale=config.attention_scale,
                                attention=attention, mesh=mesh)
        x, routed = block(x, attended[:, :, :, None], gate, own, method="finish")
        experts += routed[1:]
    head = logits_by_column if mesh is not None and platform_of(mesh) == "tpu" else logits
    logits_SV = head(params, config, rms_norm(x[:, 0], params["final_norm"], config))
    return logits_SV, new_cache, new_memories, jnp.stack(experts)[:, :, 0] if experts else None
