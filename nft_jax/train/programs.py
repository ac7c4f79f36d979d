"""What a run compiles: the programs of its plan. The run compiles them at its start, preflight for other devices."""
from functools import partial

import jax
import jax.numpy as jnp

from nft_jax.config import Config
from nft_jax.objectives.registry import find_objective
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.compilation import Program
from nft_jax.train import compared_experts
from nft_jax.train.batch import BatchShape
from nft_jax.train.plan import Plan
from nft_jax.train.state import compile_average, make_optimizer
from nft_jax.train.step import Loss, compile_score, compile_step, place_batch
from nft_jax.types import TrainBatch

SCORES = ("score", "reference score")      # kinds of programs that score; they are one function
FORWARD = (*SCORES, compared_experts.KIND)       # that pass over rows of answers while the sampler keeps its slots


def programs_of(plan: Plan, sampler: Sampler) -> list[Program]:
    """Every program of a run: the sampler's first, then the trainer's."""
    decoding = truncations(plan.config)
    programs = (sampler.programs(decoding, plan.params) if decoding else []) + training_programs(plan)
    if plan.config.rollout.compare_experts:
        shape = compared_experts.one_micro_batch(plan)
        count = compared_experts.compile_count(plan.mesh, jax.tree.map(lambda x: x.sharding, plan.params),
                                               model=plan.model, compute=plan.compute)
        programs.append(Program(compared_experts.KIND, (shape.row_length,), count, (
            plan.params, _batch(plan, shape), compared_experts.abstract_experts(plan))))
    return programs


def truncations(config: Config) -> list[bool]:
    """Which programs decode: without top-k, top-p and min-p (False), with them (True), or both. Training and
    evaluation may differ. None decodes in a run on stored answers without an evaluation."""
    found = set() if config.rollout.answers else {config.rollout.truncates}
    return sorted(found | ({config.evaluation.truncates} if config.evaluation.source else set()))


def training_programs(plan: Plan) -> list[Program]:
    """`train step` and `score` of each batch shape; their size is the length of a row. `average` with rollout.ema.

    `reference score` is `score` of the reference's parameters. It is a program of its own only where `score` does
    not serve: the reference has other dtypes than the policy, the policy has adapters, or it is not scored."""
    config, mesh, state, params, reference = plan.config, plan.mesh, plan.state, plan.params, plan.reference
    placed = partial(jax.tree.map, lambda x: x.sharding)
    loss = Loss(config.objective, config.loss, plan.model, plan.compute, config.terms, config.adapter)
    step = compile_step(mesh, placed(state), make_optimizer(config.optimizer), loss, placed(plan.base))
    score = compile_score(mesh, placed(params), model=plan.model, compute=plan.compute)
    # Parameters with adapters are another tree than the reference's.
    score_reference = score if plan.base is None else compile_score(
        mesh, placed(reference), model=plan.model, compute=plan.compute)
    whole_groups = find_objective(config.objective).whole_groups
    # Stored answers without log-probs are scored whatever the choice is.
    scores = config.rollout.old_logprobs == "trainer" or bool(config.rollout.answers)
    programs = []
    if state.average is not None:
        average = compile_average(mesh, placed(state.params))
        programs.append(Program("average", (), average, (state.average, state.params, config.rollout.ema)))
    for shape in plan.shapes:
        size = (shape.row_length,)
        trained = _batch(plan, shape, group_ids=whole_groups, reference=reference is not None, fresh=config.on_policy)
        scored = _batch(plan, shape)
        programs.append(Program("train step", size, step, (state, trained, 1e-6, 1.0, plan.base)))
        if scores:
            programs.append(Program("score", size, score, (params, scored, 1.0)))
        if reference is not None and not (scores and reference == params):
            programs.append(Program("reference score", size, score_reference, (reference, scored, 1.0)))
    return programs


def _batch(plan: Plan, shape: BatchShape, group_ids: bool = False, reference: bool = False,
           fresh: bool = False) -> TrainBatch:
    """The arrays of a batch, abstract, each [M, R, T]."""
    size = shape.micro_batches, shape.rows, shape.row_length
    ints, floats = (jax.ShapeDtypeStruct(size, dtype) for dtype in (jnp.int32, jnp.float32))
    batch = TrainBatch(ints, ints, ints, *(floats,) * 5, jax.ShapeDtypeStruct((), jnp.int32),
                       group_ids=ints if group_ids else None, reference_logprobs=floats if reference else None,
                       fresh=ints if fresh else None)
    # Without shardings in a single process: the run calls the programs with host arrays, and jax
    # would take arguments with shardings for other programs.
    return place_batch(batch, plan.mesh)
