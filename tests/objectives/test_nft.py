"""NFT: precision, the clamp, the identities of the paper, and where training leads."""
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.config import ObjectiveConfig
from nft_jax.objectives.ratios import prompt_weight
from nft_jax.objectives.registry import coefficients, token_loss
from objectives_reference import loss_and_grad, on_policy
from paper_references import OMEGAS


def test_large_ratios_of_negatives_keep_their_value_in_float32():
    """r = .98, log R = 10, epsilon = .99: the literal straight-through form x + (max(x, e) - x) rounds to log 0."""
    one = np.zeros((1, 1), np.float32)
    config = ObjectiveConfig(epsilon=0.99, prompt_weight="1")
    loss, grad, _ = loss_and_grad("nft", one, one - 10, one + 1, np.zeros(1), np.full(1, 0.98), config=config)
    assert loss[0, 0] == pytest.approx(-math.log(0.99), rel=1e-5)
    assert grad[0, 0] == pytest.approx(49 * math.exp(10) / 0.99, rel=1e-5)


def test_straight_through_at_the_tie(x64):
    """R = 1, epsilon = 1: the clamp is at an exact tie. The loss is 0; its gradient is whole, not halved, not 0."""
    logp = np.full((2, 3), -1.3)
    rewards, accuracy = np.array([1.0, 0.0]), np.array([0.25, 0.25])
    loss, grad, metrics = loss_and_grad("nft", logp, logp, np.ones((2, 3)), rewards, accuracy)
    assert np.all(loss == 0)
    np.testing.assert_allclose(grad, [[-0.75] * 3, [0.25] * 3], rtol=1e-12)
    assert not np.asarray(metrics["clamped"]).any()
    at_ten = np.zeros((1, 1))
    _, grad, _ = loss_and_grad("nft", at_ten, at_ten - 10, at_ten + 1, np.ones(1), np.full(1, 0.5))
    assert grad[0, 0] == -0.5                                       # log R = 10 exactly is still inside


# ---- identities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [4, 8, 16])
def test_on_policy_nft_is_grpo_dr_grpo_and_maxrl(x64, K):
    _, s, r = on_policy("nft", K)
    advantages = {"1-r": s - r, "sqrt": (s - r) / s.std(1, keepdims=True), "maxrl": (s - r) / r}
    for omega, want in advantages.items():
        for epsilon in (0.1, 0.5, 1.0):
            got, _, _ = on_policy("nft", K, prompt_weight=omega, epsilon=epsilon)
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
        above_one, _, _ = on_policy("nft", K, prompt_weight=omega, epsilon=2.0)
        assert not np.isclose(above_one, want, rtol=1e-3).all(1).any()          # fails in every single group
    for name, omega in (("grpo", "sqrt"), ("dapo", "sqrt"), ("dr_grpo", "1-r")):
        np.testing.assert_allclose(on_policy(name, K)[0], advantages[omega], rtol=1e-12)


@pytest.mark.parametrize("omega", OMEGAS)
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_group_centred(x64, omega, epsilon):
    for K in (4, 16):
        assert np.abs(on_policy("nft", K, prompt_weight=omega, epsilon=epsilon)[0].sum(1)).max() < 1e-11
        assert on_policy("rft", K, prompt_weight=omega)[0].sum(1).min() > 0.1


@pytest.mark.parametrize(("name", "epsilon", "table"), [
    ("nft", 1.0, {.1: .0769, .5: .4286, .8: .75, .9: .871, 1: 1, 1.5: 1.5, 4: 4}), ("nft", .1, {1: 1, 2: 3, 4: 40}),
    ("grpo", 1.0, {.5: 0, .79: 0, .9: .9, 1: 1, 4: 4})])
def test_off_policy_table(x64, name, epsilon, table):
    """Coefficients of a wrong answer, r = 1/4, over their on-policy value (a negative of GRPO is not clipped above)."""
    ratios = np.array([[1.0, *table]])
    got = np.asarray(coefficients(name, np.log(ratios), np.zeros_like(ratios), np.ones_like(ratios), np.zeros(1),
                                  np.full(1, 0.25), ObjectiveConfig(epsilon=epsilon)))[0]
    np.testing.assert_allclose(got[1:] / got[0], list(table.values()), atol=6e-4)
    assert got[0] < 0


OLD = np.array([0.30, 0.10, 0.25, 0.20, 0.15])
RIGHT = np.array([1.0, 1.0, 0.0, 0.0, 0.0])


def tabular_gradient(name, config, counts, logits):
    """Gradient in the logits of the loss of a batch in which action a came `counts[a]` times (r from the counts)."""
    old = jnp.log(jnp.asarray(OLD))[:, None]
    accuracy = jnp.full(len(OLD), (counts * RIGHT).sum() / counts.sum())

    def loss(logits):
        logp = jax.nn.log_softmax(logits)[:, None]
        return (token_loss(name, logp, old, jnp.ones_like(logp), RIGHT, accuracy, config)[0][:, 0] * counts).sum()
    return jax.grad(loss)(logits)


def descend(name, config, steps=4000):
    def step(_, logits):
        return logits - 4.0 * tabular_gradient(name, config, OLD, logits)
    return np.asarray(jax.nn.softmax(jax.jit(lambda x: jax.lax.fori_loop(0, steps, step, x))(jnp.log(OLD))))


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_tabular_softmax_converges_to_the_positive_policy(x64, epsilon):
    positive = OLD * RIGHT / (OLD * RIGHT).sum()
    for omega in ("1", "1-r", "sqrt"):
        policy = descend("nft", ObjectiveConfig(prompt_weight=omega, epsilon=epsilon))
        assert (positive[:2] * np.log(positive[:2] / policy[:2])).sum() < 1e-3
    negatives_only = descend("nft", ObjectiveConfig(pos_weight=0.0, epsilon=epsilon))
    assert negatives_only[:2].sum() > 0.999


def test_first_step_of_nft_and_rft_in_closed_form(x64):
    """The direction of ascent at pi = pi_old is sum over actions of n c (onehot - pi). NFT's n c sum to 0, so it moves
    only the actions that were sampled, each by n c; RFT also pushes down actions that nobody sampled."""
    start = jnp.log(OLD)
    config = ObjectiveConfig(prompt_weight="1")
    r = (OLD * RIGHT).sum()
    expected = {"nft": OLD * (RIGHT - r) / (1 - r), "rft": OLD * (RIGHT - r)}
    counts = np.array([3.0, 0.0, 4.0, 0.0, 1.0])
    sampled = {"nft": counts * (RIGHT - 3 / 8) / (1 - 3 / 8), "rft": counts * RIGHT - 3 * OLD}
    for name in ("nft", "rft"):
        np.testing.assert_allclose(-tabular_gradient(name, config, OLD, start), expected[name], rtol=1e-10)
        np.testing.assert_allclose(-tabular_gradient(name, config, counts, start), sampled[name], atol=1e-12)
    assert sampled["nft"][1] == 0 and sampled["rft"][1] < -0.2


def test_prompt_weights_use_the_clipped_accuracy(x64):
    right, wrong = jnp.array([0.02, 0.5, 0.98]), jnp.array([0.98, 0.5, 0.02])
    for kind, function in OMEGAS.items():
        np.testing.assert_allclose(prompt_weight(kind, right, wrong), [function(r) for r in right])
