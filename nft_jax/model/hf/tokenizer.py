"""Tokenizers of model folders, and the ids that end an answer.

tokenizer.json alone decides ids and texts. AutoTokenizer of transformers goes by the class that a folder names, and
version 5 then replaces the file's pre-tokenizer, normaliser or decoder by those of the class. So the file is read as
it is. Of the settings beside it, only special tokens and the chat template are read. Code in a folder never runs.
"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from nft_jax.model.hf import trial
from nft_jax.model.hf.hub import TOKENIZER_FILES
from nft_jax.model.hf.load import listed_problems, read_config, read_json, require_file
from nft_jax.runtime.files import replaced
from nft_jax.runtime.terminal import hide_bars
from nft_jax.types import InputError

FILE, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Digits, spaces, line breaks, accents in both normal forms, other scripts, and signs of maths and code.
PROBE = "What is 2023+48 - 17?\n\n  \tx_1 = 3.14, \\boxed{1/2}. Café cafe\u0301, ¿qué? 数学 🙂 it's  ."


def load_tokenizer(folder: str | os.PathLike, chat_template: str | os.PathLike = ""):
    """The folder's tokenizer, a PreTrainedTokenizerFast of transformers. Its ids are those of tokenizer.json.

    chat_template: of `data.chat_template`. The tokenizer's is None for "none", and for a folder without one.

    Raises InputError for a tokenizer or template that cannot be read or asks for too much time or memory; for
    special tokens that tokenizer.json lacks; for ids that are not those of tokenizer.json; without an
    end-of-sequence token; and for ids that the model's embedding lacks. Fewer ids than rows of it are normal. An
    added token without a row, which no prompt needs, is left out: Gemma 3's text models have one for images."""
    folder = Path(folder)
    vocab_size, file = read_config(folder).vocab_size, folder / FILE
    require_file(file, "every tokenizer is read from this file. From the older files, transformers makes it: "
                 f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})")
    settings = _settings(folder)
    names = _special_tokens(settings, folder / SETTINGS)
    if "eos_token" not in names:
        raise InputError(f"{folder}: the tokenizer has no eos_token, so no answer would ever end: set it in "
                         f"{SETTINGS}.")
    template = _template_asked(chat_template) if chat_template else _chat_template(folder, settings)
    hide_bars()
    tried = _tried(file, template, names)
    from transformers import PreTrainedTokenizerFast
    plain = _plain(file, settings, (tried["largest"], *names.values()), vocab_size)
    known = plain.get_vocab()
    others = [text for text in _other_special_tokens(settings, folder / SETTINGS) if text in known]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, chat_template=template, **names,
                                        additional_special_tokens=others, clean_up_tokenization_spaces=False)
    tokenizer.name_or_path = os.path.abspath(folder)
    # Version 4 rewrites the pre-tokenizer of a file whose add_prefix_space is not its own default.
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        setattr(tokenizer.backend_tokenizer, part, getattr(plain, part))
    found = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if found != tried["ids"]:
        raise InputError(f"{file}: this version of transformers makes the ids {found} of {PROBE!r}, and tokenizer.json "
                         f"alone makes {tried['ids']}: install another version of transformers.")
    return tokenizer


def _plain(file: Path, settings: dict, needed: Iterable[int | str], vocab_size: int):
    """tokenizer.json as the `tokenizers` library reads it, without the added tokens that the model has no row for.
    Raises InputError where they are `needed`, as ids or texts."""
    from tokenizers import Tokenizer
    plain = Tokenizer.from_file(str(file))
    _require_tokens(settings, file.with_name(SETTINGS), plain)
    ids = [plain.token_to_id(one) if isinstance(one, str) else one for one in needed]
    largest = max(*ids, *plain.get_vocab(with_added_tokens=False).values())
    if largest >= vocab_size:
        raise InputError(f"{file.parent}: the tokenizer has ids up to {largest}, but vocab_size in config.json is "
                         f"{vocab_size}: use the tokenizer that belongs to this model.")
    if max(plain.get_vocab().values()) >= vocab_size:
        raw = json.loads(file.read_text(encoding="utf-8"))
        raw["added_tokens"] = [one for one in raw["added_tokens"] if plain.token_to_id(one["content"]) < vocab_size]
        plain = Tokenizer.from_str(json.dumps(raw))
    plain.no_padding()
    plain.no_truncation()
    return plain


def _settings(folder: Path) -> dict:
    """tokenizer_config.json, with what older folders have in special_tokens_map.json and added_tokens.json."""
    settings = _optional(folder / SETTINGS)
    if "added_tokens_decoder" not in settings:
        settings |= _optional(folder / "special_tokens_map.json")
        ids = _optional(folder / "added_tokens.json")
        settings["added_tokens_decoder"] = {str(i): token for token, i in ids.items()}
    return settings


def _optional(path: Path) -> dict:
    """The JSON object in the file; {} without one. A link to nothing is refused, as a file that was lost."""
    return read_json(path) if os.path.lexists(path) else {}


def _template_asked(asked: str | os.PathLike) -> str | None:
    """The chat template that `data.chat_template` means. Raises InputError for a file or folder that has none."""
    if asked == "none":
        return None
    path = Path(asked).expanduser()
    remedy = "name a .jinja file, the folder of a model with a chat template, or none."
    if path.is_dir():
        found = _chat_template(path, _settings(path))
    else:
        require_file(path, f"it is data.chat_template: {remedy}")
        found = path.read_text(encoding="utf-8", errors="replace") if path.suffix == ".jinja" else None
    if not found:
        raise InputError(f"data.chat_template is {str(asked)!r}, where there is no chat template: {remedy}")
    return found


def own_chat_template(folder: Path) -> str:
    """What `load_tokenizer` takes for the chat template that an adapter was saved with: its folder, "none" for a
    tokenizer without one, and "" for a folder without a tokenizer, which leaves it to the base."""
    if not tokenizer_files(folder):
        return ""
    return str(folder) if _chat_template(folder, _settings(folder)) else "none"


def _chat_template(folder: Path, settings: dict) -> str | None:
    """The template in chat_template.jinja, else in tokenizer_config.json: of several, the one called default. None
    where there is none, as beside most base models."""
    path, found = folder / TEMPLATE, settings.get("chat_template")
    if os.path.lexists(path):
        require_file(path)
        found = path.read_text(encoding="utf-8", errors="replace")
    if isinstance(found, list):
        several = {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
        if "default" not in several:
            raise InputError(f"{folder / SETTINGS}: chat_template has the templates {', '.join(several)}, and none is "
                             f"called default: write the one to use into a file {TEMPLATE} in this folder.")
        found = several["default"]
    if found is not None and not isinstance(found, str):
        raise InputError(f"{folder / SETTINGS}: chat_template is {found!r}: it must be the text of a template.")
    return found or None


def _text(token: object, name: str, path: Path) -> str:
    """The text of a token as settings write it: a string, or an object with its flags."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise InputError(f"{path}: {name} is {token!r}: it must be the text of a token.")
    return text


def _special_tokens(settings: dict, path: Path) -> dict[str, str]:
    return {name: _text(settings[name], name, path) for name in NAMED if settings.get(name)}


def _other_special_tokens(settings: dict, path: Path) -> list[str]:
    # Version 5 calls the list extra_special_tokens. Models with images have an object of them.
    name = "extra_special_tokens" if settings.get("extra_special_tokens") else "additional_special_tokens"
    others = settings.get(name) or []
    others = list(others.values()) if isinstance(others, dict) else others
    if not isinstance(others, list):
        raise InputError(f"{path}: {name} is {others!r}: it must be a list of tokens.")
    return [_text(token, name, path) for token in others]


def _require_tokens(settings: dict, path: Path, plain) -> None:
    """Raises InputError for tokens that the settings name and tokenizer.json lacks, or has under another id.
    transformers would add them, with ids that mean nothing to the model."""
    wanted = [(name, text, None) for name, text in _special_tokens(settings, path).items()]
    wanted += [("a special token", text, None) for text in _other_special_tokens(settings, path)]
    decoder = settings["added_tokens_decoder"]
    if not isinstance(decoder, dict):
        raise InputError(f"{path}: added_tokens_decoder is {decoder!r}: it must be an object of ids and tokens.")
    wanted += [(f"added token {i}", _text(token, f"added_tokens_decoder.{i}", path), i) for i, token in decoder.items()]
    wrong = [f"{name} is {text!r}, which is {'no token' if found is None else f'token {found}'} there"
             for name, text, i in wanted for found in [plain.token_to_id(text)]
             if found is None or i not in (None, str(found))]
    if wrong:
        raise InputError(f"{path} does not fit {FILE}: {listed_problems(wrong, 3)}. Take both files from one "
                         "tokenizer, or remove these tokens from the settings.")


# Digest of tokenizer.json, template and special tokens -> what the trial found.
_known: dict[str, dict] = {}


def _tried(file: Path, template: str | None, names: dict[str, str]) -> dict:
    """What a process found that tried tokenizer.json and the template (`trial`): the `ids` of PROBE, and the `largest`
    id that the template's texts have. Raises InputError where one of them cannot be used."""
    job = {"probe": PROBE, "template": template, "names": names}
    digest = hashlib.sha256(json.dumps(job).encode() + file.read_bytes()).hexdigest()
    if digest in _known:
        return _known[digest]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                   # Each thread would take some of the limited address space.
                   "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as given:
        json.dump(job | {"file": str(file), "cpu_seconds": trial.CPU_SECONDS, "memory": trial.MEMORY}, given)
        given.seek(0)
        with subprocess.Popen([sys.executable, "-P", trial.__file__], env=environment, stdin=given, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            with _no_advisory():
                # It takes as long as the trial.
                from transformers import PreTrainedTokenizerFast  # noqa: F401
            said, errors = process.communicate()
    last = (said.splitlines() or [FILE])[-1]
    if process.returncode == 0:
        _known[digest] = json.loads(last)
        return _known[digest]
    reason = (errors.strip().splitlines() or [""])[-1]
    if process.returncode < 0 or reason.startswith("MemoryError"):
        reason = f"it asks for more than {trial.CPU_SECONDS} s of CPU time, or {trial.MEMORY >> 30} GiB of memory"
    raise InputError(f"{file.parent}: {last} cannot be used: {reason}. Copy the files of the tokenizer again.")


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
        _remove(tokenizer_files(folder))
        _write_tokenizer(tokenizer, folder)
    elif not source.samefile(folder):
        kept = {path.name for path in tokenizer_files(source)}
        for name in sorted(kept):
            with replaced(folder / name) as partial:
                shutil.copyfile(source / name, partial)
        _remove(path for path in tokenizer_files(folder) if path.name not in kept)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of the tokenizer in a model's folder, its chat template among them."""
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
    """Ids that end an answer, ascending: eos_token_id of generation_config.json, without such a file that of
    config.json, and the tokenizer's own. Raises InputError for an id that the model lacks, by which no answer would
    ever end."""
    path = Path(folder) / "generation_config.json"
    # As transformers generates.
    path = path if os.path.lexists(path) else path.with_name("config.json")
    value = _optional(path).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise InputError(f"{path}: eos_token_id is {value!r}: it must be an integer or a list of integers.")
    size = read_config(folder).vocab_size
    if not all(0 <= i < size for i in ids):
        raise InputError(f"{path}: eos_token_id is {value!r}, but the model has the ids 0 to {size - 1}: use the "
                         f"{path.name} of this model.")
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


def shown(tokens: Sequence[int], tokenizer, most: int = 64) -> str:
    """Tokens to read: their text with special tokens, then each token and its id. Of more than `most`, the middle is
    left out."""
    tokens, text = list(map(int, tokens)), Text(tokenizer)
    named = [f"{piece!r} {token}" for piece, token in zip(pieces(tokens, text), tokens, strict=True)]
    whole = text(tokens)
    if len(tokens) > most:
        half = most // 2
        between = f"[{len(tokens) - 2 * half:,} tokens left out]"
        named[half:-half] = [between]
        whole = f"{text(tokens[:half])} {between} {text(tokens[-half:])}"
    return f"{whole}\n{', '.join(named)}"


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
