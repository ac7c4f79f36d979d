"""The state of training: `TrainState` on the devices, `Progress` on the host, and the optimizer.

Every checkpoint holds both states, so that a run continues exactly where it was."""
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import Mesh

from nft_jax.config import OptimizerConfig
from nft_jax.model.parameters import ARRAYS, parameter_shardings, part_axes
from nft_jax.runtime.mesh import sharding
from nft_jax.types import Group, InputError

GROUPS = ("carried", "open")      # fields of `Progress` that a checkpoint keeps as tables
MUON_RMS = 0.2      # of Muon's updates before the rate: what AdamW's have (Liu et al., arXiv 2502.16982)


class TrainState(NamedTuple):
    """Everything that an optimizer update reads and writes; donated to it."""
    params: Any
    opt_state: Any
    updates: jax.Array                # [] int32: optimizer updates taken
    average: Any = None               # of the parameters over the steps, like `params`; None without rollout.ema

    @property
    def sampling(self) -> Any:
        """The parameters that sample answers, pi_old."""
        return self.params if self.average is None else self.average


@dataclass
class Progress:
    """Where a run stands, beside its train state."""
    step: int = 0
    updates: int = 0
    asked: float = 0.0                 # groups judged so far, those of them to learn from, and the batches that they
    accepted: float = 0.0              # took in all; each step counts half as much as the one after it (`acceptance`)
    batches: float = 0.0
    stream: dict = field(default_factory=lambda: {"index": 0})      # of the prompt stream: its place and its history
    tokens_generated: int = 0
    tokens_kept: int = 0               # tokens of answers that were trained on
    skipped_steps: int = 0             # steps without a single group to learn from
    skipped_updates: int = 0           # updates whose loss or gradient was not finite
    skipped_in_a_row: int = 0          # of them, those since the last update that was taken
    seconds: float = 0.0
    evaluated: int = -1                # step of the latest evaluation
    base_accuracy: float | None = None
    accuracy: float | None = None      # of the latest evaluation
    best_metric: str = ""              # the name checkpoint.best
    best: float | None = None          # its largest value so far
    best_step: int | None = None       # the step that has it
    base_digest: str = ""              # `weights_digest` of the base under the adapters; "" without adapters
    carried: list[Group] = field(default_factory=list)      # surplus groups, for the next step
    open: list[Group] = field(default_factory=list)         # groups with answers that go on in the next step

    def improves(self, value: float | None) -> bool:
        """Whether `value`, of the metric checkpoint.best, is the largest so far. If so, it is noted."""
        if value is None or (self.best is not None and value <= self.best):
            return False
        self.best, self.best_step = value, self.step
        return True

    def counters(self) -> dict:
        """All but the groups, as JSON; a checkpoint keeps the groups as a table."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in GROUPS}

    def groups(self) -> dict[str, list[Group]]:
        """The groups that later steps train on, or go on with."""
        return {name: getattr(self, name) for name in GROUPS}

    @classmethod
    def of(cls, counters: dict, groups: dict[str, list[Group]]) -> "Progress":
        """The inverse of `counters` and `groups`.

        Reads checkpoints from before `stream`, `asked`, `batches`, `open` and `base_digest`, and from before
        `evaluated`: these were saved after the evaluation of their step. Raises InputError for one that was not."""
        if counters.get("unfinished") is not None:
            raise InputError(f"checkpoint {counters['step']} was saved by an older nft_jax that was stopped in an "
                             "evaluation; it holds a row of metrics that is not in metrics.jsonl. Continue the run "
                             "with that version, or remove this checkpoint to go on from the one before.")
        known = {"evaluated": counters["step"], "base_digest": "", "asked": 0.0, "accepted": 0.0,
                 "batches": counters.get("asked", 0.0), "stream": {"index": counters.get("cursor", 0)},
                 "open": []} | counters | groups
        return cls(**{each.name: known[each.name] for each in fields(cls)})


def init_state(params, optimizer: optax.GradientTransformation, average: bool = False) -> TrainState:
    """The state at the start, with or without an average. The moments take over the sharding of the parameters. May be
    traced."""
    # A copy: both are donated, each to its own program.
    return TrainState(params, optimizer.init(params), jnp.int32(0), jax.tree.map(jnp.copy, params) if average else None)


def averaged(average, params, decay):
    """The average after a step: `decay` times itself, and the rest of the parameters. It is pi_old of the next step.

    Zheng et al., DiffusionNFT, arXiv 2509.16117: the policy that collects follows the trained one softly."""
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, params)


def compile_average(mesh: Mesh, placements):
    """`averaged` jitted over the mesh, the old average donated. `placements`: the shardings of the parameters."""
    return jax.jit(averaged, donate_argnums=0, in_shardings=(placements, placements, sharding(mesh)),
                   out_shardings=placements)


def state_shardings(param_shapes, optimizer: optax.GradientTransformation, mesh: Mesh,
                    average: bool = False) -> TrainState:
    """Shardings of the state for parameters of these shapes: each moment lies where its parameter lies, and so does
    the average."""
    placements = parameter_shardings(param_shapes, mesh)
    shapes = jax.eval_shape(partial(init_state, optimizer=optimizer), param_shapes)

    def place(path, leaf):
        ours = any(getattr(key, "key", None) in ARRAYS for key in path)
        return sharding(mesh, *part_axes(path, leaf.shape, mesh)) if ours else sharding(mesh)

    moments = jax.tree_util.tree_map_with_path(place, shapes.opt_state)
    return TrainState(placements, moments, sharding(mesh), placements if average else None)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW or Muon.

    The step applies the learning rate, as a value: another rate compiles nothing. Like torch's AdamW,
    and so like the official code, decay reaches every parameter."""
    if config.name == "muon":
        # The rate of -1 undoes optax's sign: the step subtracts.
        return optax.chain(clip_by_norm(config.clip_norm), optax.contrib.muon(
            -1.0, weight_decay=config.weight_decay, adam_weight_decay=config.weight_decay, adam_b1=config.b1,
            adam_b2=config.b2, eps=config.eps, consistent_rms=MUON_RMS, muon_weight_dimension_numbers=matrices_of))
    return optax.chain(
        clip_by_norm(config.clip_norm),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay),
    )


def matrices_of(params):
    """What Muon orthogonalises: of each matrix of the layers, and of each part of an adapter, the axes that a product
    sums over and the others. Layers and experts have a matrix each. None for all other parameters."""
    def axes(path, leaf):
        keys = [key.key for key in path]
        stacked = int(keys[0] == "layers")
        array, part = ARRAYS[keys[stacked]], keys[-1]
        if array.kind != "matrix" or not (stacked or part in ("lora_a", "lora_b")):
            return None
        inner = tuple(stacked + axis for axis in array.summed)
        if part == "lora_a":
            return optax.contrib.MuonDimensionNumbers(inner, (leaf.ndim - 1,))
        if part == "lora_b":
            return optax.contrib.MuonDimensionNumbers((stacked,), tuple(range(stacked + 1, leaf.ndim)))
        return optax.contrib.MuonDimensionNumbers(inner, tuple(range(inner[-1] + 1, leaf.ndim)))

    return jax.tree_util.tree_map_with_path(axes, params)


def clip_by_norm(limit: float) -> optax.GradientTransformationExtraArgs:
    """Scales gradients down to the global norm `limit`. `update` takes their `norm`, which the step has already."""
    def update(gradient, state, params=None, *, norm, **_):
        # One factor, unlike optax.clip_by_global_norm: XLA recomputes a product where the moments need
        # it, but keeps a quotient, which would be a second gradient in memory.
        factor = jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda g: g * factor, gradient), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def learning_rate(config: OptimizerConfig, update: int) -> float:
    """The rate of optimizer update `update` (from 0): linear from a tenth of the rate over the warm-up, then
    constant. The official code starts at 0, which wastes the first rollout."""
    # Not optax.linear_schedule: it computes in float32, and its last bits differ from these.
    if update >= config.warmup_updates:
        return config.learning_rate
    return config.learning_rate * (0.1 + 0.9 * update / config.warmup_updates)
