"""avg@k, pass@k and maj@k of several answers to each question, with standard errors. numpy."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nft_jax.types import Verdict
from nft_jax.verify.maths.judge import quick_verdict

RIGHT = 0                     # class of the right answers


class Estimate(NamedTuple):
    """A mean over questions and its standard error (nan with fewer than two questions)."""
    value: float
    standard_error: float


def pass_at_k(right: np.ndarray, judged: np.ndarray, k: int) -> np.ndarray:
    """The probability that k answers drawn without replacement hold a right one, [Q]; nan where n < k.

    c = `right` [Q] of n = `judged` [Q] answers are right: 1 - C(n-c, k) / C(n, k), the unbiased
    estimator of M. Chen et al. (arXiv 2107.03374, section 2.1)."""
    right, judged = np.asarray(right, float), np.asarray(judged, float)
    # A product of k ratios: the binomials themselves overflow.
    none_right = np.ones_like(judged)
    for drawn in range(k):
        none_right *= np.maximum(judged - right - drawn, 0) / np.maximum(judged - drawn, 1)
    return np.where(judged >= k, 1 - none_right, np.nan)


def answer_classes(verdicts: Sequence[Verdict]) -> list[int | None]:
    """Which answers are the same: equal numbers mean equal answers, and RIGHT means right. Wrong answers are equal
    where the verifier's checks without sympy say so. None does not vote: no answer, or the verifier failed."""
    classes: list[int | None] = []
    numbers: dict[str, int] = {}
    leaders: list[str] = []
    for verdict in verdicts:
        text = verdict.extracted
        if verdict.outcome == "right":
            classes.append(RIGHT)
        elif text is None or verdict.reward is None or verdict.outcome == "no_answer":
            classes.append(None)
        else:
            if text not in numbers:
                same = (i for i, leader in enumerate(leaders, 1)
                        if (found := quick_verdict(leader, text)) and found.outcome == "right")
                numbers[text] = next(same, len(leaders) + 1)
                if numbers[text] > len(leaders):
                    leaders.append(text)
            classes.append(numbers[text])
    return classes


def majority(classes: Sequence[int | None]) -> float:
    """Whether the answer given most often is right: 0 (also without votes), 1, or 1/t in a tie of t answers with the
    right one, as if one were drawn."""
    votes = [number for number in classes if number is not None]
    counts = np.bincount(votes, minlength=1)
    tied = np.flatnonzero(counts == counts.max())
    return float(RIGHT in tied) / len(tied) if votes else 0.0


def bootstrap(totals: np.ndarray, counts: np.ndarray, seed: int = 0, draws: int = 1000) -> np.ndarray:
    """Standard errors [M] of the ratios totals.sum(0) / counts.sum(0), both [Q, M]; nan where Q < 2.

    The Q questions are resampled with replacement (Efron). The same seed gives the same errors."""
    questions = len(totals)
    if questions < 2:
        return np.full(np.shape(totals)[1], np.nan)
    times = np.random.default_rng(seed).multinomial(questions, np.full(questions, 1 / questions), size=draws)
    drawn = times @ np.asarray(counts, float)
    ratios = (times @ np.asarray(totals, float)) / np.where(drawn > 0, drawn, np.nan)
    return np.nanstd(ratios, axis=0, ddof=1)


def estimates(questions: Sequence[Sequence[Verdict]]) -> dict[str, Estimate]:
    """Estimates by name, from the verdicts on n answers to each question.

    `accuracy` is avg@n, the mean reward over all answers. For n > 1 there are `pass@k` for k = 2,
    4, 8, ... up to n, and `maj@n` where the verifier extracts answers.

    Answers without a reward (the verifier failed) are left out. Questions with fewer than k answers
    left are left out of pass@k. An estimate that no question has a value for is not in the result."""
    n = max((len(verdicts) for verdicts in questions), default=0)
    rewards = [[v.reward for v in verdicts if v.reward is not None] for verdicts in questions]
    judged = np.array([len(found) for found in rewards])
    right = np.array([sum(v.outcome == "right" for v in verdicts) for verdicts in questions])
    columns = {"accuracy": (np.array([sum(found) for found in rewards], float), judged.astype(float))}
    for k in (1 << i for i in range(1, n.bit_length())):
        columns[f"pass@{k}"] = _column(pass_at_k(right, judged, k))
    if n > 1 and any(v.extracted is not None for verdicts in questions for v in verdicts):
        won = [majority(answer_classes(verdicts)) for verdicts in questions]
        columns[f"maj@{n}"] = _column(np.where(judged > 0, won, np.nan))
    columns = {name: column for name, column in columns.items() if column[1].sum() > 0}
    if not columns:
        return {}
    totals, counts = (np.stack([column[i] for column in columns.values()], axis=1) for i in (0, 1))
    values = totals.sum(0) / counts.sum(0)
    return {name: Estimate(float(value), float(error))
            for name, value, error in zip(columns, values, bootstrap(totals, counts), strict=True)}


def _column(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [Q], with nan for "none", as totals and counts."""
    there = ~np.isnan(values)
    return np.where(there, values, 0.0), there.astype(float)
