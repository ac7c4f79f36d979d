"""The state of training, and the optimizer."""
from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from nft_jax.config import OptimizerConfig
from nft_jax.model.parameters import parameter_shardings
from nft_jax.runtime.mesh import sharding


class TrainState(NamedTuple):
    """Everything that an optimizer step reads and writes; donated to it."""
    params: Any
    opt_state: Any
    updates: jax.Array                # [] int32: optimizer steps taken


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW. The learning rate is applied by the step, as a value: changing it compiles
    nothing. Like torch's AdamW, and so the official code, decay reaches every parameter."""
    return optax.chain(
        clip_by_norm(config.clip_norm),
        scale_by_adam(config),
        optax.add_decayed_weights(config.weight_decay),
    )


def scale_by_adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """optax's, its second moment kept in bfloat16 where the configuration says so: computed in float32, and rounded up
    or down at random so that its mean is right. (Rounded to nearest it would stand still: a step changes it by about
    1 - b2 = 0.1%, and bfloat16 has steps of 0.4 to 0.8%.) The random numbers are those of the update count, so a
    resumed run rounds like one that was never interrupted, and on any mesh."""
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    if config.second_moment_dtype == "float32":
        return adam

    def init(params):
        state = adam.init(params)
        return state._replace(nu=jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.nu))

    def update(gradient, state, params=None):
        wide = state._replace(nu=jax.tree.map(lambda x: x.astype(jnp.float32), state.nu))
        direction, state = adam.update(gradient, wide, params)
        leaves, tree = jax.tree.flatten(state.nu)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), state.count), len(leaves))
        return direction, state._replace(nu=tree.unflatten(map(round_stochastically, leaves, keys)))

    return optax.GradientTransformation(init, update)


def round_stochastically(x, key):
    """x float32, finite and not negative -> bfloat16: one of the two neighbours, the nearer one the more often, so that
    the expected value is x."""
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def clip_by_norm(limit: float) -> optax.GradientTransformationExtraArgs:
    """Scale gradients down to the global norm `limit`; `update` is given their `norm`, which the step has. Unlike
    optax.clip_by_global_norm by one factor: XLA computes a product again where the moments need it, but keeps a
    quotient, which is a second gradient in memory."""
    def update(gradient, state, params=None, *, norm, **_):
        factor = jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda g: g * factor, gradient), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def learning_rate(config: OptimizerConfig, update: int) -> float:
    """Rate of optimizer step `update` (from 0): linear from a tenth of the rate over the warm-up, then constant. The
    official code starts at 0, which wastes the first rollout."""
    if update >= config.warmup_updates:
        return config.learning_rate
    return config.learning_rate * (0.1 + 0.9 * update / config.warmup_updates)


def init_state(params, optimizer: optax.GradientTransformation) -> TrainState:
    """State at the start, from parameters (of any sharding, which the moments take over; traced: see below)."""
    return TrainState(params, optimizer.init(params), jnp.int32(0))


def state_shardings(param_shapes, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shardings of the state for parameters of these shapes: the moments lie where their parameters lie."""
    placements = parameter_shardings(param_shapes, mesh)
    shapes = jax.eval_shape(partial(init_state, optimizer=optimizer), param_shapes)
    moments = optax.tree_utils.tree_map_params(
        optimizer, lambda _, placement: placement, shapes.opt_state, placements,
        transform_non_params=lambda _: sharding(mesh))
    return TrainState(placements, moments, sharding(mesh))
