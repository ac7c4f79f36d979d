"""Adapter folders of Hugging Face PEFT, in and out: adapter_config.json and adapter_model.safetensors.

    settings = read_settings(folder)                          adapter_config.json, every option checked
    config = adapter_config(settings, model, folder)          what it means for a model
    adapters = load_adapters(folder, model, config)           folder -> ours -> folder is bitwise equal
    save_adapters(adapters, model, Adapter(config, base), folder)

An option that is not implemented is refused by name, as is every option that nothing here reads. Options are those
of `LoraConfig` of peft 0.21.
"""
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from nft_jax.config import AdapterConfig
from nft_jax.config.training import PROJECTIONS, TARGETS
from nft_jax.model.adapter import Adapter, adapter_shapes, projections_of
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.families import tensors_of
from nft_jax.model.hf.load import (
    BLOCK,
    FLOATS,
    check_weights,
    first_line,
    float_type,
    header,
    hf_order,
    listed_problems,
    placed,
    read_json,
    refuse_adapter,
    require_file,
    require_finite,
    whole_model,
)
from nft_jax.model.hf.save import Piece, on_host, write_file
from nft_jax.model.parameters import ARRAYS, IN_LAYERS, as_tree, by_name, role_of
from nft_jax.runtime.files import make_folder, replaced
from nft_jax.types import InputError

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
DIGEST = "nft_jax_base_sha256"         # of the base's weights, in the metadata of the weights' file
# Options that this module reads, and options that change nothing of a trained adapter.
READ = frozenset({"peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "target_modules",
                  "exclude_modules"})
WITHOUT_EFFECT = frozenset({"auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout",
                            "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
                            "eva_config"})
# Options with the values under which nothing more is needed; any other option must be unset.
ONLY: dict[str, tuple] = {"task_type": (None, "CAUSAL_LM"), "bias": (None, "none"),
                          # The others change the base's weights when an adapter begins.
                          "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva")}


def is_adapter(folder: str | os.PathLike) -> bool:
    """Whether the folder holds an adapter. Raises InputError where it holds the weights of a whole model too."""
    folder = Path(folder)
    if whole_model(folder):
        refuse_adapter(folder)
    return (folder / SETTINGS).is_file()


def _refusal(folder: str | os.PathLike, name: str, value: object, remedy: str) -> InputError:
    return InputError(f"{Path(folder) / SETTINGS}: {name} is {value!r}: {remedy}")


def read_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """The contents of adapter_config.json. Raises InputError for what is not LoRA, or not implemented."""
    raw = read_json(Path(folder) / SETTINGS)
    for name, value in sorted(raw.items()):
        if name in ONLY and value not in ONLY[name]:
            allowed = " or ".join(repr(one) for one in ONLY[name] if one is not None)
            raise _refusal(folder, name, value, f"only {allowed} is implemented.")
        if value and name not in READ | WITHOUT_EFFECT | ONLY.keys():
            raise _refusal(folder, name, value, "this option of PEFT is not implemented; merge the adapter into its "
                           "base with PEFT (merge_and_unload), and load the whole model.")
    modules = raw.get("target_modules"), raw.get("exclude_modules") or []
    for name, holds, needed in (
            ("peft_type", raw.get("peft_type") == "LORA", "'LORA' is needed; no other adapter is implemented."),
            ("r", type(raw.get("r")) is int and raw["r"] >= 1, "an integer, 1 or more, is needed."),
            ("lora_alpha", type(raw.get("lora_alpha")) in (int, float) and 0 < raw["lora_alpha"] < math.inf,
             "a positive number is needed."),
            ("use_rslora", type(raw.get("use_rslora", False)) is bool, "true or false is needed."),
            *((name, isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value)),
               "a list of names of modules, or a pattern, is needed.")
              for name, value in zip(("target_modules", "exclude_modules"), modules, strict=True))):
        if not holds:
            raise _refusal(folder, name, raw.get(name), needed)
    return raw


def base_field(folder: str | os.PathLike) -> str:
    """How a message names the base of an adapter's folder."""
    return f"base_model_name_or_path in {Path(folder) / SETTINGS}"


def base_of(settings: dict[str, Any], folder: str | os.PathLike) -> str:
    """Folder or hub name of the model that the adapter was trained on. Raises InputError where none is named."""
    name = settings.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise _refusal(folder, "base_model_name_or_path", name, "name the model that the adapter was trained on, here "
                       "or as base= of nft_jax.load; a run takes it as policy.path beside adapter.path.")
    return name


def adapter_config(settings: dict[str, Any], model: ModelConfig, folder: str | os.PathLike) -> AdapterConfig:
    """What `read_settings` of this folder means for a model. Raises InputError for targets that match nothing, that
    are no projections, or that are others in some of the layers."""
    asked, found, modules_of = settings["target_modules"], [], {}
    for tensor in tensors_of(model):
        if ARRAYS[tensor.array].kind == "matrix":
            modules_of.setdefault(role_of(tensor.array), []).extend(
                name.removesuffix(".weight") for name in tensor.names(model))
    for role, modules in modules_of.items():
        # The head is left out by all-linear, and an embedding is not linear.
        linear = role in IN_LAYERS or role in PROJECTIONS
        hits = [one for one in modules if _targeted(settings, one, linear, folder)]
        if hits and role not in PROJECTIONS:
            raise _refusal(folder, "target_modules", asked, f"it names {hits[0]}, and only the projections are "
                           "implemented; merge the adapter into its base with PEFT (merge_and_unload), and "
                           "load the whole model.")
        if hits and hits != modules:
            other = next(one for one in modules if one not in hits)
            raise _refusal(folder, "target_modules", asked, f"it names {hits[0]} and not {other}; adapters in some of "
                           "the layers are not implemented.")
        if hits:
            found.append(role)
    if not found:
        raise _refusal(folder, "target_modules", asked, f"it names nothing of a {model.family} model, which has "
                       f"{', '.join(_modules(model).values())}.")
    # In some models "all" means more than its list of names, so an adapter of everything is read as "all".
    everything = set(found) == set(modules_of) & set(PROJECTIONS) > set(TARGETS["all"])
    targets = ("all",) if everything else tuple(name for name in PROJECTIONS if name in found)
    return AdapterConfig(rank=settings["r"], alpha=settings["lora_alpha"], rslora=settings.get("use_rslora", False),
                         targets=targets)


def _modules(model: ModelConfig) -> dict[str, str]:
    """Projection -> the last part of its module's name, such as q_proj."""
    return {role_of(tensor.array): tensor.name.removesuffix(".weight").rpartition(".")[2]
            for tensor in tensors_of(model) if role_of(tensor.array) in PROJECTIONS}


def _targeted(settings: dict[str, Any], module: str, linear: bool, folder: str | os.PathLike) -> bool:
    asked, left_out = settings["target_modules"], settings.get("exclude_modules") or []
    if _matches(left_out, module, folder):
        return False
    return linear if asked == "all-linear" else _matches(asked, module, folder)


def _matches(asked: str | list[str], module: str, folder: str | os.PathLike) -> bool:
    """As PEFT decides it: a pattern matches the whole name; a listed name is the module's, or its end after a dot."""
    if isinstance(asked, str):
        try:
            return re.fullmatch(asked, module) is not None
        except re.error as error:
            raise _refusal(folder, "target_modules or exclude_modules", asked,
                           f"it is no regular expression ({error}).") from None
    return any(module == one or module.endswith(f".{one}") for one in asked)


# ---- the arrays ------------------------------------------------------------------------------------------------


class AdapterPiece(NamedTuple):
    """A tensor of PEFT: A as [r, in], B as [out, r]. The rows of B may be those of several arrays, one after the other,
    which share A (`model.adapter`)."""
    name: str
    part: str                          # "lora_a" or "lora_b"
    arrays: tuple[str, ...]
    rows: tuple[int, ...]              # of each array
    columns: int
    place: tuple[int, ...]             # of the layer; () outside the layers

    @property
    def shape(self) -> tuple[int, int]:
        return sum(self.rows), self.columns

    def split(self, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """(array, its part as [in, r] or [r, out]) of PEFT's tensor."""
        return zip(self.arrays, np.split(tensor.T, np.cumsum(self.rows)[:-1], axis=1), strict=True)

    def join(self, leaves: Sequence) -> np.ndarray:
        """PEFT's tensor, of our arrays, in which the axes of `in` and `out` are apart."""
        return np.concatenate([on_host(leaf[self.place]).reshape(self.columns, rows).T
                               for leaf, rows in zip(leaves, self.rows, strict=True)])


def _pieces(model: ModelConfig, config: AdapterConfig) -> Iterator[AdapterPiece]:
    """Of every tensor of an adapter's file."""
    shapes = by_name(adapter_shapes(model, config))
    for name, tensors, place in hf_order(model):
        arrays = tuple(tensor.array for tensor in tensors)
        if arrays[0] not in shapes:
            continue
        sizes = [tensor.shapes(model)[1] for tensor in tensors]
        outs, inputs, module = tuple(out for out, _ in sizes), sizes[0][1], PREFIX + name.removesuffix(".weight")
        yield AdapterPiece(f"{module}.lora_A.weight", "lora_a", arrays[:1], (config.rank,), inputs, place)
        yield AdapterPiece(f"{module}.lora_B.weight", "lora_b", arrays, outs, config.rank, place)


def check_adapters(folder: str | os.PathLike, model: ModelConfig, config: AdapterConfig) -> dict[str, np.dtype]:
    """{name of every tensor: its type}, from the header of adapter_model.safetensors. Raises one InputError that
    lists every tensor that is missing, unexpected, or of another shape or type."""
    file = Path(folder) / WEIGHTS
    require_file(file, "give the folder of an adapter that PEFT saved in safetensors.")
    try:
        found = header(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged or cut short ({first_line(error)}): download or copy it again.") from None
    expected = {piece.name: piece.shape for piece in _pieces(model, config)}
    problems = []
    for name in sorted(found.keys() & expected.keys()):
        shape, kind = found[name]
        if shape != expected[name]:
            problems.append(f"{name} has shape {shape}, expected {expected[name]}")
        if kind not in FLOATS:
            problems.append(f"{name} has type {kind}, expected one of {', '.join(FLOATS)}")
    problems += [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is not part of this adapter" for name in sorted(found.keys() - expected.keys())]
    if problems:
        raise InputError(f"{file}: the adapter does not fit {SETTINGS} and its base, a {model.family} model of "
                         f"{model.num_layers} layers and hidden size {model.hidden_size}: "
                         f"{listed_problems(problems, 10)}. Use the base that it was trained on.")
    return {name: FLOATS[kind] for name, (_, kind) in found.items()}


def read_digest(folder: str | os.PathLike) -> str:
    """The digest of the base's weights that `save_adapters` noted; "" where there is none, as in PEFT's own files."""
    with safe_open(Path(folder) / WEIGHTS, "numpy") as handle:
        return (handle.metadata() or {}).get(DIGEST, "")


def load_adapters(folder: str | os.PathLike, model: ModelConfig, config: AdapterConfig, shardings=None) -> dict:
    """The folder's adapters, as `adapter.init` makes them, in the types of the file. First raises the InputErrors of
    `check_adapters`, and refuses values that are not finite.

    shardings: a dict like the adapters; None: the default device."""
    kinds, shapes = check_adapters(folder, model, config), by_name(adapter_shapes(model, config))
    places = shardings and by_name(shardings)
    parts: dict[tuple[str, str], list[tuple[str, np.ndarray]]] = {}
    with safe_open(Path(folder) / WEIGHTS, "numpy") as handle:
        for piece in _pieces(model, config):
            tensor = handle.get_tensor(piece.name)
            require_finite(tensor, f"{Path(folder) / WEIGHTS}: {piece.name}")
            for array, value in piece.split(tensor):
                parts.setdefault((array, piece.part), []).append((piece.name, value))
    found: dict[str, dict[str, jax.Array]] = {name: {} for name in shapes}
    for (array, part), tensors in parts.items():
        kind = np.dtype(reduce(jnp.promote_types, (kinds[name] for name, _ in tensors)))
        value = np.stack([x.astype(kind) for _, x in tensors]).reshape(shapes[array][part].shape)
        found[array][part] = placed(value.shape, places and places[array][part], value.__getitem__)
    return as_tree(found)


def save_adapters(adapters, model: ModelConfig, adapter: Adapter, folder: str | os.PathLike) -> None:
    """Writes both files, for PEFT. Every process that holds a part of the adapters calls this, and the first one
    writes. Raises InputError for arrays that do not fit, types that model files do not hold, and a place where no
    folder can be made."""
    folder, config = Path(folder), adapter.config
    arrays, shapes, pieces = by_name(adapters), by_name(adapter_shapes(model, config)), []
    for piece in _pieces(model, config):
        leaves = [arrays[array][piece.part] for array in piece.arrays]
        for array, leaf in zip(piece.arrays, leaves, strict=True):
            if leaf.shape != (expected := shapes[array][piece.part].shape):
                raise InputError(f"params {array}.{piece.part} has shape {leaf.shape}: the adapter's configuration "
                                 f"asks for {expected}.")
        kind = float_type(reduce(jnp.promote_types, (leaf.dtype for leaf in leaves)))
        pieces.append(Piece(piece.name, kind, piece.shape, partial(piece.join, leaves)))
    pieces.sort(key=lambda piece: (-piece.dtype.itemsize, piece.name))
    if jax.process_index() > 0:
        for piece in pieces:
            # All processes exchange the parts of each array.
            piece.array()
        return
    make_folder(folder, "path")
    with replaced(folder / WEIGHTS) as partial_file:
        write_file(partial_file, pieces, {DIGEST: adapter.digest} if adapter.digest else {})
    with replaced(folder / SETTINGS) as partial_file:
        partial_file.write_text(json.dumps(_settings(model, adapter), indent=2) + "\n")


def _settings(model: ModelConfig, adapter: Adapter) -> dict[str, Any]:
    config, base, modules = adapter.config, adapter.base, _modules(model)
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM",
        # A folder must be found from anywhere.
        "base_model_name_or_path": os.path.abspath(base) if Path(base).is_dir() else base,
        "r": config.rank, "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "use_rslora": config.rslora,
        # A fused matrix is one module.
        "target_modules": list(dict.fromkeys(modules[name] for name in projections_of(model, config))),
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True,
        "inference_mode": True, "modules_to_save": None, "layers_to_transform": None, "rank_pattern": {},
        "alpha_pattern": {}, "use_dora": False,
    }


# ---- which base ------------------------------------------------------------------------------------------------


def weights_digest(folder: str | os.PathLike, model: ModelConfig) -> str:
    """SHA-256 of the weights of a model's folder: of every tensor's name, type, shape and bytes. How the tensors are
    divided among files does not matter. All bytes are read: about a second for each GB and core."""
    # A pass of its own: the pass that loads reads only the parts that this process's devices hold. It costs about a
    # fifth of loading, which then finds the pages in memory.
    stored = check_weights(folder, model)

    def one(name: str) -> bytes:
        tensor, found = stored[name], hashlib.sha256()
        found.update(f"{name} {tensor.dtype.name} {tensor.shape}".encode())
        with safe_open(tensor.file, "numpy") as handle:
            view = handle.get_slice(name)
            rows, rest = tensor.shape[0], int(np.prod(tensor.shape[1:])) * tensor.dtype.itemsize
            step = max(1, 8 * BLOCK // rest)
            for start in range(0, rows, step):
                found.update(np.ascontiguousarray(view[start:min(start + step, rows)]).view(np.uint8).data)
        return found.digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return hashlib.sha256(b"".join(pool.map(one, (name for name, *_ in hf_order(model))))).hexdigest()


def require_base(adapter: Adapter, folder: Path, model: ModelConfig, where: str, field: str) -> str:
    """The digest of the weights in `folder`. Raises InputError unless the adapter, which stands at `where`, was
    trained beside them, if that is known. `field` names the folder."""
    digest = weights_digest(folder, model)
    if adapter.digest not in ("", digest):
        raise InputError(f"{field} is {str(folder)!r}, whose weights are not those that {where} was trained on (their "
                         f"SHA-256 is {digest[:12]}..., and was {adapter.digest[:12]}...): give the model that it was "
                         "trained on.")
    return digest
