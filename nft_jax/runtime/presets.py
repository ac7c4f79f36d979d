"""A configuration by name: a preset of a registry, or a `Config` of one's own. Imports no jax."""
from __future__ import annotations

from nft_jax.config import Config
from nft_jax.runtime.names import load
from nft_jax.types import InputError

PRESETS = "experiments.presets:PRESETS"      # the registry of presets, found from the folder that one starts from


def experiment(name: str, presets: str = PRESETS) -> Config:
    """The configuration of that name: of the registry `presets`, or "package.module:NAME", or "file.py:NAME".

    `presets` is itself a name, of a dict of configurations. It is only loaded for a name without a
    colon. Raises InputError, naming the way out: no such name, or what it names is no Config.
    """
    if ":" in name:
        config = load(name, "experiment")
    else:
        try:
            registry = load(presets, "presets")
        except InputError as error:
            raise InputError(f"experiment is {name!r}, and there are no presets here ({error}). Start from the folder "
                             "that has them, or write package.module:NAME or file.py:NAME of a Config.") from error
        if name not in registry:
            raise InputError(f"experiment is {name!r}: choose one of {', '.join(registry)}, or write "
                             "package.module:NAME or file.py:NAME of a Config.")
        config = registry[name]
    if not isinstance(config, Config):
        raise InputError(f"experiment is {name!r}: that is a {type(config).__name__}, not a Config.")
    return config
