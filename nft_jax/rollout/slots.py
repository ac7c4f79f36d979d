"""How many answers to decode at the same time, from the memory that is free."""
from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.parameters import parameter_shardings
from nft_jax.rollout.cache import buckets_up_to
from nft_jax.rollout.engine import prefills_of
from nft_jax.runtime.mesh import data_parallel_size
from nft_jax.types import InputError

MOST = 512               # more slots gain nothing: the products with the weights are as wide as they need to be
FEWEST = 32              # where there are as many answers
USABLE = 0.9             # share of the free memory that is planned with
AROUND = 1.25            # keys and values, and what admitting to them and growing them takes for a moment
VOCABULARY_ARRAYS = 4    # logits and what sampling makes of them, float32 [S, V]
REMEDY = "lower rollout.max_new_tokens, use policy.compute_dtype bfloat16 or rollout.kv_dtype int8, or more devices " \
         "(mesh.tensor, mesh.fsdp)"


def useful_slots(answers: int) -> int:
    """Slots for so many answers with memory to spare: a quarter of them, since refilling slots is what keeps them
    busy while answers differ in length."""
    return min(answers, MOST, max(FEWEST, -(-answers // 4)))


def slot_bytes(model: ModelConfig, entries: int, dtype: str, kv_dtype: Literal["compute", "int8"] = "compute",
               tensor: int = 1) -> int:
    """Bytes that one slot takes on its device: keys and values of `entries` tokens, and its row of logits."""
    return int(_entry_bytes(model, entries, dtype, kv_dtype, tensor) * AROUND) \
        + 4 * VOCABULARY_ARRAYS * model.vocab_size + entries * 16


def prefilled_bytes(model: ModelConfig, max_prompt_tokens: int, slots: int, dtype: str,
                    kv_dtype: Literal["compute", "int8"] = "compute", tensor: int = 1) -> int:
    """Bytes on each device of the prompts that a sampler of so many slots prefills together, and which wait there
    while the samples before them are decoded."""
    longest = buckets_up_to(max_prompt_tokens)[-1]
    return prefills_of(slots, longest, 1) * _entry_bytes(model, longest, dtype, kv_dtype, tensor)


def _entry_bytes(model: ModelConfig, entries: int, dtype: str, kv_dtype: str, tensor: int) -> int:
    heads = model.num_kv_heads // tensor if model.num_kv_heads % tensor == 0 else model.num_kv_heads
    one = model.head_dim * jnp.dtype(dtype).itemsize if kv_dtype == "compute" else model.head_dim + 4
    return 2 * model.num_layers * heads * one * entries


def automatic_slots(free_bytes: int, bytes_per_slot: int, answers: int, data_parallel: int = 1, *,
                    field: str = "rollout.slots", remedy: str = REMEDY) -> int:
    """As many slots as are useful for so many answers and fit in `free_bytes` of each device, a multiple of the
    devices among which they are divided. Raises InputError when not even one fits on each, with the names that the
    caller's user knows: `field` and `remedy`."""
    fitting = int(free_bytes * USABLE) // bytes_per_slot
    if fitting < 1:
        raise InputError(f"{field} is 0 (automatic), but {max(free_bytes, 0) / 2**20:,.0f} MiB left on each "
                         f"device do not hold one answer of the longest kind ({bytes_per_slot / 2**20:,.0f} MiB): "
                         f"{remedy}.")
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


def policy_bytes(model: ModelConfig, mesh: Mesh, dtype: str) -> tuple[int, int]:
    """Bytes on one device of the parameters in float32, sharded as in training, and of the weights that decode."""
    shapes = decoder.parameter_shapes(model)
    placed = zip(jax.tree.leaves(shapes), jax.tree.leaves(parameter_shardings(shapes, mesh)), strict=True)
    stored = sum(4 * math.prod(place.shard_shape(shape.shape)) for shape, place in placed)
    return stored, decoder.count_parameters(model) * jnp.dtype(dtype).itemsize // mesh.shape["tensor"]


def slots_that_fit(model: ModelConfig, mesh: Mesh, answers: int, max_prompt_tokens: int, max_new_tokens: int,
                   dtype: str, kv_dtype: Literal["compute", "int8"], *, copies: float, free: int | None = None,
                   **names: str) -> int:
    """`automatic_slots` in what is left of the devices' memory (`free`; None asks them) by `copies` arrays of the size
    of the parameters in float32, the weights that decode, and the prompts that are prefilled together. `names` as it
    takes them."""
    stored, weights = policy_bytes(model, mesh, dtype)
    stored_as, parallel = (dtype, kv_dtype, mesh.shape["tensor"]), data_parallel_size(mesh)
    prompts = prefilled_bytes(model, max_prompt_tokens, useful_slots(answers) + parallel, *stored_as)
    free = free_bytes(mesh) if free is None else free
    one = slot_bytes(model, max_prompt_tokens + max_new_tokens, *stored_as)
    return automatic_slots(free - copies * stored - weights - prompts, one, answers, parallel, **names)


def settle_slots(config: Config, model: ModelConfig, mesh: Mesh, free: int | None = None) -> Config:
    """The configuration with rollout.slots decided where it is 0 (automatic). `free`: bytes of each device, before
    anything of the run is there (None asks the devices). Training keeps its state (the parameters and two moments)
    beside the sampler, and the reference of a KL term."""
    rollout = config.rollout
    if rollout.slots:
        return config
    reference = jnp.dtype(config.policy.compute_dtype).itemsize / 4 if config.terms.kl_weight else 0
    slots = slots_that_fit(model, mesh, rollout.prompts_per_step * rollout.samples_per_prompt,
                           config.data.max_prompt_tokens, rollout.max_new_tokens, config.policy.compute_dtype,
                           rollout.kv_dtype, copies=3 + reference, free=free)
    return replace(config, rollout=replace(rollout, slots=slots))
