"""Symmetric int8 with a float32 scale along chosen axes, for the weights, keys and values of decoding, and for the
frozen matrices under adapters."""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nft_jax.model.parameters import IN_LAYERS


class Quantized(NamedTuple):
    """values * scale, in place of an array."""
    # First, because Linen compares the shape of a parameter's first leaf.
    values: jax.Array                  # int8
    scale: jax.Array                   # float32, of size 1 along the axes that share a scale

    def reshape(self, *shape: int) -> "Quantized":
        """As a matrix [in, out] with a scale per column. The leading axes must be the axes that share a scale."""
        return Quantized(self.values.reshape(*shape), self.scale.reshape(1, -1))


def quantise(x, axes: tuple[int, ...] | int) -> Quantized:
    """x [...] -> int8 with the largest magnitude along `axes` at 127. No value is off by more than half a step."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=axes, keepdims=True) / 127
    return Quantized(jnp.round(x / jnp.where(scale > 0, scale, 1)).astype(jnp.int8), scale)


def dequantise(x):
    """The float32 array that a `Quantized` stands for; anything else as it is."""
    return x.values.astype(jnp.float32) * x.scale if isinstance(x, Quantized) else x


def quantise_matrices(weights: dict) -> dict:
    """The weights (a dict of arrays) of one layer, or of all layers stacked, with the matrices in int8, one scale per
    output channel."""
    return {name: quantise_matrix(name, w) if IN_LAYERS[name].kind == "matrix" else w for name, w in weights.items()}


def quantise_matrix(name: str, weights) -> Quantized:
    """One of the layers' matrices, of one layer or stacked."""
    array = IN_LAYERS[name]
    return quantise(weights, tuple(axis - len(array.axes) for axis in array.summed))
