"""The reference of a KL term: a model whose parameters stay as they are, beside those of the policy."""
from __future__ import annotations

from dataclasses import fields

import jax
from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import check_weights, is_local, load_params, read_config, resolve_folder
from nft_jax.model.parameters import parameter_shardings
from nft_jax.runtime.compilation import with_shardings
from nft_jax.types import InputError

UNSEEN = ("max_positions", "initializer_range")      # of a model's configuration: they do not change what is computed


def abstract_reference(config: Config, model: ModelConfig, mesh: Mesh):
    """The reference's parameters as jax.ShapeDtypeStruct with shardings; None in a run without a KL term. They lie
    where the policy's lie, in the types in which a pass reads them (norms in float32), so that the log-probs are those
    of float32 parameters, bit for bit."""
    if not config.terms.kl_weight:
        return None
    shapes = jax.tree_util.tree_map_with_path(lambda path, x: jax.ShapeDtypeStruct(
        x.shape, x.dtype if path[-1].key.endswith("norm") else config.policy.compute_dtype),
        decoder.parameter_shapes(model))
    return with_shardings(shapes, parameter_shardings(shapes, mesh))


def check_reference(config: Config, model: ModelConfig, *, weights: bool) -> None:
    """Raises InputError, without touching a device, where a run with a KL term names a reference that is not there or
    not of the policy's shape. As `read_inputs`, without `weights` it downloads none."""
    name = config.terms.reference
    if not (config.terms.kl_weight and name):
        return
    folder = resolve_folder(name, weights=weights, field="terms.reference")
    found = read_config(folder)
    for field in fields(model):
        there, here = getattr(found, field.name), getattr(model, field.name)
        if field.name not in UNSEEN and there != here:
            raise InputError(f"terms.reference is {name!r}, a model whose {field.name} is {there!r}, and policy.path's "
                             f"is {here!r}: the reference must be a model of the same architecture and "
                             "vocabulary, for instance the one that the policy was trained from.")
    if weights or is_local(name):
        check_weights(folder, model)


def load_reference(config: Config, model: ModelConfig, mesh: Mesh):
    """The reference's parameters on the devices (see `abstract_reference`), streamed from its files; None, and nothing
    is read, without a KL term."""
    shapes = abstract_reference(config, model, mesh)
    if shapes is None:
        return None
    folder = resolve_folder(config.terms.reference or config.policy.path, field="terms.reference")
    return load_params(folder, model, jax.tree.map(lambda x: x.dtype, shapes),
                       jax.tree.map(lambda x: x.sharding, shapes))
