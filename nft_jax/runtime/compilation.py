"""Programs that are compiled before they run, and where their compiled form is kept.

The sampler (`Sampler.programs`) and the trainer (`nft_jax.train.programs`) list theirs. A run compiles the
list at its start, and preflight the same list for devices that are not there.
"""
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.stages import Lowered

CACHE = Path.home() / ".cache" / "nft_jax" / "xla"
CACHED_SECONDS = 0.5      # a program that took this long to compile is kept on disk


class Program(NamedTuple):
    """A jitted function with the arguments that it is compiled for."""
    kind: str                         # what it does, such as "train step" or "decode"
    size: tuple[int, ...]             # of this variant of the kind (tokens of a row, say): larger needs more memory
    function: Any
    arguments: tuple                  # a tree of values and of jax.ShapeDtypeStruct with shardings

    def __str__(self) -> str:
        """The name for people: `decode 512`, or `grow 512 from 256`."""
        return f"{self.kind} {' from '.join(map(str, self.size))}".rstrip()


def largest(programs: Iterable[Program]) -> dict[str, Program]:
    """The largest variant of each kind."""
    found: dict[str, Program] = {}
    for program in programs:
        found[program.kind] = max(found.get(program.kind, program), program, key=lambda each: each.size)
    return found


def use_compilation_cache() -> None:
    """Keep compiled programs between processes. They go to the folder that jax was told of
    (JAX_COMPILATION_CACHE_DIR or jax_compilation_cache_dir), or else to ~/.cache/nft_jax/xla."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    name = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(name, min(getattr(jax.config, name), CACHED_SECONDS))


def with_shardings(shapes, shardings):
    """A tree of jax.ShapeDtypeStruct with a sharding at each leaf. `shardings` is a tree of the same structure, or
    a prefix of it: one sharding stands for all leaves below it."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes,
                        jax.tree.broadcast(shardings, shapes))


def compile_all(programs: Sequence[Program], *, threads: int = 4,
                progress: Callable[[Program, int], None] | None = None,
                compile: Callable[[Lowered], Any] = Lowered.compile) -> list[Any]:
    """Compile all programs, several at a time; returns what `compile` makes of each, in their order.
    `progress(program, done)` is called as each one ends."""
    # Lowering is Python and stays in this thread. XLA compiles outside Python's lock.
    lowered = [program.function.lower(*program.arguments) for program in programs]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(compile, low) for low in lowered]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            if progress is not None:
                progress(programs[futures.index(future)], done)
    return [future.result() for future in futures]


class CompileCounter:
    """Counts XLA compilations of this process, from jax's own monitoring events."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration: float, **_) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def take(self) -> int:
        """The number since the last call."""
        count, self.count = self.count, 0
        return count
