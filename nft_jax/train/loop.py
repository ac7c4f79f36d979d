"""The training loop: Algorithm 1 of Negative-aware Fine-Tuning (H. Chen et al., arXiv 2505.18116).

A step is one rollout phase and the optimizer updates on its answers:
1. `collect`   samples K answers to every prompt with pi_old, the current policy (or its average, rollout.ema),
               judges them, and keeps the groups with right and wrong answers;
2. `score`     computes the log-probs of their answers under pi_old, by the trainer's own graph, unless the only
               update of the step does (`Config.on_policy`);
3. `update`    deals the groups to optimizer updates, packs them and hands them to the devices;
4. `finish`    writes the answers while the devices train, then waits for the metrics;
5. `evaluate`  measures accuracy on held-out questions, now and then;
6. the row of metrics is written, and then, now and then, a checkpoint (`nft_jax.train.saving`)."""
import json
import shlex
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from nft_jax.config import Config
from nft_jax.objectives.custom import adopt
from nft_jax.objectives.registry import Objective, TokenLoss, find_objective
from nft_jax.objectives.terms import answer_terms
from nft_jax.policy import save
from nft_jax.record.metrics import budget_metrics, decided_by, mismatch_metrics, read_metrics
from nft_jax.rollout.evaluation import evaluation_key, evaluation_metrics
from nft_jax.rollout.judged import judged_groups
from nft_jax.rollout.schedule import SlotUse
from nft_jax.runtime.compilation import use_compilation_cache
from nft_jax.runtime.distributed import gather, initialise, is_first
from nft_jax.runtime.files import replaced
from nft_jax.runtime.stops import StopRun
from nft_jax.runtime.terminal import output_guarded
from nft_jax.train.acceptance import DECAY, MOST, Share
from nft_jax.train.batch import deal, examples_of
from nft_jax.train.compared_experts import Compared, compare
from nft_jax.train.opening import Finished, open_run
from nft_jax.train.run import Run
from nft_jax.train.saving import count_updates, finish_writing, save_if_due, save_last, write_rollouts, write_row
from nft_jax.train.scoring import lacks, packed, score, score_beside, score_open
from nft_jax.train.state import Progress, TrainState, learning_rate
from nft_jax.train.step import place_batch
from nft_jax.train.step_metrics import Rollouts, Update, Updates
from nft_jax.train.stored_groups import stored_stream
from nft_jax.train.work import work_of
from nft_jax.types import Group, Halted, InputError
from nft_jax.verify import Verifier

TRAINING = 0       # which of the seed's streams of random numbers; evaluation has 1, and new adapters 2


def train(config: Config, *, objective: Objective | TokenLoss | None = None, fresh: bool = False, fork: str = "",
          verifier: Verifier | None = None, quiet: bool = False, profile: bool = False) -> dict:
    """Run `config` to its end, or continue it from the newest checkpoint of its folder. Returns the summary. A run
    that has reached `config.steps` is left as it is.

    objective: a token loss of your own in place of config.objective: a function as `token_loss` takes
        it, or an `Objective` of one.
    fork: the folder of another run, whose newest checkpoint this run starts from: parameters, optimizer, prompt
        order and groups carried over. Fields may differ; run.json notes which.
    profile: record a timeline of two steps into the folder of the run.

    SIGINT and SIGTERM give up what is being sampled, save and return. The same call then continues, and ends bit
    by bit like a run that was never stopped. Compiled programs are kept (`use_compilation_cache`). Where the
    environment names other processes, this is one of them (`nft_jax.runtime.distributed`).

    Raises InputError for bad input, before heavy work where that is possible, and Halted where the run
    ended itself."""
    with ExitStack() as opened:
        opened.enter_context(output_guarded())
        initialise()
        if objective is not None:
            config = replace(config, objective=adopt(objective))
        use_compilation_cache()
        try:
            run, state, progress = opened.enter_context(open_run(
                config, fresh=fresh, fork=fork, verifier=verifier, quiet=quiet, profile=profile))
        except Finished as end:
            return end.summary
        if run.stored is not None:
            with suppress(StopRun):
                run.stream = stored_stream(run, run.whole(state.params), progress)
        # The model as it came, or a step whose evaluation was given up.
        if evaluation_is_due(run.config, progress):
            record(run, state, progress, {})
        while progress.step < run.config.steps and not run.halted and not run.stop.reached():
            with run.timeline.step(progress.step + 1):
                try:
                    rollouts = collect(run, run.whole(state.sampling), progress)
                except StopRun:
                    # Neither the parameters nor `progress` have changed: the step is done again.
                    break
                state, updates = update(run, state, rollouts.kept, progress)
                metrics = finish(run, rollouts, updates, progress)
                record(run, state, progress, metrics)
        summary = conclude(run, state, progress)
    if run.halted:
        raise Halted(f"{run.halted} None of them changed the parameters, and the run is saved as of step "
                     f"{progress.step}; the same command goes on from there. Their batches are in "
                     f"{run.folder / 'nonfinite'}.")
    return summary


@dataclass
class Asked:
    """What the batches of a step brought, beside the groups that were carried over."""
    accepted: list[Group]      # to learn from, the carried ones first
    open: list[Group]          # an answer of theirs goes on in the next step
    share: Share               # of the groups that were judged, in earlier steps and in this one
    seen: list[Group] = field(default_factory=list)        # that ended in this step
    use: SlotUse = field(default_factory=SlotUse)
    compared: Compared = field(default_factory=Compared)   # their experts, with rollout.compare_experts


def ask(run: Run, params, progress: Progress) -> Asked:
    """Batches of prompts, each judged and scored, until prompts_per_step groups have unequal rewards.

    A batch is as large as the share of groups accepted so far calls for (`Share`); more follow if it falls short. A
    step asks at most max_generation_batches * prompts_per_step prompts. With rollout.tokens_per_step, every step has a
    batch, which begins with the open groups; those that are open at its end go on in the next step. `progress` stays
    as it is. Raises StopRun where the run is to stop."""
    rollout = run.config.rollout
    key = jax.random.fold_in(jax.random.key(run.config.seed), TRAINING)
    found = Asked(list(progress.carried), progress.open, Share(progress.asked, progress.accepted, progress.batches))
    weights, prompts_asked = None, 0
    while (len(found.accepted) < rollout.prompts_per_step and (found.open or prompts_asked < rollout.max_prompts)) or (
            found.open and not found.use.batches):
        # Cast once for all batches, and not at all where the carried groups are enough.
        if weights is None and run.stored is None:
            with run.clock.phase("rollout"):
                weights = run.sampler.cast(params)
        run.stop.check()
        wanted = found.share.new_prompts(rollout.prompts_per_step, len(found.accepted), len(found.open))
        prompts = run.stream.take(min(wanted, MOST * rollout.prompts_per_step, rollout.max_prompts - prompts_asked))
        prompts_asked += len(prompts)
        # A further batch is sized only after this one is judged, so slots idle while the longest answers finish. To
        # fill them with prompts that may not be needed would make the rollouts depend on which answer ended first.
        judged = (prompt.group for prompt in prompts) if run.stored is not None else judged_groups(
            run.sampler, run.verifier, weights, [*found.open, *prompts], rollout.samples_per_prompt, key,
            progress.step, rollout, budget=rollout.budget, progress=run.alive, settled=run.stop.check,
            phase=run.clock.phase, use=found.use)
        groups = score(run, params, judged, old=run.config.scores)
        if run.count_otherwise is not None:
            groups = compare(run, params, groups, found.compared)
        found.open = [group for group in groups if group.is_open]
        ended = [group for group in groups if not group.is_open]
        run.stream.observe(ended)
        found.seen += ended
        found.accepted += [group for group in ended if group.has_signal]
        found.share.add(ended, rollout.budget)
        found.use.batches += 1
    return found


def collect(run: Run, params, progress: Progress) -> Rollouts:
    """The first prompts_per_step groups with unequal rewards, in the order of the prompt stream.

    Stored answers take the sampler's place: the stream's prompts carry theirs (`StoredPrompt`).

    First come the groups carried over, then those of new batches (`ask`). Surplus groups are carried to the next step.
    With loss.all_wrong, the first groups of wrong answers are kept too, at most as many. Every group's old log-probs
    are of the parameters that sampled it: scored here, or left to the only update of the step, if there is only one.

    Raises StopRun, with `progress` as it was, where the run is to stop."""
    config, rollout = run.config, run.config.rollout
    run.watchdog.feed("collect", progress.step + 1)
    found = ask(run, params, progress)
    run.stop.check()
    if found.seen:
        progress.asked, progress.accepted, progress.batches = (
            DECAY * count for count in (found.share.asked, found.share.accepted, found.share.batches))
    progress.stream = run.stream.state()
    # The oldest first: a group that was open may be older than one that was carried.
    accepted = sorted(found.accepted, key=lambda group: group.prompt.index)
    kept, carried = accepted[:rollout.prompts_per_step], accepted[rollout.prompts_per_step:]
    if config.loss.all_wrong:
        wrong = [group for group in found.seen if group.all_wrong][:len(kept)]
        kept = sorted([*kept, *wrong], key=lambda group: group.prompt.index)
    if config.on_policy:
        kept, carried = score_beside(run, params, kept, carried)
    progress.carried, progress.open = carried, score_open(run, params, found.open)
    # Nobody scores the rest of a group that teaches nothing.
    seen = [replace(group, old_logprobs=None) if group.old_logprobs and lacks(group, "old_logprobs") else group
            for group in found.seen]
    if run.stored is not None:
        # All of them were sampled before the first step.
        tokens = 0 if progress.step else run.stored.report.tokens
        sources = {"answers/epoch": progress.stream["index"] / run.stream.size}
    else:
        tokens = found.use.tokens
        sources = decided_by(seen, config.verifier) | found.use.metrics() | found.compared.metrics()
        if rollout.budget:
            sources |= budget_metrics(progress.step, [*seen, *progress.open], kept)
    return Rollouts(kept, seen, tokens, sources | run.stream.metrics())


def update(run: Run, state: TrainState, groups: list[Group], progress: Progress) -> tuple[TrainState, Updates]:
    """The optimizer updates of one step, handed to the devices: while they compute one, the host packs the next.
    Without a group that has an answer in the loss, the step is skipped and counted."""
    config, updates, kept = run.config, Updates(), 0
    with run.clock.phase("pack"):
        examples = {group.prompt.index: examples_of(group, config.loss, config.rollout.max_new_tokens, config.terms)
                    for group in groups}
    # Groups of wrong answers have a weight of their own, which says nothing of the terms.
    updates.metrics |= answer_terms([e.importance for each in examples.values() for e in each if e.counted],
                                    sum(len(group.judged) for group in groups if group.has_signal), config.terms)
    groups = [group for group in groups if examples[group.prompt.index]]
    whole_groups = find_objective(config.objective).whole_groups
    # Groups of wrong answers alone make no update: they are dealt to those of the others.
    parts = deal([group for group in groups if group.has_signal], config.batch.updates_per_step,
                 (config.seed, progress.step), beside=[group for group in groups if not group.has_signal])
    groups = groups if parts else []
    for part in parts:
        with run.clock.phase("pack"):
            chosen = [e for group in part for e in examples[group.prompt.index]]
            batch, places = packed(run, chosen, whole_groups, config.on_policy)
        with run.clock.phase("train"):
            rate = learning_rate(config.optimizer, progress.updates)
            placed = place_batch(batch, run.plan.mesh)
            state, *given = run.train_step(state, placed, rate, config.rollout.temperature, run.base)
        progress.updates += 1
        kept += sum(e.trained for e in chosen)
        places = iter(places)
        updates.made.append(Update(
            batch, part, [[next(places) for _ in examples[group.prompt.index]] for group in part], *given))
        updates.metrics["learning_rate"] = rate
    if run.average is not None:
        state = state._replace(average=run.average(state.average, state.params, config.rollout.ema))
    progress.step += 1
    progress.tokens_kept += kept
    progress.skipped_steps += not groups
    updates.metrics |= {"groups/kept": len(groups), "tokens/kept": kept, "steps_skipped": progress.skipped_steps}
    if config.loss.all_wrong:
        updates.metrics["groups/all_wrong"] = sum(group.all_wrong for group in groups)
    if groups:
        updates.metrics["accuracy/kept"] = float(np.mean(np.concatenate([group.rewards for group in groups])))
    return state, updates


def finish(run: Run, rollouts: Rollouts, updates: Updates, progress: Progress) -> dict:
    """Writes the answers of the step while the devices train, then waits for the updates. Returns the metrics. Where
    the update computes the old log-probs of its answers, the answers wait for it."""
    progress.tokens_generated += rollouts.tokens
    trained = updates.groups()
    known = {group.prompt.index: group for group in trained}
    rollouts = replace(rollouts, kept=[known.get(group.prompt.index, group) for group in rollouts.kept])
    metrics = (updates.metrics | rollouts.metrics(len(progress.carried))
               | work_of(run.plan, [*rollouts.seen, *progress.open], trained, progress.step - 1))
    if run.config.rollout.old_logprobs == "trainer" and run.stored is None:
        metrics |= mismatch_metrics(trained)
    with run.clock.phase("write"):
        write_rollouts(run, progress.step, rollouts)
    if updates.made:
        found, skipped = updates.finish()
        run.clock.span("train")
        metrics |= found
        count_updates(run, updates, skipped, progress)
    return metrics


def record(run: Run, state: TrainState, progress: Progress, metrics: dict) -> None:
    """Evaluates if that is due, writes the row of the step, and saves if that is due.

    An evaluation that is given up, because the run is to stop, leaves no numbers. It is done again,
    with a row of its own, when the run continues."""
    if evaluation_is_due(run.config, progress):
        with suppress(StopRun):
            metrics |= evaluate(run, run.whole(state.params), progress)
    write_row(run, progress, metrics)
    save_if_due(run, state, progress, metrics)


def evaluation_is_due(config: Config, progress: Progress) -> bool:
    """Before the first step, every evaluation.every steps, and after the last step; once for each step."""
    step, every = progress.step, config.evaluation.every
    return progress.evaluated != step and (step in (0, config.steps) or (every > 0 and step % every == 0))


def evaluate(run: Run, params, progress: Progress) -> dict:
    """Accuracy on the held-out questions, with the same random numbers every time. Raises StopRun where the run
    is to stop, and, before the first step, InputError where checkpoint.best is no metric of the evaluation."""
    settings = run.config.evaluation
    metrics = {}
    if run.held_out:
        with run.clock.phase("evaluate"):
            key, weights = evaluation_key(run.config.seed), run.sampler.cast(params)
            metrics = evaluation_metrics({held.name: list(judged_groups(
                run.sampler, run.examiner, weights, held.prompts, held.samples, key, held.stream, settings,
                progress=run.alive, settled=run.stop.check)) for held in run.held_out}, run.examiner.reward)
    progress.evaluated, progress.accuracy = progress.step, metrics.get("evaluation/accuracy/all")
    if progress.step == 0:
        progress.base_accuracy, best = progress.accuracy, run.config.checkpoint.best
        if best and best not in metrics:
            raise InputError(f"checkpoint.best is {best!r}, which the evaluation does not measure: use one of "
                             f"{', '.join(metrics) or 'nothing (evaluation.source is empty)'}.")
    return metrics


def conclude(run: Run, state: TrainState, progress: Progress) -> dict:
    """The last checkpoint, curves.png and summary.json; at the end of the run also the trained model
    in Hugging Face layout, or the adapters in PEFT's. Waits for room where the disk has none."""
    save_last(run, state, progress)
    finished = progress.step >= run.config.steps and not evaluation_is_due(run.config, progress)
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
            # matplotlib takes half a second to import.
            from nft_jax.record.pictures import draw_curves
            with replaced(run.folder / "curves.png") as temporary:
                draw_curves(read_metrics(run.folder / "metrics.jsonl"), temporary, run.config.name,
                            run.config.objective)
        if finished:
            with replaced(run.folder / "model", writes=is_first()) as temporary:
                save(run.policy(state.params, progress.base_digest), temporary)
        # Last: where summary.json is, the other results are.
        if is_first():
            with replaced(run.folder / "summary.json") as temporary:
                temporary.write_text(json.dumps(summary, indent=2) + "\n")

    finish_writing(run, state, progress, write_results)
    if not finished and not run.halted:
        run.console.say(f"stopped as asked, saved as of step {progress.step}; the same command goes on from there"
                        if progress.step else
                        "stopped as asked before the end of the first step; the same command begins again")
    # Nobody leaves while the first process still writes.
    gather(None)
    return summary
