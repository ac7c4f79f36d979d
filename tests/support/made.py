"""Made-up groups and run folders for tests."""
import json
from functools import partial

import jax
import numpy as np
import pyarrow.parquet as pq

from nft_jax.config import Config
from nft_jax.model.logprobs import token_logprobs
from nft_jax.model.parameters import parameter_shardings
from nft_jax.record.rollouts import groups_to_table
from nft_jax.train.state import init_state, make_optimizer, state_shardings
from nft_jax.train.step import compile_step
from nft_jax.types import Group, Prompt, Rollout, Verdict


def make_group(index: int, rewards, *, rng: np.random.Generator, vocabulary: int = 32, longest: int = 12,
               old: bool = True) -> Group:
    """A judged group of random tokens. A reward of None is an answer whose verification failed."""
    prompt = Prompt(index, f"question {index}", "1", f"<{index}>",
                    rng.integers(1, vocabulary, rng.integers(2, 6)).astype(np.int32))
    rollouts = []
    for sample in range(len(rewards)):
        n = int(rng.integers(1, longest + 1))
        numbers = [rng.normal(-1, 0.3, n).astype(np.float32) for _ in range(3)]
        rollouts.append(Rollout(prompt, sample, f"answer {sample}", rng.integers(1, vocabulary, n).astype(np.int32),
                                *numbers, finish_reason="stop"))
    verdicts = tuple(Verdict("error", None) if r is None else Verdict("right" if r > 0.5 else "wrong", float(r))
                     for r in rewards)
    old_logprobs = tuple(r.logprobs + 0.01 for r in rollouts) if old else None
    return Group(prompt, tuple(rollouts), verdicts, old_logprobs)


def trainers_logprobs(params, model, found) -> list[np.ndarray]:
    """Log-probs of the tokens of rollouts, [n] each, by the trainer's graph over prompt and answer in a row each."""
    wholes = [np.concatenate([r.prompt.tokens, r.tokens]) for r in found]
    tokens, segments = np.zeros((2, len(found), max(map(len, wholes))), np.int32)
    for row, whole in enumerate(wholes):
        tokens[row, :len(whole)], segments[row, :len(whole)] = whole, 1
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    values, _ = jax.jit(partial(token_logprobs, params, model))(tokens, positions, segments)
    return [np.asarray(values)[row, len(r.prompt.tokens):len(wholes[row])] for row, r in enumerate(found)]


def trainers_gaps(params, model, found) -> np.ndarray:
    """|difference| of the tokens' log-probs from the trainer's, over all rollouts."""
    expected = trainers_logprobs(params, model, found)
    return np.concatenate([np.abs(r.logprobs - values) for r, values in zip(found, expected, strict=True)])


def mixed_prompts(count: int) -> list[Prompt]:
    """Prompts of 1 to 12 random tokens; their indices begin at 7."""
    rng = np.random.default_rng(0)
    return [Prompt(7 + i, "", "", "", rng.integers(4, 32, rng.integers(1, 13)).astype(np.int32)) for i in range(count)]


def make_run(folder, *, rewards=((1, 0, 0, 0), (1, 1, 1, 0), (0, 0, 0, 0)), steps=2, objective="nft", rows=None,
             vocabulary=300, **fields):
    """A run's folder: its configuration with some fields changed, rows of metrics, and the same groups at every step,
    of which those with right and wrong answers were kept."""
    config = json.loads(json.dumps(Config(workdir=str(folder), objective=objective).to_dict()))
    for name, value in fields.items():
        room, _, key = name.rpartition("__")
        (config[room] if room else config)[key] = value
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"step": s, "accuracy/all": s / 10} for s in range(steps + 1)] if rows is None else rows
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(1, steps + 1):
        rng = np.random.default_rng(step)
        groups = [make_group(10 * step + i, each, rng=rng, vocabulary=vocabulary) for i, each in enumerate(rewards)]
        kept = frozenset(group.prompt.index for group in groups if group.has_signal)
        pq.write_table(groups_to_table(groups, kept), folder / "rollouts" / f"step_{step:06d}.parquet")
    return folder


def make_step(params, optimizer, loss, mesh, base=None):
    """The compiled train step of a `Loss`, and the function that makes its first state, placed on the mesh. `base`:
    frozen parameters, where `params` are adapters; the step takes them last, or None."""
    optimizer = make_optimizer(optimizer)
    placements = state_shardings(params, optimizer, mesh)
    first = jax.jit(partial(init_state, optimizer=optimizer), out_shardings=placements)
    base = None if base is None else parameter_shardings(base, mesh)
    return compile_step(mesh, placements, optimizer, loss, base), partial(first, params)
