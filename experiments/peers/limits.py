"""What a core allows on each workload, from the rates that `experiments.peers.core_rates` measured on it.

    python -m experiments.peers.limits rates.jsonl

It counts the time of the matrix products, at the best rate of any shape ("peak") and of each exact
shape ("shape"), and the traffic of weights, cache and optimizer at the measured bandwidth. It
counts no elementwise work and no softmax: a bound, not a forecast. One JSON line per model, task
and kind of limit, in tokens per second.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.peers.common import (
    MODELS,
    PROMPT_LENGTH,
    WORKLOADS,
    ModelShape,
    Workload,
    emit,
    rollout_lengths,
    train_arrays,
)

CACHE_BYTES = 24e6      # what fits here need not come from memory at every step
TRAIN_PASSES = 4        # forward for old log-probs, forward, and backward, which costs two
OPTIMIZER_PASSES = 7    # over the parameters: gradient, two moments, weights; read and written


@dataclass(frozen=True)
class Rates:
    """Best rates of a core, per second."""
    peak: float                        # FLOP
    products: dict[str, float]         # FLOP, of each shape; empty: the peak for all of them
    read: float                        # bytes
    copy: float                        # bytes, read and written

    @classmethod
    def load(cls, path: Path, by_shape: bool) -> Rates:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        products: dict[str, float] = {}
        for line in lines:
            if "gflops" in line:
                products[line["name"]] = max(products.get(line["name"], 0.0), 1e9 * line["gflops"])
        bandwidth = {kind: 1e9 * max(line["gb_per_s"] for line in lines if line["name"] == kind)
                     for kind in ("read", "copy")}
        return cls(max(products.values()), products if by_shape else {}, **bandwidth)

    def products_seconds(self, name: str, phase: str, tokens: float, head_tokens: float) -> float:
        """All products with weights, for so many tokens through the layers and through the head."""
        shape = MODELS[name]
        hidden, wide, layers = shape.hidden, shape.intermediate, shape.layers
        parts = {"query": tokens * hidden * 2 * (shape.query_width + shape.kv_width) * layers,
                 "up": tokens * 2 * hidden * wide * layers, "down": tokens * hidden * wide * layers,
                 "head": head_tokens * hidden * shape.vocab}
        return sum(2 * size / self.products.get(f"{name}.{phase}.{part}", self.peak) for part, size in parts.items())


def rollout_seconds(rates: Rates, name: str, shape: ModelShape, work: Workload, lengths: np.ndarray) -> float:
    """Every prompt prefilled once, then a step for each token of the longest answer, with the answers still going."""
    weights = 4 * sum(shape.matmul_parameters)
    cache_of = 2 * 4 * shape.kv_width * shape.layers                     # bytes of a token
    seconds = rates.products_seconds(name, "decode", work.prompts * PROMPT_LENGTH, work.prompts)
    for step in range(1, int(lengths.max())):
        active = int((lengths > step).sum())
        compute = rates.products_seconds(name, "decode", active, active)
        compute += 4 * active * shape.query_width * (PROMPT_LENGTH + step) * shape.layers / rates.peak
        traffic = weights if weights > CACHE_BYTES else 0
        if active * (PROMPT_LENGTH + work.new_tokens) * cache_of > CACHE_BYTES:
            traffic += active * (PROMPT_LENGTH + step) * cache_of
        seconds += max(compute, traffic / rates.read)
    return seconds


def train_seconds(rates: Rates, name: str, shape: ModelShape, work: Workload, varied: bool) -> tuple[float, int]:
    """Seconds and useful tokens of one step."""
    arrays = train_arrays(shape, work, varied)
    tokens = int(arrays.lengths.sum())
    products = rates.products_seconds(name, "train", tokens, float(arrays.response.sum()))
    causal = float((arrays.lengths.astype(np.float64) ** 2 / 2).sum())
    attention = 4 * shape.query_width * shape.layers * causal / rates.peak
    optimizer = OPTIMIZER_PASSES * 4 * sum(shape.matmul_parameters) / rates.copy
    return TRAIN_PASSES * (products + attention) + optimizer, tokens


def limits(path: Path) -> Iterator[dict]:
    for kind in ("peak", "shape"):
        rates = Rates.load(path, kind == "shape")
        for name, shape in MODELS.items():
            work, seconds = WORKLOADS[name], {}
            for task, varied in (("rollout", False), ("rollout_var", True)):
                lengths = rollout_lengths(work, varied)
                seconds[task] = rollout_seconds(rates, name, shape, work, lengths), int(lengths.sum())
                seconds[task.replace("rollout", "train")] = train_seconds(rates, name, shape, work, varied)
            seconds["e2e"] = seconds["rollout"][0] + seconds["train"][0], seconds["rollout"][1]
            for task, (took, tokens) in seconds.items():
                yield {"limit": kind, "model": name, "task": task, "tokens_per_s": round(tokens / took, 1),
                       "seconds": round(took, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", type=Path, help="the file that core_rates wrote")
    for line in limits(parser.parse_args().rates):
        emit(line, None)


if __name__ == "__main__":
    main()
