"""LoRA (Hu et al., arXiv 2106.09685): small matrices beside frozen ones, as a wrapper of the parameters.

    adapters = init(model, config, key)             what is trained: {"layers": {"query": {"lora_a", "lora_b"}, ...}}
    params = wrap(base, adapters, config)           in place of parameters, wherever a pass takes them
    params = merge(params, dtype)                   plain arrays again: W + scale * A B

The decoder's product with a matrix knows `Adapted`, and so does the sharding table (`parameters.part_axes`). The head
asks whether it is frozen, and the sampler merges.

A matrix [in, out] has A [in, r] and B [r, out], where `in` and `out` stand for all its axes: query [layers, D, H, E]
has A [layers, D, r] and B [layers, r, H, E].
"""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.config import AdapterConfig
from nft_jax.config.training import TARGETS
from nft_jax.model.config import ModelConfig
from nft_jax.model.parameters import IN_LAYERS, sizes_of
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

    def reshape(self, *shape: int) -> Adapted:
        """As a matrix [in, out]."""
        rank = self.lora_a.shape[-1]
        return Adapted(self.base.reshape(*shape), self.lora_a.reshape(-1, rank), self.lora_b.reshape(rank, -1),
                       self.scale)


class Adapter(NamedTuple):
    """What an adapter is, beside its arrays."""
    config: AdapterConfig
    base: str                          # folder or hub name of the model that it was trained on
    digest: str = ""                   # `hf.weights_digest` of that model; "" where it is not known


def adapter_shapes(model: ModelConfig, config: AdapterConfig) -> dict:
    """The adapters of a model as jax.ShapeDtypeStruct, float32. Raises InputError for a target that the model lacks."""
    found = {}
    for name in config.projections:
        array = IN_LAYERS[name]
        if not array.present(model):
            others = ", ".join(each for each in TARGETS["all"] if IN_LAYERS[each].present(model))
            why = " Adapters of experts are not implemented: PEFT names them in two ways." if model.num_experts else ""
            raise InputError(f"adapter.targets is {config.targets!r}, and a {model.family} model of this config has no "
                             f"{name}: use any of {others}.{why}")
        sizes, cut = sizes_of(array.axes, model), len(array.summed)
        found[name] = {part: jax.ShapeDtypeStruct((model.num_layers, *shape), jnp.float32) for part, shape in (
            ("lora_a", (*sizes[:cut], config.rank)), ("lora_b", (config.rank, *sizes[cut:])))}
    return {"layers": found}


def init(model: ModelConfig, config: AdapterConfig, key) -> dict:
    """Adapters that change nothing yet: A uniform in ±1 / sqrt(in), B zero, as in PEFT."""
    shapes = adapter_shapes(model, config)["layers"]
    sizes = [parts["lora_a"].size for parts in shapes.values()]
    # One draw for all: XLA takes about half a second to compile each random generator.
    drawn = jnp.split(jax.random.uniform(key, (sum(sizes),), minval=-1.0), np.cumsum(sizes)[:-1])

    def one(lora_a, lora_b, values) -> dict:
        inputs = lora_a.size // (model.num_layers * config.rank)
        return {"lora_a": values.reshape(lora_a.shape) / np.float32(inputs ** 0.5),
                "lora_b": jnp.zeros(lora_b.shape, lora_b.dtype)}

    return {"layers": {name: one(**parts, values=values)
                       for (name, parts), values in zip(shapes.items(), drawn, strict=True)}}


def wrap(base, trained, config: AdapterConfig):
    """The parameters of a pass: `trained` adapters in their places of `base`; or, with rank 0, `trained` itself.

    Both may be arrays, shapes or shardings. Nothing is computed."""
    if not config.rank:
        return trained
    adapters = trained["layers"]
    return base | {"layers": {
        name: Adapted(matrix, **adapters[name], scale=config.scale) if name in adapters else matrix
        for name, matrix in base["layers"].items()}}


def is_wrapped(x) -> bool:
    """Whether this stands for a matrix and is no array."""
    return isinstance(x, Adapted | Quantized)


def unwrap(params):
    """The adapters of wrapped parameters; the inverse of `wrap`."""
    return {"layers": {name: {"lora_a": x.lora_a, "lora_b": x.lora_b} for name, x in params["layers"].items()
                       if isinstance(x, Adapted)}}


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
    """Whether any matrix of the layers has an adapter."""
    return any(isinstance(x, Adapted) for x in params["layers"].values())
