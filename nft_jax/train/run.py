"""A run, opened: everything that training needs, read and checked in the order of its cost.

Settings and files first (seconds), then devices, then the disk's room, and only then weights and compilation, so that
bad input ends the run before anything heavy has started.
"""
from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq

from nft_jax.checkpoint import Checkpoints, check_room
from nft_jax.config import Config, MeshConfig
from nft_jax.console import Console
from nft_jax.metrics import CompileCounter, MetricsWriter
from nft_jax.model import decoder
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.hf import (
    check_weights,
    config_of,
    eos_token_ids,
    load_params,
    load_tokenizer,
    read_config,
    resolve_folder,
)
from nft_jax.model.kernels import choose_attention
from nft_jax.model.published import PUBLISHED
from nft_jax.parallel import data_parallel_size, make_mesh, require_host_memory
from nft_jax.prompts import PromptStream, load_questions
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.table import groups_to_table
from nft_jax.train.batch import BatchShape
from nft_jax.train.objectives import resolve
from nft_jax.train.state import TrainState, init_state, make_optimizer, state_shardings
from nft_jax.train.step import compile_score, compile_step
from nft_jax.types import Group, InputError, Prompt, Unreachable
from nft_jax.verify import Verifier

# Fields that may differ when a run folder is continued: they do not change what is computed, or only how far it goes.
MAY_CHANGE = ("name", "workdir", "steps", "mesh", "policy.attention", "checkpoint", "rollout.slots",
              "rollout.block_size", "batch.rows_per_micro_batch", "verifier.workers")


@dataclass
class Progress:
    """Where a run stands, beside its train state: saved with every checkpoint."""
    step: int = 0
    updates: int = 0
    cursor: int = 0                    # prompts taken from the stream
    tokens_generated: int = 0
    tokens_kept: int = 0               # tokens of answers that were trained on
    skipped_steps: int = 0             # steps without a single group to learn from
    seconds: float = 0.0
    base_accuracy: float | None = None
    accuracy: float | None = None      # of the latest evaluation
    carried: list[Group] = field(default_factory=list)

    def counters(self) -> dict:
        """The JSON part; `carried` is saved apart."""
        return {name: value for name, value in asdict(replace(self, carried=[])).items() if name != "carried"}


@dataclass
class Run:
    """The parts of an open run. `stop` is set by SIGINT and SIGTERM."""
    config: Config
    folder: Path
    model: ModelConfig
    tokenizer: Any
    sampler: Sampler
    verifier: Verifier
    stream: PromptStream
    held_out: list[Prompt]
    shape: BatchShape
    score: Any
    train_step: Any
    checkpoints: Checkpoints
    writer: MetricsWriter
    compiles: CompileCounter
    console: Console
    stop: threading.Event
    late_seconds: dict[str, float] = field(default_factory=dict)    # of phases that end after their step's row

    def write_rollouts(self, step: int, groups: list[Group], kept: list[Group]) -> None:
        """`rollouts/step_NNNNNN.parquet`: every answer that the step generated or trained on."""
        seen = {group.prompt.index: group for group in kept} | {group.prompt.index: group for group in groups}
        table = groups_to_table([seen[index] for index in sorted(seen)], frozenset(g.prompt.index for g in kept))
        path = self.folder / "rollouts" / f"step_{step:06d}.parquet"
        pq.write_table(table, path.with_suffix(".partial"), compression="zstd")
        path.with_suffix(".partial").replace(path)


def settle(config: Config) -> Config:
    """The configuration with every default decided that depends on another field."""
    evaluation = config.evaluation
    if not evaluation.source and config.data.source == "arithmetic":
        evaluation = replace(evaluation, source="arithmetic")
    rollout = config.rollout
    if rollout.old_logprobs == "auto":
        rollout = replace(rollout, old_logprobs="trainer")
    return replace(config, loss=resolve(config.objective, config.loss), evaluation=evaluation, rollout=rollout,
                   batch=replace(config.batch, row_length=config.row_length))


def read_inputs(config: Config, *, weights: bool = True):
    """Model configuration, tokenizer, end-of-sequence ids, prompt stream, held-out prompts, and reports on the data.
    The headers of the weights are checked too; without `weights`, only where they are in a local folder."""
    model_folder = resolve_folder(config.policy.path, weights=weights)
    model = read_config(model_folder)
    _check_positions(config, model)
    tokenizer = load_tokenizer(model_folder)
    if weights or Path(config.policy.path).expanduser().is_dir():
        check_weights(model_folder, model)
    reward = config.verifier.reward
    questions, report = load_questions(config.data, tokenizer, reward=reward)
    reports = {"data": report}
    held_out: list[Prompt] = []
    if config.evaluation.source:
        data = replace(config.data, source=config.evaluation.source, split=config.evaluation.split,
                       limit=config.evaluation.questions)
        chosen, report = load_questions(data, tokenizer, room="evaluation", reward=reward)
        held_out = [question.prompt(index) for index, question in enumerate(chosen)]
        reports["evaluation"] = report
    return model, tokenizer, eos_token_ids(model_folder, tokenizer), PromptStream(questions, config.data.seed), \
        held_out, reports


def _check_positions(config: Config, model: ModelConfig) -> None:
    longest = config.data.max_prompt_tokens + config.rollout.max_new_tokens
    if longest > model.max_positions:
        raise InputError(f"data.max_prompt_tokens + rollout.max_new_tokens is {longest}, more than the model's "
                         f"{model.max_positions} positions: lower one of them.")


def preview(config: Config) -> tuple[ModelConfig, list[str]]:
    """For `--dry-run`: the model's configuration, and lines on what was read of the inputs. No weights are downloaded.

    What only the hub has, and the hub does not give, is no error here: the lines say that it was not read, and the
    model is `config_of` its name. Raises InputError for everything else that `read_inputs` refuses.
    """
    try:
        model, *_, reports = read_inputs(config, weights=False)
    except Unreachable as error:
        model = config_of(config.policy.path)
        _check_positions(config, model)
        shape = [f"model: {config.policy.path} was not read; its shape is that of nft_jax.model.published."] \
            if model is PUBLISHED.get(config.policy.path) else []
        return model, [*shape, "Tokenizer and data were not read, or not all of them, so nothing is said of the "
                               f"questions: {error}"]
    return model, [f"{name}: {report}" for name, report in reports.items()]


def claim_folder(folder: Path, config: Config, fresh: bool) -> None:
    """Make the run folder and write config.json; refuse to go on with another configuration."""
    path = folder / "config.json"
    wanted = config.to_dict()
    for name, source in (("policy.path", config.policy.path), ("data.source", config.data.source),
                         ("evaluation.source", config.evaluation.source)):
        if Path(source).exists() and Path(source).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{name} is {source!r}, which lies in the run folder {str(folder)!r}: the run would "
                             "overwrite it. Choose another workdir.")
    if path.exists() and "objective" not in json.loads(path.read_text()):
        raise InputError(f"workdir is {str(folder)!r}, whose config.json is not that of a run: choose another workdir.")
    if fresh:
        _remove_run(folder)
    if path.exists():
        differences = [f"{name}: {old!r} there, {new!r} now" for name, old, new in
                       _differences(json.loads(path.read_text()), wanted) if not name.startswith(MAY_CHANGE)]
        if differences:
            raise InputError(f"workdir {str(folder)!r} holds a run of another configuration ({'; '.join(differences)})"
                             ": set these fields back to continue it, choose another workdir, or start over with "
                             "--fresh.")
    try:
        (folder / "rollouts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"workdir is {str(folder)!r}, which cannot be made ({error.strerror}): choose a folder that "
                         "can be written.") from error
    path.write_text(json.dumps(wanted, indent=2) + "\n")


def _remove_run(folder: Path) -> None:
    """Delete what a run writes, and nothing else that may lie in the folder."""
    for name in ("rollouts", "checkpoints", "tensorboard", "model"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for name in ("config.json", "metrics.jsonl", "curves.png", "summary.json", "skipped.json"):
        (folder / name).unlink(missing_ok=True)


def _differences(old: dict, new: dict, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield prefix + key, a, b


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one ends the process as usual. (Outside the main
    thread Python allows no handlers: the event is then never set.)"""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number, frame):
        stop.set()
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def restore_or_load(config: Config, model: ModelConfig, optimizer, placements: TrainState, shapes: TrainState,
                    checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """The state of the newest checkpoint; without one, that of the model folder, at step 0."""
    latest = checkpoints.latest
    if latest is not None:
        state, counters, carried = checkpoints.restore(latest, shapes)
        return state, Progress(**counters, carried=carried)
    params = load_params(resolve_folder(config.policy.path), model, shardings=placements.params)
    return jax.jit(partial(init_state, optimizer=optimizer), out_shardings=placements)(params), Progress()


@contextmanager
def open_run(config: Config, *, fresh: bool, verifier: Verifier | None = None,
             quiet: bool = False) -> Iterator[tuple[Run, TrainState, Progress]]:
    """Everything of a run, its state restored from the newest checkpoint or made from the model folder. A `verifier`
    that is given stays open."""
    config = settle(config)
    folder = Path(config.folder)
    model, tokenizer, eos, stream, held_out, reports = read_inputs(config)
    mesh = make_mesh(config.mesh)
    require_host_memory(config.policy.remat, mesh)
    config = replace(config, mesh=MeshConfig(**mesh.shape))
    attention, reason = choose_attention(config.policy.attention, mesh.devices.flat[0].platform,
                                         config.policy.compute_dtype, model.head_dim)
    compute = Compute(config.policy.compute_dtype, config.policy.remat, attention, mesh)
    sampler = Sampler(model, tokenizer, eos, mesh=mesh, slots=config.rollout.slots,
                      block_size=config.rollout.block_size, max_prompt_tokens=config.data.max_prompt_tokens,
                      max_new_tokens=config.rollout.max_new_tokens, compute=compute)
    optimizer = make_optimizer(config.optimizer)
    param_shapes = decoder.parameter_shapes(model)
    placements = state_shardings(param_shapes, optimizer, mesh)
    shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                          jax.eval_shape(partial(init_state, optimizer=optimizer), param_shapes), placements)
    claim_folder(folder, config, fresh)
    check_room(folder, shapes, config.checkpoint.keep)
    (folder / "skipped.json").write_text(json.dumps({k: r.to_json() for k, r in reports.items()}, indent=1) + "\n")

    forward = {"model": model, "compute": compute}
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint)
    own_verifier = Verifier(config.verifier) if verifier is None else None
    try:
        state, progress = restore_or_load(config, model, optimizer, placements, shapes, checkpoints)
        stream.restore({"index": progress.cursor})
        for path in (folder / "rollouts").glob("step_*"):
            if int(path.stem.removeprefix("step_")) > progress.step:
                path.unlink()
        writer = MetricsWriter(folder, progress.step or -1)
        with stop_on_signals() as stop, Console(config.steps, progress.step, quiet) as console:
            for name, report in reports.items():
                console.say(f"{name}: {report}")
            console.say(f"attention: {attention} ({reason})")
            if not held_out:
                console.say("evaluation: none (set evaluation.source to measure accuracy on held-out questions)")
            yield Run(
                config=config, folder=folder, model=model, tokenizer=tokenizer, sampler=sampler,
                verifier=verifier or own_verifier.start(), stream=stream, held_out=held_out,
                shape=BatchShape.of(config, data_parallel_size(mesh)),
                score=compile_score(mesh, placements.params, **forward),
                train_step=compile_step(mesh, placements, optimizer, objective=config.objective,
                                        loss_config=config.loss, **forward),
                checkpoints=checkpoints, writer=writer, compiles=CompileCounter(), console=console, stop=stop,
            ), state, progress
        writer.close()
    finally:
        checkpoints.close()
        if own_verifier is not None:
            own_verifier.close()
