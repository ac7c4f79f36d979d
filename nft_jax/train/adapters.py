"""The adapters that a run trains: new ones, or those of a folder that it goes on from.

1. `settled` turns `--policy.path ADAPTER` into the model under the adapter and `adapter.path`, with the stored rank,
   alpha and targets. What is trained is decided then, for the dry run and preflight too.
2. `check_first` compares the folder's arrays with the model, by their headers.
3. `first_adapters` puts them, or new ones, on the devices."""
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from nft_jax.config import AdapterConfig, Config
from nft_jax.model import hf
from nft_jax.model.adapter import init, projections_of
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import peft
from nft_jax.model.hf.tokenizer import own_chat_template
from nft_jax.types import InputError

STREAM = 2       # of the seed's random numbers; training has 0, and evaluation 1


def settled(config: Config) -> Config:
    """The configuration of a run that goes on from an adapter's folder, named by policy.path or adapter.path; another
    one as it is. Raises InputError where adapter.* asks for an adapter that differs from the stored one, for a folder
    that is no adapter's or holds a whole model too, and for options of PEFT that are not implemented."""
    folder, base = config.adapter.path, config.policy.path
    if hf.is_local(base) and peft.is_adapter(hf.resolve_folder(base)):
        if folder not in ("", base):
            raise InputError(f"adapter.path is {folder!r}, and policy.path is another adapter, {base!r}: name one.")
        folder, base = base, ""
    if not folder:
        return config
    home = Path(folder).expanduser()
    if not peft.is_adapter(home):
        raise InputError(f"adapter.path is {folder!r}, and no adapter is there: name a folder of PEFT, with "
                         f"{peft.SETTINGS}. An adapter of the hub must be downloaded first (hf download).")
    settings = peft.read_settings(home)
    base = base or peft.base_of(settings, home)
    model = hf.config_of(base, field="policy.path" if base == config.policy.path else peft.base_field(home))
    stored = peft.adapter_config(settings, model, home)
    _require_same(config.adapter, stored, model, folder)
    data = replace(config.data, chat_template=config.data.chat_template or own_chat_template(home))
    return replace(config, policy=replace(config.policy, path=base), data=data,
                   adapter=replace(stored, path=folder, base_dtype=config.adapter.base_dtype))


def _require_same(asked: AdapterConfig, stored: AdapterConfig, model: ModelConfig, folder: str) -> None:
    """Raises InputError, with the flags that fit, for the first field that is asked for and differs."""
    if not asked.rank:
        return
    differing = asked.differs(stored)
    if not differing and projections_of(model, asked) != projections_of(model, stored):
        differing = ["targets"]
    for name in differing:
        raise InputError(f"adapter.{name} is {getattr(asked, name)!r}, and the adapter in {folder!r} has "
                         f"{getattr(stored, name)!r}: leave adapter.* out to go on with it, or write {stored.flags}. "
                         "For a new adapter, merge this one first: nft_jax.save(nft_jax.load(FOLDER), PATH, "
                         "merge=True).")


def check_first(config: Config, model: ModelConfig) -> None:
    """Raises InputError, before anything is on a device, where the adapter that the run goes on from does not fit."""
    if config.adapter.path:
        peft.check_adapters(Path(config.adapter.path).expanduser(), model, config.adapter)


def noted_digest(config: Config) -> str:
    """The digest of the base that the adapter of adapter.path was trained on; "" where it is not known."""
    return peft.read_digest(Path(config.adapter.path).expanduser()) if config.adapter.path else ""


def first_adapters(config: Config, model: ModelConfig, placements):
    """The adapters of step 0, float32, laid out by `placements`."""
    if config.adapter.path:
        found = peft.load_adapters(Path(config.adapter.path).expanduser(), model, config.adapter, placements)
        return jax.tree.map(lambda array: array.astype(jnp.float32), found)
    key = jax.random.fold_in(jax.random.key(config.seed), STREAM)
    return jax.jit(partial(init, model, config.adapter), out_shardings=placements)(key)
