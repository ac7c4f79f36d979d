"""The two compiled programs of training: `score` (old log-probs) and `train_step` (one optimizer step).

Both walk over the micro-batches of a TrainBatch on the device, `num_micro` of them, a value: how full a batch is
compiles nothing. Gradients of the micro-batches are added; the denominators are already in the token weights.

Where the loss of an answer depends on other answers, which may lie in other micro-batches, the step scores the whole
batch first and differentiates the loss in the log-probs (`whole_loss`); the micro-batches then only pull that
derivative back to the parameters. One forward pass more, and exact in every layout.
"""
from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from nft_jax.config import ObjectiveConfig, TermsConfig
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.logprobs import token_logprobs
from nft_jax.model.parameters import constrain_parameters
from nft_jax.objectives.registry import Objective, coefficients, find_objective, token_loss
from nft_jax.objectives.terms import OFF, tally_terms, term_losses
from nft_jax.runtime.mesh import hosts, place, sharding
from nft_jax.train.state import TrainState
from nft_jax.train.step_metrics import combine, tally
from nft_jax.types import TrainBatch


def batch_shardings(mesh: Mesh) -> TrainBatch:
    """Rows over the data-parallel axes, their tokens over `context`; of the optional fields too, where they are."""
    tokens = sharding(mesh, None, "batch", "context")
    return TrainBatch(*(tokens,) * len(TrainBatch._fields))._replace(num_micro=sharding(mesh))


def place_batch(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """Numpy arrays, of which every process has all (or their shapes), as the programs take them: `parallel.place`."""
    shardings = batch_shardings(mesh)
    return TrainBatch(*(x if x is None else place(x, where) for x, where in zip(batch, shardings, strict=True)))


def micro_batch(batch, index):
    """Micro-batch `index` of a TrainBatch, or of any tree of arrays [M, R, T]: the same without the leading axis."""
    return jax.tree.map(lambda x: x[index] if x.ndim else x, batch)


def loss_inputs(batch: TrainBatch, loss_config: ObjectiveConfig, entropies=None) -> tuple:
    """What `token_loss` takes after the log-probs; of arrays [R, T]. Extras are those that there are."""
    extras = {"segment_ids": batch.segment_ids, "group_std": batch.group_std, "group_ids": batch.group_ids,
              "reference_logprobs": batch.reference_logprobs, "entropies": entropies}
    extras = {name: value for name, value in extras.items() if value is not None}
    return batch.old_logprobs, batch.weight > 0, batch.rewards, batch.group_accuracy, loss_config, extras


def micro_loss(params, batch: TrainBatch, temperature, whole=None, *, model: ModelConfig, objective: str | Objective,
               loss_config: ObjectiveConfig, compute: Compute, terms: TermsConfig = OFF):
    """Weighted loss of one micro-batch, and its tally. `whole`: this micro-batch's part of `whole_loss`. The batch has
    `reference_logprobs` where `terms` has a KL."""
    logprobs, entropy = token_logprobs(params, model, batch.tokens, batch.positions, batch.segment_ids,
                                       wanted=batch.weight > 0, temperature=temperature, compute=compute)
    added = term_losses(terms, logprobs, entropy, batch.reference_logprobs)
    if whole is None:
        inputs = loss_inputs(batch, loss_config, entropy)
        loss, metrics = token_loss(objective, logprobs, *inputs)
        coefficient = coefficients(objective, jax.lax.stop_gradient(logprobs), *inputs)
    else:
        slope, coefficient, loss, metrics = whole
    loss = sum(added.values(), start=loss)
    value = (batch.weight * loss).sum()
    if whole is not None:
        value += (slope * (logprobs - jax.lax.stop_gradient(logprobs))).sum()
    return value, jax.lax.stop_gradient(
        tally(loss, metrics, coefficient, entropy, batch.weight, batch.rewards)
        | tally_terms(terms, added, logprobs, batch.reference_logprobs, batch.weight))


def whole_loss(logprobs, batch: TrainBatch, objective: str | Objective, loss_config: ObjectiveConfig):
    """From the log-probs [M, R, T] of the whole batch: the derivative of its weighted loss in them, the coefficients,
    the token losses and the metrics, each [M, R, T]."""
    def rows(x):
        return x.reshape(-1, x.shape[-1])

    flat = jax.tree.map(lambda x: rows(x) if x.ndim else x, batch)
    inputs = loss_inputs(flat, loss_config)

    def weighted(values):
        loss, metrics = token_loss(objective, values, *inputs)
        return (flat.weight * loss).sum(), (loss, metrics)

    slope, (loss, metrics) = jax.grad(weighted, has_aux=True)(rows(logprobs))
    found = slope, coefficients(objective, rows(logprobs), *inputs), loss, metrics
    return jax.tree.map(lambda x: x.reshape(logprobs.shape), found)


def train_step(state: TrainState, batch: TrainBatch, learning_rate, temperature, *,
               optimizer: optax.GradientTransformation, compute: Compute, **loss_arguments):
    """One optimizer step -> the new state, the tally of the batch, and the gradient's norm before clipping. The sum of
    the gradients lies where the parameters lie. Where the loss or the norm is not finite the state stays as it was, and
    the tally says so (`count/nonfinite`)."""
    def gradient_of(*arguments):
        gradient, counts = jax.grad(partial(micro_loss, compute=compute, **loss_arguments), has_aux=True)(*arguments)
        return constrain_parameters(gradient, compute.mesh), counts

    whole = None
    if find_objective(loss_arguments["objective"]).whole_groups:
        logprobs = score(state.params, batch, temperature, model=loss_arguments["model"], compute=compute)
        whole = whole_loss(logprobs, batch, loss_arguments["objective"], loss_arguments["loss_config"])

    def arguments(index):
        return state.params, micro_batch(batch, index), temperature, micro_batch(whole, index)

    def add(index, carry):
        gradient, total = carry
        more, counts = gradient_of(*arguments(index))
        return jax.tree.map(jnp.add, gradient, more), combine(total, counts)

    if batch.tokens.shape[0] == 1:       # no sum to keep beside the gradient, which is as large as the parameters
        gradient, total = gradient_of(*arguments(0))
    else:
        shapes = jax.eval_shape(gradient_of, *arguments(0))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        gradient, total = jax.lax.fori_loop(0, batch.num_micro, add, zeros)
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(total["sum/loss"])

    def step(state):
        direction, opt_state = optimizer.update(gradient, state.opt_state, state.params, norm=norm)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
        return TrainState(params, opt_state, state.updates + 1)

    after = jax.lax.cond(finite, step, lambda state: state, state)      # in place, where a `where` keeps old and new
    return after, total | {"count/nonfinite": (~finite).astype(jnp.float32)}, norm


def score(params, batch: TrainBatch, temperature, *, model: ModelConfig, compute: Compute):
    """Log-probs [M, R, T] of the batch's answers by the trainer's own graph, 0 elsewhere."""
    def one(index, out):
        m = micro_batch(batch, index)
        logprobs, _ = token_logprobs(params, model, m.tokens, m.positions, m.segment_ids, wanted=m.weight > 0,
                                     temperature=temperature, compute=compute)
        return out.at[index].set(logprobs)

    return jax.lax.fori_loop(0, batch.num_micro, one, jnp.zeros(batch.tokens.shape, jnp.float32))


def compile_step(mesh: Mesh, placements: TrainState, optimizer: optax.GradientTransformation, *, compute: Compute,
                 **loss_arguments):
    """`train_step` jitted over the mesh, its state donated."""
    step = partial(train_step, optimizer=optimizer, compute=replace(compute, mesh=mesh), **loss_arguments)
    return jax.jit(step, donate_argnums=0,
                   in_shardings=(placements, batch_shardings(mesh), sharding(mesh), sharding(mesh)),
                   out_shardings=(placements, sharding(mesh), sharding(mesh)))


def compile_score(mesh: Mesh, placements, *, model: ModelConfig, compute: Compute):
    """`score` jitted over the mesh; `placements` are the parameters' shardings. Of several processes each is given all
    values, since each goes on with all groups."""
    out = sharding(mesh) if hosts(mesh) > 1 else sharding(mesh, None, "batch", "context")
    return jax.jit(partial(score, model=model, compute=replace(compute, mesh=mesh)),
                   in_shardings=(placements, batch_shardings(mesh), sharding(mesh)),
                   out_shardings=out)
