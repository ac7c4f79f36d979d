"""Every right spelling of the cases is right, or refused by a convention that its row names; no hostile answer is."""
import pytest

from corpus import Case, cases

pytest.importorskip("math_verify")

from nft_jax.config import VerifierConfig
from nft_jax.verify import Verifier

RIGHT, HOSTILE = cases("right"), cases("hostile")


def families(rows: list[Case]) -> list[str]:
    return list(dict.fromkeys(case.family for case in rows))


@pytest.fixture(scope="module")
def accepted() -> set[Case]:
    with Verifier(VerifierConfig(workers=2)) as verifier:
        rows = RIGHT + HOSTILE
        verdicts = verifier.judge([case.response for case in rows], [case.gold for case in rows])
        assert verifier.counts["error"] == 0
    return {case for case, found in zip(rows, verdicts, strict=True) if found.outcome == "right"}


def test_nearly_all_right_spellings_are_read():
    assert sum(not case.unread for case in RIGHT) >= 0.97 * len(RIGHT)


@pytest.mark.parametrize("family", families(RIGHT))
def test_right_spellings_are_right(family, accepted):
    rows = [case for case in RIGHT if case.family == family]
    assert [case for case in rows if case not in accepted] == [case for case in rows if case.unread]


@pytest.mark.parametrize("family", families(HOSTILE))
def test_hostile_answers_are_not(family, accepted):
    assert [case for case in HOSTILE if case.family == family and case in accepted] == []
