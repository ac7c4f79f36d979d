"""Every array of the decoder in one table: shape, initial value, and place on a device mesh.

The parameters are one plain dict of float32 arrays:

    {"embed": [V, D], "final_norm": [D], "head": [D, V], "layers": {"query": [layers, D, H, E], ...}}

Arrays of a layer are stacked, on a leading axis, over the layers that have them. Layers whose arrays have other sizes,
and layers that share keys and values, have stacks of their own: "wide_query", "shared_query" and "shared_wide_query"
are also a query, which is their role in the layer. A tied model has no "head".
In place of a matrix may stand `quantise.Quantized` or `adapter.Adapted`, whose parts take their axes from the matrix.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from nft_jax.model.config import LayerKind, ModelConfig
from nft_jax.runtime.mesh import RULES, sharding
from nft_jax.types import InputError

# One letter an axis: the field of ModelConfig that is its size, and its logical axis in `runtime.mesh.RULES`.
AXES: dict[str, tuple[str, str | None]] = {
    "D": ("hidden_size", "embed"),
    "F": ("intermediate_size", "mlp"),
    "H": ("num_heads", "heads"),
    "K": ("num_kv_heads", "kv_heads"),
    "E": ("head_dim", None),
    "Q": ("query_size", None),
    "V": ("vocab_size", "vocab"),
    "X": ("num_experts", "experts"),
    "M": ("expert_size", None),
    "N": ("delta_key_heads", "heads"),
    "U": ("delta_value_heads", "heads"),
    "I": ("delta_key_dim", None),
    "O": ("delta_value_dim", None),
    "W": ("delta_conv", None),
    "e": ("wide_head_dim", None),
    "k": ("wide_kv_heads", "kv_heads"),
    "f": ("shared_feed_size", "mlp"),
    "L": ("num_layers", None),
    "P": ("layer_input_size", "embed"),
    "p": ("layer_input_size", None),
}


def sizes_of(axes: str, config: ModelConfig) -> tuple[int, ...]:
    """"DHE" -> (hidden_size, num_heads, head_dim)."""
    return tuple(getattr(config, AXES[axis][0]) for axis in axes)


@dataclass(frozen=True)
class Array:
    """One array, of one layer where it belongs to the layers.

    Matrices and biases are sharded by their axes. The other kinds are small: they lie whole on every device, and
    every pass reads them in float32. "gain" begins at 1 whatever the model's norm_offset. "constant" is never trained:
    transformers keeps it as a buffer."""
    layout: str                        # its axes; a product with a matrix sums over those before ">"; "X|" are several
    kind: Literal["matrix", "router", "norm", "bias", "gain", "convolution", "decay", "constant"]
    when: Callable[[ModelConfig], bool] = lambda config: True          # the models that have the array
    mixer: Literal["", "attention", "delta"] = ""      # the layers that have it: all, or those with one of the two
    wide: bool = False                 # it belongs to the layers with wide heads
    shared: bool = False               # it belongs to the layers that share keys and values

    @property
    def axes(self) -> str:
        return self.layout.replace(" > ", "").replace("|", "")

    @property
    def summed(self) -> tuple[int, ...]:
        """Numbers of the axes that a product sums over."""
        return tuple(range(max(self.layout.find("|"), 0), self.layout.replace("|", "").index(" > ")))

    @property
    def exact(self) -> bool:
        """Whether passes of all types read it in float32."""
        return self.kind not in ("matrix", "bias")

    def belongs(self, kind: LayerKind) -> bool:
        """Whether layers of this kind have the array."""
        mixers = {"": True, "delta": kind.delta, "attention": not kind.delta and kind.wide == self.wide}
        return mixers[self.mixer] and kind.shared == self.shared

    def layers(self, config: ModelConfig) -> tuple[int, ...]:
        """The numbers of the layers that have the array."""
        return tuple(layer for layer, kind in enumerate(config.kinds) if self.belongs(kind))

    def present(self, config: ModelConfig) -> bool:
        """Whether a model of this config has the array."""
        return len(self.layers(config)) > 0 and self.when(config)

    @property
    def logical_axes(self) -> tuple[str | None, ...]:
        return tuple(None if self.exact else AXES[axis][1] for axis in self.axes)


OUTSIDE_LAYERS = {
    "embed": Array("V > D", "matrix"),
    "final_norm": Array("D", "norm"),
    "head": Array("D > V", "matrix", lambda config: not config.tie_embeddings),
    "layer_embed": Array("VLP", "matrix", lambda config: config.layer_input_size > 0),
    "layer_projection": Array("D > Lp", "matrix", lambda config: config.layer_input_size > 0),
    "layer_norm": Array("p", "norm", lambda config: config.layer_input_size > 0),
}
IN_LAYERS = {
    "attention_norm": Array("D", "norm", lambda config: config.norms_before),
    "query": Array("D > HQ", "matrix", mixer="attention"),
    "key": Array("D > KE", "matrix", mixer="attention"),
    "value": Array("D > KE", "matrix", mixer="attention"),
    "query_bias": Array("HE", "bias", lambda config: config.qkv_bias, "attention"),
    "key_bias": Array("KE", "bias", lambda config: config.qkv_bias, "attention"),
    "value_bias": Array("KE", "bias", lambda config: config.qkv_bias, "attention"),
    "query_norm": Array("E", "norm", lambda config: config.qk_norm, "attention"),
    "key_norm": Array("E", "norm", lambda config: config.qk_norm, "attention"),
    "query_heads_norm": Array("HE", "norm", lambda config: config.qk_norm_all_heads, "attention"),
    "key_heads_norm": Array("KE", "norm", lambda config: config.qk_norm_all_heads, "attention"),
    "out": Array("HE > D", "matrix", mixer="attention"),
    "delta_query": Array("D > NI", "matrix", mixer="delta"),
    "delta_key": Array("D > NI", "matrix", mixer="delta"),
    "delta_value": Array("D > UO", "matrix", mixer="delta"),
    "delta_gate": Array("D > UO", "matrix", mixer="delta"),
    "delta_write": Array("D > U", "matrix", mixer="delta"),
    "delta_forget": Array("D > U", "matrix", mixer="delta"),
    "delta_query_convolution": Array("NIW", "convolution", mixer="delta"),
    "delta_key_convolution": Array("NIW", "convolution", mixer="delta"),
    "delta_value_convolution": Array("UOW", "convolution", mixer="delta"),
    "delta_log_decay": Array("U", "decay", mixer="delta"),
    "delta_forget_bias": Array("U", "gain", mixer="delta"),
    "delta_norm": Array("O", "gain", mixer="delta"),
    "delta_out": Array("UO > D", "matrix", mixer="delta"),
    "post_attention_norm": Array("D", "norm", lambda config: config.norms_after),
    "mlp_norm": Array("D", "norm", lambda config: config.norms_before),
    "gate": Array("D > F", "matrix", lambda config: not config.num_experts),
    "up": Array("D > F", "matrix", lambda config: not config.num_experts),
    "down": Array("F > D", "matrix", lambda config: not config.num_experts),
    "router": Array("D > X", "router", lambda config: config.num_experts > 0),
    "expert_gate": Array("X|D > M", "matrix", lambda config: config.num_experts > 0),
    "expert_up": Array("X|D > M", "matrix", lambda config: config.num_experts > 0),
    "expert_down": Array("X|M > D", "matrix", lambda config: config.num_experts > 0),
    "post_mlp_norm": Array("D", "norm", lambda config: config.norms_after),
    "input_gate": Array("D > p", "matrix", lambda config: config.layer_input_size > 0),
    "input_projection": Array("p > D", "matrix", lambda config: config.layer_input_size > 0),
    "input_norm": Array("D", "norm", lambda config: config.layer_input_size > 0),
    "layer_scale": Array("", "constant", lambda config: config.layer_scale),
}


def _of_other_sizes() -> Iterator[tuple[str, Array]]:
    """The arrays of wide layers, and of layers that share keys and values."""
    for name in ("query", "key", "value", "query_norm", "key_norm", "out"):
        array = IN_LAYERS[name]
        has = {"value": lambda config: not config.keys_are_values}.get(name, array.when)
        yield f"wide_{name}", replace(array, layout=array.layout.translate(str.maketrans("EKQ", "eke")), when=has,
                                      wide=True)


def _of_shared_layers() -> Iterator[tuple[str, Array]]:
    """The arrays of the layers without keys and values of their own."""
    for name in ("attention_norm", "query", "wide_query", "query_norm", "wide_query_norm", "out", "wide_out",
                 "post_attention_norm", "mlp_norm", "gate", "up", "down", "post_mlp_norm", "input_gate",
                 "input_projection", "input_norm", "layer_scale"):
        array = IN_LAYERS[name]
        yield f"shared_{name}", replace(array, layout=array.layout.replace("F", "f"), shared=True)


def role_of(name: str) -> str:
    """What an array is in its layer: "query" of "shared_wide_query"."""
    return name.removeprefix("shared_").removeprefix("wide_")


def arrays_of_role(role: str) -> list[str]:
    """The names of all arrays that have this role, in some layer or outside the layers."""
    return [name for name in ARRAYS if role_of(name) == role]


IN_LAYERS |= dict(_of_other_sizes())
IN_LAYERS |= dict(_of_shared_layers())
ARRAYS = OUTSIDE_LAYERS | IN_LAYERS
# Matrices that are one in the files: of a model of `fused_projections`, and of every delta net.
FUSED = (("query", "key", "value"), ("gate", "up"), ("delta_query", "delta_key", "delta_value"))


def by_name(tree: dict) -> dict:
    """What a tree like the parameters has for each array, by the array's name."""
    return {name: x for name, x in tree.items() if name != "layers"} | tree["layers"]


def as_tree(found: dict) -> dict:
    """The inverse of `by_name`."""
    return {name: x for name, x in found.items() if name in OUTSIDE_LAYERS} | {
        "layers": {name: x for name, x in found.items() if name in IN_LAYERS}}


def arrays_of(table: dict[str, Array], config: ModelConfig) -> Iterator[tuple[str, Array, tuple[int, ...]]]:
    """(name, array, shape) of the arrays of the table that a model of this config has."""
    return ((name, array, sizes_of(array.axes, config)) for name, array in table.items() if array.present(config))


def fused(config: ModelConfig) -> tuple[tuple[str, ...], ...]:
    """The groups of `FUSED` that are one matrix in a model of this config."""
    return tuple(names for names in FUSED if IN_LAYERS[names[0]].present(config)
                 and (config.fused_projections or IN_LAYERS[names[0]].mixer == "delta"))


def with_constants(params, old):
    """The parameters, with the arrays of the kind "constant" as they were in `old`."""
    def kept(path, new, old):
        names = [key.key for key in path if getattr(key, "key", None) in ARRAYS]
        return old if names and ARRAYS[names[-1]].kind == "constant" else new

    return jax.tree_util.tree_map_with_path(kept, params, old)


# ---- on a device mesh ------------------------------------------------------------------------------------------


def part_axes(path, shape: Sequence[int], mesh: Mesh) -> tuple[str | None, ...]:
    """Logical axes of the array at this path (jax's) of a tree of parameters: a parameter, or a part of it. Its shape
    may begin with the axis of the layers.

    The adapter's A [..., in, r] lies like the inputs of its matrix and B [..., r, out] like the outputs; r is whole.
    A scale of `Quantized` has size 1 along the axes that share it. kv heads are replicated where `tensor` exceeds
    them. Raises InputError for any other size that its mesh axes do not divide, with both names."""
    keys = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    name, part = next(key for key in reversed(keys) if key in ARRAYS), keys[-1]
    array, axes = ARRAYS[name], ARRAYS[name].logical_axes
    if part == "lora_a":
        axes = (*axes[:len(array.summed)], None)
    if part == "lora_b":
        axes = (None, *axes[len(array.summed):])
    if part == "scale":
        axes = tuple(None if size == 1 else axis for size, axis in zip(shape[-len(axes):], axes, strict=True))
    axes = [None] * (len(shape) - len(axes)) + list(axes)
    for dimension, axis in enumerate(axes):
        shards, size = int(np.prod([mesh.shape[mesh_axis] for mesh_axis in RULES[axis]])), shape[dimension]
        if axis == "kv_heads" and shards > size:
            axes[dimension] = None
        elif size % shards:
            raise InputError(f"mesh.{'/'.join(RULES[axis])} is {shards}, which does not divide the {size} of "
                             f"{name!r} ({axis}): choose a size that divides {size}.")
    return tuple(axes)


def parameter_shardings(params, mesh: Mesh):
    """Shardings of a tree of parameters, of arrays or of shapes. Raises the errors of `part_axes`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: sharding(mesh, *part_axes(path, leaf.shape, mesh)), params)


def constrain_parameters(tree, mesh: Mesh | None):
    """On a mesh, lays out a tree like the parameters (their gradient) as they are, inside a traced function."""
    if mesh is None or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, parameter_shardings(tree, mesh))
