"""The table of conventions in the room's README: every right example is right, every wrong one is not."""
import re
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

import nft_jax.verify
from nft_jax.verify.maths import compare
from nft_jax.verify.maths.normalise import normalise
from nft_jax.verify.maths.structure import unknown

README = Path(nft_jax.verify.__file__).with_name("README.md").read_text()
ROWS = [cells for line in README.splitlines() if (cells := re.findall(r"`([^`]*)`", line)) and "`_" in line]


@pytest.fixture(scope="module")
def verdicts():
    """(gold, answer) -> outcome of every example of the table."""
    pairs = [(row[-4], answer) for row in ROWS for answer in row[-3:-1]]
    found = nft_jax.verify([f"\\boxed{{{answer}}}" for _, answer in pairs], [gold for gold, _ in pairs])
    return {pair: verdict.outcome for pair, verdict in zip(pairs, found, strict=True)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[-4])
def test_examples(row, verdicts):
    gold, right, wrong, _ = row[-4:]
    assert (verdicts[gold, right], verdicts[gold, wrong]) == ("right", "wrong")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[-4])
def test_the_rule_decides_its_examples(row):
    gold, *answers = map(normalise, row[-4:-1])
    rungs = [next((rung.__name__ for rung in compare.RUNGS
                   if rung(gold, answer, unknown, unknown) is not compare.PASS), "_expressions") for answer in answers]
    assert row[-1] in rungs


def test_every_rule_has_an_example():
    assert {row[-1] for row in ROWS} == {rung.__name__ for rung in (*compare.RUNGS, compare._expressions)}
