"""What the small experiments beside the main job share: a supervised warm-up, question files, a figure."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

from nft_jax.data.prompts import render
from nft_jax.model.logprobs import token_logprobs
from nft_jax.policy import Policy
from nft_jax.train.batch import BatchShape, Example, make_batch


def warm_up(policy: Policy, pairs: Callable[[int], Iterator[tuple[str, str]]], updates: int, *, rate: float,
            examples: int = 96, rows: int = 32, row_length: int = 96) -> Policy:
    """Supervised training on (problem, response) pairs: `pairs(update)` is the stream to take from at an update.
    AdamW, cosine decay to a tenth of the rate."""
    end = policy.tokenizer.decode([policy.eos[0]])
    schedule = optax.warmup_cosine_decay_schedule(rate / 10, rate, updates // 10, updates, rate / 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.1))

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, batch):
        def loss(params):
            values, _ = token_logprobs(params, policy.config, batch.tokens[0], batch.positions[0],
                                       batch.segment_ids[0])
            return -(values * batch.weight[0]).sum()
        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    def example(problem: str, response: str) -> Example:
        prompt, answer = (np.asarray(policy.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
                          for text in (render(policy.tokenizer, problem), response + end))
        return Example(prompt, answer)

    params, losses = jax.tree.map(lambda leaf: jax.numpy.array(leaf), policy.params), []
    state = optimizer.init(params)
    for index in range(updates):
        stream = pairs(index)
        chosen = [example(*next(stream)) for _ in range(examples)]
        batch, _ = make_batch(chosen, BatchShape(1, rows, row_length), "token_mean")
        params, state, loss = update(params, state, batch)
        losses.append(loss)
        if (index + 1) % 50 == 0:
            print(f"warm-up {index + 1}/{updates}: loss {np.mean(jax.device_get(losses[-50:])):.3f}", flush=True)
    return replace(policy, params=params)


def write_questions(path: Path, rows: Sequence[dict]) -> str:
    """Write a .jsonl file of questions; its path as data.source wants it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def draw_figure(path: Path, title: str, rows: Sequence[dict], curves: dict[str, str], ylabel: str) -> None:
    """Curves (metric -> label) over the steps of a run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for key, label in curves.items():
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 20 else None, ms=4)
    axes.set(title=title, xlabel="step", ylabel=ylabel, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
