"""The decoder: a Flax Linen module used as pure functions of a plain dict of parameters.

    params = init(config, key)                                                 float32, layers stacked on axis 0
    hidden = hidden_states(params, config, tokens, positions, segment_ids)     training scans the stacked layers
    split = split_layers(params, config)                                       sampling unrolls them
    entries, memories = prefill(split, config, tokens, positions, segment_ids) a prompt's keys and values
    logits, cache, memories = decode(split, config, token, position, cache, memories, ...)     one token of every slot

Shape suffixes: B batch, S slots, T tokens, C cache, D hidden, F feed-forward, H heads, K kv heads,
G queries per kv head, V vocabulary, E head dimension, X experts.
"""
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from nft_jax.model import delta
from nft_jax.model.adapter import Adapted
from nft_jax.model.attention import align, attend, attend_cache, rotary_angles, rotate
from nft_jax.model.config import FLOAT32, Compute, LayerKind, ModelConfig
from nft_jax.model.experts import Load, load_of, mixture
from nft_jax.model.parameters import ARRAYS, IN_LAYERS, OUTSIDE_LAYERS, arrays_of
from nft_jax.model.quantise import Quantized, quantise
from nft_jax.model.sharded import layer_weights, look_up, over_mesh
from nft_jax.runtime.mesh import constrain, data_parallel_size

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

ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": partial(nn.gelu, approximate=True)}


def rms_norm(x, scale, config: ModelConfig):
    """RMSNorm of x [..., n], times `scale` [n] + config.norm_offset: in float32, back to the type of x.

    Zhang & Sennrich, arXiv 1910.07467."""
    x32, scale = x.astype(jnp.float32), scale.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + config.norm_eps)
    return (normed * align(scale + config.norm_offset if config.norm_offset else scale, x)).astype(x.dtype)


def embed(params, config: ModelConfig, tokens, compute: Compute):
    """tokens [B, T] -> [B, T, D] of type `compute.dtype`."""
    x = look_up(params["embed"], tokens, compute)
    # The factor is rounded to the type of x, as in transformers.
    return x * jnp.asarray(config.hidden_size ** 0.5, x.dtype) if config.scale_embeddings else x


def soft_cap(logits, cap: float):
    """cap * tanh(logits / cap); with `cap` 0, the logits unchanged."""
    return cap * jnp.tanh(logits / cap) if cap else logits


def angles_by_kind(config: ModelConfig, positions):
    """Rotary angles (cos, sin), [..., rotary_dim/2] each, of the layers that see everything and of the local layers."""
    everywhere = rotary_angles(positions, config.rotary_dim, config.rope_theta, config.rope_scaling)
    if config.local_rope_theta is None or not config.local_layers:
        return everywhere, everywhere
    return everywhere, rotary_angles(positions, config.rotary_dim, config.local_rope_theta)


def matmul(x, weights):
    """x [B, T, in] @ weights [in, out] -> [B, T, out], in the type of x.

    The weights may be `Adapted`. In decoding they may be `Quantized`; their scales then multiply the product."""
    if isinstance(weights, Adapted):
        low = checkpoint_name(weights.scale * _product(x, weights.lora_a), "product")
        return checkpoint_name(_product(x, weights.base) + _product(low, weights.lora_b), "product")
    if not isinstance(weights, Quantized):
        return checkpoint_name(_product(x, weights), "product")
    product = jnp.matmul(x, weights.values.astype(x.dtype), preferred_element_type=jnp.float32)
    return (product * align(weights.scale[0], product)).astype(x.dtype)


@jax.custom_vjp
def _product(x, weights):
    return x @ weights.astype(x.dtype)


def _product_forward(x, weights):
    # x is kept for the weights' gradient alone, and frozen weights have none.
    return _product(x.value, weights.value), (x.value if weights.perturbed else None, weights.value)


def _product_backward(operands, g_BTO):
    x_BTI, weights = operands
    dx_BTI = jnp.einsum("bto,io->bti", g_BTO, weights.astype(g_BTO.dtype))
    if x_BTI is None:
        return dx_BTI, None
    # The weights' gradient is summed in float32: autodiff would round each device's part to the type of x first.
    return dx_BTI, jnp.einsum("bti,bto->io", x_BTI, g_BTO, preferred_element_type=jnp.float32).astype(weights.dtype)


_product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


class Block(nn.Module):
    """One layer. With attention it has two halves: `project` before the attention, `finish` after it. Between them
    stands `attend` of whole sequences, or `attend_cache` of a decode step. With a delta net it is `remember` of whole
    sequences, or `remember_one` of a decode step.

    mesh: that the experts lie on, also where `compute` leaves the places of other arrays to XLA."""
    config: ModelConfig
    compute: Compute = FLOAT32
    mesh: Mesh | None = None
    delta_net: bool = False            # which of the two it has

    def setup(self):
        # Linen only looks the arrays up, by the names of the table; `init` makes their values.
        for name, array, shape in arrays_of(IN_LAYERS, self.config):
            if array.mixer in ("", "delta" if self.delta_net else "attention"):
                setattr(self, name, self.param(name, nn.initializers.zeros, shape, jnp.float32))

    def project(self, x, cos, sin):
        """x [B, T, D] -> q [B, K, G, T, E] and k, v [B, K, T, E], rotated; and the gate of the attention's output
        [B, T, H, E], or () in a model without."""
        c, (batch, length, _) = self.config, x.shape
        h = rms_norm(x, self.attention_norm, c) if c.norms_before else x
        q, k, v = (matmul(h, w.reshape(c.hidden_size, -1)).reshape(batch, length, -1, size)
                   for w, size in ((self.query, c.query_size), (self.key, c.head_dim), (self.value, c.head_dim)))
        q, gate = jnp.split(q, 2, axis=-1) if c.output_gate else (q, ())
        if c.qkv_bias:
            q, k, v = (y + align(b.astype(x.dtype), y) for y, b in
                       ((q, self.query_bias), (k, self.key_bias), (v, self.value_bias)))
        if c.qk_norm:
            q, k = rms_norm(q, self.query_norm, c), rms_norm(k, self.key_norm, c)
        if c.qk_norm_all_heads:
            q, k = (rms_norm(y.reshape(batch, length, -1), w.reshape(-1), c).reshape(y.shape)
                    for y, w in ((q, self.query_heads_norm), (k, self.key_heads_norm)))
        q, k = rotate(q, cos[:, :, None], sin[:, :, None]), rotate(k, cos[:, :, None], sin[:, :, None])
        q, k, v = (jnp.swapaxes(y, 1, 2) for y in (q, k, v))
        return q.reshape(batch, c.num_kv_heads, c.queries_per_kv, length, c.head_dim), k, v, gate

    def finish(self, x, attended, gate):
        """x [B, T, D], attended [B, K, G, T, E], gate of `project` -> the layer's output [B, T, D], and what its router
        said (`mlp`)."""
        c, (batch, length, _) = self.config, x.shape
        heads = jnp.swapaxes(attended.reshape(batch, c.num_heads, length, c.head_dim), 1, 2)
        if c.output_gate:
            heads = heads * nn.sigmoid(gate)
        return self.join(x, heads, self.out)

    def join(self, x, heads, out):
        """x [B, T, D], and heads [B, T, ...] that the matrix `out` brings back to D -> as `finish`."""
        c, (batch, length, _) = self.config, x.shape
        y = matmul(heads.reshape(batch, length, -1), out.reshape(-1, c.hidden_size))
        x = x + (rms_norm(y, self.post_attention_norm, c) if c.norms_after else y)
        y, routed = self.mlp(rms_norm(x, self.mlp_norm, c) if c.norms_before else x)
        return x + (rms_norm(y, self.post_mlp_norm, c) if c.norms_after else y), routed

    def mlp(self, h):
        """h [B, T, D] -> the MLP's output [B, T, D], and () or, with experts, their probabilities [B, T, X] and those
        chosen for each token [B, T, experts_per_token]."""
        c, activation = self.config, ACTIVATIONS[self.config.activation]
        if c.num_experts:
            weights = {name: getattr(self, name) for name in ("router", "expert_gate", "expert_up", "expert_down")}
            y, *routed = mixture(h, weights, c, activation, self.mesh)
            return y, tuple(routed)
        return matmul(activation(matmul(h, self.gate)) * matmul(h, self.up), self.down), ()

    def enter(self, x, angles, kind: LayerKind):
        """`project` with the angles of the layer's kind."""
        cos, sin = angles[kind.local] if isinstance(kind.local, bool) else (
            jnp.where(kind.local, near, far) for far, near in zip(*angles, strict=True))
        if kind.rotated is not True:
            # By the angle 0, which changes nothing.
            cos, sin = jnp.where(kind.rotated, cos, 1), jnp.where(kind.rotated, sin, 0)
        return self.project(x, cos, sin)

    def attend(self, q, k, v, segment_ids, kind: LayerKind):
        """q [B, K, G, T, E], k and v [B, K, T, E] -> like q, by full or by local attention."""
        c, local = self.config, kind.local
        # Each kind is compiled with its own window, because kernels need it as a constant.
        windowed, full = (
            over_mesh(partial(attend, scale=c.attention_scale, window=window,
                              implementation=self.compute.attention), self.compute.mesh)
            for window in (c.window, 0))
        if isinstance(local, bool):
            return (windowed if local else full)(q, k, v, segment_ids)
        return jax.lax.cond(local, windowed, full, q, k, v, segment_ids)

    def __call__(self, x, angles, segment_ids, kind: LayerKind):
        """x [B, T, D], angles of `angles_by_kind` -> the layer's output and what its router said (`finish`), and its
        keys and values, or its memory."""
        if self.delta_net:
            return self.remember(x, segment_ids)
        q, k, v, gate = self.enter(x, angles, kind)
        return *self.finish(x, self.attend(q, k, v, segment_ids, kind), gate), (k, v)

    def remember(self, x, segment_ids):
        """x [B, T, D] -> as `finish`, and the `delta.Memory` after each row."""
        inputs, gate, weights = self.delta_inputs(x)
        mixed, memory = delta.mix(inputs, weights, segment_ids, self.compute.mesh)
        return *self.leave_delta(x, mixed, gate), memory

    def remember_one(self, x, memory):
        """`remember` of one more token for every slot, x [S, 1, D]."""
        inputs, gate, weights = self.delta_inputs(x)
        mixed, memory = delta.step(inputs, weights, memory)
        return *self.leave_delta(x, mixed, gate), memory

    def delta_inputs(self, x):
        """x [B, T, D] -> the delta net's inputs, the gate [B, T, U, O] of its output, and its small arrays."""
        c, (batch, length, _) = self.config, x.shape
        h = rms_norm(x, self.attention_norm, c)
        query, key, value, gate, write, forget = (matmul(h, w.reshape(c.hidden_size, -1)) for w in (
            self.delta_query, self.delta_key, self.delta_value, self.delta_gate, self.delta_write, self.delta_forget))
        query, key = (y.reshape(batch, length, -1, c.delta_key_dim) for y in (query, key))
        value, gate = (y.reshape(batch, length, -1, c.delta_value_dim) for y in (value, gate))
        return delta.Inputs(query, key, value, write, forget), gate, {
            name: getattr(self, name) for name in delta.SMALL}

    def leave_delta(self, x, mixed, gate):
        return self.join(x, delta.gated_norm(mixed, self.delta_norm, gate, self.config.norm_eps).astype(x.dtype),
                         self.delta_out)


def scan_layers(layer, x, params, config: ModelConfig, transform=lambda body: body):
    """jax.lax.scan of `layer(x, weights, kind)`, transformed, over the stacked layers.

    What all layers have in common is a Python bool of the kind. What differs is scanned beside the weights. Layers
    with other arrays cannot share a program: where there are such, one turn of the scan is a period of them."""
    places = range(config.period)
    values = [LayerKind(*zip(*config.kinds[place::config.period], strict=True)) for place in places]
    shared = [LayerKind(*(value[0] for value in each)) for each in values]
    differing = [{name: jnp.array(value) for name, value in each._asdict().items() if len(set(value)) > 1}
                 for each in values]

    def turn(x, scanned):
        told = []
        for place, weights, differs in zip(places, of_a_period(scanned[0], config), scanned[1], strict=True):
            x, one = transform(lambda x, weights, differs, place=place: layer(
                x, weights, shared[place]._replace(**differs)))(x, weights, differs)
            told.append(one)
        return x, told[0] if len(told) == 1 else jax.tree.map(lambda *each: jnp.stack(each), *told)

    x, told = jax.lax.scan(turn, x, (in_periods(params["layers"], config), differing))
    return x, told if config.period == 1 else jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), told)


def in_periods(layers: dict, config: ModelConfig) -> dict:
    """The stacked arrays [layers, ...] as [periods, layers of a period, ...]; as they are where a period is a layer."""
    if config.period == 1:
        return layers
    return jax.tree.map(lambda w: w.reshape(config.num_layers // config.period, -1, *w.shape[1:]), layers)


def of_a_period(layers: dict, config: ModelConfig) -> list[dict]:
    """The arrays of each layer in one period of `in_periods`."""
    if config.period == 1:
        return [layers]
    found: list[dict] = [{} for _ in range(config.period)]
    for name, array in layers.items():
        owners = [layer for layer in IN_LAYERS[name].layers(config) if layer < config.period]
        leaves, tree = jax.tree.flatten(array)
        # The gradient of a split is one concatenation; that of an index would be a sum of padded arrays.
        pieces = [jnp.split(leaf, len(owners)) for leaf in leaves]
        for place, owner in enumerate(owners):
            found[owner][name] = tree.unflatten([piece[place][0] for piece in pieces])
    return found


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
    constants = [{"norm": 1.0 - config.norm_offset, "bias": 0.0, "gain": 1.0, "decay": decays}.get(
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
    """The parameters that one token meets: all, without the experts that it does not pass."""
    idle = config.num_layers * 3 * config.hidden_size * config.expert_size
    return count_parameters(config) - idle * (config.num_experts - config.experts_per_token)


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


def states_and_load(params, config: ModelConfig, tokens, positions, segment_ids,
                    compute: Compute = FLOAT32) -> tuple[jax.Array, Load | None]:
    """`hidden_states`, and the load of the experts in each layer over all tokens but padding: a `Load` of arrays with
    a leading axis of the layers. None for a model without experts."""
    mesh = compute.mesh
    segment_ids = constrain(segment_ids, mesh, "batch", None)
    angles = angles_by_kind(config, positions)

    kept = partial(jax.checkpoint, prevent_cse=False, policy=KEPT[compute.remat])

    def part(method, weights, *arguments, delta_net=False):
        return Block(config, compute, mesh, delta_net).apply({"params": weights}, *arguments, method=method)

    def left(x, routed):
        load = load_of(*routed, segment_ids > 0) if routed else None
        return constrain(x, mesh, "batch", "context", None), load

    def layer(x, weights, kind):
        x, weights = checkpoint_name(x, "layer_input"), layer_weights(weights, compute)
        x, routed, _ = part("__call__", weights, x, angles, segment_ids, kind, delta_net=kind.delta)
        return left(x, routed)

    def layer_around_kernel(x, weights, kind):
        # What a kernel's backward pass needs has no name for `kept` to keep, so the kernel stays outside.
        if kind.delta:
            return kept(lambda x, weights: layer(x, weights, kind))(x, weights)
        q, k, v, gate = kept(lambda x, weights: part("enter", layer_weights(weights, compute), x, angles, kind))(
            x, weights)
        attended = part("attend", weights, q, k, v, segment_ids, kind)
        return left(*kept(lambda weights, *xs: part("finish", layer_weights(weights, compute), *xs))(
            weights, x, attended, gate))

    x = embed(params, config, tokens, compute)
    # Where layers differ, cuDNN's mask would be kept once for each layer.
    differ = 0 < len(config.local_layers) < config.num_layers
    if compute.remat in ("none", "attention") and compute.attention in (("splash",) if differ else ("splash", "cudnn")):
        x, load = scan_layers(layer_around_kernel, x, params, config)
    else:
        x, load = scan_layers(layer, x, params, config, kept)
    return rms_norm(x, params["final_norm"], config), load


def logits(params, config: ModelConfig, hidden):
    """hidden [..., D] -> [..., V] float32."""
    weights = params["head"] if "head" in params else params["embed"].T
    product = jnp.matmul(hidden, weights.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return soft_cap(product, config.final_softcap)


def split_layers(params, config: ModelConfig) -> dict:
    """The parameters with "layers" as a list: over stacked arrays, every decode step would first copy each layer."""
    layers: list[dict] = []
    for layer in range(config.num_layers):
        places = {name: IN_LAYERS[name].layers(config).index(layer) for name in sorted(params["layers"])
                  if layer in IN_LAYERS[name].layers(config)}
        layers.append({name: jax.tree.map(lambda w, i=place: w[i], params["layers"][name])
                       for name, place in places.items()})
    return params | {"layers": layers}


def prefill(params, config: ModelConfig, tokens, positions, segment_ids, compute: Compute = FLOAT32):
    """What prompts leave behind, tokens, positions, segment_ids [P, T] int32: a list of the keys and values, two of
    [P, K, T, E], for each layer with attention; and of the memories after the last tokens, for each with a delta net.
    params: of `split_layers`."""
    # Prompts need not divide over a mesh, so XLA places them. A kernel, which XLA cannot divide, needs that they do.
    anywhere, mesh = replace(compute, mesh=None), compute.mesh
    angles, x = angles_by_kind(config, positions), embed(params, config, tokens, anywhere)
    if compute.attention == "xla" or mesh is None or mesh.size == 1:
        compute = anywhere
    elif len(tokens) % data_parallel_size(mesh) or tokens.shape[1] % mesh.shape["context"]:
        compute = replace(anywhere, attention="xla")

    entries, memories = [], []
    for weights, kind in zip(params["layers"], config.kinds, strict=True):
        block = Block(config, compute, mesh, kind.delta)
        x, _, left = block.apply({"params": weights}, x, angles, segment_ids, kind)
        (memories if kind.delta else entries).append(left)
    return entries, memories


def cache_entries(keys, values, quantised: bool):
    """keys, values [S, K, T, E] in the cache's layout: keys [S, K, E, T], values unchanged.

    quantised: both in int8, with a scale for every token and head."""
    # From [S, K, E, T] the scores are computed 20% faster on CPU.
    if quantised:
        keys, values = quantise(keys, -1), quantise(values, -1)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 2, 3), keys), values


def decode(params, config: ModelConfig, tokens, positions, cache, memories, write_index, valid,
           mesh: Mesh | None = None):
    """Feed one token to every slot. Returns logits [S, V] float32, the new cache and the new memories.

    params: of `split_layers`. Activations have the type of the embedding.
    tokens, positions: [S] int32.
    cache: a pair (keys [S, K, E, C], values [S, K, C, E]) per layer with attention, made by `cache_entries`.
    memories: a `delta.Memory` per layer with a delta net.
    write_index: the cache index of this token's entries, the same for all slots, so that writing is one slice.
    valid: [S, C] bool, the entries that each slot attends to, the token itself included. Local layers attend to
        those written in the last `window` steps, so a slot's entries must lie side by side.
    mesh: that the experts lie on."""
    # The layers are unrolled: a scan that carries the cache in and out would copy all of it at every step.
    angles = angles_by_kind(config, positions[:, None])
    x = embed(params, config, tokens[:, None], Compute(params["embed"].dtype.name))
    capacity, new_cache, new_memories = valid.shape[1], [], []
    cache, memories = iter(cache), iter(memories)
    near = valid & ((write_index - jnp.arange(capacity)) % capacity < config.window)[None]

    def write(ring, entry, axis):
        return jax.tree.map(
            lambda r, e: jax.lax.dynamic_update_slice_in_dim(r, e.astype(r.dtype), write_index, axis), ring, entry)

    for weights, kind in zip(params["layers"], config.kinds, strict=True):
        block = partial(Block(config, mesh=mesh, delta_net=kind.delta).apply, {"params": weights})
        if kind.delta:
            x, _, memory = block(x, next(memories), method="remember_one")
            new_memories.append(memory)
            continue
        keys, values = next(cache)
        q, k, v, gate = block(x, angles, kind, method="enter")
        k, v = cache_entries(k, v, isinstance(keys, Quantized))
        keys, values = write(keys, k, 3), write(values, v, 2)
        seen = near if kind.local else valid
        attended = attend_cache(q[:, :, :, 0], keys, values, seen, scale=config.attention_scale)
        x, _ = block(x, attended[:, :, :, None], gate, method="finish")
        new_cache.append((keys, values))
    return logits(params, config, rms_norm(x[:, 0], params["final_norm"], config)), new_cache, new_memories
