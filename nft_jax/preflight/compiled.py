"""Compiling the programs of a run, and reading what XLA says of each."""
from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from nft_jax.preflight.hlo import Transfer, collectives
from nft_jax.runtime.compilation import Program, compile_all

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Compiled:
    """XLA's numbers for one program, in bytes on one device.

    refusal: what the compiler says when the program does not fit its device. The sizes are then 0.
    """
    arguments: int
    temporaries: int
    results: int                      # beyond those that take over an argument's memory
    transfers: list[Transfer]
    seconds: float
    refusal: str = ""

    @property
    def received(self) -> int:
        return sum(transfer.bytes for transfer in self.transfers)


class _Attempt:
    """A jitted function that compiles to a `Compiled`, also where the compiler refuses."""

    def __init__(self, function: Any, devices: int):
        self.function, self.devices = function, devices

    def lower(self, *arguments) -> _Attempt:
        started = time.perf_counter()
        self.lowered = self.function.lower(*arguments)
        self.lowering = time.perf_counter() - started
        return self

    def compile(self) -> Compiled:
        started = time.perf_counter()
        try:
            compiled = self.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Compiled(0, 0, 0, [], self.lowering + time.perf_counter() - started,
                            str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")[:200])
        seconds, memory = self.lowering + time.perf_counter() - started, compiled.memory_analysis()
        return Compiled(memory.argument_size_in_bytes, memory.temp_size_in_bytes,
                        memory.output_size_in_bytes - memory.alias_size_in_bytes,
                        collectives(compiled.as_text(), self.devices), seconds)


def compile_programs(programs: Sequence[Program], devices: int,
                     progress: Callable[[str], None] | None = None) -> list[Compiled]:
    """Compile the programs for a mesh of `devices` devices, two at a time; returns them in the same order.

    `progress` gets a line for each program that is done.
    """
    def told(program: Program, done: int) -> None:
        if progress is not None:
            progress(f"compiled {program} ({done} of {len(programs)})")

    attempts = [program._replace(function=_Attempt(program.function, devices)) for program in programs]
    return compile_all(attempts, threads=2, progress=told)


def demanded(refusal: str) -> float | None:
    """Bytes that the compiler says a refused program needs; None if it does not say."""
    found = re.search(r"(?:Used|temporaries \()\s*([\d.]+)([KMGT]?)", refusal)
    return float(found[1]) * UNITS[found[2]] if found else None
