"""Symmetric int8, a float32 scale along chosen axes: how decoding may hold its weights and its keys and values."""
from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nft_jax.model.parameters import IN_LAYERS


class Quantized(NamedTuple):
    """values * scale, in place of an array. `values` comes first: it stands for the shape where shapes are checked."""
    values: jax.Array                  # int8
    scale: jax.Array                   # float32, of size 1 along the axes that share a scale

    def reshape(self, *shape: int) -> Quantized:
        """As a matrix [in, out] with the scales of its columns; the leading axes must be those that share a scale."""
        return Quantized(self.values.reshape(*shape), self.scale.reshape(1, -1))


def quantise(x, axes: tuple[int, ...] | int) -> Quantized:
    """x [...] -> int8 with the largest magnitude along `axes` at 127: off by at most half a step."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=axes, keepdims=True) / 127
    return Quantized(jnp.round(x / jnp.where(scale > 0, scale, 1)).astype(jnp.int8), scale)


def quantise_layer(weights: dict) -> dict:
    """One layer's weights (a dict of arrays) with its matrices in int8, a scale for every output channel."""
    return {name: quantise(w, IN_LAYERS[name].summed) if IN_LAYERS[name].kind == "matrix" else w
            for name, w in weights.items()}
