"""The reference of a KL term: a model beside the policy, whose parameters stay as they are."""
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

# Fields of a model's configuration that do not change what is computed.
UNSEEN = ("max_positions", "initializer_range")


def abstract_reference(config: Config, model: ModelConfig, mesh: Mesh):
    """The reference's parameters as jax.ShapeDtypeStruct with shardings; None in a run without a KL term. Each
    parameter lies where the policy's lies."""
    if not config.terms.kl_weight:
        return None
    # In the types in which a pass reads them, norms in float32: the log-probs equal float32's bit for bit.
    shapes = jax.tree_util.tree_map_with_path(lambda path, x: jax.ShapeDtypeStruct(
        x.shape, x.dtype if path[-1].key.endswith("norm") else config.policy.compute_dtype),
        decoder.parameter_shapes(model))
    return with_shardings(shapes, parameter_shardings(shapes, mesh))


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
    """The reference's parameters on the devices, streamed from its files and laid out like `shapes` (of
    `abstract_reference`). Where `shapes` is None nothing is read, and it is None."""
    if shapes is None:
        return None
    folder = resolve_folder(config.terms.reference or config.policy.path, field="terms.reference")
    return load_params(folder, model, jax.tree.map(lambda x: x.dtype, shapes),
                       jax.tree.map(lambda x: x.sharding, shapes))
