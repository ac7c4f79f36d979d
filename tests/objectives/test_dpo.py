"""DPO against InfoNCA's formula, of each group."""
import math

import numpy as np
import pytest

import paper_references as papers
from nft_jax.config import ObjectiveConfig
from nft_jax.objectives.registry import resolve, token_loss
from objectives_reference import loss_and_grad
from refusal import refused

LENGTHS = np.array([5, 3, 1, 4, 2, 5])
GROUPS = np.array([7, 2, 7, 7, 2, 7])
INSIDE = np.arange(5) < LENGTHS[:, None]


def dpo_case(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1, (6, 5))
    return old + scale * rng.normal(0, 1, (6, 5)), old


@pytest.mark.parametrize("nll_weight", [0.0, 0.7])
@pytest.mark.parametrize("rewards", [[1, 0, 0, 1, 1, 0], [0.3, 0.5, 0, 1, 0.1, 0.9], [0, 1, 0, 0, 0, 0]])
def test_dpo_is_infonca_of_each_group(x64, rewards, nll_weight):
    logp, old = dpo_case()
    config, rewards = ObjectiveConfig(beta=0.6, nll_weight=nll_weight), np.array(rewards, float)
    loss, grad, _ = loss_and_grad("dpo", logp, old, INSIDE, rewards, np.full(6, 0.5), config=config,
                                  extras={"group_ids": GROUPS})
    rho = np.where(INSIDE, logp - old, 0).sum(1)
    for group in (7, 2):
        of = np.equal(GROUPS, group)
        terms, slopes = papers.dpo(rho[of], rewards[of], 0.6, nll_weight)
        np.testing.assert_allclose(loss[of].sum(1), terms, rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(loss[of], np.where(INSIDE[of], (terms / LENGTHS[of])[:, None], 0), rtol=1e-10)
        np.testing.assert_allclose(grad[of], np.where(INSIDE[of], slopes[:, None], 0), rtol=1e-10, atol=1e-15)
        for k in range(of.sum()):                                   # the reference itself, by finite differences
            step = 1e-6 * np.eye(of.sum())[k]
            up, down = (papers.dpo(rho[of] + x, rewards[of], 0.6, nll_weight)[0].sum() for x in (step, -step))
            assert (up - down) / 2e-6 == pytest.approx(slopes[k], abs=1e-8)


def test_dpo_of_two_answers_is_dpo(x64):
    """Rafailov et al., Eq. 7: -log sigmoid(beta (rho_w - rho_l)), derivative -beta sigmoid(-margin) on the winner."""
    logp, old = dpo_case(1, 3.0)
    pairs = np.array([[0, 3], [4, 1], [2, 5]])                      # right, wrong
    ids, rewards = np.zeros(6, int), np.zeros(6)
    for n, (right, wrong) in enumerate(pairs):
        ids[[right, wrong]], rewards[right] = n, 1
    rho = np.where(INSIDE, logp - old, 0).sum(1)
    loss, grad, _ = loss_and_grad("dpo", logp, old, INSIDE, rewards, np.full(6, 0.5), extras={"group_ids": ids})
    margin = 0.1 * (rho[pairs[:, 0]] - rho[pairs[:, 1]])
    np.testing.assert_allclose(loss.sum(), np.log1p(np.exp(-margin)).sum(), rtol=1e-12)
    for (right, wrong), m in zip(pairs, margin, strict=True):
        np.testing.assert_allclose(grad[right, 0], -0.1 / (1 + math.exp(m)), rtol=1e-12)
        np.testing.assert_allclose(grad[wrong, 0], 0.1 / (1 + math.exp(m)), rtol=1e-12)


def test_dpo_without_its_groups_or_with_a_weight_per_answer_is_refused():
    logp, old = dpo_case()
    with refused("extras", "'group_ids'", "dpo"):
        token_loss("dpo", logp, old, INSIDE, np.ones(6), np.full(6, 0.5))
    with refused("loss.loss_agg", "'seq_mean_token_mean'", "'constant' or 'token_mean'"):
        resolve("dpo", ObjectiveConfig(loss_agg="seq_mean_token_mean"))


def test_a_group_of_dpo_without_a_right_answer_is_left_alone(x64):
    logp, old = dpo_case()
    loss, grad, _ = loss_and_grad("dpo", logp, old, INSIDE, np.zeros(6), np.zeros(6), extras={"group_ids": GROUPS})
    assert not loss.any() and not grad.any()
