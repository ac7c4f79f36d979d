"""Hugging Face folders in: config.json and the safetensors, streamed, each process only its own part.

1. `check_weights` reads all headers (names, shapes, types, whole files). A folder that does not fit
   is refused before a byte of it is on a device.
2. `load_params` puts one parameter after another on the devices. Our layer parameters stack the
   tensors of all layers. A large one is never whole in host memory: its array is made on the
   devices, and one layer after another is read and written into it in place. A value that is not
   finite is refused.
3. Of every tensor a process reads the part that its own devices hold. A file is mapped only while
   one of its tensors is read, so that its pages do not stay.

So host memory holds, beyond the arrays, one tensor's part, in the file's type and in ours.
"""
from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.families import joined_shape, joined_tensors, tensors_of, unread_tensors
from nft_jax.model.hf.tensors import Tensor
from nft_jax.model.hf.translate import config_from_hf
from nft_jax.runtime.tables import no_file
from nft_jax.types import InputError

EMBEDDING = "model.embed_tokens.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
AT_ONCE = 2**23           # bytes: a stacked parameter up to this size is put on the devices in one piece
BLOCK = 2**20             # bytes that are read, transposed and cast together: about what a core's cache holds
# Old Llama folders store what follows from rope_theta.
BUFFERS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def require_file(path: Path, remedy: str = "give the folder of a model in Hugging Face layout.") -> None:
    """Raises InputError, with the remedy, unless `path` is a file. To open a named pipe would never end."""
    if reason := no_file(path):
        raise InputError(f"{path}: {reason}: {remedy}")


def read_json(path: Path) -> dict:
    """A JSON object. Raises InputError when the file is missing or holds something else."""
    require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{path} is nested too deep to be read: download or copy it again.") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): download or copy it again.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}: it must be a JSON object.")
    return value


def first_line(error: BaseException) -> str:
    """Type and first line of an error's message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def read_config(folder: str | os.PathLike) -> ModelConfig:
    """config.json of the folder -> ModelConfig. Raises InputError if it is missing or the decoder lacks a part."""
    path = Path(folder) / "config.json"
    if not path.exists():
        refuse_adapter(Path(folder))
    raw = read_json(path)
    try:
        return config_from_hf(raw)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def whole_model(folder: Path) -> str:
    """The first file with weights of a whole model in the folder; "" where there is none."""
    return min((file.name for file in folder.glob("model*.safetensors*")), default="")


def refuse_adapter(folder: Path) -> None:
    """Raises InputError where the folder has an adapter of another model, alone or beside a whole model."""
    path = folder / "adapter_config.json"
    if path.exists():
        if beside := whole_model(folder):
            raise InputError(f"{folder} holds an adapter ({path.name}) beside a whole model ({beside}), and it is "
                             "not clear which is meant: put the adapter in a folder of its own.")
        base = read_json(path).get("base_model_name_or_path")
        raise InputError(f"{folder} has an adapter for the model {base!r}, and a whole model is needed here. Write one "
                         f"with nft_jax.save(nft_jax.load({str(folder)!r}), PATH, merge=True), and give its folder.")


class Stored(NamedTuple):
    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype


def check_weights(folder: str | os.PathLike, config: ModelConfig) -> dict[str, Stored]:
    """{name of every tensor of the folder: its file, shape and type}, from the headers; nothing is put on a device.

    Raises one InputError that lists every tensor that is missing, unexpected, wrongly shaped or typed, and every
    file that is missing or cut short."""
    folder = Path(folder)
    unread = unread_tensors(config)
    found = {name: told for name, told in _headers(folder).items() if name not in unread}
    numbers = [int(match[1]) for match in map(re.compile(r"model\.layers\.(\d+)\.").match, found) if match]
    # Otherwise every tensor of every layer would be named as missing.
    if numbers and max(numbers) + 1 != config.num_layers:
        raise InputError(f"{folder}: config.json: num_hidden_layers is {config.num_layers}, and the weights have "
                         f"{max(numbers) + 1} layers. Use the weights and the config.json of one model.")
    if stacked := next((name for name in sorted(found) if name.endswith(".experts.gate_up_proj")), None):
        raise InputError(f"{folder}: {stacked} holds all experts of a layer, as transformers keeps them in memory: "
                         "save the model with save_pretrained(FOLDER, save_original_format=True), the default.")
    expected = {name: joined_shape(tensors, config) for name, tensors, _ in hf_order(config)}
    # A tied model may carry a head too, equal to its embedding.
    allowed = {**expected, "lm_head.weight": (config.vocab_size, config.hidden_size)}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    for name, (_, shape, kind) in sorted(found.items()):
        if name not in allowed:
            problems.append(f"{name} is not part of a {config.family} model of this config")
            continue
        if shape != allowed[name]:
            problems.append(f"{name} has shape {shape}, expected {allowed[name]}")
        if kind not in FLOATS:
            problems.append(f"{name} has type {kind}, expected one of {', '.join(FLOATS)}")
    if not problems and config.tie_embeddings and "lm_head.weight" in found and not same_bits(
            found["lm_head.weight"][0], "lm_head.weight", found[EMBEDDING][0], EMBEDDING):
        problems.append("lm_head.weight differs from the embedding although tie_word_embeddings is true")
    if problems:
        raise InputError(f"{folder}: the weights do not fit config.json: {listed_problems(problems)}. Use the "
                         "weights and the config.json of one model.")
    return {name: Stored(file, shape, FLOATS[kind]) for name, (file, shape, kind) in found.items()}


def _headers(folder: Path) -> dict[str, tuple[Path, tuple[int, ...], str]]:
    """{name of every tensor: its file, shape and type}. Raises one InputError that lists every file that is missing or
    cut short, and every tensor that is in two files."""
    where = _weight_map(folder)
    problems, found = [], {}
    for file in sorted(set(where.values())) if where else [SINGLE]:
        if not (folder / file).exists():
            problems.append(f"{file} is missing")
            continue
        require_file(folder / file)
        try:
            here = {name: (folder / file, *told) for name, told in header(folder / file).items()
                    if not BUFFERS.fullmatch(name)}
        except (SafetensorError, OSError) as error:
            problems.append(f"{file} is damaged or cut short ({first_line(error)})")
        else:
            problems += [f"{name} is in {file} and in {found[name][0].name}" for name in sorted(here.keys() & found)]
            found |= here
    # The missing tensors of a missing file would only hide the file's name.
    if problems:
        raise InputError(f"{folder}: {listed_problems(problems)}. Download or copy the model again.")
    return found


def header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """{name of every tensor of a safetensors file: its shape and type}. Raises SafetensorError or OSError for a file
    that is damaged or cut short."""
    with safe_open(file, "numpy") as handle:
        views = ((name, handle.get_slice(name)) for name in handle.keys())  # noqa: SIM118
        return {name: (tuple(view.get_shape()), view.get_dtype()) for name, view in views}


def listed_problems(problems: list[str], most: int = 20) -> str:
    """The first of them, and each one's beginning: files of strangers have any number of names, of any length."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problem[:300] for problem in problems[:most]) + more


def same_bits(file: Path, name: str, other_file: Path, other: str) -> bool:
    """Whether two tensors of files have the same shape, type and bits. They are read in blocks."""
    with safe_open(file, "numpy") as left, safe_open(other_file, "numpy") as right:
        a, b = left.get_slice(name), right.get_slice(other)
        if (a.get_shape(), a.get_dtype()) != (b.get_shape(), b.get_dtype()):
            return False
        rows, *rest = a.get_shape()
        step = max(1, BLOCK // (math.prod(rest) * FLOATS[a.get_dtype()].itemsize))
        blocks = (slice(start, min(start + step, rows)) for start in range(0, rows, step))
        return all(a[block].tobytes() == b[block].tobytes() for block in blocks)


def load_params(folder: str | os.PathLike, config: ModelConfig | None = None, dtype=jnp.float32, shardings=None,
                store: Callable[[str, jax.Array], Any] = lambda path, x: x) -> dict:
    """The folder's weights as the dict that `decoder.init` makes. First raises the InputErrors of `check_weights`.

    dtype: one type for all, or a dict like the parameters. None keeps the files' types; a parameter whose layers
        differ in type then takes a type that holds all of them.
    shardings: a dict like the parameters; each process reads what its devices hold. None: the default device.
    store: what to keep of each parameter, such as "layers/query", once it is read."""
    config = config or read_config(folder)
    dtype = dtype if dtype is None or isinstance(dtype, dict) else float_type(dtype)
    stored = check_weights(folder, config)
    sharding_of = {} if shardings is None else flatten_dict(shardings, sep="/")
    dtype_of = flatten_dict(dtype, sep="/") if isinstance(dtype, dict) else {}
    params = {}
    for tensor in tensors_of(config):
        kind = dtype_of[tensor.path] if dtype_of else dtype or np.dtype(
            reduce(jnp.promote_types, (stored[name].dtype for name in tensor.names(config))))
        load = _load_stacked if tensor.layered else _load_single
        params[tensor.path] = store(tensor.path, load(
            stored, tensor, config, kind, sharding_of[tensor.path] if sharding_of else None))
    return unflatten_dict(params, sep="/")


def float_type(dtype) -> np.dtype:
    """A type that model files hold. Raises InputError for any other."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found not in FLOATS.values():
        raise InputError(f"dtype is {(dtype if found is None else found.name)!r}: use one of "
                         f"{', '.join(known.name for known in FLOATS.values())}.")
    return found


def _weight_map(folder: Path) -> dict[str, str]:
    """{tensor: file} of a sharded model's index; {} for one file, which goes before an index as in transformers.
    Raises InputError for a file that does not lie in the folder, and for an adapter there."""
    refuse_adapter(folder)
    if (folder / SINGLE).exists():
        return {}
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{folder / INDEX}: weight_map is {weight_map!r}: it must name a file for every tensor.")
        for name, file in weight_map.items():
            if not (isinstance(file, str) and re.fullmatch(r"[^/\\\x00]+\.safetensors", file)):
                raise InputError(f"{folder / INDEX}: weight_map.{name} is {file!r}: it must be the name of a "
                                 ".safetensors file in this folder. Download or copy the index again.")
        return weight_map
    raise InputError(f"{folder}: there is neither {SINGLE} nor {INDEX}; weights in another format must be "
                     "converted to safetensors first (save_pretrained of transformers does it).")


def hf_order(config: ModelConfig) -> Iterator[tuple[str, tuple[Tensor, ...], tuple[int, ...]]]:
    """(Hugging Face name, what is joined in it, its place on the stacked axes of our arrays) of every tensor, layer by
    layer."""
    joined = joined_tensors(config)
    yield from ((t[0].name, t, ()) for t in joined if not t[0].layered)
    for layer in range(config.num_layers):
        here = [t for t in joined if t[0].layered and layer in t[0].layers(config)]
        yield from ((t[0].named(config, *place), t, place) for t in here
                    for rest in np.ndindex(t[0].stacked(config)[1:])
                    for place in [(t[0].layers(config).index(layer), *rest)])


def _load_single(stored: dict[str, Stored], tensor: Tensor, config: ModelConfig, dtype: np.dtype,
                 sharding) -> jax.Array:
    return placed(tensor.shapes(config)[0], sharding,
                  lambda index: _read_part(stored[tensor.name].file, tensor.name, tensor, config, dtype, index))


def _load_stacked(stored: dict[str, Stored], tensor: Tensor, config: ModelConfig, dtype: np.dtype,
                  sharding) -> jax.Array:
    (count, *experts), one = tensor.stacked(config), tensor.shapes(config)[0]
    shape = (*experts, *one)

    def piece(layers: range) -> jax.Array:
        def part(index):
            stacked, inner = index[:len(index) - len(one)], index[len(index) - len(one):]
            chosen = [places[cut] for places, cut in zip((layers, *map(range, experts)), stacked, strict=True)]
            names = [tensor.named(config, *place) for place in itertools.product(*chosen)]
            read = np.stack([_read_part(stored[name].file, name, tensor, config, dtype, inner) for name in names])
            return read.reshape(*map(len, chosen), *read.shape[1:])
        return placed((len(layers), *shape), sharding, part)

    layers_are_split = sharding is not None and sharding.shard_shape((count, *shape))[0] < count
    if layers_are_split or count * math.prod(shape) * dtype.itemsize <= AT_ONCE:
        return piece(range(count))
    stacked = jnp.zeros((count, *shape), dtype, device=sharding)
    write = jax.jit(partial(jax.lax.dynamic_update_slice_in_dim, axis=0), donate_argnums=0, out_shardings=sharding)
    for layer in range(count):
        # Waiting keeps one layer in flight, not as many as the host can read.
        stacked = write(stacked, piece(range(layer, layer + 1)), layer).block_until_ready()
    return stacked


def placed(shape: tuple[int, ...], sharding, part: Callable[[tuple[slice, ...]], np.ndarray]) -> jax.Array:
    """An array of this shape; `part(index)` is called once for each part on this process's devices."""
    if sharding is None:
        return jnp.asarray(part((slice(None),) * len(shape)))
    parts: dict[tuple[range, ...], np.ndarray] = {}

    def once(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple(range(size)[cut] for size, cut in zip(shape, index, strict=True))
        if key not in parts:
            parts[key] = part(index)
        return parts[key]

    return jax.make_array_from_callback(shape, sharding, once)


def _read_part(file: Path, name: str, tensor: Tensor, config: ModelConfig, dtype: np.dtype,
               index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` (along our axes) of one tensor, in our layout and `dtype`. Only this part of the file is
    read, but an axis that is merged behind another one (head_dim in "HE") is read whole."""
    size = dict(zip(tensor.ours, tensor.shapes(config)[0], strict=True))
    wanted = {axis: range(size[axis])[cut] for axis, cut in zip(tensor.ours, index, strict=True)}
    merged = tensor.layout.split()
    order = "".join(merged).replace("1", "")
    if not order:
        # A single number.
        with safe_open(file, "numpy") as handle:
            part = handle.get_tensor(name)[0].astype(dtype)
        require_finite(part, f"{file}: {name}")
        return part
    part = np.empty([len(wanted[axis]) for axis in tensor.ours], dtype)
    target = part.transpose([tensor.ours.index(axis) for axis in order])
    widths = [math.prod(size[axis] for axis in axes[1:]) for axes in merged]
    wanted["1"] = range(1)
    others = next(joined for joined in joined_tensors(config) if tensor in joined)
    first_row = sum(other.shapes(config)[1][0] for other in others[:others.index(tensor)])
    columns = tuple(slice(wanted[axes[0]].start * width, wanted[axes[0]].stop * width)
                    for axes, width in zip(merged[1:], widths[1:], strict=True))
    split = [len(wanted[axis]) if axis in (axes[0] for axes in merged) else size[axis] for axis in order[1:]]
    inner = tuple(slice(None) if axis in (axes[0] for axes in merged) else slice(wanted[axis].start, wanted[axis].stop)
                  for axis in order[1:])
    rows = wanted[order[0]]
    step = max(1, BLOCK // (math.prod(split) * dtype.itemsize))
    # A value that is too large for `dtype` is told below.
    with safe_open(file, "numpy") as handle, np.errstate(over="ignore"):
        view = handle.get_slice(name)
        for start in range(0, len(rows), step):
            block = rows[start:start + step]
            read = view[(slice(first_row + block.start * widths[0], first_row + block.stop * widths[0]), *columns)]
            target[start:start + step] = read.reshape(len(block), *split)[(slice(None), *inner)]
    require_finite(part, f"{file}: {name}")
    return part


def require_finite(part: np.ndarray, name: str) -> None:
    """Raises InputError for nan and infinity: the model would answer nonsense, and training would not learn."""
    flat, step = part.reshape(-1), BLOCK // part.itemsize
    for start in range(0, flat.size, step):
        block = flat[start:start + step]
        finite = np.isfinite(block)
        if not finite.all():
            raise InputError(f"{name} has the value {block[~finite][0]} in {part.dtype.name}: the model is broken, or "
                             "its values are too large for this type. Download or copy it again, take an earlier "
                             "checkpoint, or read it in float32.")
