"""The plan of a run: its configuration with nothing left open, and what follows from the configuration alone.

A training run, its dry run and its preflight all start from a plan. A plan holds no array and no compiled
program, so its devices need not be there. `programs` says what it compiles.

A configuration is settled in two parts. `settle` needs the configuration alone. `make_plan` does
the rest, which needs the model's shape and the devices."""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from nft_jax.config import Config, MeshConfig
from nft_jax.data.arithmetic import SOURCES
from nft_jax.model import decoder
from nft_jax.model.adapter import adapter_shapes, wrap
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.hf.hub import EMBEDDED
from nft_jax.model.kernels import choose_attention
from nft_jax.objectives.registry import find_objective, resolve, try_objective
from nft_jax.record.folder import is_run
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.slots import require_positions, slots_that_fit
from nft_jax.runtime.compilation import with_shardings
from nft_jax.runtime.mesh import data_parallel_size, make_mesh, sharded_bytes
from nft_jax.train import adapters
from nft_jax.train.batch import BatchShape, shapes_of
from nft_jax.train.reference import abstract_base, abstract_reference, base_is_reference
from nft_jax.train.state import TrainState, init_state, make_optimizer, state_shardings
from nft_jax.types import InputError


@dataclass(frozen=True)
class Plan:
    """What a run computes, and where.

    state, base, reference: trees of jax.ShapeDtypeStruct with shardings. `base` is None without adapters, and
    `reference` without a KL term; they may be one tree, and are then one model in memory."""
    config: Config                     # settled: mesh sizes and slots are numbers
    model: ModelConfig
    mesh: Mesh
    compute: Compute
    attention_reason: str              # why this attention kernel, in words
    shapes: tuple[BatchShape, ...]     # of packed batches, shortest rows first
    state: TrainState
    base: Any                          # frozen, under the adapters that `state` holds
    reference: Any

    @property
    def params(self) -> Any:
        """The parameters of a pass: `state.params`, or with adapters the base that they are wrapped around."""
        return wrap(self.base, self.state.params, self.config.adapter)

    @property
    def adapter_parameters(self) -> int:
        """Parameters that are trained beside a frozen base; 0 without adapters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params)) if self.config.adapter.rank else 0

    @property
    def longest(self) -> BatchShape:
        """The batch with the longest rows, which needs the most memory."""
        return self.shapes[-1]

    def sampler(self, tokenizer=None, eos: tuple[int, ...] = (0,)) -> Sampler:
        """This process's sampler, with its share of the slots. Programs depend on neither the tokenizer nor the
        end-of-sequence ids. Without them the sampler can be compiled, but it must not sample."""
        return Sampler(self.model, tokenizer, eos, self.config.rollout, mesh=self.mesh,
                       max_prompt_tokens=self.config.data.max_prompt_tokens, compute=self.compute,
                       begun_tokens=self.config.rollout.begun_tokens,
                       record_experts=self.config.rollout.compare_experts)


def settle(config: Config) -> Config:
    """The configuration with every default decided that depends on another field; a settled one stays as it is.
    Raises InputError for settings that contradict the objective, a run in place of a model that has none yet, and
    whatever `adapters.settled` refuses."""
    evaluation = config.evaluation
    if not evaluation.source and config.data.source in SOURCES:
        evaluation = replace(evaluation, source=config.data.source)
    data = config.data
    if data.seed is None:
        data = replace(data, seed=config.seed)
    if config.terms.mismatch != "off" and find_objective(config.objective).whole_groups:
        raise InputError(f"terms.mismatch is {config.terms.mismatch!r}: {config.objective} is one loss for a whole "
                         "group, whose answers cannot be weighted one by one. Switch it off, or choose another "
                         "objective.")
    policy = replace(config.policy, path=_model_of(config.policy.path, "policy.path"))
    terms = replace(config.terms, reference=_model_of(config.terms.reference, "terms.reference"))
    adapter = replace(config.adapter, path=_model_of(config.adapter.path, "adapter.path"))
    return adapters.settled(replace(config, loss=resolve(config.objective, config.loss), evaluation=evaluation,
                                    data=data, policy=policy, terms=terms, adapter=adapter))


def _model_of(path: str, field: str) -> str:
    """The model's folder of a run's folder; any other name of a model as it is."""
    if not path or path in EMBEDDED or not is_run(Path(path).expanduser()):
        return path
    model = Path(path) / "model"
    if not model.expanduser().is_dir():
        raise InputError(f"{field} is {path!r}, a run that has not written its model/ yet: let it end, or write its "
                         "newest checkpoint with nft_jax.save(nft_jax.load(RUN), FOLDER), and name that folder.")
    return str(model)


def make_plan(config: Config, model: ModelConfig, devices: Sequence[jax.Device] | None = None, *, slots: int = 0,
              free: int | None = None) -> Plan:
    """The plan of a run of `model` on `devices` (None: all that jax has).

    Where rollout.slots is 0 (automatic), the plan has `slots` of them, or, if that is 0 too, as many as fit in
    memory. `free`: bytes of each device that the whole run may take (None: ask the devices).

    Raises InputError, naming the field: an objective of one's own fails, the model has too few positions, or no experts
    for their loss; the mesh does not fit the devices or the model, rows do not divide over mesh.context, the attention
    kernel cannot run, or not one slot fits."""
    config = settle(config)
    try_objective(config.objective, config.loss, reference=bool(config.terms.kl_weight))
    rollout, policy = config.rollout, config.policy
    config.terms.require(model.num_experts > 0 or not config.terms.balance_weight, "balance_weight",
                         f"a {model.family} model has no experts to balance; leave it at 0.")
    rollout.require(model.num_experts > 0 or not rollout.compare_experts, "compare_experts",
                    f"a {model.family} model has no experts to compare; leave it off.")
    model = model.for_lengths(config.longest_sequence)
    require_positions(model, config.data.max_prompt_tokens, rollout.max_new_tokens)
    mesh = make_mesh(config.mesh, devices)
    config = replace(config, mesh=MeshConfig(**mesh.shape))
    state, base = abstract_state(config, model, mesh), abstract_base(config, model, mesh)
    reference = base if base_is_reference(config) else abstract_reference(config, model, mesh)
    if not rollout.slots:
        # Training keeps its state, the base and the reference beside the sampler.
        slots = slots or slots_that_fit(
            model, mesh, rollout, rollout.prompts_per_step * rollout.samples_per_prompt, config.data.max_prompt_tokens,
            policy.compute_dtype, free=free, begun_tokens=rollout.begun_tokens,
            taken=sharded_bytes((state, base, None if reference is base else reference)))
        config = replace(config, rollout=replace(rollout, slots=slots))
    # After the slots: on a GPU the kernel is tried, and the trial takes memory.
    attention, reason = choose_attention(policy.attention, mesh.devices.flat[0].platform, policy.compute_dtype,
                                         model.head_dim)
    return Plan(config, model, mesh, Compute(policy.compute_dtype, policy.remat, attention, mesh), reason,
                shapes_of(config, data_parallel_size(mesh), model), state, base, reference)


def abstract_state(config: Config, model: ModelConfig, mesh: Mesh) -> TrainState:
    """The train state of a settled configuration, as jax.ShapeDtypeStruct with shardings."""
    shapes = adapter_shapes(model, config.adapter) if config.adapter.rank else decoder.parameter_shapes(model)
    optimizer, average = make_optimizer(config.optimizer), config.rollout.ema > 0
    return with_shardings(jax.eval_shape(partial(init_state, optimizer=optimizer, average=average), shapes),
                          state_shardings(shapes, optimizer, mesh, average))
