"""The mathematics of the token losses: values, analytic gradients, identities (independent float64 references)."""
import inspect
import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives_reference import OMEGAS, draw, enable_x64, grpo_reference, loss_and_grad, nft_reference, reference_rows

from nft_jax.config import ObjectiveConfig
from nft_jax.objectives.ratios import prompt_weight
from nft_jax.objectives.registry import OBJECTIVES, coefficients, token_loss

PRECISIONS = (("float32", 1e-5), ("float64", 1e-9))


pytestmark = pytest.mark.usefixtures("strict_ranks")


# ---- §2: value and gradient ------------------------------------------------------------------------------------

@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("omega", OMEGAS)
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_nft_value_and_gradient(omega, ratio, dtype, tolerance):
    with enable_x64(dtype == "float64"):
        arguments = [np.concatenate(parts) for parts in zip(*(
            draw(seed, soft=soft, dtype=dtype) for seed in (0, 1) for soft in (False, True)), strict=True)]
        for epsilon, neg_weight in itertools.product((0.1, 0.5, 1.0, 2.0), (0.0, 0.5, 1.0)):
            config = ObjectiveConfig(epsilon=epsilon, prompt_weight=omega, neg_weight=neg_weight, ratio=ratio,
                                     pos_weight=1.0 if neg_weight else 0.7)
            loss, grad, metrics = loss_and_grad("nft", *arguments, config=config)
            want, want_grad, size, grad_size = reference_rows(
                lambda *row, config=config: nft_reference(*row, config), *arguments)
            assert loss.dtype == grad.dtype == dtype
            assert np.all(np.abs(loss - want) <= tolerance * size)
            assert np.all(np.abs(grad - want_grad) <= tolerance * grad_size)
            parts = np.asarray(metrics["positive_loss"] + metrics["negative_loss"])
            np.testing.assert_allclose(parts, loss, rtol=1e-6)


def test_draws_reach_the_extremes():
    """The comparison above is only worth something where its inputs reach the clamps."""
    logp, old, mask, rewards, accuracy = draw(1)
    R, r = np.exp(np.minimum(logp - old, 10)), np.clip(accuracy, 0.02, 0.98)[:, None]
    negative = mask & (rewards[:, None] == 0)
    assert (negative & (r * R > 1)).any() and (negative & (r * R < 1)).any()
    assert any((draw(seed)[0] - draw(seed)[1] > 10)[draw(seed)[2] & (draw(seed)[3][:, None] == s)].any()
               for seed in (0, 1) for s in (0, 1))


@pytest.mark.parametrize("omega", OMEGAS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_rft_is_nft_without_negatives(x64, omega, ratio):
    config = ObjectiveConfig(prompt_weight=omega, ratio=ratio, pos_weight=1.5)
    for soft in (False, True):
        arguments = draw(3, soft=soft)
        loss, grad, _ = loss_and_grad("rft", *arguments, config=config)
        without = replace(config, neg_weight=0.0)
        want, want_grad, _, _ = reference_rows(lambda *row, c=without: nft_reference(*row, c), *arguments)
        np.testing.assert_allclose(loss, want, rtol=1e-9)
        np.testing.assert_allclose(grad, want_grad, rtol=1e-9)
        same, same_grad, _ = loss_and_grad("nft", *arguments, config=without)
        np.testing.assert_allclose(same, loss, rtol=1e-12)
        np.testing.assert_allclose(same_grad, grad, rtol=1e-12)


@pytest.mark.parametrize(("name", "low", "high"), [("grpo", 0.2, 0.2), ("dapo", 0.2, 0.28), ("dr_grpo", 0.2, 0.2),
                                                   ("dapo", 0.1, 0.5)])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_grpo_family_value_and_gradient(name, low, high, dtype, tolerance):
    with enable_x64(dtype == "float64"):
        for seed, given_std in itertools.product((0, 1), (False, True)):
            logp, old, mask, rewards, _ = draw(seed, dtype=dtype)
            accuracy = np.asarray([0.25, 0.5, 0.75, 0.125, 0.5, 0.0625], dtype)
            std = np.sqrt(accuracy * (1 - accuracy)) * (1.03 if given_std else 1)
            divisor = np.ones_like(std) if name == "dr_grpo" else std
            default = OBJECTIVES[name].clip_high == high
            config = ObjectiveConfig() if default else ObjectiveConfig(clip_low=low, clip_high=high)
            extras = {"group_std": std} if given_std else None
            loss, grad, metrics = loss_and_grad(name, logp, old, mask, rewards, accuracy, config=config, extras=extras)
            want, want_grad, clipped = reference_rows(
                lambda *row: grpo_reference(*row, low, high), logp, old, mask, rewards, accuracy, divisor)
            np.testing.assert_allclose(loss, want, rtol=tolerance)
            np.testing.assert_allclose(grad, want_grad, rtol=tolerance)
            np.testing.assert_array_equal(np.asarray(metrics["clipped"]), clipped)
            assert clipped.any() and not clipped.all()


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


# ---- §4.2 to §4.5: identities ----------------------------------------------------------------------------------

def on_policy(name, K, **settings_):
    """Coefficients at R = 1 of all groups of K answers with 1 .. K-1 right ones: [group, answer], and s, r likewise."""
    rewards = (np.arange(K) < np.arange(1, K)[:, None]).astype(float)
    accuracy = rewards.mean(1, keepdims=True) + 0 * rewards
    logp = -np.linspace(0.1, 2.0, 2 * rewards.size).reshape(rewards.size, 2)
    got = np.asarray(coefficients(name, logp, logp, np.ones_like(logp), rewards.ravel(), accuracy.ravel(),
                                  ObjectiveConfig(**settings_)))
    np.testing.assert_array_equal(got[:, 0], got[:, 1])
    return got[:, 0].reshape(rewards.shape), rewards, accuracy


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


def test_docstrings_state_value_derivative_and_source():
    for name, entry in OBJECTIVES.items():
        text = inspect.getdoc(entry.function).lower()
        assert "arxiv" in text and "value" in text and "derivative" in text, name
        assert list(inspect.signature(entry.function).parameters) == [
            "logprobs", "old_logprobs", "mask", "rewards", "group_accuracy", "config", "extras"]


def test_prompt_weights_use_the_clipped_accuracy(x64):
    right, wrong = jnp.array([0.02, 0.5, 0.98]), jnp.array([0.98, 0.5, 0.02])
    for kind, function in OMEGAS.items():
        np.testing.assert_allclose(prompt_weight(kind, right, wrong), [function(r) for r in right])
