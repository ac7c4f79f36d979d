"""What one core does: GFLOP/s of matrix products (a large one, and the workloads' own shapes) and
GB/s of memory.

    taskset -c 1 python -m experiments.peers.core_rates --library torch --out rates.jsonl
    taskset -c 1 python -m experiments.peers.core_rates --library jax --out rates.jsonl

One JSON line per measurement, best of three, in CPU seconds. `experiments.peers.limits` reads them.
"""
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.peers.common import MODELS, WORKLOADS, emit, limit_threads

MEBIBYTES_256 = 256 * 2**20


def products() -> dict[str, tuple[int, int, int]]:
    """Name -> (tokens, in, out) of the matrix products."""
    shapes = {"large": (2048, 2048, 2048)}
    for name, shape in MODELS.items():
        work = WORKLOADS[name]
        for phase, tokens in (("decode", work.answers), ("train", work.micro_batch * work.length)):
            sizes = {"query": (shape.hidden, shape.query_width), "up": (shape.hidden, shape.intermediate),
                     "down": (shape.intermediate, shape.hidden), "head": (shape.hidden, shape.vocab)}
            shapes |= {f"{name}.{phase}.{part}": (tokens, *size) for part, size in sizes.items()}
    return shapes


def seconds_of(function: Callable[[], object], at_least: float = 0.3) -> float:
    """CPU seconds of one call: the best of three runs of at least `at_least` seconds."""
    function()
    calls, best = 1, float("inf")
    for _ in range(3):
        while True:
            start = time.process_time()
            for _ in range(calls):
                function()
            took = time.process_time() - start
            if took >= at_least:
                break
            calls = max(calls + 1, int(1.2 * calls * at_least / max(took, 1e-6)))
        best = min(best, took / calls)
    return best


def torch_functions():
    """(name, sizes, function, bytes moved) of every measurement."""
    import torch
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name, (tokens, wide, out) in products().items():
        x, weights = torch.randn(tokens, wide), torch.randn(out, wide)
        yield name, (tokens, wide, out), partial(torch.nn.functional.linear, x, weights), 0
    source = torch.randn(MEBIBYTES_256 // 4)
    target = torch.empty_like(source)
    yield "copy", None, lambda: target.copy_(source), 2 * MEBIBYTES_256
    yield "read", None, source.sum, MEBIBYTES_256


def jax_functions():
    """The same for jax: weights as we keep them, [in, out]."""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    import jax
    import jax.numpy as jnp
    for name, (tokens, wide, out) in products().items():
        x, weights = jnp.ones((tokens, wide)), jnp.ones((wide, out))
        multiply = jax.jit(jnp.matmul)
        yield name, (tokens, wide, out), lambda f=multiply, x=x, w=weights: f(x, w).block_until_ready(), 0
    large, total, add = jnp.ones(MEBIBYTES_256 // 4), jax.jit(jnp.sum), jax.jit(lambda x: x + 1)
    yield "read", None, lambda: total(large).block_until_ready(), MEBIBYTES_256
    yield "copy", None, lambda: add(large).block_until_ready(), 2 * MEBIBYTES_256      # into fresh memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=["torch", "jax"], default="jax")
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    limit_threads(1)
    for name, sizes, function, moved in (torch_functions if given.library == "torch" else jax_functions)():
        if given.only not in name:
            continue
        seconds = seconds_of(function)
        line = {"library": given.library, "name": name, "ms": round(1e3 * seconds, 4)}
        if sizes:
            tokens, wide, out = sizes
            line |= {"sizes": sizes, "gflops": round(2e-9 * tokens * wide * out / seconds, 1)}
        else:
            line["gb_per_s"] = round(1e-9 * moved / seconds, 2)
        emit(line, given.out)


if __name__ == "__main__":
    main()
