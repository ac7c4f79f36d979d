"""LoRA (Hu et al., arXiv 2106.09685): small matrices beside frozen ones, as a wrapper of the parameters.

    adapters = init(model, config, key)             what is trained: {"layers": {"query": {"lora_a", "lora_b"}, ...}}
    params = wrap(base, adapters, config)           in place of parameters, wherever a pass takes them
    params = merge(params, dtype)                   plain arrays again: W + scale * A B

The decoder's product with a matrix knows `Adapted`, and so does the sharding table (`parameters.part_axes`). The head
asks whether it is frozen, and the sampler merges.

A matrix [in, out] has A [in, r] and B [r, out], where `in` and `out` stand for all its axes: query [layers, D, H, E]
has A [layers, D, r] and B [layers, r, H, E]. The adapter of a matrix outside the layers stands beside "layers".

PEFT sees a fused matrix (`parameters.fused`) as one, with one A. Its parts share that A here: only the first one,
such as query or gate, has a `lora_a`.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.config import AdapterConfig
from nft_jax.config.training import PROJECTIONS
from nft_jax.model.config import ModelConfig
from nft_jax.model.parameters import ARRAYS, FUSED, IN_LAYERS, arrays_of_role, as_tree, by_name, fused, sizes_of
from nft_jax.model.quantise import Quantized, dequantise
from nft_jax.types import InputError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adapted:
    """base + scale * lora_a lora_b, in place of an array."""
    # First, because Linen compares the shape of a parameter's first leaf.
    base: Any                          # [..., in, out], or `Quantized`
    lora_a: jax.Array                  # [..., in, r]
    lora_b: jax.Array                  # [..., r, out]
    scale: float = field(metadata={"static": True})
    shares_a: bool = field(default=False, metadata={"static": True})      # lora_a belongs to another matrix

    def reshape(self, *shape: int) -> Adapted:
        """As a matrix [in, out]."""
        rank = self.lora_a.shape[-1]
        return replace(self, base=self.base.reshape(*shape), lora_a=self.lora_a.reshape(-1, rank),
                       lora_b=self.lora_b.reshape(rank, -1))


class Adapter(NamedTuple):
    """What an adapter is, beside its arrays."""
    config: AdapterConfig
    base: str                          # folder or hub name of the model that it was trained on
    digest: str = ""                   # `hf.weights_digest` of that model; "" where it is not known


def projections_of(model: ModelConfig, config: AdapterConfig) -> tuple[str, ...]:
    """The projections of a model with an adapter, in the order of `PROJECTIONS`. Raises InputError for a target that
    the model lacks, and for some of the matrices that are one."""
    has = [name for name in PROJECTIONS if any(ARRAYS[array].present(model) for array in arrays_of_role(name))]
    meant = {*config.projections, *(has if "all" in config.targets else ())}
    for names in fused(model):
        if 0 < len(set(names) & meant) < len(names):
            raise InputError(f"adapter.targets is {config.targets!r}, and in a {model.family} model {', '.join(names)} "
                             "are one matrix, whose adapter has one A: name all of them, or none.")
    for name in PROJECTIONS:
        if name in meant and name not in has:
            why = " Adapters of experts are not implemented: PEFT names them in two ways." if model.num_experts else ""
            raise InputError(f"adapter.targets is {config.targets!r}, and a {model.family} model of this config has no "
                             f"{name}: use any of {', '.join(has)}.{why}")
    return tuple(name for name in has if name in meant)


def adapter_shapes(model: ModelConfig, config: AdapterConfig) -> dict:
    """The adapters of a model as jax.ShapeDtypeStruct, float32. Raises the InputErrors of `projections_of`."""
    found = {}
    names = [array for name in projections_of(model, config) for array in arrays_of_role(name)]
    for name in (name for name in names if ARRAYS[name].present(model)):
        array = ARRAYS[name]
        sizes, cut = sizes_of(array.axes, model), len(array.summed)
        stacked = (len(array.layers(model)),) if name in IN_LAYERS else ()
        found[name] = {part: jax.ShapeDtypeStruct((*stacked, *shape), jnp.float32) for part, shape in (
            ("lora_a", (*sizes[:cut], config.rank)), ("lora_b", (config.rank, *sizes[cut:])))}
        if any(name in names[1:] for names in fused(model)):
            del found[name]["lora_a"]
    return as_tree(found)


def init(model: ModelConfig, config: AdapterConfig, key) -> dict:
    """Adapters that change nothing yet: A uniform in ±1 / sqrt(in), B zero, as in PEFT."""
    shapes = by_name(adapter_shapes(model, config))
    made = {name: {"lora_b": jnp.zeros(parts["lora_b"].shape, parts["lora_b"].dtype)}
            for name, parts in shapes.items()}
    first = {name: parts["lora_a"] for name, parts in shapes.items() if "lora_a" in parts}
    sizes = [lora_a.size for lora_a in first.values()]
    # One draw for all: XLA takes about half a second to compile each random generator.
    drawn = jnp.split(jax.random.uniform(key, (sum(sizes),), minval=-1.0), np.cumsum(sizes)[:-1])
    for (name, lora_a), values in zip(first.items(), drawn, strict=True):
        inputs = math.prod(lora_a.shape[-1 - len(ARRAYS[name].summed):-1])
        made[name]["lora_a"] = values.reshape(lora_a.shape) / np.float32(inputs ** 0.5)
    return as_tree(made)


def wrap(base, trained, config: AdapterConfig):
    """The parameters of a pass: `trained` adapters in their places of `base`; or, with rank 0, `trained` itself.

    Both may be arrays, shapes or shardings. Nothing is computed."""
    if not config.rank:
        return trained
    adapters = by_name(trained)

    def one(name: str, matrix):
        if name not in adapters:
            return matrix
        shares = "lora_a" not in adapters[name]
        owner = next(names[0] for names in FUSED if name in names) if shares else name
        return Adapted(matrix, adapters[owner]["lora_a"], adapters[name]["lora_b"], config.scale, shares)

    return as_tree({name: one(name, matrix) for name, matrix in by_name(base).items()})


def is_wrapped(x) -> bool:
    """Whether this stands for a matrix and is no array."""
    return isinstance(x, Adapted | Quantized)


def unwrap(params):
    """The adapters of wrapped parameters; the inverse of `wrap`."""
    return as_tree({name: {"lora_b": x.lora_b} if x.shares_a else {"lora_a": x.lora_a, "lora_b": x.lora_b}
                    for name, x in by_name(params).items() if isinstance(x, Adapted)})


def merge(params, dtype):
    """A tree of parameters, stacked or of one layer, with arrays of `dtype` for its `Adapted` and `Quantized`. They are
    made in float32. Other arrays stay as they are."""
    return jax.tree.map(lambda x: _merged(x).astype(dtype) if is_wrapped(x) else x, params, is_leaf=is_wrapped)


def _merged(x):
    if isinstance(x, Quantized):
        return dequantise(x)
    base, a, b = (jnp.asarray(part, jnp.float32) for part in (dequantise(x.base), x.lora_a, x.lora_b))
    # At full precision, whatever products do elsewhere: a TPU would round A and B to bfloat16.
    product = partial(jnp.tensordot, axes=1, precision=jax.lax.Precision.HIGHEST)
    stacked = a.ndim + b.ndim - 2 > base.ndim
    return base + x.scale * (jax.vmap(product) if stacked else product)(a, b)


def is_adapted(params) -> bool:
    """Whether any matrix has an adapter."""
    return any(isinstance(x, Adapted) for x in by_name(params).values())
