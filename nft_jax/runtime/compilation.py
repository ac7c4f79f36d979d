"""Programs: jitted functions with the abstract arguments they are compiled for. Each room lists its own
(`Sampler.programs`, `nft_jax.train.programs`); a run compiles the list at its start, preflight compiles it for devices
that are not there."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax

CACHED_SECONDS = 0.5      # programs that took so long to compile are kept


def use_compilation_cache() -> None:
    """Compiled programs are kept between processes: in the folder that jax has been told of
    (JAX_COMPILATION_CACHE_DIR, jax_compilation_cache_dir), else in ~/.cache/nft_jax/xla."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "nft_jax" / "xla"))
    name = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(name, min(getattr(jax.config, name), CACHED_SECONDS))


class Program(NamedTuple):
    """A jitted function and what it is called with: a tree of jax.ShapeDtypeStruct (with shardings) and values."""
    function: Any
    arguments: tuple


def with_shardings(shapes, shardings):
    """A tree of jax.ShapeDtypeStruct, placed: `shardings` is a tree of the same structure."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def compile_all(programs: Mapping[str, Program], *, threads: int = 4,
                progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
    """Every program compiled ahead of time, several at once (XLA compiles outside Python's lock): name -> compiled.

    `progress(name, done, total)` is called as each one ends. Lowering is Python and stays in this thread.
    """
    lowered = {name: program.function.lower(*program.arguments) for name, program in programs.items()}
    compiled = {}
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(low.compile): name for name, low in lowered.items()}
        for future in as_completed(futures):
            compiled[futures[future]] = future.result()
            if progress is not None:
                progress(futures[future], len(compiled), len(programs))
    return {name: compiled[name] for name in programs}


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
