"""Opening a run: everything that training needs is read, checked and made, the cheap things first.

1. What the run folder holds is looked at (`nft_jax.record.claim`).
2. The settings and input files are read and checked (`read_inputs`). This takes seconds.
3. The plan decides mesh, slots and shapes (`make_plan`).
4. The processes compare what they were given (`require_one_run`).
5. The first process claims the run folder and checks the disk's room (`claim`).
6. The train state is restored or loaded (`restore_or_load`).
7. All programs are compiled (`compile_programs`).

Bad input therefore ends a run before anything heavy has started."""
from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nft_jax.config import Config, RolloutConfig, flat
from nft_jax.data.prompts import LoadReport, Question, dated, load_questions, prompt_lines
from nft_jax.data.stream import STREAMS, PromptStream
from nft_jax.model import hf
from nft_jax.model.adapter import Adapter
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.peft import require_base
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.model.hf.tokenizer import shown
from nft_jax.record.checkpoint import Checkpoints, check_room
from nft_jax.record.claim import Standing, claimed, look, refusals_named
from nft_jax.record.metrics import MetricsWriter
from nft_jax.record.trackers import require_writers
from nft_jax.rollout.ends import Ends
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.evaluation import HeldOut, read_held_out
from nft_jax.rollout.slots import position_lines, require_positions
from nft_jax.rollout.stored import Stored, read_stored
from nft_jax.rollout.stored_answers import StoredReport
from nft_jax.runtime.clock import Timeline
from nft_jax.runtime.compilation import CompileCounter, Program, compile_all, largest
from nft_jax.runtime.distributed import ends_together, gather, is_first, process_count, require_same, together
from nft_jax.runtime.files import replaced
from nft_jax.runtime.mesh import hosts, require_host_memory
from nft_jax.runtime.stops import stop_on_signals
from nft_jax.runtime.terminal import Console, duration
from nft_jax.runtime.watchdog import Watchdog
from nft_jax.runtime.writing import Writing
from nft_jax.train import adapters
from nft_jax.train.compared_experts import KIND as COMPARE
from nft_jax.train.identity import identity_of
from nft_jax.train.plan import Plan, make_plan, settle
from nft_jax.train.programs import SCORES, programs_of
from nft_jax.train.reference import check_reference, load_base, load_reference
from nft_jax.train.run import Run
from nft_jax.train.state import Progress, TrainState, init_state, make_optimizer
from nft_jax.types import InputError, Unreachable
from nft_jax.verify import Verifier


class Finished(Exception):
    """The run in the folder has nothing left to do. Never leaves `train`, which returns the summary."""

    def __init__(self, summary: dict):
        super().__init__()
        self.summary = summary


class Inputs(NamedTuple):
    """What a run reads, without the weights."""
    date: str                          # that the chat template writes; "" for one that writes none
    model: ModelConfig
    tokenizer: Any
    eos: tuple[int, ...]               # ids that end an answer
    stream: PromptStream
    stored: Stored | None              # answers in the sampler's place
    held_out: list[HeldOut]
    reports: dict[str, LoadReport | StoredReport]     # on the questions, by the name of their source
    identity: dict[str, str]           # name -> digest


def read_inputs(config: Config, today: str = "", *, weights: bool = True) -> Inputs:
    """The inputs of a settled configuration, checked. `today` (YYYY-MM-DD) is what the chat template writes if it
    writes a date and `data.date` is empty.

    The headers of the weights are checked too. Without `weights` they are checked only in a local folder, and
    nothing is downloaded for them. Raises InputError, naming the field, for whatever is missing or wrong."""
    require_writers(config.writers)
    folder = hf.resolve_folder(config.policy.path, weights=weights)
    model = hf.read_config(folder).for_lengths(config.longest_sequence)
    # `make_plan` checks it as well. Here it is told before the questions are read.
    require_positions(model, config.data.max_prompt_tokens, config.rollout.max_new_tokens)
    tokenizer = hf.load_tokenizer(folder, config.data.chat_template)
    if weights or hf.is_local(config.policy.path):
        hf.check_weights(folder, model)
    adapters.check_first(config, model)
    check_reference(config, model, weights=weights)
    config = replace(config, data=dated(config.data, tokenizer, today))
    eos, stored = hf.eos_token_ids(folder, tokenizer), None
    if config.rollout.answers:
        stored = read_stored(config, tokenizer, eos, model.vocab_size)
        # Until the groups are judged, all of them: `stored_stream` leaves some out.
        questions, reports = [Question(p.problem, p.gold, p.text, p.tokens) for p in stored.prompts], {
            "rollout.answers": stored.report}
    else:
        questions, report = load_questions(config.data, tokenizer, reward=config.verifier.reward)
        reports = {"data": report}
    held_out, evaluated = read_held_out(config, tokenizer)
    stream = STREAMS[config.data.order](questions, config.data.seed)
    identity = identity_of(config, folder, tokenizer, eos, stream, held_out, stored, weights=weights)
    return Inputs(config.data.date, model, tokenizer, eos, stream, stored, held_out, reports | evaluated, identity)


def require_chosen(config: Config) -> None:
    """Raises InputError, naming every one, where the model or the questions are left to the user and not given."""
    needed = {
        "policy.path": (config.policy.path, "--policy.path FOLDER (a model in Hugging Face layout, or a hub name)"),
        "data.source": (config.data.source, "--data.source FILE (questions, .jsonl or .parquet, or a hub name)")}
    if config.rollout.answers:
        del needed["data.source"]
    missing = {name: flag for name, (value, flag) in needed.items() if not value}
    if missing:
        raise InputError(f"{' and '.join(f'{name} is {str()!r}' for name in missing)}: this configuration trains what "
                         f"you name. Add {' and '.join(missing.values())}. To look around first, `python -m "
                         "experiments.quickstart` needs neither.")


def first_prompt(inputs: Inputs) -> str:
    """The first prompt of the run, as the model reads it: a wrong template or tokenizer shows here."""
    tokens = inputs.stream.first.tokens
    return f"the first prompt, {len(tokens)} tokens:\n{shown(tokens, inputs.tokenizer)}"


def as_begun(config: Config, standing: Standing) -> Config:
    """With the date that the run which goes on here, or its source, began with."""
    day = config.data.date or standing.remembered("data.date", "")
    return replace(config, data=replace(config.data, date=day))


def preview(config: Config, *, fresh: bool = False, fork: str = "") -> tuple[ModelConfig, list[str]]:
    """For `--dry-run`: the model's configuration, and lines on what was read of the inputs and is in the run folder.

    No weights are downloaded. Where the hub cannot be reached the lines say what was not read, and the model is
    `config_of` its name. Raises InputError for everything else that `read_inputs` and `look` refuse."""
    require_chosen(config)
    standing = look(config, fresh=fresh, fork=fork)
    try:
        inputs = read_inputs(as_begun(config, standing), date.today().isoformat(), weights=False)
    except Unreachable as error:
        model, lines = hf.config_of(config.policy.path), []
        if model is PUBLISHED.get(config.policy.path):
            lines.append(f"model: {config.policy.path} was not read. Its shape comes from nft_jax.model.hf.published.")
        lines.append("Tokenizer and data were not read, or not all of them, so nothing is said of the questions: "
                     f"{error}")
    else:
        model, lines = inputs.model, [f"{name}: {report}" for name, report in inputs.reports.items()]
        lines += [*prompt_lines(inputs.tokenizer), first_prompt(inputs),
                  *Ends(inputs.tokenizer, inputs.eos, config.rollout, model.vocab_size).told()]
        config = replace(config, data=replace(config.data, date=inputs.date))
        standing = look(config, inputs.identity, fresh=fresh, fork=fork)
    return model, [*lines, *truncation_remark(config), *standing.lines]


def require_one_run(plan: Plan, inputs: Inputs) -> None:
    """Raises SharedError where the processes were given different configurations, models,
    inputs (`identity_of`) or versions of jax."""
    if process_count() == 1:
        return
    config = plan.config
    fields = flat(config.to_dict())
    fields.pop("rollout.slots")                # depends on each machine's free memory, and changes no answer
    require_same(fields | {
        "jax": jax.__version__, "the model's config.json": repr(plan.model), **inputs.identity,
    }, "what they were given")


def claim(plan: Plan, inputs: Inputs, fresh: bool, fork: str, quiet: bool, closing: ExitStack) -> tuple[str, ...]:
    """Make the run folder and hold it until `closing`; returns lines for the user.

    The first process does so. The others look for the folder. Raises in all of them Finished, where nothing is left
    to do, and InputError, as `claimed` and `check_room`, and where a process does not see the folder."""
    config, folder, standing = plan.config, Path(plan.config.folder), Standing()
    with together("making the run folder"):
        if is_first():
            standing = closing.enter_context(claimed(config, inputs.identity, fresh=fresh, fork=fork))
            if standing.summary is None:
                check_room(folder, plan.state, config.checkpoint, config.steps)
                with refusals_named(folder), replaced(folder / "skipped.json") as partial:
                    reports = {name: report.to_json() for name, report in inputs.reports.items()}
                    partial.write_text(json.dumps(reports, indent=1) + "\n")
    lines, summary = gather((standing.lines, standing.summary))[0]
    if summary is not None:
        if is_first() and not quiet:
            print(*lines, sep="\n")
        raise Finished(summary)
    with together("looking for the run folder"):
        if not (folder / "config.json").exists():
            raise InputError(f"workdir is {str(folder)!r}, which the first process has made and this one does not see: "
                             "choose a folder that all of them share (NFS, Lustre, a mounted bucket).")
    return lines


def require_going_on(rollout: RolloutConfig, progress: Progress) -> None:
    """Raises InputError where the run cannot go on with the open groups of a checkpoint: a fork may have changed the
    fields."""
    if not progress.open:
        return
    said = f"the checkpoint of step {progress.step} has {len(progress.open)} groups with answers that go on"
    longest = max(len(r.tokens) for group in progress.open for r in group.rollouts if r.finish_reason == "budget")
    rollout.require(rollout.budget > 0, "tokens_per_step", f"{said}; use 1 to rollout.max_new_tokens - 1, or a run "
                    "without such groups.")
    rollout.require(longest < rollout.max_new_tokens, "max_new_tokens", f"{said}, of up to {longest} tokens; use more.")
    samples = len(progress.open[0].rollouts)
    rollout.require(rollout.samples_per_prompt == samples, "samples_per_prompt", f"{said}, {samples} in each; use "
                    f"{samples}.")


def restore_or_load(plan: Plan, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """The state of the newest whole checkpoint; without one, step 0 from the model folder, or from `first_adapters`.
    Raises InputError where the adapters of a checkpoint, or of adapter.path, were trained beside other weights."""
    config, restored = plan.config, checkpoints.resume(plan.state)
    progress = Progress(best_metric=config.checkpoint.best)
    if restored is not None:
        state, counters, groups = restored
        progress = Progress.of(counters, groups)
        require_going_on(config.rollout, progress)
        if progress.best_metric != config.checkpoint.best:
            progress = replace(progress, best_metric=config.checkpoint.best, best=None, best_step=None)
    if config.adapter.rank:
        digest, trained = "", config.adapter.path if restored is None else f"the run in {config.folder!r}"
        with together("reading the base"):
            if is_first():
                known = adapters.noted_digest(config) if restored is None else progress.base_digest
                digest = require_base(Adapter(config.adapter, config.policy.path, known),
                                      hf.resolve_folder(config.policy.path), plan.model, trained, "policy.path")
        progress.base_digest = gather(digest)[0]
    if restored is not None:
        return state, progress
    placements = jax.tree.map(lambda x: x.sharding, plan.state)
    if config.adapter.rank:
        params = adapters.first_adapters(config, plan.model, placements.params)
    else:
        params = hf.load_params(hf.resolve_folder(config.policy.path), plan.model, shardings=placements.params)
    first = jax.jit(partial(init_state, optimizer=make_optimizer(config.optimizer), average=config.rollout.ema > 0),
                    out_shardings=placements, donate_argnums=0)
    return first(params), progress


def remove_answers_after(folder: Path, step: int) -> None:
    """Delete the rollout files of steps that will be done again."""
    for path in (folder / "rollouts").glob("step_*"):
        if int(path.name.removeprefix("step_").partition(".")[0]) > step:
            path.unlink()


def compile_programs(programs: Sequence[Program], console: Console, watchdog: Watchdog) -> None:
    """Compile every program before the first step. jax keeps what it compiled ahead, so the calls of the run find
    it. The metric `compiles` counts other calls."""
    cache, started, total = jax.config.jax_compilation_cache_dir, time.monotonic(), len(programs)
    where = f"; compiled programs are kept in {cache}" if cache else " (no compilation cache)"
    console.say(f"compiling {total} programs{where}")
    watchdog.feed("compile")

    def progress(program: Program, done: int) -> None:
        watchdog.feed()
        console.phase(f"compiled {done} of {total} programs: {program}")
        if not console.rich.is_terminal:
            console.say(f"compiled {done}/{total}  {program}  after {duration(time.monotonic() - started)}")

    compile_all(programs, threads=os.cpu_count() or 1, progress=progress)


def truncation_remark(config: Config) -> list[str]:
    """One line where the sampled distribution is not the trained one."""
    rollout = config.rollout
    if not rollout.truncates or rollout.old_logprobs != "trainer" or rollout.answers:
        return []
    return [f"rollout.old_logprobs: trainer, and top_k={rollout.top_k}, top_p={rollout.top_p}, min_p={rollout.min_p}: "
            "the sampled distribution is not the trained one (top-p 0.8 alone moves the mean ratio to 0.9). Switch "
            "truncation off (0, 1, 0), or choose rollout.old_logprobs truncated or sampler"]


def remarks(plan: Plan, sampler: Sampler, held_out: Sequence[HeldOut], asked_slots: int,
            remembered: int) -> Iterator[str]:
    """What a user should know of this run: choices that it made, and what it leaves out."""
    processes = hosts(plan.mesh)
    slots = sampler.slots * processes
    yield f"attention: {plan.compute.attention} ({plan.attention_reason})"
    chosen = " (as the run began)" if remembered else " (chosen from the free memory)"
    yield f"rollout.slots: {slots}{'' if asked_slots else chosen}"
    yield from prompt_lines(sampler.ends.tokenizer)
    yield from position_lines(plan.model)
    yield from sampler.ends.told()
    yield from truncation_remark(plan.config)
    if processes > 1:
        yield (f"processes: {processes}, each with {sampler.mesh.size} of the {plan.mesh.size} devices; each decodes "
               "and judges its own prompts")
    if not held_out:
        yield "evaluation: none (set evaluation.source to measure accuracy on held-out questions)"


class Planned(NamedTuple):
    """A run that has read its inputs, and holds no weights."""
    inputs: Inputs
    plan: Plan
    sampler: Sampler
    programs: list[Program]
    remembered: int                    # the slots of a run that goes on; else 0


def planned(config: Config, fresh: bool, fork: str) -> Planned:
    """Raises InputError for bad input, in every process where one has it."""
    # One day for all processes: they may stand in several time zones.
    today = gather(date.today().isoformat())[0]
    with together("reading its inputs"):
        require_chosen(config)
        config = settle(config)
        standing = look(config, fresh=fresh, fork=fork)
        config = as_begun(config, standing)
        inputs = read_inputs(config, today)
        config = replace(config, data=replace(config.data, date=inputs.date))
        # A run that goes on keeps its slots, whatever memory is free now: on accelerators the last bits of an
        # answer's log-probs may depend on them.
        remembered = standing.remembered("rollout.slots", 0)
        plan = make_plan(config, inputs.model, slots=remembered)
        require_host_memory(config.policy.remat, plan.mesh)
        sampler = plan.sampler(inputs.tokenizer, inputs.eos)
        return Planned(inputs, plan, sampler, programs_of(plan, sampler), remembered)


@contextmanager
def open_run(config: Config, *, fresh: bool, fork: str = "", verifier: Verifier | None = None, quiet: bool = False,
             profile: bool = False) -> Iterator[tuple[Run, TrainState, Progress]]:
    """An open run, with its state from the newest checkpoint (with `fork`, of that run) or from the model folder.

    Everything is closed when the block ends, except a `verifier` that was given. Raises InputError for bad input,
    SharedError where the processes do not agree, and Finished where the run has nothing left to do."""
    folder, asked_slots = Path(config.folder), config.rollout.slots
    inputs, plan, sampler, programs, remembered = planned(config, fresh, fork)
    config, held_out, stream = plan.config, inputs.held_out, inputs.stream
    require_one_run(plan, inputs)
    own_verifier = Verifier(config.verifier) if verifier is None else None
    other = config.evaluation.reward if held_out else ""
    examiner = Verifier(replace(config.verifier, reward=other, disagreement=False)) if other else None
    # Whatever ends the run, what was opened last is closed first.
    with ExitStack() as closing:
        found = claim(plan, inputs, fresh, fork, quiet, closing)
        checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        compiles = CompileCounter()
        watchdog = Watchdog(config.guard.watchdog_seconds, folder / "hang.txt", ends=config.guard.watchdog_ends)
        for part in (own_verifier, examiner, checkpoints, watchdog):
            if part is not None:
                closing.callback(part.close)
        closing.enter_context(ends_together())
        judge = verifier or own_verifier.start()
        watchdog.feed("load", 0)
        state, progress = restore_or_load(plan, checkpoints)
        base = load_base(config, plan.model, plan.base)
        reference = base if plan.reference is plan.base else load_reference(config, plan.model, plan.reference)
        stream.restore(progress.stream)
        if is_first():
            remove_answers_after(folder, progress.step)
        # The inner `ends_together` comes before anything is closed, since closing may wait for the other processes.
        with stop_on_signals() as stop, Console(config.steps, progress.step, quiet or not is_first()) as console, \
                ends_together():
            writing = Writing(console.say)
            writer = None
            if is_first():
                writer = MetricsWriter(folder, progress.step or -1, config, writing)
                closing.callback(writer.close)
            for line in (*(f"{name}: {report}" for name, report in inputs.reports.items()),
                         first_prompt(inputs), *found, *checkpoints.set_aside,
                         *remarks(plan, sampler, held_out, asked_slots, remembered)):
                if line:
                    console.say(line)
            compile_programs(programs, console, watchdog)
            timeline = Timeline(folder / "profile" if profile else None, console.say)
            closing.callback(timeline.close)
            kinds = largest(programs)
            scores = [kinds[kind].function for kind in SCORES if kind in kinds] or [None]
            yield Run(
                plan=plan, folder=folder, tokenizer=inputs.tokenizer, sampler=sampler, verifier=judge,
                examiner=examiner or judge, stream=stream, stored=inputs.stored, held_out=held_out,
                score=scores[0], score_reference=scores[-1],
                count_otherwise=kinds[COMPARE].function if COMPARE in kinds else None,
                train_step=kinds["train step"].function,
                average=kinds["average"].function if "average" in kinds else None, base=base, reference=reference,
                checkpoints=checkpoints, writer=writer, compiles=compiles, console=console, stop=stop,
                timeline=timeline, watchdog=watchdog, writing=writing,
            ), state, progress
