"""Models that nothing trains, as a run keeps them on its devices: the base under adapters, a KL term's reference."""
import os
from functools import partial
from typing import Literal

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, SingleDeviceSharding

from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.load import load_params
from nft_jax.model.parameters import ARRAYS, parameter_shardings
from nft_jax.model.quantise import Quantized, quantise_matrices, quantise_matrix
from nft_jax.runtime.compilation import with_shardings


def abstract_frozen(model: ModelConfig, mesh: Mesh | None, dtype: str,
                    stored: Literal["compute", "int8"] = "compute") -> dict:
    """The parameters as jax.ShapeDtypeStruct with shardings: each lies where a trained one would; without a mesh, all
    on the default device. With `stored` "int8" the layers' matrices are `Quantized`."""
    # In the types in which a pass reads them: the log-probs equal float32's bit for bit.
    shapes = jax.tree_util.tree_map_with_path(lambda path, x: jax.ShapeDtypeStruct(
        x.shape, x.dtype if ARRAYS[path[-1].key].exact else dtype), decoder.parameter_shapes(model))
    if stored == "int8":
        shapes["layers"] = jax.eval_shape(quantise_matrices, shapes["layers"])
    return with_shardings(shapes, parameter_shardings(shapes, mesh) if mesh else SingleDeviceSharding(jax.devices()[0]))


def load_frozen(folder: str | os.PathLike, model: ModelConfig, shapes: dict) -> dict:
    """The parameters, streamed from the folder's files and laid out like `shapes` (of `abstract_frozen`). Only one
    matrix at a time is whole before it is rounded to int8."""
    targets = flatten_dict(shapes, sep="/")

    def store(path: str, x: jax.Array):
        if not isinstance(targets[path], Quantized):
            return x
        places = jax.tree.map(lambda leaf: leaf.sharding, targets[path])
        return jax.jit(partial(quantise_matrix, path.split("/")[-1]), out_shardings=places)(x)

    def read(leaf):
        # A matrix that is to be int8 is read in the compute dtype, which is the embedding's.
        return jax.ShapeDtypeStruct(leaf.values.shape, shapes["embed"].dtype, sharding=leaf.values.sharding) \
            if isinstance(leaf, Quantized) else leaf

    as_read = jax.tree.map(read, shapes, is_leaf=lambda x: isinstance(x, Quantized))
    return load_params(folder, model, jax.tree.map(lambda x: x.dtype, as_read),
                       jax.tree.map(lambda x: x.sharding, as_read), store=store)
