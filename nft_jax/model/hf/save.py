"""Hugging Face folders out: config.json and the safetensors, one tensor in host memory at a time.

A tensor (one layer of a stacked parameter) is brought to the host when its turn in the file has
come, and dropped when it is written. The writer is ours because the one of safetensors needs all
tensors of a file at once.
"""
from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.families import joined_shape
from nft_jax.model.hf.load import FLOATS, INDEX, SINGLE, float_type, hf_order
from nft_jax.model.hf.tensors import Tensor
from nft_jax.model.hf.translate import config_to_hf
from nft_jax.runtime.files import make_folder
from nft_jax.types import InputError


def save_params(params: dict, config: ModelConfig, folder: str | os.PathLike, dtype=None,
                max_shard_bytes: int = 5 * 10**9, more: Mapping | None = None) -> Path:
    """Write config.json and the weights, for transformers 4 and 5. Returns the folder.

    dtype: of the weights; None keeps the type of each.
    max_shard_bytes: more than this is spread over several files with an index.
    more: further fields of config.json, which do not change the model.

    Files are first written under another name, so that a killed run leaves no half file. Weights of an older save
    are replaced. Every process must call this, and the first one writes. Raises InputError for parameters that do
    not fit the config, a type that model files do not hold, and a place where no folder can be made."""
    folder = Path(folder)
    shards = _plan_shards(params, config, dtype, max_shard_bytes)
    if jax.process_index() > 0:
        for piece in (piece for shard in shards for piece in shard):
            # All processes exchange the parts of each array.
            piece.array()
        return folder
    make_folder(folder, "path")
    kept = np.dtype(dtype if dtype is not None else params["embed"].dtype)
    config_json = {**config_to_hf(config), **(more or {}), "dtype": kept.name, "torch_dtype": kept.name}
    names = [SINGLE] if len(shards) == 1 else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
                                               for i in range(len(shards))]
    # A run that was killed while saving leaves such a folder.
    for left_behind in folder.glob(".saving-*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
        (Path(temporary) / "config.json").write_text(json.dumps(config_json, indent=2) + "\n")
        for file, shard in zip(names, shards, strict=True):
            write_file(Path(temporary) / file, shard)
        if len(shards) > 1:
            index = {"metadata": {"total_size": sum(piece.size for shard in shards for piece in shard)},
                     "weight_map": {piece.name: file for file, shard in zip(names, shards, strict=True)
                                    for piece in shard}}
            (Path(temporary) / INDEX).write_text(json.dumps(index, indent=2) + "\n")
            names.append(INDEX)
        for name in (*names, "config.json"):
            os.replace(Path(temporary) / name, folder / name)
    for stale in {*folder.glob("model*.safetensors"), folder / INDEX} - {folder / name for name in names}:
        stale.unlink(missing_ok=True)
    return folder


class Piece(NamedTuple):
    """A tensor to be written. `array()` brings it to the host."""
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    array: Callable[[], np.ndarray]

    @property
    def size(self) -> int:      # bytes
        return math.prod(self.shape) * self.dtype.itemsize


def _plan_shards(params: dict, config: ModelConfig, dtype, max_shard_bytes: int) -> list[list[Piece]]:
    flat, shards, room = flatten_dict(params, sep="/"), [[]], max_shard_bytes
    for name, tensors, place in hf_order(config):
        leaves = [flat[tensor.path] for tensor in tensors]
        for tensor, leaf in zip(tensors, leaves, strict=True):
            expected = (*tensor.stacked(config), *tensor.shapes(config)[0])
            if tuple(leaf.shape) != expected:
                raise InputError(f"params {tensor.path} has shape {tuple(leaf.shape)}: the config asks for {expected}.")
        kind = float_type(reduce(jnp.promote_types, (leaf.dtype for leaf in leaves)) if dtype is None else dtype)
        piece = Piece(name, kind, joined_shape(tensors, config),
                      partial(_hf_array, leaves, tensors, place, config, kind))
        if shards[-1] and piece.size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(piece)
        room -= piece.size
    # Larger types first, so that all are aligned. Every process brings the tensors to the host in this order.
    return [sorted(shard, key=lambda piece: (-piece.dtype.itemsize, piece.name)) for shard in shards]


def _hf_array(leaves: Sequence, tensors: Sequence[Tensor], place: tuple[int, ...], config: ModelConfig,
              dtype: np.dtype) -> np.ndarray:
    arrays = [tensor.to_hf(on_host(leaf[place] if place else leaf).astype(dtype, copy=False), config)
              for tensor, leaf in zip(tensors, leaves, strict=True)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def on_host(array) -> np.ndarray:
    """The whole array on this host. Of several processes that hold parts of it, each must call this."""
    if not getattr(array, "is_fully_addressable", True):
        everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
        array = jax.jit(lambda x: x, out_shardings=everywhere)(array).addressable_data(0)
    return np.asarray(array)


def write_file(path: Path, pieces: list[Piece], metadata: Mapping[str, str] = MappingProxyType({})) -> None:
    """A safetensors file: the header's length, the header with `metadata`, the data in the header's order.

    https://github.com/huggingface/safetensors#format"""
    tags = {dtype: tag for tag, dtype in FLOATS.items()}
    # transformers 4 asks for "format".
    header: dict = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for piece in pieces:
        header[piece.name] = {"dtype": tags[piece.dtype], "shape": piece.shape, "data_offsets": [end, end + piece.size]}
        end += piece.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            file.write(piece.array().reshape(-1).view(np.uint8).data)
