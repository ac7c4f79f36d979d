"""Models that a run reads and never changes: the reference of a KL term, and the base under adapters."""
from dataclasses import asdict

from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.config.differences import differences
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import check_weights, is_local, read_config, resolve_folder
from nft_jax.model.hf.frozen import abstract_frozen, load_frozen
from nft_jax.types import InputError

# Fields of a model's configuration that do not change what is computed.
UNSEEN = ("max_positions", "initializer_range")


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
    for field, (there, here) in differences(asdict(found), asdict(model), ignore=UNSEEN).items():
        raise InputError(f"terms.reference is {name!r}, a model whose {field} is {there!r}; in policy.path it is "
                         f"{here!r}. The reference must be a model of the same architecture and vocabulary, for "
                         "instance the model that the policy was trained from.")
    if weights or is_local(name):
        check_weights(folder, model)


def load_base(config: Config, model: ModelConfig, shapes):
    """The frozen parameters under the adapters on the devices, laid out like `shapes` (of `abstract_base`)."""
    return None if shapes is None else load_frozen(resolve_folder(config.policy.path), model, shapes)


def load_reference(config: Config, model: ModelConfig, shapes):
    """The reference's parameters on the devices, laid out like `shapes` (of `abstract_reference`). Where `shapes` is
    None nothing is read, and it is None."""
    if shapes is None:
        return None
    folder = resolve_folder(config.terms.reference or config.policy.path, field="terms.reference")
    return load_frozen(folder, model, shapes)
