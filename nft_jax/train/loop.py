"""The training loop: Algorithm 1 of Negative-aware Fine-Tuning (H. Chen et al., arXiv 2505.18116).

    repeat   sample K answers to every prompt with pi_old, judge them,         collect
             keep the prompts that have right and wrong ones;
             compute the answers' log-probs under pi_old;                      score
             take several optimizer steps on the token loss                    update
"""
from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce

import jax
import numpy as np

from nft_jax.config import Config
from nft_jax.evaluate import evaluation_metrics, judged_groups
from nft_jax.metrics import (
    answer_metrics,
    draw_curves,
    mismatch_metrics,
    mode_disagreement,
    peak_memory_mb,
    read_metrics,
)
from nft_jax.policy import Policy, save
from nft_jax.rollout.sampling import SamplingParams
from nft_jax.train.batch import Example, deal, examples_of, make_batch, unpack
from nft_jax.train.run import Progress, Run, open_run
from nft_jax.train.state import TrainState, learning_rate
from nft_jax.train.tally import combine, summarise
from nft_jax.types import Group
from nft_jax.verify import Verifier

TRAINING, EVALUATION = 0, 1       # which of the seed's two streams of random numbers


def train(config: Config, *, fresh: bool = False, verifier: Verifier | None = None, quiet: bool = False) -> dict:
    """Run `config` to its end, or continue it from its folder's newest checkpoint; returns the summary.

    SIGINT and SIGTERM finish the step, save and return. Raises InputError for bad input, before heavy work where that
    is possible.
    """
    with open_run(config, fresh=fresh, verifier=verifier, quiet=quiet) as (run, state, progress):
        if progress.step == 0:
            begin(run, state, progress)
        while progress.step < run.config.steps and not run.stop.is_set():
            clock = Clock()
            accepted, seen = collect(run, state.params, progress, clock)
            wanted = run.config.rollout.prompts_per_step
            kept, progress.carried = accepted[:wanted], accepted[wanted:]
            state, metrics = update(run, state, kept, progress, clock)
            progress.step += 1
            finish_step(run, state, progress, seen, kept, metrics, clock)
        return conclude(run, state, progress)


class Clock:
    """Seconds of each phase of a step."""

    def __init__(self):
        self.started, self.seconds = time.perf_counter(), {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started


def collect(run: Run, params, progress: Progress, clock: Clock) -> tuple[list[Group], list[Group]]:
    """The groups with unequal rewards, in the order of the prompt stream, and all groups that were generated.

    First come the groups carried over, then new ones until prompts_per_step are there or max_generation_batches have
    been asked for; a further batch has as many prompts as the share accepted so far calls for. Every new group is
    scored at once, by the parameters that sampled it.
    """
    rollout = run.config.rollout
    sampling = SamplingParams(rollout.temperature, rollout.top_k, rollout.top_p, rollout.min_p)
    key = jax.random.fold_in(jax.random.key(run.config.seed), TRAINING)
    accepted, seen, share = list(progress.carried), [], 1.0
    for _ in range(rollout.max_generation_batches):
        missing = rollout.prompts_per_step - len(accepted)
        if missing <= 0:
            break
        run.console.phase("sampling")
        with clock.phase("rollout"):
            prompts = run.stream.take(min(rollout.prompts_per_step, math.ceil(missing / share)))
            groups = judged_groups(run.sampler, run.verifier, run.sampler.cast(params), prompts,
                                   rollout.samples_per_prompt, key, progress.step, sampling)
        with clock.phase("score"):
            scored = iter(score(run, params, [group for group in groups if group.has_signal]))
            groups = [next(scored) if group.has_signal else group for group in groups]
        seen += groups
        accepted += [group for group in groups if group.has_signal]
        share = max(sum(group.has_signal for group in seen) / len(seen), 1 / 16)
    progress.cursor = run.stream.state()["index"]
    return accepted, seen


def score(run: Run, params, groups: Sequence[Group]) -> list[Group]:
    """The groups with `old_logprobs`: by the trainer's own graph, or the sampler's where the configuration says so."""
    choice = run.config.rollout.old_logprobs
    if choice in ("sampler", "truncated"):
        name = "logprobs" if choice == "sampler" else "truncated_logprobs"
        return [replace(g, old_logprobs=tuple(getattr(r, name) for r in g.rollouts)) for g in groups]
    out = []
    for start in range(0, len(groups), run.config.groups_per_update):
        part = groups[start:start + run.config.groups_per_update]
        batch, places = make_batch([Example(g.prompt.tokens, r.tokens) for g in part for r in g.rollouts], run.shape)
        values = unpack(np.asarray(run.score(params, batch, run.config.rollout.temperature)), places)
        k = len(part[0].rollouts)
        out += [replace(g, old_logprobs=tuple(values[i * k:(i + 1) * k])) for i, g in enumerate(part)]
    return out


def update(run: Run, state: TrainState, groups: Sequence[Group], progress: Progress,
           clock: Clock) -> tuple[TrainState, dict]:
    """The optimizer steps of one rollout. Without groups the step is skipped and counted."""
    if not groups:
        progress.skipped_steps += 1
        return state, {"groups/kept": 0, "tokens/kept": 0, "steps_skipped": progress.skipped_steps}
    config, loss = run.config, run.config.loss
    run.console.phase("training")
    tallies, norms, kept = [], [], 0
    with clock.phase("train"):
        for part in deal(groups, config.batch.updates_per_step, (config.seed, progress.step)):
            examples = [e for group in part for e in examples_of(group, loss, config.rollout.max_new_tokens)]
            kept += sum(len(e.response) for e in examples)
            batch, _ = make_batch(examples, run.shape, loss.loss_agg, loss.constant_length)
            rate = learning_rate(config.optimizer, progress.updates)
            state, tally, norm = run.train_step(state, batch, rate, config.rollout.temperature)
            progress.updates += 1
            tallies.append(tally)
            norms.append(norm)
        tallies, norms = jax.device_get((tallies, norms))
    progress.tokens_kept += kept
    return state, summarise(reduce(combine, tallies), len(tallies)) | {
        "grad_norm/mean": float(np.mean(norms)), "grad_norm/max": float(np.max(norms)), "learning_rate": rate,
        "groups/kept": len(groups), "tokens/kept": kept, "steps_skipped": progress.skipped_steps,
        "accuracy/kept": float(np.mean(np.concatenate([group.rewards for group in groups]))),
        **(mismatch_metrics(groups) if config.rollout.old_logprobs == "trainer" else {})}


def evaluate(run: Run, params, progress: Progress) -> dict:
    """Accuracy on the held-out questions; the same random numbers every time."""
    if not run.held_out:
        return {}
    settings = run.config.evaluation
    run.console.phase("evaluating")
    key = jax.random.fold_in(jax.random.key(run.config.seed), EVALUATION)
    metrics = evaluation_metrics(judged_groups(
        run.sampler, run.verifier, run.sampler.cast(params), run.held_out, settings.samples, key, 0,
        SamplingParams(settings.temperature, 0, settings.top_p, settings.min_p)))
    progress.accuracy = metrics.get("evaluation/accuracy/all")
    return metrics


def begin(run: Run, state: TrainState, progress: Progress) -> None:
    """The numbers of the model as it came, as step 0."""
    clock = Clock()
    metrics = evaluate(run, state.params, progress)
    progress.base_accuracy = progress.accuracy
    progress.seconds += clock.total
    run.writer.write(0, metrics | {"seconds/step": clock.total})
    run.console.step(0, metrics)


def finish_step(run: Run, state: TrainState, progress: Progress, seen: list[Group], kept: list[Group],
                metrics: dict, clock: Clock) -> None:
    """Write what the step did; evaluate and save where it is time to."""
    config, last = run.config, progress.step == run.config.steps
    generated = sum(len(rollout.tokens) for group in seen for rollout in group.rollouts)
    progress.tokens_generated += generated
    metrics |= answer_metrics(seen) | {
        "groups/generated": len(seen), "groups/carried": len(progress.carried), "tokens/generated": generated,
        "groups/accepted_share": sum(group.has_signal for group in seen) / max(len(seen), 1)}
    if config.verifier.reward == "math" and config.verifier.mode == "equivalent":
        metrics |= mode_disagreement(seen)
    with clock.phase("write"):
        run.write_rollouts(progress.step, seen, kept)
    if last or (config.evaluation.every and progress.step % config.evaluation.every == 0):
        with clock.phase("evaluate"):
            metrics |= evaluate(run, state.params, progress)
    progress.seconds += clock.total
    for phase, tokens in (("rollout", "generated"), ("train", "kept")):
        if clock.seconds.get(phase) and metrics.get(f"tokens/{tokens}"):
            metrics[f"tokens_per_second/{phase}"] = metrics[f"tokens/{tokens}"] / clock.seconds[phase]
    metrics |= {f"seconds/{name}": seconds for name, seconds in (clock.seconds | run.late_seconds).items()}
    metrics |= {"seconds/step": clock.total, "compiles": run.compiles.take(), "memory/peak_mb": peak_memory_mb()}
    run.writer.write(progress.step, metrics)
    run.console.step(progress.step, metrics)
    if progress.step % config.checkpoint.every == 0:
        with clock.phase("checkpoint"):        # after the row: a checkpoint never knows of a step that the rows lack
            run.checkpoints.save(progress.step, state, progress.counters(), progress.carried)
    run.late_seconds = {name: clock.seconds[name] for name in ("checkpoint",) if name in clock.seconds}


def conclude(run: Run, state: TrainState, progress: Progress) -> dict:
    """The last checkpoint, curves.png and summary.json; at the end of the run also the trained model, in Hugging Face
    layout."""
    if progress.step and progress.step not in (run.checkpoints.asked, run.checkpoints.latest):
        run.checkpoints.save(progress.step, state, progress.counters(), progress.carried)
    finished = progress.step >= run.config.steps
    summary = {
        "objective": run.config.objective, "base_accuracy": progress.base_accuracy,
        "final_accuracy": progress.accuracy, "seconds": round(progress.seconds, 1),
        "tokens_generated": progress.tokens_generated, "tokens_kept": progress.tokens_kept, "steps": progress.step,
        "skipped_steps": progress.skipped_steps, "finished": finished, "command": shlex.join(sys.orig_argv),
    }
    (run.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw_curves(read_metrics(run.folder / "metrics.jsonl"), run.folder / "curves.png",
                f"{run.config.name}: {run.config.objective}")
    if finished:
        save(Policy(run.model, state.params, run.tokenizer, run.sampler.eos), run.folder / "model")
    return summary
