"""Tokenizers of model folders, by transformers, and the ids that end an answer."""
from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

from nft_jax.model.weights import first_line, read_config, read_json
from nft_jax.types import InputError


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
