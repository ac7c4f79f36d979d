"""Hugging Face folders in and out, without torch: config.json, safetensors, tokenizer.

    folder = resolve_folder("Qwen/Qwen3-0.6B")
    config = read_config(folder)
    params = load_params(folder, config)                 HF -> ours -> HF is bitwise equal
    save_params(params, config, "my_model")
"""
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nft_jax.model.config import ModelConfig
from nft_jax.model.families import Tensor, config_from_hf, config_to_hf, tensors_of
from nft_jax.model.published import PUBLISHED
from nft_jax.types import InputError

__all__ = ["config_from_hf", "config_of", "config_to_hf", "eos_token_ids", "load_params", "load_tokenizer",
           "read_config", "resolve_folder", "save_params"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FILES = ("config.json", "generation_config.json", "model*.safetensors", INDEX, "tokenizer*", "vocab.json", "merges.txt",
         "special_tokens_map.json", "added_tokens.json", "chat_template*")
FLOATS = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}


def resolve_folder(path_or_hub_name: str | os.PathLike) -> Path:
    """A local folder as it is, or the local copy of a hub model (downloaded when it is not there yet).

    Raises InputError when it is neither.
    """
    return _folder(path_or_hub_name, FILES)


def _folder(path_or_hub_name: str | os.PathLike, files: Sequence[str]) -> Path:
    path = Path(path_or_hub_name).expanduser()
    if str(path_or_hub_name) and path.is_dir():       # Path("") would be the current folder
        return path
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(str(path_or_hub_name), allow_patterns=list(files)))
    except (OSError, ValueError) as error:      # not found, no access, no network, not a name
        raise InputError(f"policy.path is {str(path_or_hub_name)!r}: there is no such folder, and it could not be had "
                         "as a model of the Hugging Face hub either. Check the spelling; without network, download "
                         f"the model elsewhere and give its folder. ({_first_line(error)})") from error


def read_config(folder: str | os.PathLike) -> ModelConfig:
    """config.json of the folder -> ModelConfig. Raises InputError when it is missing or asks for what is not here."""
    raw = _read_json(Path(folder) / "config.json")
    try:
        return config_from_hf(raw)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def config_of(path_or_hub_name: str) -> ModelConfig:
    """The shape of a model, to plan with, without its weights: config.json of a local folder, else that of the hub
    model (this one file), else the shape that `nft_jax.model.published` knows the name by.

    Raises InputError when there is none of these.
    """
    try:
        folder = _folder(path_or_hub_name, ["config.json"])
    except InputError:
        if path_or_hub_name in PUBLISHED:
            return PUBLISHED[path_or_hub_name]
        raise
    return read_config(folder)


def load_params(folder: str | os.PathLike, config: ModelConfig | None = None, dtype=jnp.float32,
                shardings=None) -> dict:
    """The folder's weights as the tree that `decoder.init` gives, in `dtype`.

    `shardings`: a tree like the parameters, of jax.sharding.Sharding; None leaves them on the default device. Host
    memory beyond the result is one parameter (all its layers) at a time. Raises InputError that lists every tensor
    that is missing, unexpected, wrongly shaped or typed, and every file that is missing or cut short.
    """
    folder = Path(folder)
    config = config or read_config(folder)
    params: dict = {}
    with ExitStack() as stack:
        tensors = _open_tensors(folder, config, stack)
        for tensor in tensors_of(config):
            array = _read(tensors, tensor, config, np.dtype(dtype))
            sharding = _leaf(shardings, tensor.path) if shardings is not None else None
            if sharding is None:
                placed = jnp.asarray(array)
            else:           # the callback, unlike device_put, also serves devices of other processes
                placed = jax.make_array_from_callback(array.shape, sharding, lambda index, a=array: a[index])
            _put(params, tensor.path, placed)
    return params


def save_params(params: dict, config: ModelConfig, folder: str | os.PathLike, dtype=None,
                max_shard_bytes: int = 5 * 10**9) -> Path:
    """Write config.json and the weights (of type `dtype`; None keeps each as it is), for transformers 4 and 5.

    More than `max_shard_bytes` are spread over several files with an index. Every file is written whole under
    another name first, so that a killed run leaves no half file under a final name; weights of an older save are
    replaced. The arrays must be addressable from this process. Returns the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = np.dtype(dtype if dtype is not None else params["embed"].dtype)
    config_json = {**config_to_hf(config), "dtype": kept.name, "torch_dtype": kept.name}
    shards = _plan_shards(params, config, dtype, max_shard_bytes)
    names = [SINGLE] if len(shards) == 1 else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
                                               for i in range(len(shards))]
    for left_behind in folder.glob(".saving-*"):        # by a run that was killed
        shutil.rmtree(left_behind, ignore_errors=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        total, weight_map = 0, {}
        (Path(temporary) / "config.json").write_text(json.dumps(config_json, indent=2) + "\n")
        for file, shard in zip(names, shards, strict=True):
            arrays = {name: _hf_array(params, tensor, layer, config, dtype) for name, tensor, layer in shard}
            save_file(arrays, Path(temporary) / file, metadata={"format": "pt"})    # transformers 4 asks for "format"
            shutil.copymode(Path(temporary) / "config.json", Path(temporary) / file)    # it writes 0600
            total += sum(array.nbytes for array in arrays.values())
            weight_map |= dict.fromkeys(arrays, file)
        if len(shards) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (Path(temporary) / INDEX).write_text(json.dumps(index, indent=2) + "\n")
            names.append(INDEX)
        for name in (*names, "config.json"):
            os.replace(Path(temporary) / name, folder / name)
    for stale in {*folder.glob("model*.safetensors"), folder / INDEX} - {folder / name for name in names}:
        stale.unlink(missing_ok=True)
    return folder


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
                         f"of the model into this folder. ({_first_line(error)})") from error
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
    settings = _read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def eos_token_ids(folder: str | os.PathLike, tokenizer) -> tuple[int, ...]:
    """Ids that end an answer, in ascending order: eos_token_id of generation_config.json (when there is one) and the
    tokenizer's own."""
    path = Path(folder) / "generation_config.json"
    value = _read_json(path).get("eos_token_id") if path.exists() else None
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise InputError(f"{path}: eos_token_id is {value!r}: it must be an integer or a list of integers.")
    return tuple(sorted({*ids, tokenizer.eos_token_id}))


def _open_tensors(folder: Path, config: ModelConfig, stack: ExitStack) -> dict:
    """Name -> open safetensors file, after every name, shape and type has been checked."""
    problems, found, where = [], {}, _weight_map(folder)
    for file in sorted(set(where.values())) if where else [SINGLE]:
        try:
            handle = stack.enter_context(safe_open(folder / file, "numpy"))
        except FileNotFoundError:
            problems.append(f"{file} is missing")
        except (SafetensorError, OSError) as error:
            problems.append(f"{file} is damaged or cut short ({_first_line(error)})")
        else:
            found |= dict.fromkeys(handle.keys(), handle)
    if problems:        # what a missing file holds would only drown its name
        raise InputError(f"{folder}: {'; '.join(problems)}. Download or copy the model again.")
    expected = {name: tensor.shapes(config)[1] for name, tensor, _ in _hf_order(config)}
    allowed = {**expected, "lm_head.weight": (config.vocab_size, config.hidden_size)}    # a tied model may carry one
    for name in sorted(expected.keys() - found.keys()):
        problems.append(f"{name} is missing")
    for name, handle in sorted(found.items()):
        if name not in allowed:
            problems.append(f"{name} is not part of a {config.family} model of this config")
            continue
        view = handle.get_slice(name)
        if tuple(view.get_shape()) != allowed[name]:
            problems.append(f"{name} has shape {tuple(view.get_shape())}, expected {allowed[name]}")
        if view.get_dtype() not in FLOATS:
            problems.append(f"{name} has type {view.get_dtype()}, expected one of {', '.join(FLOATS)}")
    if not problems and config.tie_embeddings and "lm_head.weight" in found:
        head, embed = (found[name].get_tensor(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
        if not np.array_equal(head, embed):
            problems.append("lm_head.weight differs from the embedding although tie_word_embeddings is true")
    if problems:
        listed = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise InputError(f"{folder}: the weights do not fit config.json: {listed}. Use the weights and the "
                         "config.json of one model.")
    return found


def _weight_map(folder: Path) -> dict[str, str]:
    """The index of a sharded model, or nothing when it is one file (which transformers too prefers to an index)."""
    if (folder / SINGLE).exists():
        return {}
    if (folder / INDEX).exists():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{folder / INDEX}: weight_map is {weight_map!r}: it must name a file for every tensor.")
        return weight_map
    raise InputError(f"{folder}: there is neither {SINGLE} nor {INDEX}; weights in another format must be "
                     "converted to safetensors first (save_pretrained of transformers does it).")


def _hf_order(config: ModelConfig):
    """(Hugging Face name, tensor, layer or None) of every tensor, layer by layer."""
    tensors = list(tensors_of(config))
    yield from ((t.name, t, None) for t in tensors if not t.layered)
    for layer in range(config.num_layers):
        yield from ((t.name.format(layer), t, layer) for t in tensors if t.layered)


def _read(handles: dict, tensor: Tensor, config: ModelConfig, dtype: np.dtype) -> np.ndarray:
    shape = tensor.shapes(config)[0]
    if not tensor.layered:
        return np.ascontiguousarray(tensor.from_hf(handles[tensor.name].get_tensor(tensor.name), config), dtype)
    stacked = np.empty((config.num_layers, *shape), dtype)
    for layer in range(config.num_layers):
        name = tensor.name.format(layer)
        stacked[layer] = tensor.from_hf(handles[name].get_tensor(name), config)
    return stacked


def _hf_array(params: dict, tensor: Tensor, layer: int | None, config: ModelConfig, dtype) -> np.ndarray:
    leaf = _leaf(params, tensor.path)
    array = np.asarray(leaf if layer is None else leaf[layer])
    return tensor.to_hf(array if dtype is None else array.astype(dtype), config)


def _plan_shards(params: dict, config: ModelConfig, dtype, max_shard_bytes: int) -> list[list]:
    shards, room = [[]], max_shard_bytes
    for name, tensor, layer in _hf_order(config):
        leaf, shape = _leaf(params, tensor.path), tensor.shapes(config)[0]
        expected = shape if layer is None else (config.num_layers, *shape)
        if tuple(leaf.shape) != expected:
            raise InputError(f"params {tensor.path} has shape {tuple(leaf.shape)}: the config asks for {expected}.")
        size = leaf.size // (1 if layer is None else config.num_layers) * np.dtype(dtype or leaf.dtype).itemsize
        if shards[-1] and size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append((name, tensor, layer))
        room -= size
    return shards


def _leaf(tree: dict, path: str):
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _put(tree: dict, path: str, value) -> None:
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the folder of a model in Hugging Face layout.") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): download or copy it again.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}: it must be a JSON object.")
    return value


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


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
