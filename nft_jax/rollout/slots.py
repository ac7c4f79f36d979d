"""Whether answers fit: in the model's positions, and in the memory of the devices.

The functions `..._bytes` say what parameters, decoding weights, keys and values take on a device, to preflight too.
"""
import os
from collections import Counter
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from nft_jax.config import DecodingConfig
from nft_jax.model import decoder, delta
from nft_jax.model.config import Compute, LongRope, ModelConfig
from nft_jax.model.parameters import parameter_shardings
from nft_jax.rollout.cache import buckets_up_to, cached_kinds, empty_layer, entry_sharding, memory_sharding
from nft_jax.rollout.engine import Stored, decode_weight_shardings, decode_weights, prefills_of
from nft_jax.runtime.compilation import with_shardings
from nft_jax.runtime.mesh import data_parallel_size, sharded_bytes
from nft_jax.types import InputError

MOST = 512               # more slots gain nothing: the products with the weights are wide enough
FEWEST = 32              # unless there are fewer answers
USABLE = 0.9             # share of the free memory that slots are planned for
AROUND = 1.25            # keys and values, with the temporary copies of admitting and growing
VOCABULARY_ARRAYS = 4    # arrays [S, V] float32 of a decode step: the logits, and what sampling makes of them


def require_positions(model: ModelConfig, max_prompt_tokens: int, max_new_tokens: int, *,
                      fields: tuple[str, str] = ("data.max_prompt_tokens", "rollout.max_new_tokens")) -> None:
    """Raises InputError when the longest prompt and answer need more positions than the model has. `fields`: the
    two lengths in the caller's words."""
    longest = max_prompt_tokens + max_new_tokens
    if longest > model.max_positions:
        stretched = model.for_lengths(longest)
        beyond = "" if longest > stretched.max_positions else \
            f" Or load it with max_tokens={longest}: LongRoPE's long factors then hold for all of its sequences."
        raise InputError(f"{' + '.join(fields)} is {longest} ({max_prompt_tokens} + {max_new_tokens}), more than the "
                         f"model's {model.max_positions} positions: lower one of them.{beyond}")


def position_lines(model: ModelConfig) -> list[str]:
    """One line on the choice that `for_lengths` made, for a model whose positions depend on it."""
    if not isinstance(scaling := model.rope_scaling, LongRope):
        return []
    factors, which = ("long", "more") if model.stretches else ("short", "no more")
    return [f"LongRoPE: the {factors} factors hold for every sequence, as the longest one allowed has {which} tokens "
            f"than the original context, {scaling.original_max_position_embeddings:,}"]


def parameter_bytes(model: ModelConfig, mesh: Mesh) -> int:
    """Bytes on one device of the parameters in float32, sharded as in training."""
    shapes = decoder.parameter_shapes(model)
    return sharded_bytes(with_shardings(shapes, parameter_shardings(shapes, mesh)))


def weight_bytes(model: ModelConfig, mesh: Mesh, dtype: str, weight_dtype: Stored = "compute") -> int:
    """Bytes on one device of the weights that decode."""
    shapes = jax.eval_shape(partial(decode_weights, model=model, compute=Compute(dtype), weight_dtype=weight_dtype),
                            decoder.parameter_shapes(model))
    return sharded_bytes(with_shardings(shapes, decode_weight_shardings(model, mesh, weight_dtype)))


def entry_bytes(model: ModelConfig, mesh: Mesh, sequences: int, entries: int, dtype: str,
                kv_dtype: Stored = "compute", axis: str | None = "batch") -> int:
    """Bytes on one device of the keys and values of `entries` tokens in each of `sequences`, and of the memories of
    delta nets. `axis`: of the sequences; "batch" for the slots, None for prefilled prompts, which are whole on every
    device."""
    found = 0
    # Layers with attention have rings of at most two sizes.
    for kind, layers in Counter(kind.form for kind in cached_kinds(model)).items():
        layer = jax.eval_shape(partial(empty_layer, model, kind, sequences, entries, dtype, kv_dtype == "int8"))
        found += layers * sharded_bytes(with_shardings(layer, entry_sharding(model, kind, mesh, axis)))
    memory = jax.eval_shape(partial(delta.empty, model, sequences, dtype)) if model.delta_layers else ()
    return found + len(model.delta_layers) * sharded_bytes(with_shardings(memory, memory_sharding(mesh, axis)))


def slot_bytes(model: ModelConfig, mesh: Mesh, entries: int, dtype: str, kv_dtype: Stored = "compute") -> int:
    """Bytes that one slot takes on its device: keys and values of `entries` tokens, and its share of a decode step."""
    held = entry_bytes(model, mesh, data_parallel_size(mesh), entries, dtype, kv_dtype)
    # 16 bytes an entry: its mask and its scores.
    return int(held * AROUND) + 4 * VOCABULARY_ARRAYS * model.vocab_size + entries * 16


def prefilled_bytes(model: ModelConfig, mesh: Mesh, max_prompt_tokens: int, slots: int, dtype: str,
                    kv_dtype: Stored = "compute", begun_tokens: int = 0) -> int:
    """Bytes on each device of what a sampler of so many slots prefills together and keeps waiting: prompts, or prompts
    with answers of up to `begun_tokens`, whichever take more."""
    lengths = {buckets_up_to(max_prompt_tokens + more)[-1] for more in (0, begun_tokens)}
    return max(entry_bytes(model, mesh, prefills_of(slots, longest, 1), longest, dtype, kv_dtype, axis=None)
               for longest in lengths)


def free_bytes(mesh: Mesh) -> int:
    """Bytes free on the fullest of this process's devices.

    On CPU: half the memory that the system has available, divided among the devices."""
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


def useful_slots(answers: int) -> int:
    """Slots for so many answers where memory does not matter: a quarter, so that new answers refill the slots."""
    return min(answers, MOST, max(FEWEST, -(-answers // 4)))


def slots_that_fit(model: ModelConfig, mesh: Mesh, decoding: DecodingConfig, answers: int, max_prompt_tokens: int,
                   dtype: str, *, taken: int | None = None, free: int | None = None, begun_tokens: int = 0) -> int:
    """Useful slots for so many answers, a multiple of the data-parallel devices, as far as memory holds them.

    They fit in what `free` bytes of each device (None: ask the devices) leave beside the weights that decode,
    prompts prefilled together, and the caller's `taken` bytes (None: the parameters in float32). Raises InputError
    where not even one fits."""
    parallel, useful = data_parallel_size(mesh), useful_slots(answers)
    taken = parameter_bytes(model, mesh) if taken is None else taken
    free = free_bytes(mesh) if free is None else free
    prompts = prefilled_bytes(model, mesh, max_prompt_tokens, useful + parallel, dtype, decoding.kv_dtype, begun_tokens)
    one = slot_bytes(model, mesh, max_prompt_tokens + decoding.max_new_tokens, dtype, decoding.kv_dtype)
    left = free - taken - weight_bytes(model, mesh, dtype, decoding.weight_dtype) - prompts
    fitting = int(left * USABLE) // one
    decoding.require(
        fitting >= 1, "slots", f"that is automatic, but {max(left, 0) / 2**20:,.0f} MiB left on each device do not "
        f"hold one answer of the longest kind ({one / 2**20:,.0f} MiB). Lower {decoding.written('max_new_tokens')}, "
        f"set {decoding.written('kv_dtype')} to int8, compute in bfloat16, or share the model among more devices "
        "(tensor).")
    return min(-(-useful // parallel), fitting) * parallel
