"""The two programs of training, `score` (old log-probs) and `train_step` (one optimizer update);
`compile_score` and `compile_step` jit them over the mesh.

An update goes, on the devices:
1. A loop takes the micro-batches one by one. Their number is a value: how full a batch is compiles nothing.
2. `micro_loss` computes the log-probs of a micro-batch, its token losses and their weighted sum.
3. The gradients of the micro-batches are added. The denominators are in the token weights already.
4. The optimizer takes its step, unless the loss or the gradient's norm is not finite.

With one update a rollout the policy is pi_old: the update's own log-probs, as constants, are the old ones of fresh
answers, and nothing scores them before (`with_own_logprobs`).

An answer's loss may depend on other answers of its group, which may lie in other micro-batches. Then the whole
batch is scored first, and the loss is differentiated in the log-probs (`whole_loss`). The micro-batches only pull
that derivative back to the parameters. This costs one more forward pass, and is exact in every layout. The
load-balancing loss of experts also needs counts of the whole batch (`whole_load`), for the same price."""
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from nft_jax.config import AdapterConfig, ObjectiveConfig, TermsConfig
from nft_jax.model.adapter import wrap
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.decoder import states_and_load
from nft_jax.model.experts import balance_loss
from nft_jax.model.logprobs import logprobs_of, token_logprobs
from nft_jax.model.parameters import constrain_parameters, with_constants
from nft_jax.objectives.registry import Objective, coefficients, find_objective, token_loss
from nft_jax.objectives.terms import OFF, tally_terms, term_losses
from nft_jax.runtime.mesh import hosts, place, sharding
from nft_jax.train.state import TrainState
from nft_jax.train.step_metrics import combine, tally, tally_load
from nft_jax.types import TrainBatch

NO_ADAPTER = AdapterConfig()


@dataclass(frozen=True)
class Loss:
    """What an update differentiates. It stays the same over a run, and is a constant of the compiled program."""
    objective: str | Objective
    config: ObjectiveConfig            # resolved: no field is None
    model: ModelConfig
    compute: Compute
    terms: TermsConfig = OFF
    adapter: AdapterConfig = NO_ADAPTER


def batch_shardings(mesh: Mesh) -> TrainBatch:
    """Rows over the data-parallel axes, their tokens over `context`; also for the optional fields."""
    tokens = sharding(mesh, None, "batch", "context")
    return TrainBatch(*(tokens,) * len(TrainBatch._fields))._replace(num_micro=sharding(mesh))


def place_batch(batch: TrainBatch, mesh: Mesh) -> TrainBatch:
    """Numpy arrays (or their shapes), which every process has in full, as the programs take them (`mesh.place`)."""
    shardings = batch_shardings(mesh)
    return TrainBatch(*(x if x is None else place(x, where) for x, where in zip(batch, shardings, strict=True)))


def micro_batch(batch, index):
    """Micro-batch `index` of a tree of arrays [M, R, T], such as a TrainBatch: the same tree of arrays [R, T]."""
    return jax.tree.map(lambda x: x[index] if x.ndim else x, batch)


def loss_inputs(batch: TrainBatch, loss_config: ObjectiveConfig, entropies=None) -> tuple:
    """What `token_loss` takes after the log-probs, from arrays [R, T]. The extras are the optional
    arrays in use."""
    extras = {"segment_ids": batch.segment_ids, "group_std": batch.group_std, "group_ids": batch.group_ids,
              "reference_logprobs": batch.reference_logprobs, "entropies": entropies}
    extras = {name: value for name, value in extras.items() if value is not None}
    return batch.old_logprobs, batch.weight > 0, batch.rewards, batch.group_accuracy, loss_config, extras


def micro_loss(params, batch: TrainBatch, temperature, loss: Loss, whole=None, base=None, counts=None):
    """The weighted loss of one micro-batch, its tally, and its old log-probs [R, T] where the batch is `fresh`.
    `whole` is this micro-batch's part of `whole_loss`, for a loss over whole groups. The batch has
    `reference_logprobs` where the terms have a KL.

    params: what is trained; with `loss.adapter` the adapters, beside the frozen parameters `base`.
    counts: of `whole_load`, for `terms.balance_weight`."""
    params, wanted = wrap(base, params, loss.adapter), batch.weight > 0
    hidden, load = states_and_load(params, loss.model, batch.tokens, batch.positions, batch.segment_ids, loss.compute)
    logprobs, entropy = logprobs_of(hidden, params, loss.model, batch.tokens, wanted=wanted, temperature=temperature,
                                    compute=loss.compute)
    batch = with_own_logprobs(batch, logprobs)
    added = term_losses(loss.terms, logprobs, entropy, batch.old_logprobs, batch.reference_logprobs)
    if whole is None:
        inputs = loss_inputs(batch, loss.config, entropy)
        token_losses, metrics = token_loss(loss.objective, logprobs, *inputs)
        coefficient = coefficients(loss.objective, jax.lax.stop_gradient(logprobs), *inputs)
    else:
        slope, coefficient, token_losses, metrics = whole
    token_losses = sum(added.values(), start=token_losses)
    value = (batch.weight * token_losses).sum()
    if whole is not None:
        value += (slope * (logprobs - jax.lax.stop_gradient(logprobs))).sum()
    found = tally(token_losses, metrics, coefficient, entropy, batch.weight, batch.rewards) \
        | tally_terms(loss.terms, added, logprobs, batch.reference_logprobs, batch.weight)
    if load is not None:
        found |= tally_load(load)
    if counts is not None:
        balance = loss.terms.balance_weight * balance_loss(load, *counts)
        value += balance
        found |= {"sum/loss": found["sum/loss"] + balance, "sum/term_balance": balance}
    return value, jax.lax.stop_gradient((found, None if batch.fresh is None else batch.old_logprobs))


def with_own_logprobs(batch: TrainBatch, logprobs) -> TrainBatch:
    """The batch with its fresh tokens' old log-probs: `logprobs`, of the batch's shape, as constants. The update's
    policy sampled these tokens, so their ratio is 1 exactly, in value and gradient."""
    if batch.fresh is None:
        return batch
    return batch._replace(old_logprobs=jnp.where(batch.fresh > 0, jax.lax.stop_gradient(logprobs), batch.old_logprobs))


def whole_loss(logprobs, batch: TrainBatch, loss: Loss):
    """From the log-probs [M, R, T] of a whole batch, each [M, R, T]: the derivative of its weighted
    loss in them, the coefficients, the token losses and the metrics."""
    def rows(x):
        return x.reshape(-1, x.shape[-1])

    flat = jax.tree.map(lambda x: rows(x) if x.ndim else x, batch)
    inputs = loss_inputs(flat, loss.config)

    def weighted(values):
        token_losses, metrics = token_loss(loss.objective, values, *inputs)
        return (flat.weight * token_losses).sum(), (token_losses, metrics)

    slope, (token_losses, metrics) = jax.grad(weighted, has_aux=True)(rows(logprobs))
    found = slope, coefficients(loss.objective, rows(logprobs), *inputs), token_losses, metrics
    return jax.tree.map(lambda x: x.reshape(logprobs.shape), found)


def whole_load(params, batch: TrainBatch, loss: Loss) -> tuple[jax.Array, jax.Array]:
    """Of a whole batch, over all layers: how many tokens each expert has [X], and how many tokens there are."""
    def add(index, total):
        m = micro_batch(batch, index)
        _, load = states_and_load(params, loss.model, m.tokens, m.positions, m.segment_ids, loss.compute)
        return total[0] + load.chosen.sum(0), total[1] + load.tokens.sum()

    return jax.lax.fori_loop(0, batch.num_micro, add, (jnp.zeros(loss.model.num_experts), jnp.float32(0)))


def train_step(state: TrainState, batch: TrainBatch, learning_rate, temperature, base, *, loss: Loss,
               optimizer: optax.GradientTransformation):
    """One optimizer update -> the new state, the tally of the batch, the gradient's norm before clipping, and the old
    log-probs [M, R, T] of a batch that is `fresh`, otherwise None.

    base: the frozen parameters under adapters; None without. The summed gradient lies where the trained parameters
    lie. Where the loss or the norm is not finite, the state stays as it was, and the tally says so
    (`count/nonfinite`)."""
    def gradient_of(index):
        gradient, (counts, old) = jax.grad(micro_loss, has_aux=True)(
            state.params, micro_batch(batch, index), temperature, loss, micro_batch(whole, index), base, load)
        return constrain_parameters(gradient, loss.compute.mesh), counts, old

    whole, load, params = None, None, wrap(base, state.params, loss.adapter)
    if loss.terms.balance_weight:
        load = whole_load(params, batch, loss)
    if find_objective(loss.objective).whole_groups:
        logprobs = score(params, batch, temperature, model=loss.model, compute=loss.compute)
        whole = whole_loss(logprobs, with_own_logprobs(batch, logprobs), loss)

    def add(index, carry):
        gradient, total, old = carry
        more, counts, own = gradient_of(index)
        return (jax.tree.map(jnp.add, gradient, more), combine(total, counts),
                jax.tree.map(lambda rows, row: rows.at[index].set(row), old, own))

    # With one micro-batch there is no sum to keep beside the gradient, which is as large as the parameters.
    if batch.tokens.shape[0] == 1:
        gradient, total, old = gradient_of(0)
        old = jax.tree.map(lambda x: x[None], old)
    else:
        shapes = jax.eval_shape(gradient_of, 0)
        gradient, total, _ = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        old = None if batch.fresh is None else jnp.zeros(batch.tokens.shape, jnp.float32)
        gradient, total, old = jax.lax.fori_loop(0, batch.num_micro, add, (gradient, total, old))
    norm = optax.tree.norm(gradient)
    finite = jnp.isfinite(norm) & jnp.isfinite(total["sum/loss"])

    def step(state):
        direction, opt_state = optimizer.update(gradient, state.opt_state, state.params, norm=norm)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
        # Weight decay reaches every parameter, and constants must stay.
        params = with_constants(params, state.params)
        return state._replace(params=params, opt_state=opt_state, updates=state.updates + 1)

    # A branch works in place; `where` would keep the old state beside the new one.
    after = jax.lax.cond(finite, step, lambda state: state, state)
    return after, total | {"count/nonfinite": (~finite).astype(jnp.float32)}, norm, old


def score(params, batch: TrainBatch, temperature, *, model: ModelConfig, compute: Compute):
    """Log-probs [M, R, T] of the answers of a batch by the trainer's own graph; 0 elsewhere."""
    def one(index, out):
        m = micro_batch(batch, index)
        logprobs, _ = token_logprobs(params, model, m.tokens, m.positions, m.segment_ids, wanted=m.weight > 0,
                                     temperature=temperature, compute=compute)
        return out.at[index].set(logprobs)

    return jax.lax.fori_loop(0, batch.num_micro, one, jnp.zeros(batch.tokens.shape, jnp.float32))


def compile_step(mesh: Mesh, placements: TrainState, optimizer: optax.GradientTransformation, loss: Loss, base=None):
    """`train_step` jitted over the mesh, its state donated. `placements`: the shardings of the state. `base`: the
    shardings of the frozen parameters; None without adapters."""
    loss = replace(loss, compute=replace(loss.compute, mesh=mesh))
    return jax.jit(partial(train_step, loss=loss, optimizer=optimizer), donate_argnums=0,
                   in_shardings=(placements, batch_shardings(mesh), sharding(mesh), sharding(mesh), base),
                   out_shardings=(placements, sharding(mesh), sharding(mesh), logprob_sharding(mesh)))


def compile_score(mesh: Mesh, placements, *, model: ModelConfig, compute: Compute):
    """`score` jitted over the mesh. `placements`: the shardings of the parameters."""
    return jax.jit(partial(score, model=model, compute=replace(compute, mesh=mesh)),
                   in_shardings=(placements, batch_shardings(mesh), sharding(mesh)),
                   out_shardings=logprob_sharding(mesh))


def logprob_sharding(mesh: Mesh):
    """Where log-probs [M, R, T] lie that the host reads."""
    # Each of several processes is given all of them, because each goes on with all groups.
    return sharding(mesh) if hosts(mesh) > 1 else sharding(mesh, None, "batch", "context")
