"""Folders of models: local folders, and copies of models of the Hugging Face hub."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.load import INDEX, first_line, read_config
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.runtime.network import hub_without_retries
from nft_jax.runtime.terminal import hide_bars
from nft_jax.types import InputError, Unreachable

TOKENIZER_FILES = ("tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
                   "chat_template*")
FILES = ("config.json", "generation_config.json", "adapter_config.json", *TOKENIZER_FILES)
WEIGHTS = ("model*.safetensors", INDEX, "adapter_model.safetensors")
# The model that comes with the package, by its name. A local folder of that name is "./nano".
EMBEDDED = {"nano": Path(__file__).parents[2] / "assets" / "nano"}


def is_local(path_or_hub_name: str | os.PathLike) -> bool:
    """Whether the model's folder is on this machine without a download."""
    # Path("") would be the current folder.
    return path_or_hub_name in EMBEDDED or (path_or_hub_name != "" and Path(path_or_hub_name).expanduser().is_dir())


def resolve_folder(path_or_hub_name: str | os.PathLike, *, weights: bool = True, field: str = "policy.path") -> Path:
    """The folder of a model: "nano", the embedded one; a local folder; or the local copy of a hub model, which is
    downloaded when it is not there yet; without `weights`, its small files only. Raises Unreachable otherwise."""
    return _folder(path_or_hub_name, FILES + WEIGHTS if weights else FILES, field)


def _folder(path_or_hub_name: str | os.PathLike, files: Sequence[str], field: str = "policy.path") -> Path:
    if is_local(path_or_hub_name):
        return EMBEDDED.get(path_or_hub_name) or Path(path_or_hub_name).expanduser()
    if not path_or_hub_name:
        raise InputError(f"{field} is '': name a folder in Hugging Face layout, or a model of the hub.")
    hide_bars()
    from huggingface_hub import snapshot_download
    with hub_without_retries() as reason:
        try:
            return Path(snapshot_download(str(path_or_hub_name), allow_patterns=list(files)))
        # Not found, no access, no network, or not a name.
        except (OSError, ValueError) as error:
            raise Unreachable(f"{field} is {str(path_or_hub_name)!r}: there is no such folder, and the Hugging Face "
                              "hub gave no such model. Check the spelling. Without network, download the model "
                              f"elsewhere and give its folder. ({reason or first_line(error)})") from error


def config_of(path_or_hub_name: str, field: str = "policy.path") -> ModelConfig:
    """The shape of a model, to plan with, without its weights.

    It is read from config.json of a local folder, else from config.json of the hub model
    (only this file is fetched), else taken from `nft_jax.model.hf.published`. Raises Unreachable when there is
    none of these, and InputError for a config.json that needs a part the decoder lacks."""
    try:
        folder = _folder(path_or_hub_name, ["config.json"], field)
    except Unreachable:
        if path_or_hub_name in PUBLISHED:
            return PUBLISHED[path_or_hub_name]
        raise
    return read_config(folder)
