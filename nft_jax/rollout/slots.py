"""How many answers to decode at the same time, from the memory that is free."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nft_jax.model.config import ModelConfig
from nft_jax.parallel import data_parallel_size
from nft_jax.types import InputError

MOST = 512               # more slots gain nothing: the products with the weights are as wide as they need to be
FEWEST = 32              # where there are as many answers
USABLE = 0.9             # share of the free memory that is planned with
AROUND = 1.25            # keys and values, and what admitting to them and growing them takes for a moment
VOCABULARY_ARRAYS = 4    # logits and what sampling makes of them, float32 [S, V]


def useful_slots(answers: int) -> int:
    """Slots for so many answers with memory to spare: a quarter of them, since refilling slots is what keeps them
    busy while answers differ in length."""
    return min(answers, MOST, max(FEWEST, -(-answers // 4)))


def slot_bytes(model: ModelConfig, entries: int, dtype: str, kv_dtype: Literal["compute", "int8"] = "compute",
               tensor: int = 1) -> int:
    """Bytes that one slot takes on its device: keys and values of `entries` tokens, and its row of logits."""
    heads = model.num_kv_heads // tensor if model.num_kv_heads % tensor == 0 else model.num_kv_heads
    one = model.head_dim * jnp.dtype(dtype).itemsize if kv_dtype == "compute" else model.head_dim + 4
    return int(2 * model.num_layers * heads * one * entries * AROUND) \
        + 4 * VOCABULARY_ARRAYS * model.vocab_size + entries * 16


def automatic_slots(free_bytes: int, bytes_per_slot: int, answers: int, data_parallel: int = 1) -> int:
    """As many slots as are useful for so many answers and fit in `free_bytes` of each device, a multiple of the
    devices among which they are divided. Raises InputError when not even one fits on each."""
    fitting = int(free_bytes * USABLE) // bytes_per_slot
    if fitting < 1:
        raise InputError(f"rollout.slots is 0 (automatic), but {free_bytes / 2**20:,.0f} MiB free on each device do not "
                         f"hold one answer of the longest kind ({bytes_per_slot / 2**20:,.0f} MiB): lower "
                         "rollout.max_new_tokens, use policy.compute_dtype bfloat16 or rollout.kv_dtype int8, or more "
                         "devices (mesh.tensor, mesh.fsdp).")
    return min(-(-useful_slots(answers) // data_parallel), fitting) * data_parallel


def free_bytes(mesh: Mesh) -> int:
    """Bytes free on the fullest device of the mesh; on CPU, half the memory that the system has available, divided
    among the devices that are made of it."""
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    stats = [device.memory_stats() for device in devices]
    if all(s and "bytes_limit" in s for s in stats):
        return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        available = 1024 * int(lines["MemAvailable"].split()[0])
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return available // 2 // len(devices)


def resident_bytes(*trees) -> int:
    """Bytes on one device of arrays, or of shapes with shardings."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * jnp.dtype(x.dtype).itemsize
               for x in jax.tree.leaves(trees))


def slots_for(mesh: Mesh, model: ModelConfig, *, entries: int, dtype: str, kv_dtype: Literal["compute", "int8"],
              answers: int, resident: int) -> int:
    """`automatic_slots` on these devices, which will also hold `resident` bytes each that are not there yet."""
    return automatic_slots(free_bytes(mesh) - resident, slot_bytes(model, entries, dtype, kv_dtype,
                                                                   mesh.shape["tensor"]),
                           answers, data_parallel_size(mesh))
