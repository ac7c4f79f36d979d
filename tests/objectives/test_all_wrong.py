"""Groups of wrong answers: the r of each answer against LENS's likelihood, in numpy float64."""
import numpy as np
import pytest

from nft_jax.config import ObjectiveConfig
from nft_jax.objectives.all_wrong import prior_accuracies
from nft_jax.objectives.registry import OBJECTIVES, coefficients, resolve, token_loss, token_weights
from refusal import refused

LENGTHS = (3, 1, 5, 2)


@pytest.fixture(scope="module")
def answers():
    """Old log-probs of four answers, [n] each, and new ones that differ a little."""
    rng = np.random.default_rng(0)
    old = [rng.normal(-1, 0.5, n) - 0.1 for n in LENGTHS]
    return old, [each + rng.normal(0, 0.1, each.shape) for each in old]


def padded(rows):
    out = np.zeros((len(rows), max(map(len, rows))))
    for line, row in zip(out, rows, strict=True):
        line[:len(row)] = row
    return out


def lens(logprobs, bound):
    """LENS, Eq. 8: the negative log-likelihood of wrong answers of these log-probs, [K]."""
    return -np.log(1 - np.array([np.exp(each.mean()) for each in logprobs]) / bound)


def test_the_negative_likelihood_of_nft_is_that_of_lens(answers):
    """With its length-normalised probabilities: value up to a constant, and derivative by finite differences."""
    old, new = answers
    bound = 2 * max(np.exp(each.mean()) for each in old)
    accuracies = prior_accuracies(old)
    np.testing.assert_allclose(accuracies, [np.exp(each.mean()) / bound for each in old], rtol=1e-12)
    assert accuracies.max() == 0.5
    mask, wrong = padded([np.ones(n) for n in LENGTHS]), np.zeros(len(LENGTHS))
    config = ObjectiveConfig(prompt_weight="1", ratio="sequence_mean", epsilon=1e-6)
    given = padded(new), padded(old), mask, wrong, accuracies, config
    loss, _ = token_loss("nft", *given)
    expected = lens(new, bound) - lens(old, bound)
    np.testing.assert_allclose([row[0] for row in np.asarray(loss)], expected, rtol=1e-6)
    found, step = np.asarray(coefficients("nft", *given)), 1e-6
    for answer, row in enumerate(new):
        for token in range(len(row)):
            up, down = ([*new[:answer], row + sign * step * np.eye(len(row))[token], *new[answer + 1:]]
                        for sign in (1, -1))
            slope = (lens(up, bound) - lens(down, bound))[answer] / (2 * step)
            # Each token of the answer carries the whole loss, so a token's coefficient counts it n times.
            assert -found[answer, token] == pytest.approx(slope * len(row), rel=1e-4)


def test_on_policy_every_objective_that_reads_r_pushes_by_confidence(answers):
    """dr_grpo and nft by p / D; grpo, and nft with the square-root weight, by the square root of its odds."""
    old, _ = answers
    accuracies = prior_accuracies(old)
    mask = padded([np.ones(n) for n in LENGTHS])
    extras = {"group_std": np.sqrt(accuracies * (1 - accuracies))}

    def pushed(name, **fields):
        found = coefficients(name, padded(old), padded(old), mask, np.zeros(4), accuracies, ObjectiveConfig(**fields),
                             extras)
        return -np.asarray(found)[:, 0]

    np.testing.assert_allclose(pushed("dr_grpo"), accuracies, rtol=1e-5)
    np.testing.assert_allclose(pushed("nft"), accuracies, rtol=1e-5)
    odds = np.sqrt(accuracies / (1 - accuracies))
    np.testing.assert_allclose(pushed("grpo"), odds, rtol=1e-5)
    np.testing.assert_allclose(pushed("nft", prompt_weight="sqrt"), odds, rtol=1e-5)


def test_a_group_of_accuracy_zero_teaches_nft_nothing_but_the_clip_of_r():
    """-log x has the derivative r / (1 - r) R / x, which goes to 0 with r; r is clipped at 0.02."""
    ones = np.ones((1, 3))
    found = -np.asarray(coefficients("nft", -ones, -ones, ones, np.zeros(1), np.zeros(1),
                                     ObjectiveConfig(prompt_weight="1")))
    np.testing.assert_allclose(found, 0.02 / 0.98, rtol=1e-5)


@pytest.mark.parametrize("loss_agg", ["token_mean", "seq_mean_token_mean", "constant"])
def test_they_leave_the_denominators_of_the_others_alone(loss_agg):
    lengths, counted = np.array([3, 4, 5, 2]), np.array([True, False, True, False])
    found = token_weights(loss_agg, lengths, 7.0, counted)
    np.testing.assert_array_equal(found[counted], token_weights(loss_agg, lengths[counted], 7.0))
    assert (found > 0).all()
    np.testing.assert_array_equal(token_weights(loss_agg, lengths, 7.0, np.ones(4, bool)),
                                  token_weights(loss_agg, lengths, 7.0))


def test_objectives_of_right_answers_alone_refuse_the_weight():
    for name in ("rft", "psr", "dpo"):
        with refused("loss.all_wrong", 0.5, name):
            resolve(name, ObjectiveConfig(all_wrong=0.5))
    assert sum("all_wrong" in each.reads for each in OBJECTIVES.values()) >= 8
    with refused("loss.all_wrong", -1.0):
        ObjectiveConfig(all_wrong=-1.0)
