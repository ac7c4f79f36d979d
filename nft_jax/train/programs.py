"""What a run compiles: every program by name, from its configuration and the model's shape alone. The run compiles this
list at its start, preflight for devices that are not there."""
from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.kernels import choose_attention
from nft_jax.parallel import data_parallel_size
from nft_jax.programs import Program, with_shardings
from nft_jax.rollout.engine import Sampler
from nft_jax.train.batch import BatchShape, shapes_of
from nft_jax.train.state import TrainState, init_state, make_optimizer, state_shardings
from nft_jax.train.step import compile_score, compile_step
from nft_jax.types import TrainBatch


def compute_of(config: Config, model: ModelConfig, mesh: Mesh, platform: str) -> Compute:
    """How the passes of a run are computed on this mesh; `platform` (tpu, gpu or cpu) decides the attention kernel."""
    attention, _ = choose_attention(config.policy.attention, platform, config.policy.compute_dtype, model.head_dim)
    return Compute(config.policy.compute_dtype, config.policy.remat, attention, mesh)


def sampler_of(config: Config, model: ModelConfig, mesh: Mesh, compute: Compute, tokenizer=None,
               eos: tuple[int, ...] = (0,)) -> Sampler:
    """The run's sampler. For compiling alone it needs neither a tokenizer nor the true end-of-sequence ids."""
    return Sampler(model, tokenizer, eos, mesh=mesh, slots=config.rollout.slots, block_size=config.rollout.block_size,
                   max_prompt_tokens=config.data.max_prompt_tokens, max_new_tokens=config.rollout.max_new_tokens,
                   compute=compute)


def abstract_state(config: Config, model: ModelConfig, mesh: Mesh) -> TrainState:
    """The train state as jax.ShapeDtypeStruct with shardings."""
    shapes, optimizer = decoder.parameter_shapes(model), make_optimizer(config.optimizer)
    return with_shardings(jax.eval_shape(partial(init_state, optimizer=optimizer), shapes),
                          state_shardings(shapes, optimizer, mesh))


def _batch(shape: BatchShape) -> TrainBatch:
    """Arrays of the host, which the programs place: without shardings, or jax would not take what is compiled here for
    what the run calls."""
    size = shape.micro_batches, shape.rows, shape.row_length
    ints, floats = (jax.ShapeDtypeStruct(size, dtype) for dtype in (jnp.int32, jnp.float32))
    return TrainBatch(ints, ints, ints, *(floats,) * 5, jax.ShapeDtypeStruct((), jnp.int32))


def training_programs(config: Config, model: ModelConfig, mesh: Mesh, compute: Compute) -> dict[str, Program]:
    """`train step` and `score`, for every shape that a batch may have; the names of the longest rows' are just these.
    `config` is settled (`nft_jax.train.run.settle`)."""
    state = abstract_state(config, model, mesh)
    placements = jax.tree.map(lambda x: x.sharding, state)
    step = compile_step(mesh, placements, make_optimizer(config.optimizer), objective=config.objective,
                        loss_config=config.loss, model=model, compute=compute)
    score, programs = compile_score(mesh, placements.params, model=model, compute=compute), {}
    shapes = shapes_of(config, data_parallel_size(mesh))
    for shape in reversed(shapes):
        suffix = "" if shape is shapes[-1] else f", rows of {shape.row_length}"
        batch = _batch(shape)
        programs["train step" + suffix] = Program(step, (state, batch, 1e-6, 1.0))
        if config.rollout.old_logprobs == "trainer":
            programs["score" + suffix] = Program(score, (state.params, batch, 1.0))
    return programs


def truncations(config: Config) -> list[bool]:
    """Whether answers are sampled without top-k and top-p, with them, or both ways (evaluation may differ)."""
    evaluation = {config.evaluation.top_p < 1} if config.evaluation.source else set()
    return sorted({config.rollout.truncates} | evaluation)


def programs_of(config: Config, model: ModelConfig, mesh: Mesh, compute: Compute,
                sampler: Sampler | None = None) -> dict[str, Program]:
    """Every program of a run of the settled `config`, by name: sampling first (of `sampler`, where the run has one). No
    device is asked for anything, so the mesh may be one of devices that are not there."""
    sampler = sampler or sampler_of(config, model, mesh, compute)
    return sampler.programs(truncations(config)) | training_programs(config, model, mesh, compute)
