"""Tokenizers of model folders, by transformers, and the ids that end an answer."""
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from nft_jax.model.hf.hub import TOKENIZER_FILES
from nft_jax.model.hf.load import first_line, read_config, read_json
from nft_jax.runtime.files import replaced
from nft_jax.types import InputError


def load_tokenizer(folder: str | os.PathLike):
    """The folder's tokenizer (AutoTokenizer of transformers).

    Raises InputError when it cannot be read, has no chat template or no end-of-sequence token, or
    has ids that the model's embedding lacks. Fewer ids than rows of the embedding is normal."""
    folder = Path(folder)
    vocab_size = read_config(folder).vocab_size
    with _no_advisory():
        from transformers import AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(os.path.abspath(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"{folder}: the tokenizer could not be loaded: copy tokenizer.json and tokenizer_config.json "
                         f"of the model into this folder. ({first_line(error)})") from error
    if not tokenizer.chat_template:
        raise InputError(f"{folder}: the tokenizer has no chat_template, so a question cannot be made a prompt: put a "
                         "chat_template.jinja there (the instruct version of the model has one).")
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no eos_token, so no answer would ever end: set it in "
                         "tokenizer_config.json.")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise InputError(f"{folder}: the tokenizer has ids up to {largest}, but vocab_size in config.json is "
                         f"{vocab_size}: use the tokenizer that belongs to this model.")
    return tokenizer


def _source_of(tokenizer) -> Path | None:
    """The model folder that the tokenizer was loaded from; None if it is gone."""
    folder = Path(getattr(tokenizer, "name_or_path", ""))
    files = "tokenizer_config.json", "config.json"
    return folder if folder.is_absolute() and all((folder / name).is_file() for name in files) else None


def save_tokenizer(tokenizer, eos: Sequence[int], folder: str | os.PathLike) -> None:
    """Write generation_config.json, which names the ids `eos` that end an answer, and the tokenizer's files so that
    transformers 4 and 5 load them: copied byte for byte from the folder it came from, or new ones if that is gone
    or the tokenizer was changed. Those of another tokenizer are removed."""
    folder, source = Path(folder), _source_of(tokenizer)
    _write_generation_config(tokenizer, eos, source, folder)
    if source is None or not _unchanged(tokenizer, source):
        _remove(_files(folder))
        _write_tokenizer(tokenizer, folder)
    elif not source.samefile(folder):
        kept = {path.name for path in _files(source)}
        for name in sorted(kept):
            with replaced(folder / name) as partial:
                shutil.copyfile(source / name, partial)
        _remove(path for path in _files(folder) if path.name not in kept)


def _files(folder: Path) -> list[Path]:
    return [path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()]


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)


def _unchanged(tokenizer, source: Path) -> bool:
    """Whether loading `source` again gives this tokenizer."""
    def contents(one):
        backend = getattr(one, "backend_tokenizer", None)
        return type(one), one.chat_template, one.special_tokens_map, sorted(
            (i, str(token)) for i, token in one.added_tokens_decoder.items()), backend and backend.to_str()

    return contents(load_tokenizer(source)) == contents(tokenizer)


def _write_tokenizer(tokenizer, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    # Version 5 writes a class, and a key for extra special tokens, that version 4 does not know. It reads the older.
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def special_ids(tokenizer) -> dict:
    """The ids of special tokens in config.json of the tokenizer's folder; {} if that is gone. A saved config.json
    keeps them, because transformers takes a family's defaults where they are missing."""
    source = _source_of(tokenizer)
    raw = read_json(source / "config.json") if source is not None else {}
    return {name: raw[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in raw}


def _write_generation_config(tokenizer, eos: Sequence[int], source: Path | None, folder: Path) -> None:
    """The file of the folder `source` is copied byte for byte when it names the ids `eos` already, and gets them
    otherwise. Where there is no such file, a new one has them and the tokenizer's pad and bos ids."""
    path = source / "generation_config.json" if source is not None else None
    text = path.read_text(encoding="utf-8") if path is not None and path.exists() else ""
    settings = json.loads(text) if text else {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id")
        if getattr(tokenizer, name) is not None}
    ended = settings.get("eos_token_id")
    if not text or set(ended if isinstance(ended, list) else [ended]) != set(eos):
        text = json.dumps(settings | {"eos_token_id": list(eos)}, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def eos_token_ids(folder: str | os.PathLike, tokenizer) -> tuple[int, ...]:
    """Ids that end an answer, ascending: eos_token_id of generation_config.json, where there is one, and the
    tokenizer's own. Raises InputError for an id that the model lacks, by which no answer would ever end."""
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


class Text:
    """text(ids) -> the text of the ids, special tokens included. The texts of single ids are kept."""

    def __init__(self, tokenizer):
        self._tokenizer, self._known = tokenizer, {}

    def __call__(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if key not in self._known:
            text = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if len(key) > 1:
                return text
            self._known[key] = text
        return self._known[key]


def pieces(tokens: Sequence[int], text: Callable[[Sequence[int]], str]) -> list[str]:
    """The text of each token, special tokens included. A character of several tokens stands with the last one."""
    out, waiting = [], []
    for token in tokens:
        waiting.append(token)
        piece = text(waiting)
        # The replacement character stands for bytes of a character that later tokens complete.
        if piece.endswith("\ufffd") and len(waiting) < 8:
            out.append("")
        else:
            out.append(piece)
            waiting = []
    if waiting:
        out[-1] = text(waiting)
    return out


@contextmanager
def _no_advisory():
    """Silence what transformers prints at its import without torch: that models won't be available.
    None is needed."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
