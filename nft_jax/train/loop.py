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
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np

from nft_jax.config import Config
from nft_jax.objectives.custom import adopt
from nft_jax.objectives.registry import Objective, TokenLoss, find_objective
from nft_jax.objectives.terms import answer_terms, answers_in_loss
from nft_jax.policy import Policy, save
from nft_jax.record.metrics import (
    answer_metrics,
    draw_curves,
    mismatch_metrics,
    mode_disagreement,
    peak_memory_mb,
    read_metrics,
)
from nft_jax.rollout.evaluation import evaluation_key, evaluation_metrics
from nft_jax.rollout.judged import judged_groups
from nft_jax.rollout.sampling import SamplingParams
from nft_jax.runtime.clock import Clock
from nft_jax.runtime.compilation import use_compilation_cache
from nft_jax.runtime.distributed import gather, initialise, is_first
from nft_jax.runtime.files import replaced
from nft_jax.runtime.stops import StopRun
from nft_jax.train.batch import Example, choose_shape, deal, examples_of, make_batch, unpack
from nft_jax.train.nonfinite import nonfinite_logprobs
from nft_jax.train.opening import open_run
from nft_jax.train.row import Rollouts, Row
from nft_jax.train.run import Progress, Run
from nft_jax.train.saving import finish_writing, save_checkpoint
from nft_jax.train.state import TrainState, learning_rate
from nft_jax.train.step import place_batch
from nft_jax.types import Group, Halted, InputError, TrainBatch
from nft_jax.verify import Verifier

TRAINING = 0       # which of the seed's streams of random numbers; the other is `evaluation_key`


def train(config: Config, *, objective: Objective | TokenLoss | None = None, fresh: bool = False,
          verifier: Verifier | None = None, quiet: bool = False, profile: bool = False) -> dict:
    """Run `config` to its end, or continue it from its folder's newest checkpoint; returns the summary. `objective`: a
    token loss of your own in place of config.objective (a function as `token_loss` takes it, or an `Objective`).

    SIGINT and SIGTERM give up what is being sampled, save and return: the same call goes on, and ends bit by bit like a
    run that was never stopped. `profile` records a timeline of two steps into the run's folder. Compiled programs are
    kept (`use_compilation_cache`). Where the environment names other processes, this is one of them
    (`nft_jax.runtime.distributed`). Raises InputError for bad input, before heavy work where that is possible, and
    Halted where the run ended itself.
    """
    initialise()
    if objective is not None:
        config = replace(config, objective=adopt(objective))
    use_compilation_cache()
    with open_run(config, fresh=fresh, verifier=verifier, quiet=quiet, profile=profile) as (run, state, progress):
        if progress.step == 0:
            begin(run, state, progress)
        if progress.unfinished is not None:
            row, progress.unfinished = Row(progress.step, Clock(run.phase), progress.unfinished), None
            end_step(run, state, progress, row)
        while progress.step < run.config.steps and not run.halted and not run.stop.reached():
            with run.timeline.step(progress.step + 1):
                run.watchdog.feed("collect", progress.step + 1)
                clock, before = Clock(run.phase), replace(progress)
                try:
                    rollouts = next_rollouts(run, state.params, progress, clock)
                except StopRun:                # the parameters are those of `before`: from there it is done again
                    progress = before
                    break
                state, row = update(run, state, rollouts.kept, progress, clock)
                progress.step += 1
                finish_step(run, state, progress, rollouts, row)
        summary = conclude(run, state, progress)
    if run.halted:
        raise Halted(f"{run.halted} None of them changed the parameters, and the run is saved as of step "
                     f"{progress.step}; the same command goes on from there. Look at the batches in "
                     f"{run.folder / 'nonfinite'}; lower optimizer.learning_rate, or start from an earlier checkpoint.")
    return summary


def next_rollouts(run: Run, params, progress: Progress, clock: Clock) -> Rollouts:
    """What this step trains on. With rollout.rollout_ahead it is there already, and that of the next step is collected
    now, before this step changes the parameters. (The last step collects nothing ahead: a run that is continued
    further then samples for its next step with the parameters as they are.)"""
    ahead, rollouts = run.config.rollout.rollout_ahead, progress.ahead
    if rollouts is None:
        rollouts = collect(run, params, progress, progress.step, clock)
    more = ahead and progress.step + ahead < run.config.steps
    progress.ahead = collect(run, params, progress, progress.step + ahead, clock) if more else None
    return rollouts


def collect(run: Run, params, progress: Progress, rollout_index: int, clock: Clock) -> Rollouts:
    """The first prompts_per_step groups with unequal rewards, in the order of the prompt stream.

    First come the groups carried over, then new ones until prompts_per_step are there or max_generation_batches have
    been asked for; a further batch has as many prompts as the share accepted so far calls for. That share is known
    when the batch is judged, so at its end, as the longest answers are decoded, slots stay empty: filling them with
    prompts that may not be needed would make what a step generates depend on which answer ended first. Every new group
    is scored by the parameters that sampled it; surplus is carried. Raises StopRun, with `progress` as it was, where
    the run is to stop.
    """
    rollout = run.config.rollout
    sampling = SamplingParams(rollout.temperature, rollout.top_k, rollout.top_p, rollout.min_p)
    key = jax.random.fold_in(jax.random.key(run.config.seed), TRAINING)
    accepted, seen, share = list(progress.carried), [], 1.0
    weights = None
    for _ in range(rollout.max_generation_batches):
        missing = rollout.prompts_per_step - len(accepted)
        if missing <= 0:
            break
        if weights is None:                # once for all batches, and not where the carried groups are enough
            with clock.phase("rollout"):
                weights = run.sampler.cast(params)
        run.stop.check()
        prompts = run.stream.take(min(rollout.prompts_per_step, math.ceil(missing / share)))
        judged = judged_groups(run.sampler, run.verifier, weights, prompts, rollout.samples_per_prompt, key,
                               rollout_index, sampling, progress=run.alive, settled=run.stop.check, phase=clock.phase)
        groups = score(run, params, judged, clock)
        clock.sampled += sum(len(r.tokens) for group in groups for r in group.rollouts)
        seen += groups
        accepted += [group for group in groups if group.has_signal]
        share = max(sum(group.has_signal for group in seen) / len(seen), 1 / 16)
    run.stop.check()
    progress.cursor = run.stream.state()["index"]
    progress.carried = accepted[rollout.prompts_per_step:]
    return Rollouts(accepted[:rollout.prompts_per_step], seen)


def score(run: Run, params, judged: Iterator[Group], clock: Clock) -> list[Group]:
    """All groups in their order, those with unequal rewards with `old_logprobs`, by the trainer's own graph or the
    sampler's as the configuration says, and with `reference_logprobs` where there is a reference. The first groups are
    packed and handed to the devices while the last are being sampled and judged (what decoding then waits for them is
    in seconds/rollout)."""
    choice = run.config.rollout.old_logprobs
    scorers = {"old_logprobs": params} if choice == "trainer" else {}
    if run.reference is not None:
        scorers["reference_logprobs"] = run.reference
    groups, waiting, parts = [], [], []

    def dispatch(part: list[int]) -> None:
        with clock.phase("score"):
            batch, places = pack(run, [Example(groups[i].prompt.tokens, r.tokens)
                                       for i in part for r in groups[i].rollouts])
            batch = place_batch(batch, run.mesh)
            parts.append((part, places, {name: run.score(weights, batch, run.config.rollout.temperature)
                                         for name, weights in scorers.items()}))

    for group in judged:
        if choice != "trainer" and group.has_signal:
            name = "logprobs" if choice == "sampler" else "truncated_logprobs"
            group = replace(group, old_logprobs=tuple(getattr(r, name) for r in group.rollouts))
        groups.append(group)
        if group.has_signal:
            waiting.append(len(groups) - 1)
        if scorers and len(waiting) == run.config.groups_per_update:
            dispatch(waiting)
            waiting = []
    if scorers and waiting:
        dispatch(waiting)
    with clock.phase("score"):
        for part, places, scored in parts:
            for name, values in scored.items():
                values = iter(unpack(np.asarray(values), places))
                for i in part:
                    groups[i] = replace(groups[i], **{name: tuple(next(values) for _ in groups[i].rollouts)})
    return groups


def pack(run: Run, examples: list[Example], group_ids: bool = False) -> tuple[TrainBatch, list[tuple[int, slice]]]:
    """`make_batch` in the shape that costs least for these examples."""
    shape = choose_shape([len(e.prompt) + len(e.response) for e in examples], run.shapes)
    return make_batch(examples, shape, run.config.loss.loss_agg, run.config.loss.constant_length, group_ids)


def update(run: Run, state: TrainState, groups: list[Group], progress: Progress,
           clock: Clock) -> tuple[TrainState, Row]:
    """The optimizer steps of one rollout, handed to the devices: while they take one the host packs the next. Without
    groups that have an answer to train on the step is skipped and counted."""
    config, row = run.config, Row(progress.step + 1, clock, {}, before=run.trained)
    row.metrics |= answer_terms(groups, config.terms)
    groups = [group for group in groups if answers_in_loss(group, config.terms)]
    kept, parts = 0, deal(groups, config.batch.updates_per_step, (config.seed, progress.step)) if groups else []
    for part in parts:
        with clock.phase("pack"):
            examples = [e for group in part for e in examples_of(group, config.loss, config.rollout.max_new_tokens,
                                                                config.terms)]
            batch, _ = pack(run, examples, find_objective(config.objective).whole_groups)
        with clock.phase("train"):
            rate = learning_rate(config.optimizer, progress.updates)
            state, tally, norm = run.train_step(state, place_batch(batch, run.mesh), rate, config.rollout.temperature)
        progress.updates += 1
        kept += sum(len(e.response) for e in examples)
        row.batches.append((batch, [group.prompt.index for group in part]))
        row.tallies.append(tally)
        row.norms.append(norm)
        row.metrics["learning_rate"] = rate
    progress.tokens_kept += kept
    progress.skipped_steps += not groups
    row.metrics |= {"groups/kept": len(groups), "tokens/kept": kept, "steps_skipped": progress.skipped_steps}
    if groups:
        row.trained = run.trained = run.watcher.watch(norm)
        row.metrics["accuracy/kept"] = float(np.mean(np.concatenate([group.rewards for group in groups])))
        row.metrics |= mismatch_metrics(groups) if config.rollout.old_logprobs == "trainer" else {}
    return state, row


def evaluate(run: Run, params, progress: Progress) -> dict:
    """Accuracy on the held-out questions; the same random numbers every time. Raises StopRun where the run is to
    stop."""
    if not run.held_out:
        return {}
    settings = run.config.evaluation
    key = evaluation_key(run.config.seed)
    sampling = SamplingParams(settings.temperature, 0, settings.top_p, settings.min_p)
    weights = run.sampler.cast(params)
    metrics = evaluation_metrics({held.name: list(judged_groups(
        run.sampler, run.examiner, weights, held.prompts, held.samples, key, held.stream, sampling,
        progress=run.alive, settled=run.stop.check)) for held in run.held_out})
    progress.accuracy = metrics.get("evaluation/accuracy/all")
    return metrics


def begin(run: Run, state: TrainState, progress: Progress) -> None:
    """The numbers of the model as it came, as step 0; nothing where the run is to stop."""
    clock = Clock()
    try:
        metrics = evaluate(run, state.params, progress)
    except StopRun:
        return
    best = run.config.checkpoint.best
    if best and best not in metrics:
        raise InputError(f"checkpoint.best is {best!r}, which the evaluation does not measure: use one of "
                         f"{', '.join(metrics) or 'nothing (evaluation.source is empty)'}.")
    progress.base_accuracy = progress.accuracy
    progress.seconds += clock.total
    run.writer.write(0, metrics | {"seconds/step": clock.total, "compiles": run.compiles.take()})
    run.console.step(0, metrics)


def finish_step(run: Run, state: TrainState, progress: Progress, rollouts: Rollouts, row: Row) -> None:
    """What the host does while the devices train: write the answers, and the row of the step before; then `end_step`.
    """
    config, clock = run.config, row.clock
    seen, generated = rollouts.seen, sum(len(r.tokens) for group in rollouts.seen for r in group.rollouts)
    progress.tokens_generated += generated
    row.metrics |= run.late_seconds | answer_metrics(seen) | {
        "groups/generated": len(seen), "groups/carried": len(progress.carried), "tokens/generated": generated,
        "groups/accepted_share": sum(group.has_signal for group in seen) / max(len(seen), 1),
        "nonfinite/logprobs": nonfinite_logprobs(rollouts.kept)}
    if config.verifier.reward == "math" and config.verifier.mode == "equivalent":
        row.metrics |= mode_disagreement(seen)
    with clock.phase("write"):
        run.write_rollouts(progress.step, seen, rollouts.kept)
        run.write_row(progress)
    run.late_seconds = {}
    end_step(run, state, progress, row)


def end_step(run: Run, state: TrainState, progress: Progress, row: Row) -> None:
    """Where it is time to evaluate or to save, that, and the row of this step. An evaluation that is given up, as the
    run is to stop, is left to who goes on (`progress.unfinished`)."""
    config, clock, run.row = run.config, row.clock, row
    evaluates = progress.step == config.steps or bool(
        config.evaluation.every and progress.step % config.evaluation.every == 0)
    saves = progress.step % config.checkpoint.every == 0
    if (evaluates or saves) and row.trained is not None:
        row.trained.result()               # so that it is in the seconds of this step, and not in those of what follows
    if evaluates and run.held_out:
        try:
            with clock.phase("evaluate"):
                row.metrics |= evaluate(run, state.params, progress)
        except StopRun:
            progress.seconds += clock.total
            progress.unfinished = run.completed(progress)
            return
    progress.seconds += clock.total
    row.metrics |= {"seconds/step": clock.total, "compiles": run.compiles.take(), "memory/peak_mb": peak_memory_mb()}
    if evaluates or saves:
        run.write_row(progress)
    score = row.metrics.get(config.checkpoint.best)
    if progress.improves(score) or saves:
        with clock.phase("checkpoint"):        # after the row: a checkpoint never knows of a step that the rows lack
            save_checkpoint(run, state, progress, score)
        run.late_seconds = {"seconds/checkpoint": clock.seconds["checkpoint"]}


def conclude(run: Run, state: TrainState, progress: Progress) -> dict:
    """The last checkpoint, curves.png and summary.json; at the end of the run also the trained model, in Hugging Face
    layout. Waits for room where the disk has none."""
    run.write_row(progress)
    if progress.step and progress.step not in (run.checkpoints.asked, run.checkpoints.latest):
        save_checkpoint(run, state, progress)
    finished = progress.step >= run.config.steps and progress.unfinished is None
    summary = {
        "objective": run.config.objective, "base_accuracy": progress.base_accuracy,
        "final_accuracy": progress.accuracy, "seconds": round(progress.seconds, 1),
        "tokens_generated": progress.tokens_generated, "tokens_kept": progress.tokens_kept, "steps": progress.step,
        "skipped_steps": progress.skipped_steps, "skipped_updates": progress.skipped_updates, "finished": finished,
        "command": shlex.join(sys.orig_argv),
    }
    if run.config.checkpoint.best:
        summary["best"] = {"metric": run.config.checkpoint.best, "value": progress.best, "step": progress.best_step}

    def write_results() -> None:
        if is_first():
            with replaced(run.folder / "curves.png") as partial:
                draw_curves(read_metrics(run.folder / "metrics.jsonl"), partial,
                            f"{run.config.name}: {run.config.objective}")
        if finished:
            with replaced(run.folder / "model", writes=is_first()) as partial:
                save(Policy(run.model, state.params, run.tokenizer, run.sampler.eos), partial)
        if is_first():
            with replaced(run.folder / "summary.json") as partial:      # last: where it is, the rest is
                partial.write_text(json.dumps(summary, indent=2) + "\n")

    finish_writing(run, state, progress, write_results)
    if not finished and not run.halted:
        run.console.say(f"stopped as asked, saved as of step {progress.step}; the same command goes on from there")
    gather(None)                               # nobody leaves while the first still writes
    return summary
