"""Compiling the programs of a run, and reading what XLA says of each."""
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax

from nft_jax.preflight.hlo import collectives
from nft_jax.preflight.traffic import hbm_bytes
from nft_jax.runtime.compilation import Program, compile_all

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Compiled:
    """XLA's numbers for one program, in bytes on one device."""
    arguments: int
    temporaries: int
    results: int                      # that do not take over an argument's memory
    received: int                     # in the collectives of one call
    moved: float                      # to and from a TPU's HBM in one call (`traffic`); 0 for other devices
    seconds: float                    # of the compiler
    refusal: str = ""                 # the compiler's words when the program does not fit; the sizes are then 0


def compile_programs(programs: Sequence[Program], devices: int, progress: Callable[[str], object] = str,
                     tpu_steps: int = 0) -> list[Compiled]:
    """Compile the programs for a mesh of `devices` devices, in their order; `progress` gets a line for each.

    tpu_steps: for TPUs the decode steps of a block, by which `moved` counts; else 0."""
    return compile_all(programs, threads=2, compile=partial(_compile, devices, tpu_steps),
                       progress=lambda program, done: progress(f"compiled {program} ({done} of {len(programs)})"))


def _compile(devices: int, tpu_steps: int, lowered: jax.stages.Lowered) -> Compiled:
    """XLA's numbers for a lowered program, also where the compiler refuses it."""
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        words = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        return Compiled(0, 0, 0, 0, 0, time.perf_counter() - started, words[:200])
    seconds, memory, text = time.perf_counter() - started, compiled.memory_analysis(), compiled.as_text()
    return Compiled(memory.argument_size_in_bytes, memory.temp_size_in_bytes,
                    memory.output_size_in_bytes - memory.alias_size_in_bytes,
                    collectives(text, devices).total(), hbm_bytes(text, tpu_steps) if tpu_steps else 0, seconds)


def demanded(refusal: str) -> float | None:
    """Bytes that the compiler says a refused program needs; None if it does not say."""
    found = re.search(r"(?:Used|temporaries \()\s*([\d.]+)([KMGT]?)", refusal)
    return float(found[1]) * UNITS[found[2]] if found else None
