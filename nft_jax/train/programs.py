"""What a run compiles: every program by name, from its configuration and the model's shape alone. The run compiles this
list at its start, preflight for devices that are not there."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.config import Config, MeshConfig
from nft_jax.model import decoder
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.kernels import choose_attention
from nft_jax.objectives.registry import find_objective
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.slots import settle_slots
from nft_jax.runtime.compilation import Program, with_shardings
from nft_jax.runtime.mesh import data_parallel_size
from nft_jax.train.batch import BatchShape
from nft_jax.train.reference import abstract_reference
from nft_jax.train.state import TrainState, init_state, make_optimizer, state_shardings
from nft_jax.train.step import compile_score, compile_step, place_batch
from nft_jax.types import InputError, TrainBatch

SCORES = ("score", "reference score")      # kinds of programs that score; they are one function


def settle_on(config: Config, model: ModelConfig, mesh: Mesh, free: int | None = None) -> Config:
    """The settled `config` of a run of `model` on `mesh`: the sizes of its axes are written out, slots decided
    (`settle_slots`, with `free`). The same for a run and its preflight. Raises InputError where the model has too few
    positions, a row does not divide over `context`, or no slot fits."""
    check_positions(config, model)
    return settle_slots(replace(config, mesh=MeshConfig(**mesh.shape)), model, mesh, free)


def check_positions(config: Config, model: ModelConfig) -> None:
    """Raises InputError where the longest prompt and answer have more tokens than the model has positions."""
    longest = config.data.max_prompt_tokens + config.rollout.max_new_tokens
    if longest > model.max_positions:
        raise InputError(f"data.max_prompt_tokens + rollout.max_new_tokens is {longest}, more than the model's "
                         f"{model.max_positions} positions: lower one of them.")


def compute_of(config: Config, model: ModelConfig, mesh: Mesh, platform: str) -> tuple[Compute, str]:
    """How the passes of a run are computed on this mesh, and why with this attention kernel; `platform` (tpu, gpu or
    cpu) is that of the run's devices."""
    policy = config.policy
    attention, reason = choose_attention(policy.attention, platform, policy.compute_dtype, model.head_dim)
    return Compute(policy.compute_dtype, policy.remat, attention, mesh), reason


def sampler_of(config: Config, model: ModelConfig, mesh: Mesh, compute: Compute, tokenizer=None,
               eos: tuple[int, ...] = (0,)) -> Sampler:
    """The run's sampler, in every process one with its share of the slots. For compiling alone it needs neither a
    tokenizer nor the true end-of-sequence ids."""
    return Sampler(model, tokenizer, eos, config.rollout, mesh=mesh, max_prompt_tokens=config.data.max_prompt_tokens,
                   compute=compute)


def abstract_state(config: Config, model: ModelConfig, mesh: Mesh) -> TrainState:
    """The train state as jax.ShapeDtypeStruct with shardings."""
    shapes, optimizer = decoder.parameter_shapes(model), make_optimizer(config.optimizer)
    return with_shardings(jax.eval_shape(partial(init_state, optimizer=optimizer), shapes),
                          state_shardings(shapes, optimizer, mesh))


def _batch(shape: BatchShape, mesh: Mesh, group_ids: bool = False, reference: bool = False) -> TrainBatch:
    """Arrays of the host, which the programs place: without shardings, or jax would not take what is compiled here for
    what the run calls. On a mesh of several processes they are placed before (`parallel.place`)."""
    size = shape.micro_batches, shape.rows, shape.row_length
    ints, floats = (jax.ShapeDtypeStruct(size, dtype) for dtype in (jnp.int32, jnp.float32))
    batch = TrainBatch(ints, ints, ints, *(floats,) * 5, jax.ShapeDtypeStruct((), jnp.int32),
                       group_ids=ints if group_ids else None, reference_logprobs=floats if reference else None)
    return place_batch(batch, mesh)


def training_programs(config: Config, model: ModelConfig, mesh: Mesh, compute: Compute,
                      shapes: Sequence[BatchShape] = ()) -> dict[str, Program]:
    """`train step` and `score` of the settled `config` for the longest rows, which need the most memory; with `shapes`,
    for shorter ones too. `reference score` is `score` of parameters in the reference's types, where these are others
    than the policy's, or the policy itself is not scored."""
    longest, state = BatchShape.of(config, data_parallel_size(mesh)), abstract_state(config, model, mesh)
    placements = jax.tree.map(lambda x: x.sharding, state)
    step = compile_step(mesh, placements, make_optimizer(config.optimizer), objective=config.objective,
                        loss_config=config.loss, model=model, compute=compute, terms=config.terms)
    score = compile_score(mesh, placements.params, model=model, compute=compute)
    reference, scores = abstract_reference(config, model, mesh), config.rollout.old_logprobs == "trainer"
    optional = find_objective(config.objective).whole_groups, reference is not None
    named = {"": longest} | {f", rows of {shape.row_length}": shape for shape in shapes
                             if shape.row_length < longest.row_length}
    programs = {f"train step{rows}": Program(step, (state, _batch(shape, mesh, *optional), 1e-6, 1.0))
                for rows, shape in named.items()}
    if scores:
        programs |= {f"score{rows}": Program(score, (state.params, _batch(shape, mesh), 1.0))
                     for rows, shape in named.items()}
    if reference is not None and not (scores and reference == state.params):
        programs |= {f"reference score{rows}": Program(score, (reference, _batch(shape, mesh), 1.0))
                     for rows, shape in named.items()}
    return programs


def truncations(config: Config) -> list[bool]:
    """Whether answers are sampled without top-k, top-p and min-p, with them, or both ways (evaluation may differ)."""
    evaluation = config.evaluation
    evaluates = {evaluation.truncates} if evaluation.source else set()
    return sorted({config.rollout.truncates} | evaluates)


def programs_of(config: Config, model: ModelConfig, mesh: Mesh, compute: Compute, sampler: Sampler,
                shapes: Sequence[BatchShape]) -> dict[str, Program]:
    """Every program of a run of the settled `config`, by name: those of its sampler first, then those of training. No
    device is asked for anything, so the mesh may be one of devices that are not there."""
    return sampler.programs(truncations(config)) | training_programs(config, model, mesh, compute, shapes)
