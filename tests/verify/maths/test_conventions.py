"""The table of conventions in the room's README: every right example is right, every wrong one is not."""
import re
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

import nft_jax.verify

README = Path(nft_jax.verify.__file__).with_name("maths") / "README.md"
ROWS = [[cell.replace(r"\|", "|") for cell in re.findall(r"`([^`]*)`", line.partition(" | ")[2])]
        for line in README.read_text().splitlines() if line.startswith("| ") and "`" in line]


@pytest.fixture(scope="module")
def verdicts():
    """(gold, answer) -> outcome of every example of the table."""
    pairs = [(row[0], answer) for row in ROWS for answer in row[1:]]
    found = nft_jax.verify([f"\\boxed{{{answer}}}" for _, answer in pairs], [gold for gold, _ in pairs])
    return {pair: verdict.outcome for pair, verdict in zip(pairs, found, strict=True)}


def test_the_table_is_read():
    assert len(ROWS) > 50 and all(len(row) == 3 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_examples(row, verdicts):
    gold, right, wrong = row
    assert (verdicts[gold, right], verdicts[gold, wrong]) == ("right", "wrong")
