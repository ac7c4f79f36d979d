"""One layer of the decoder, a Flax Linen module: for whole sequences, and for a decode step. Suffixes as `decoder`."""
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.model import delta
from nft_jax.model.attention import align, attend, rotary_angles, rotate
from nft_jax.model.config import FLOAT32, Compute, LayerKind, ModelConfig
from nft_jax.model.experts import mixture
from nft_jax.model.kernels import attention_of
from nft_jax.model.parameters import IN_LAYERS, arrays_of, role_of
from nft_jax.model.products import matmul, rms_norm, unit_rms
from nft_jax.model.sharded import over_mesh

PLAIN = LayerKind(local=False, rotated=True).form
ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": partial(nn.gelu, approximate=True)}


def angles_by_kind(config: ModelConfig, positions):
    """Rotary angles (cos, sin), [..., rotary_dim/2] each, of the layers that see everything and of the local layers."""
    everywhere = rotary_angles(positions, config.wide_head_dim or config.rotary_dim, config.rope_theta,
                               config.rope_scaling, config.stretches)
    if config.local_rope_theta is None or not config.local_layers:
        return everywhere, everywhere
    return everywhere, rotary_angles(positions, config.rotary_dim, config.local_rope_theta)


class Block(nn.Module):
    """One layer. With attention it has two halves: `project` before the attention, `finish` after it. Between them
    stands `attend` of whole sequences, or `attend_cache` of a decode step. With a delta net it is `remember` of whole
    sequences, or `remember_one` of a decode step.

    Its attributes are the arrays of the table that belong to its form, by their roles.

    mesh: that the experts lie on, also where `compute` leaves the places of other arrays to XLA."""
    config: ModelConfig
    compute: Compute = FLOAT32
    mesh: Mesh | None = None
    form: LayerKind = PLAIN            # of the layer's kind

    def setup(self):
        # Linen only looks the arrays up, by the names of the table; `init` makes their values.
        for name, array, shape in arrays_of(IN_LAYERS, self.config):
            if array.belongs(self.form):
                setattr(self, role_of(name), self.param(name, nn.initializers.zeros, shape, jnp.float32))

    def project(self, x, cos, sin):
        """x [B, T, D] -> q [B, K, G, T, E] and k, v [B, K, T, E], rotated; and the gate of the attention's output
        [B, T, H, E], or () in a model without."""
        c, (batch, length, _), (kv_heads, head_dim) = self.config, x.shape, self.config.heads_of(self.form)
        h = rms_norm(x, self.attention_norm, c) if c.norms_before else x

        def heads(w, size):
            return matmul(h, w.reshape(c.hidden_size, -1)).reshape(batch, length, -1, size)

        q, k = heads(self.query, c.query_size * head_dim // c.head_dim), heads(self.key, head_dim)
        v = k if c.keys_are_values and self.form.wide else heads(self.value, head_dim)
        q, gate = jnp.split(q, 2, axis=-1) if c.output_gate else (q, ())
        if c.qkv_bias:
            q, k, v = (y + align(b.astype(x.dtype), y) for y, b in
                       ((q, self.query_bias), (k, self.key_bias), (v, self.value_bias)))
        if c.qk_norm:
            q, k = rms_norm(q, self.query_norm, c), rms_norm(k, self.key_norm, c)
        if c.qk_norm_all_heads:
            q, k = (rms_norm(y.reshape(batch, length, -1), w.reshape(-1), c).reshape(y.shape)
                    for y, w in ((q, self.query_heads_norm), (k, self.key_heads_norm)))
        if c.value_norm:
            v = unit_rms(v, c).astype(v.dtype)
        q, k = rotate(q, cos[:, :, None], sin[:, :, None]), rotate(k, cos[:, :, None], sin[:, :, None])
        q, k, v = (jnp.swapaxes(y, 1, 2) for y in (q, k, v))
        return q.reshape(batch, kv_heads, -1, length, head_dim), k, v, gate

    def query_alone(self, x, cos, sin):
        """`project` of a layer without keys and values of its own: q."""
        c, (batch, length, _), (kv_heads, head_dim) = self.config, x.shape, self.config.heads_of(self.form)
        q = matmul(rms_norm(x, self.attention_norm, c), self.query.reshape(c.hidden_size, -1))
        q = rms_norm(q.reshape(batch, length, -1, head_dim), self.query_norm, c)
        q = jnp.swapaxes(rotate(q, cos[:, :, None], sin[:, :, None]), 1, 2)
        return q.reshape(batch, kv_heads, -1, length, head_dim)

    def finish(self, x, attended, gate, layer_input=()):
        """x [B, T, D], attended [B, K, G, T, E], gate of `project`, and what the layer has for each token [B, T, P] or
        () -> the layer's output [B, T, D], and what its router said (`mlp`)."""
        c, (batch, length, _) = self.config, x.shape
        heads = jnp.swapaxes(attended.reshape(batch, c.num_heads, length, -1), 1, 2)
        if c.output_gate:
            heads = heads * nn.sigmoid(gate)
        x, routed = self.join(x, heads, self.out)
        if c.layer_input_size:
            chosen = ACTIVATIONS[c.activation](matmul(x, self.input_gate)) * layer_input
            x = x + rms_norm(matmul(chosen, self.input_projection), self.input_norm, c)
        if c.layer_scale:
            x = x * jax.lax.stop_gradient(self.layer_scale).astype(x.dtype)
        return x, routed

    def join(self, x, heads, out):
        """x [B, T, D], and heads [B, T, ...] that the matrix `out` brings back to D -> x with attention and MLP, and
        what the router said (`mlp`)."""
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

    def enter(self, x, angles, kind: LayerKind, handed=()):
        """`project` with the angles of the layer's kind. A layer without keys and values of its own takes those of its
        kind in `handed`, by `kind.local`."""
        cos, sin = angles[kind.local] if isinstance(kind.local, bool) else (
            jnp.where(kind.local, near, far) for far, near in zip(*angles, strict=True))
        if kind.rotated is not True:
            # By the angle 0, which changes nothing.
            cos, sin = jnp.where(kind.rotated, cos, 1), jnp.where(kind.rotated, sin, 0)
        if kind.shared:
            return self.query_alone(x, cos, sin), *handed[kind.local], ()
        return self.project(x, cos, sin)

    def attend(self, q, k, v, segment_ids, kind: LayerKind):
        """q [B, K, G, T, E], k and v [B, K, T, E] -> like q, by full or by local attention."""
        c, local = self.config, kind.local
        implementation = attention_of(self.compute.attention, q.shape[-1])
        # Each kind is compiled with its own window, because kernels need it as a constant.
        windowed, full = (
            over_mesh(partial(attend, scale=c.attention_scale, window=window, implementation=implementation),
                      self.compute.mesh)
            for window in (c.window, 0))
        if isinstance(local, bool):
            return (windowed if local else full)(q, k, v, segment_ids)
        return jax.lax.cond(local, windowed, full, q, k, v, segment_ids)

    def __call__(self, x, angles, segment_ids, kind: LayerKind, layer_input=(), handed=()):
        """x [B, T, D], angles of `angles_by_kind`, and what `finish` and `enter` take -> the layer's output and what
        its router said (`finish`), and its keys and values, or its memory."""
        if kind.delta:
            return self.remember(x, segment_ids)
        q, k, v, gate = self.enter(x, angles, kind, handed)
        return *self.finish(x, self.attend(q, k, v, segment_ids, kind), gate, layer_input), (k, v)

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
