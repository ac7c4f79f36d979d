"""Models that a run reads and never changes: the reference of a KL term, and the base under adapters."""
from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Literal

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import check_weights, is_local, load_params, read_config, resolve_folder
from nft_jax.model.parameters import parameter_shardings
from nft_jax.model.quantise import Quantized, quantise_matrices, quantise_matrix
from nft_jax.runtime.compilation import with_shardings
from nft_jax.types import InputError

# Fields of a model's configuration that do not change what is computed.
UNSEEN = ("max_positions", "initializer_range")


def abstract_frozen(model: ModelConfig, mesh: Mesh, dtype: str, stored: Literal["compute", "int8"] = "compute"):
    """Parameters that nothing trains, as jax.ShapeDtypeStruct with shardings: each lies where the policy's would. With
    `stored` "int8" the layers' matrices are `Quantized`."""
    # In the types in which a pass reads them, norms in float32: the log-probs equal float32's bit for bit.
    shapes = jax.tree_util.tree_map_with_path(lambda path, x: jax.ShapeDtypeStruct(
        x.shape, x.dtype if path[-1].key.endswith("norm") else dtype), decoder.parameter_shapes(model))
    if stored == "int8":
        shapes["layers"] = jax.eval_shape(quantise_matrices, shapes["layers"])
    return with_shardings(shapes, parameter_shardings(shapes, mesh))


def abstract_base(config: Config, model: ModelConfig, mesh: Mesh):
    """The frozen parameters under the adapters, as `abstract_frozen`; None in a run without adapters."""
    adapter = config.adapter
    return abstract_frozen(model, mesh, config.policy.compute_dtype, adapter.base_dtype) if adapter.rank else None


def abstract_reference(config: Config, model: ModelConfig, mesh: Mesh):
    """The reference's parameters, as `abstract_frozen`; None in a run without a KL term."""
    return abstract_frozen(model, mesh, config.policy.compute_dtype) if config.terms.kl_weight else None


def base_is_reference(config: Config) -> bool:
    """Whether the base under the adapters serves as the reference of the KL term: it is the model that the run
    started from."""
    return bool(config.adapter.rank and config.terms.kl_weight and not config.terms.reference)


def check_reference(config: Config, model: ModelConfig, *, weights: bool) -> None:
    """Raises InputError, without touching a device, where a run with a KL term names a reference that
    is missing, or of another shape than the policy. Without `weights` it downloads no weights."""
    name = config.terms.reference
    if not (config.terms.kl_weight and name):
        return
    folder = resolve_folder(name, weights=weights, field="terms.reference")
    found = read_config(folder)
    for field in fields(model):
        there, here = getattr(found, field.name), getattr(model, field.name)
        if field.name not in UNSEEN and there != here:
            raise InputError(f"terms.reference is {name!r}, a model whose {field.name} is {there!r}; in policy.path "
                             f"it is {here!r}. The reference must be a model of the same architecture and vocabulary, "
                             "for instance the model that the policy was trained from.")
    if weights or is_local(name):
        check_weights(folder, model)


def load_reference(config: Config, model: ModelConfig, shapes):
    """The reference's parameters on the devices, laid out like `shapes` (of `abstract_reference`). Where `shapes` is
    None nothing is read, and it is None."""
    return load_frozen(config.terms.reference or config.policy.path, "terms.reference", model, shapes)


def load_frozen(name: str, field: str, model: ModelConfig, shapes):
    """The parameters of the model `name`, which the setting `field` names, streamed from its files and laid out like
    `shapes` (of `abstract_frozen`); None where `shapes` is None."""
    if shapes is None:
        return None
    in_int8 = {path: leaf for path, leaf in flatten_dict(shapes, sep="/").items() if isinstance(leaf, Quantized)}

    def store(path: str, x: jax.Array):
        if path not in in_int8:
            return x
        places = jax.tree.map(lambda leaf: leaf.sharding, in_int8[path])
        return jax.jit(partial(quantise_matrix, path.split("/")[-1]), out_shardings=places)(x)

    # A matrix that is to be int8 has the compute dtype, of the embedding, while it is read.
    before = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.values.shape, shapes["embed"].dtype, sharding=x.values.sharding)
                          if isinstance(x, Quantized) else x, shapes, is_leaf=lambda x: isinstance(x, Quantized))
    return load_params(resolve_folder(name, field=field), model, jax.tree.map(lambda x: x.dtype, before),
                       jax.tree.map(lambda x: x.sharding, before), store=store)
