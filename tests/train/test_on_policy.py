"""One update a rollout: its own log-probs are the old ones. Nothing is scored before, and nothing else changes."""
from dataclasses import replace

import jax
import numpy as np
import pytest

from made import make_group, make_step
from nft_jax.config import MeshConfig, ObjectiveConfig, OptimizerConfig
from nft_jax.model.config import Compute
from nft_jax.objectives.registry import OBJECTIVES, find_objective, resolve
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.batch import BatchShape, examples_of, make_batch, unpack
from nft_jax.train.step import Loss, compile_score, loss_inputs, token_loss, with_own_logprobs
from nft_jax.types import TrainBatch

SHAPE = BatchShape.for_sequences(12, 4, 40)


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    return [make_group(i, rewards, rng=rng, old=False) for i, rewards in enumerate([[1, 0, 0], [1, 1, 0], [0, 1, 0]])]


@pytest.mark.parametrize("objective", ["nft", "dpo"])
def test_the_update_equals_one_with_scored_log_probs(tiny_model, tiny_params, groups, objective):
    """A loss of tokens and a loss of groups. The last group was carried: it keeps the log-probs it has."""
    mesh, loss = make_mesh(MeshConfig(), jax.devices()[:1]), resolve(objective, ObjectiveConfig())
    step, first = make_step(tiny_params, OptimizerConfig(), Loss(objective, loss, tiny_model, Compute(mesh=mesh)), mesh)
    score = compile_score(mesh, jax.tree.map(lambda x: x.sharding, first().params), model=tiny_model,
                          compute=Compute(mesh=mesh))
    carried = replace(groups[-1], old_logprobs=tuple(r.logprobs for r in groups[-1].rollouts))
    items = [e for group in [*groups[:-1], carried] for e in examples_of(group, loss, 12)]
    whole = find_objective(objective).whole_groups
    batch, places = make_batch(items, SHAPE, loss.loss_agg, group_ids=whole, fresh=True)
    scored = unpack(np.asarray(score(first().params, batch._replace(group_ids=None, fresh=None), 1.0)), places)
    expected = [found if e.old_logprobs is None else e.old_logprobs for e, found in zip(items, scored, strict=True)]
    today, _ = make_batch([replace(e, old_logprobs=old) for e, old in zip(items, expected, strict=True)], SHAPE,
                          loss.loss_agg, group_ids=whole)

    state, tally, norm, none = jax.device_get(step(first(), today, 1e-3, 1.0, None))
    own_state, own_tally, own_norm, old = jax.device_get(step(first(), batch, 1e-3, 1.0, None))
    assert none is None and norm > 0
    for own, given in zip(unpack(old, places), expected, strict=True):
        np.testing.assert_allclose(own, given, atol=1e-6)
    np.testing.assert_allclose(own_norm, norm, rtol=1e-5)
    # The moments after one update: a tenth and a thousandth of the clipped gradient and of its square.
    for a, b in zip(jax.tree.leaves(own_state.opt_state), jax.tree.leaves(state.opt_state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(own_tally["sum/loss"], tally["sum/loss"], atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_fresh_token_has_ratio_one_exactly(objective):
    """And the gradient by the log-probs is that of given old log-probs, bit by bit, for every objective."""
    rng = np.random.default_rng(1)
    logprobs = rng.normal(-1, 0.5, (2, 6)).astype(np.float32)
    numbers = np.repeat([[1.0], [0.0]], 6, axis=1).astype(np.float32)
    ids = np.ones((2, 6), np.int32)
    batch = TrainBatch(ids, ids, ids, np.full((2, 6), 0.1, np.float32), numbers, np.full_like(numbers, 0.5),
                       np.full_like(numbers, 0.5), np.zeros_like(numbers), np.int32(1), group_ids=ids, fresh=ids)
    config = resolve(objective, ObjectiveConfig())

    def summed(values, batch):
        losses, metrics = token_loss(objective, values, *loss_inputs(with_own_logprobs(batch, values), config))
        return losses.sum(), metrics["ratio"]

    given = batch._replace(fresh=None, old_logprobs=logprobs)
    own, ratio = jax.grad(summed, has_aux=True)(logprobs, batch)
    np.testing.assert_array_equal(own, jax.grad(summed, has_aux=True)(logprobs, given)[0])
    assert (ratio == 1).all() and np.abs(own).max() > 0
