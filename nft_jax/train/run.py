"""A run, opened: everything that training needs, read and checked in the order of its cost.

Settings and files first (seconds), then devices, then the disk's room, and only then weights and compilation, so that
bad input ends the run before anything heavy has started.
"""
from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq
from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.data.arithmetic import SOURCES
from nft_jax.data.prompts import LoadReport, load_questions
from nft_jax.data.stream import PromptStream
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import (
    check_weights,
    config_of,
    eos_token_ids,
    load_params,
    load_tokenizer,
    read_config,
    resolve_folder,
)
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.objectives.registry import find_objective, resolve
from nft_jax.record.checkpoint import Checkpoints, check_room
from nft_jax.record.folder import claimed, read_settings
from nft_jax.record.metrics import CompileCounter, MetricsWriter, NoWriter
from nft_jax.record.rollouts import groups_to_table
from nft_jax.record.trackers import require_writers
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.evaluation import HeldOut, read_held_out
from nft_jax.runtime.clock import Timeline, Watcher
from nft_jax.runtime.compilation import Program, compile_all
from nft_jax.runtime.distributed import ends_together, is_first, together
from nft_jax.runtime.files import replaced
from nft_jax.runtime.mesh import data_parallel_size, hosts, make_mesh, require_host_memory
from nft_jax.runtime.stops import Stop, stop_on_signals
from nft_jax.runtime.terminal import Console
from nft_jax.runtime.watchdog import Watchdog
from nft_jax.runtime.writing import Writing
from nft_jax.train.batch import BatchShape, shapes_of
from nft_jax.train.nonfinite import count_skipped, write_batches
from nft_jax.train.opening import require_one_run, require_shared
from nft_jax.train.programs import (
    SCORES,
    abstract_state,
    check_positions,
    compute_of,
    programs_of,
    sampler_of,
    settle_on,
)
from nft_jax.train.reference import check_reference, load_reference
from nft_jax.train.row import Rollouts, Row
from nft_jax.train.state import TrainState, init_state, make_optimizer
from nft_jax.types import Group, InputError, Unreachable
from nft_jax.verify import Verifier

ROLLOUTS_KEPT = 8      # steps whose answers wait in memory, at most, while their files cannot be written


@dataclass
class Progress:
    """Where a run stands, beside its train state: saved with every checkpoint."""
    step: int = 0
    updates: int = 0
    cursor: int = 0                    # prompts taken from the stream
    tokens_generated: int = 0
    tokens_kept: int = 0               # tokens of answers that were trained on
    skipped_steps: int = 0             # steps without a single group to learn from
    skipped_updates: int = 0           # optimizer steps whose loss or gradient was not finite
    skipped_in_a_row: int = 0          # of these, the newest, without one between them that was taken
    seconds: float = 0.0
    base_accuracy: float | None = None
    accuracy: float | None = None      # of the latest evaluation
    unfinished: dict | None = None     # metrics of the newest step, where its evaluation is still to be done
    best_metric: str = ""              # checkpoint.best; its largest value so far, and the step that has it
    best: float | None = None
    best_step: int | None = None
    carried: list[Group] = field(default_factory=list)      # surplus, for the next rollouts to be collected
    ahead: Rollouts | None = None                           # collected already (rollout.rollout_ahead)

    def improves(self, value: float | None) -> bool:
        """Whether this step's value of the metric checkpoint.best is the largest so far, which is then noted."""
        if value is None or (self.best is not None and value <= self.best):
            return False
        self.best, self.best_step = value, self.step
        return True

    def counters(self) -> dict:
        """The JSON part; groups are saved apart."""
        values = asdict(replace(self, carried=[], ahead=None))
        return {name: value for name, value in values.items() if name not in ("carried", "ahead")}

    def groups(self) -> dict[str, list[Group]]:
        """The groups that later steps train on."""
        ahead = self.ahead or Rollouts([], [])
        return {"carried": self.carried, "kept": ahead.kept, "seen": ahead.seen}

    @classmethod
    def of(cls, counters: dict, groups: dict[str, list[Group]]) -> Progress:
        """The inverse of `counters` and `groups`."""
        ahead = Rollouts(groups["kept"], groups["seen"]) if groups["kept"] or groups["seen"] else None
        return cls(**counters, carried=groups["carried"], ahead=ahead)


@dataclass
class Run:
    """The parts of an open run. `stop` is asked for by SIGINT and SIGTERM."""
    config: Config
    folder: Path
    model: ModelConfig
    tokenizer: Any
    mesh: Mesh
    sampler: Sampler
    verifier: Verifier
    examiner: Verifier                         # judges the evaluation: the verifier, unless evaluation.reward is set
    stream: PromptStream
    held_out: list[HeldOut]
    shapes: tuple[BatchShape, ...]
    score: Any
    train_step: Any
    reference: Any                             # parameters of the reference; None without a KL term
    checkpoints: Checkpoints
    writer: MetricsWriter
    compiles: CompileCounter
    console: Console
    stop: Stop
    timeline: Timeline
    watcher: Watcher
    watchdog: Watchdog
    writing: Writing
    halted: str = ""                           # why the run ends itself
    trained: Future[float] | None = None       # when the newest optimizer step ended
    row: Row | None = None                     # of the newest step, until it is written
    late_seconds: dict[str, float] = field(default_factory=dict)    # of phases that end after their step's row

    def phase(self, name: str) -> None:
        """What the host does now."""
        self.console.phase(name)
        self.watchdog.feed(name)

    def alive(self, tokens: int = 0) -> None:
        """Called with every block of decoded tokens: there is progress. Raises StopRun where the run is to stop."""
        self.watchdog.feed()
        self.stop.check(alone=not self.sampler.mesh.is_multi_process)

    def completed(self, progress: Progress) -> dict:
        """All metrics of the newest step; waits for its optimizer steps. Those that were not finite are counted, their
        batches written, and the run ends where there were guard.max_nonfinite in a row."""
        row, self.row = self.row, None
        metrics = row.complete()
        progress.skipped_updates += len(row.skipped)
        progress.skipped_in_a_row, most = count_skipped(row, progress.skipped_in_a_row)
        if row.skipped:
            paths = write_batches(row, self.folder / "nonfinite", self.writing) if is_first() else []
            self.console.say(f"step {row.step}: {len(row.skipped)} of {len(row.batches)} optimizer steps were skipped, "
                             "as their loss or gradient is not finite. Their batches: "
                             f"{', '.join(map(str, paths)) or 'not written, there are enough'}")
        if most >= self.config.guard.max_nonfinite:
            progress.skipped_in_a_row = 0          # who goes on gets as many again
            self.halted = (f"{most} optimizer steps in a row, up to step {row.step}, had a loss or gradient that is "
                           f"not finite (guard.max_nonfinite is {self.config.guard.max_nonfinite}).")
        return metrics

    def write_row(self, progress: Progress) -> None:
        """The row of the newest step, if it is not written yet."""
        if self.row is not None:
            step, metrics = self.row.step, self.completed(progress)
            self.writer.write(step, metrics)
            self.console.step(step, metrics)

    def write_rollouts(self, step: int, groups: list[Group], kept: list[Group]) -> None:
        """`rollouts/step_NNNNNN.parquet`: every answer that the step generated or trained on."""
        if not is_first():
            return
        seen = {group.prompt.index: group for group in kept} | {group.prompt.index: group for group in groups}
        table = groups_to_table([seen[index] for index in sorted(seen)], frozenset(g.prompt.index for g in kept))
        path = self.folder / "rollouts" / f"step_{step:06d}.parquet"

        def write() -> None:
            with replaced(path) as partial:
                pq.write_table(table, partial, compression="zstd")

        self.writing("rollouts", path.name, write, most=ROLLOUTS_KEPT)


def settle(config: Config) -> Config:
    """The configuration with every default decided that depends on another field."""
    evaluation = config.evaluation
    if not evaluation.source and config.data.source in SOURCES:
        evaluation = replace(evaluation, source=config.data.source)
    rollout = config.rollout
    if rollout.old_logprobs == "auto":
        rollout = replace(rollout, old_logprobs="trainer")
    if config.terms.mismatch != "off" and find_objective(config.objective).whole_groups:
        raise InputError(f"terms.mismatch is {config.terms.mismatch!r}: {config.objective} is one loss for a whole "
                         "group, whose answers cannot be weighted one by one. Switch it off, or choose another "
                         "objective.")
    return replace(config, loss=resolve(config.objective, config.loss), evaluation=evaluation, rollout=rollout)


def read_inputs(config: Config, *, weights: bool = True):
    """Model configuration, tokenizer, end-of-sequence ids, prompt stream, held-out prompts, and reports on the data.
    The headers of the weights are checked too; without `weights`, only where they are in a local folder."""
    require_writers(config.writers)
    model_folder = resolve_folder(config.policy.path, weights=weights)
    model = read_config(model_folder)
    check_positions(config, model)
    tokenizer = load_tokenizer(model_folder)
    if weights or Path(config.policy.path).expanduser().is_dir():
        check_weights(model_folder, model)
    check_reference(config, model, weights=weights)
    questions, report = load_questions(config.data, tokenizer, reward=config.verifier.reward)
    held_out, evaluated = read_held_out(config, tokenizer)
    return model, tokenizer, eos_token_ids(model_folder, tokenizer), PromptStream(questions, config.data.seed), \
        held_out, {"data": report} | evaluated


def preview(config: Config) -> tuple[ModelConfig, list[str]]:
    """For `--dry-run`: the model's configuration, and lines on what was read of the inputs. No weights are downloaded.

    What only the hub has, and the hub does not give, is no error here: the lines say that it was not read, and the
    model is `config_of` its name. Raises InputError for everything else that `read_inputs` refuses.
    """
    try:
        model, *_, reports = read_inputs(config, weights=False)
    except Unreachable as error:
        model = config_of(config.policy.path)
        check_positions(config, model)
        shape = [f"model: {config.policy.path} was not read; its shape is that of nft_jax.model.hf.published."] \
            if model is PUBLISHED.get(config.policy.path) else []
        return model, [*shape, "Tokenizer and data were not read, or not all of them, so nothing is said of the "
                               f"questions: {error}"]
    return model, [f"{name}: {report}" for name, report in reports.items()]




def restore_or_load(config: Config, model: ModelConfig, shapes: TrainState,
                    checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """The state of the newest checkpoint that is whole; without any, that of the model folder, at step 0. `shapes`:
    with shardings."""
    restored = checkpoints.resume(shapes)
    if restored is not None:
        state, counters, groups = restored
        progress = Progress.of(counters, groups)
        if progress.best_metric != config.checkpoint.best:
            progress = replace(progress, best_metric=config.checkpoint.best, best=None, best_step=None)
        return state, progress
    placements = jax.tree.map(lambda x: x.sharding, shapes)
    params = load_params(resolve_folder(config.policy.path), model, shardings=placements.params)
    first = jax.jit(partial(init_state, optimizer=make_optimizer(config.optimizer)), out_shardings=placements,
                    donate_argnums=0)
    return first(params), Progress(best_metric=config.checkpoint.best)


def remembered_slots(config: Config, fresh: bool) -> tuple[Config, str]:
    """The configuration, and how its slots are decided, in words. Where rollout.slots is 0 (automatic), a run that goes
    on keeps the number it began with, whatever memory is free now: on accelerators the last bits of an answer's
    log-probs may depend on it."""
    if config.rollout.slots:
        return config, ""
    settings = None if fresh else read_settings(Path(config.folder))
    slots = (settings or {}).get("rollout", {}).get("slots", 0)
    if not slots:
        return config, " (chosen from the free memory)"
    return replace(config, rollout=replace(config.rollout, slots=slots)), " (as the run began)"


def compile_programs(programs: Mapping[str, Program], console: Console, watchdog: Watchdog) -> None:
    """Every program of a run, compiled before its first step: jax keeps what it compiled ahead, so that the calls of
    the run find it (the metric `compiles` counts those that do not)."""
    cache, started = jax.config.jax_compilation_cache_dir, time.monotonic()
    console.say(f"compiling {len(programs)} programs; compiled programs are kept in {cache}" if cache else
                f"compiling {len(programs)} programs (no compilation cache)")

    watchdog.feed("compile")

    def progress(name: str, done: int, total: int) -> None:
        watchdog.feed()
        console.phase(f"compiled {done} of {total} programs: {name}")
        if not console.rich.is_terminal:
            console.say(f"compiled {done}/{total}  {name}  {time.monotonic() - started:.1f} s")

    compile_all(programs, threads=os.cpu_count() or 1, progress=progress)


def claim(config: Config, fresh: bool, shapes: TrainState, reports: Mapping[str, LoadReport],
          closing: ExitStack) -> str:
    """The run folder, made by the first process, which holds it until `closing`, and seen by all; a remark on it."""
    folder, remark = Path(config.folder), ""
    with together("making the run folder"):
        if is_first():
            remark = closing.enter_context(claimed(config, fresh))
            check_room(folder, shapes, config.checkpoint, config.steps)
            with replaced(folder / "skipped.json") as partial:
                partial.write_text(json.dumps({k: r.to_json() for k, r in reports.items()}, indent=1) + "\n")
    with together("looking for the run folder"):
        require_shared(folder)
    return remark


def remove_answers_after(folder: Path, step: int) -> None:
    """Those of steps that are about to be done again."""
    for path in (folder / "rollouts").glob("step_*"):
        if int(path.name.removeprefix("step_").partition(".")[0]) > step:
            path.unlink()


def remarks(mesh: Mesh, sampler: Sampler, held_out: list[HeldOut]) -> Iterator[str]:
    """What a user may not expect of this run."""
    if hosts(mesh) > 1:
        yield (f"processes: {hosts(mesh)}, each with {sampler.mesh.size} of the {mesh.size} devices; each decodes and "
               "judges its own prompts")
    if not held_out:
        yield "evaluation: none (set evaluation.source to measure accuracy on held-out questions)"


@contextmanager
def open_run(config: Config, *, fresh: bool, verifier: Verifier | None = None, quiet: bool = False,
             profile: bool = False) -> Iterator[tuple[Run, TrainState, Progress]]:
    """Everything of a run, its state restored from the newest checkpoint or made from the model folder. A `verifier`
    that is given stays open."""
    config = settle(config)
    folder = Path(config.folder)
    with together("reading its inputs"):
        model, tokenizer, eos, stream, held_out, reports = read_inputs(config)
        mesh = make_mesh(config.mesh)
        require_host_memory(config.policy.remat, mesh)
        config, slots_note = remembered_slots(config, fresh)
        config = settle_on(config, model, mesh)
        compute, reason = compute_of(config, model, mesh, mesh.devices.flat[0].platform)
        sampler = sampler_of(config, model, mesh, compute, tokenizer, eos)
        batch_shapes = shapes_of(config, data_parallel_size(mesh), model)
        programs = programs_of(config, model, mesh, compute, sampler, batch_shapes)
        shapes = abstract_state(config, model, mesh)
    require_one_run(config, model, stream, held_out)
    own_verifier = Verifier(config.verifier) if verifier is None else None
    other = config.evaluation.reward if held_out else ""
    examiner = Verifier(replace(config.verifier, reward=other)) if other else None
    with ExitStack() as closing:                 # whatever ends the run, last opened first
        remark = claim(config, fresh, shapes, reports, closing)
        checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
        watcher, compiles = Watcher(), CompileCounter()
        watchdog = Watchdog(config.guard.watchdog_seconds, folder / "hang.txt", ends=config.guard.watchdog_ends)
        for part in (own_verifier, examiner, checkpoints, watcher, watchdog):
            if part is not None:
                closing.callback(part.close)
        closing.enter_context(ends_together())
        judge = verifier or own_verifier.start()
        watchdog.feed("load", 0)
        state, progress = restore_or_load(config, model, shapes, checkpoints)
        reference = load_reference(config, model, mesh)
        stream.restore({"index": progress.cursor})
        if is_first():
            remove_answers_after(folder, progress.step)
        with stop_on_signals() as stop, Console(config.steps, progress.step, quiet or not is_first()) as console, \
                ends_together():               # before anything is closed, which may wait for the others
            writing = Writing(console.say)
            last = progress.step - (progress.unfinished is not None) if progress.step else -1
            writer = MetricsWriter(folder, last, config, writing) if is_first() else NoWriter()
            closing.callback(writer.close)
            for line in (*(f"{name}: {report}" for name, report in reports.items()), remark, *checkpoints.set_aside,
                         f"attention: {compute.attention} ({reason})",
                         f"rollout.slots: {sampler.slots * hosts(mesh)}{slots_note}",
                         *remarks(mesh, sampler, held_out)):
                if line:
                    console.say(line)
            compile_programs(programs, console, watchdog)
            timeline = Timeline(folder / "profile" if profile else None, console.say)
            closing.callback(timeline.close)
            yield Run(
                config=config, folder=folder, model=model, tokenizer=tokenizer, mesh=mesh, sampler=sampler,
                verifier=judge, examiner=examiner or judge, stream=stream, held_out=held_out, shapes=batch_shapes,
                score=next((programs[name].function for name in SCORES if name in programs), None),
                train_step=programs["train step"].function, reference=reference, checkpoints=checkpoints,
                writer=writer, compiles=compiles, console=console, stop=stop, timeline=timeline, watcher=watcher,
                watchdog=watchdog, writing=writing,
            ), state, progress
