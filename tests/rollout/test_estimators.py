"""avg@k, pass@k and maj@k against brute force, and the bootstrap against the analytic error."""
from itertools import combinations

import numpy as np
import pytest

from nft_jax.rollout.estimators import RIGHT, answer_classes, bootstrap, estimates, majority, pass_at_k
from nft_jax.types import Verdict

R, W, NONE, BROKEN = (Verdict("right", 1.0, "5"), Verdict("wrong", 0.0, "7"), Verdict("no_answer", 0.0, None),
                      Verdict("error", None, "7"))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_answer(n):
    for k in range(1, n + 1):
        right = np.arange(n + 1)
        expected = [np.mean([min(subset) < c for subset in combinations(range(n), k)]) for c in right]
        np.testing.assert_allclose(pass_at_k(right, np.full(n + 1, n), k), expected, rtol=1e-12)
    assert np.isnan(pass_at_k(np.array([1]), np.array([n]), n + 1)).all()


def test_pass_at_k_of_many_answers_is_finite():
    values = pass_at_k(np.array([0, 1, 5000, 10_000]), np.full(4, 10_000), 8192)
    np.testing.assert_allclose(values, [0, 0.8192, 1, 1], rtol=1e-9)


def test_majority_is_the_mean_over_ways_to_break_ties():
    rng = np.random.default_rng(0)
    for _ in range(200):
        classes = [None if c == 4 else int(c) for c in rng.integers(0, 5, rng.integers(1, 9))]
        votes = [c for c in classes if c is not None]
        winners = [c for c in set(votes) if votes.count(c) == max(map(votes.count, votes))]
        assert majority(classes) == (np.mean([c == RIGHT for c in winners]) if winners else 0.0)


def test_wrong_answers_that_mean_the_same_vote_together():
    texts = ["\\frac{1}{2}", "0.5", "1/2", "\\dfrac12", "(1,2)", "(1, 2)", "x+1", "3"]
    verdicts = [R, *(Verdict("wrong", 0.0, text) for text in texts), NONE, BROKEN, Verdict("timeout", 0.0, "3")]
    assert answer_classes(verdicts) == [RIGHT, 1, 1, 1, 1, 2, 2, 3, 4, None, None, 4]
    assert majority(answer_classes(verdicts)) == 0.0
    assert majority(answer_classes([R, Verdict("right", 1.0, "10/2"), W, W])) == 0.5


def test_the_bootstrap_gives_the_analytic_error_of_a_mean_and_is_seeded():
    values = np.random.default_rng(1).normal(size=(400, 1))
    error = bootstrap(values, np.ones_like(values), draws=4000)
    assert abs(error[0] / (values.std() / 20) - 1) < 0.05
    np.testing.assert_array_equal(error, bootstrap(values, np.ones_like(values), draws=4000))
    assert np.isnan(bootstrap(values[:1], np.ones((1, 1)))).all()


def test_the_bootstrap_resamples_questions_not_answers():
    """Answers to a question agree: its 32 answers are worth one."""
    right = np.random.default_rng(2).random(200) < 0.4
    found = estimates([[R if r else W] * 32 for r in right])
    assert found["accuracy"].value == right.mean() == found["pass@32"].value == found["maj@32"].value
    assert abs(found["accuracy"].standard_error / np.sqrt(right.mean() * (1 - right.mean()) / 200) - 1) < 0.1


def test_estimates():
    found = estimates([[R, W, W, NONE], [R, R, W, BROKEN], [W, W, NONE, NONE]])
    assert list(found) == ["accuracy", "pass@2", "pass@4", "maj@4"]
    assert found["accuracy"].value == pytest.approx(3 / 11)                     # of answers with a reward
    assert found["pass@2"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["pass@4"].value == pytest.approx(0.5)                          # the question with three is left out
    assert found["maj@4"].value == pytest.approx(1 / 3)
    assert list(estimates([[R], [W]])) == ["accuracy"]
    assert list(estimates([[Verdict("right", 1.0), Verdict("wrong", 0.5)]])) == ["accuracy", "pass@2"]
    assert estimates([]) == {} and estimates([[BROKEN, BROKEN]]) == {}
