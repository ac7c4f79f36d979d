"""Hugging Face folders in and out, without torch: config.json, safetensors, tokenizer.

    folder = resolve_folder("Qwen/Qwen3-0.6B")
    config = read_config(folder)
    params = load_params(folder, config)                 HF -> ours -> HF is bitwise equal
    save_params(params, config, "my_model")

    python -m nft_jax.model.hf --check FOLDER            whether a folder is read, computed and written as it should be
"""
from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from nft_jax.model.config import ModelConfig
from nft_jax.model.families import config_from_hf, config_to_hf
from nft_jax.model.published import PUBLISHED
from nft_jax.model.weights import INDEX, check_weights, first_line, load_params, read_config, read_json, save_params
from nft_jax.types import InputError, Unreachable

__all__ = ["check_weights", "config_from_hf", "config_of", "config_to_hf", "eos_token_ids", "load_params",
           "load_tokenizer", "read_config", "resolve_folder", "save_params"]

FILES = ("config.json", "generation_config.json", "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json",
         "added_tokens.json", "chat_template*")
WEIGHTS = ("model*.safetensors", INDEX)


def resolve_folder(path_or_hub_name: str | os.PathLike, *, weights: bool = True) -> Path:
    """A local folder as it is, or the local copy of a hub model (downloaded when it is not there yet; without
    `weights`, the small files only).

    Raises Unreachable when it is neither.
    """
    return _folder(path_or_hub_name, FILES + WEIGHTS if weights else FILES)


def _folder(path_or_hub_name: str | os.PathLike, files: Sequence[str]) -> Path:
    path = Path(path_or_hub_name).expanduser()
    if str(path_or_hub_name) and path.is_dir():       # Path("") would be the current folder
        return path
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(str(path_or_hub_name), allow_patterns=list(files)))
    except (OSError, ValueError) as error:      # not found, no access, no network, not a name
        raise Unreachable(f"policy.path is {str(path_or_hub_name)!r}: there is no such folder, and it could not be had "
                          "as a model of the Hugging Face hub either. Check the spelling; without network, download "
                          f"the model elsewhere and give its folder. ({first_line(error)})") from error


def config_of(path_or_hub_name: str) -> ModelConfig:
    """The shape of a model, to plan with, without its weights: config.json of a local folder, else that of the hub
    model (this one file), else the shape that `nft_jax.model.published` knows the name by.

    Raises Unreachable when there is none of these, InputError for a config.json that will not do.
    """
    try:
        folder = _folder(path_or_hub_name, ["config.json"])
    except Unreachable:
        if path_or_hub_name in PUBLISHED:
            return PUBLISHED[path_or_hub_name]
        raise
    return read_config(folder)


def load_tokenizer(folder: str | os.PathLike):
    """The folder's tokenizer (transformers AutoTokenizer), checked against what training needs of it.

    Raises InputError when it cannot be read, has no chat template or no end-of-sequence token, or has ids that the
    model's embedding lacks (fewer ids than rows of the embedding is normal).
    """
    folder = Path(folder)
    vocab_size = read_config(folder).vocab_size
    with _no_advisory():
        from transformers import AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"{folder}: the tokenizer could not be loaded: copy tokenizer.json and tokenizer_config.json "
                         f"of the model into this folder. ({first_line(error)})") from error
    if not tokenizer.chat_template:
        raise InputError(f"{folder}: the tokenizer has no chat template, so a question cannot be made a prompt: put a "
                         "chat_template.jinja there (the instruct version of the model has one).")
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no eos token, so no answer would ever end: set eos_token in "
                         "tokenizer_config.json.")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise InputError(f"{folder}: the tokenizer has ids up to {largest}, but vocab_size in config.json is "
                         f"{vocab_size}: use the tokenizer that belongs to this model.")
    return tokenizer


def save_tokenizer(tokenizer, folder: str | os.PathLike) -> None:
    """Write the tokenizer's files so that transformers 4 and 5 load them: version 5 writes a class and a key for extra
    special tokens that version 4 does not know, and reads the older names too."""
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    settings = read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def eos_token_ids(folder: str | os.PathLike, tokenizer) -> tuple[int, ...]:
    """Ids that end an answer, in ascending order: eos_token_id of generation_config.json (when there is one) and the
    tokenizer's own. Raises InputError for ids that are none of the model's: no answer would ever end by them."""
    path = Path(folder) / "generation_config.json"
    value = read_json(path).get("eos_token_id") if path.exists() else None
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise InputError(f"{path}: eos_token_id is {value!r}: it must be an integer or a list of integers.")
    size = read_config(folder).vocab_size
    if not all(0 <= i < size for i in ids):
        raise InputError(f"{path}: eos_token_id is {value!r}, but the model has the ids 0 to {size - 1}: use the "
                         "generation_config.json of this model.")
    return tuple(sorted({*ids, tokenizer.eos_token_id}))


@contextmanager
def _no_advisory():
    """Without torch, importing transformers prints that models won't be available; nothing here wants them."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


if __name__ == "__main__":
    import sys

    from nft_jax.model.check import main
    sys.exit(main())
