"""Extraction, the exact ladder and the guard: everything that runs in the calling process."""

import json
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from corpus import CORPUS
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from nft_jax.types import OUTCOMES
from nft_jax.verify.maths.extract import MODES, extract, last_box
from nft_jax.verify.maths.judge import check_gold, quick_verdict, too_large

DATA = os.environ.get("NFT_TEST_DATA")
SETS = ("math500", "minerva", "amc", "aime24", "gsm8k_test")


def box(answer: str) -> str:
    return f"So the answer is $\\boxed{{{answer}}}$."


def golds(limit: int) -> list[str]:
    found = []
    for name in SETS:
        lines = (Path(DATA) / "data" / f"{name}.jsonl").read_text().splitlines()
        found += [json.loads(line)["answer"] for line in lines[:limit]]
    return found


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"\boxed{8}", "8"),
        (r"first \boxed{8}, no: \boxed{9}", "9"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3} + 1}", "3"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{[1, \}2)}", r"[1, \}2)"),
        (r"{ stray \boxed{5}", "5"),
        ("} } \\boxed{5}", "5"),
        ("the answer is 8", None),
        (r"\boxed 8", None),
        (r"\fbox{8}", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{7} then \boxed{}", None),
        ("", None),
        ("boxed{5}", None),
        (r"x = 5 \\ \boxed{5}", "5"),
        ("\\\\boxed{5}", "5"),
        ("<think>\\boxed{1}</think> \\boxed{2}", "2"),
        ("<think>\\boxed{1}</think> I give up", None),
        ("\\boxed{4\n}", "4"),
        ("\\boxed{\\text{a } b}", "\\text{a } b"),
        ("\\boxed{\ud800}", "\ud800"),
    ],
)
def test_last_complete_box(response, expected):
    assert extract(response) == expected


def test_extraction_is_one_pass():
    """Work is proportional to the text: tokens are visited once, so these finish at once rather than never."""
    assert last_box(r"\boxed{" * 50_000) is None
    assert last_box(r"\boxed{" * 50_000 + "7" + "}" * 50_000) == "7"
    assert last_box("\\" * 400_000) is None


@given(st.lists(st.sampled_from([r"\boxed{", "{", "}", r"\{", r"\}", "a"]), max_size=30))
def test_box_against_quadratic_reference(tokens):
    """Reference: try every start from the last; the first that closes wins."""
    expected = None
    for start in [i for i, token in enumerate(tokens) if token == r"\boxed{"]:
        depth, end = 1, start + 1
        while end < len(tokens) and depth:
            depth += (tokens[end] in ("{", r"\boxed{")) - (tokens[end] == "}")
            end += 1
        if depth == 0:
            expected = "".join(tokens[start + 1 : end - 1])
    assert last_box("".join(tokens)) == expected


def test_strict_mode_is_the_official_rule():
    assert quick_verdict("8", extract(box("8"), "strict"), "strict").outcome == "right"
    assert quick_verdict("8", extract(box("8.0"), "strict"), "strict").outcome == "wrong"
    assert quick_verdict("8", extract(box("8") + " " * 100, "strict"), "strict").outcome == "no_answer"
    assert quick_verdict("8", extract(box("8") + " " * 80, "strict"), "strict").outcome == "right"
    assert extract(r"\boxed{8} \boxed{9", "strict") is None  # the last start decides, complete or not
    assert extract("x" * 300 + r"\boxed{\frac{1}{2}}", "strict") == r"\frac{1}{2}"


def test_lenient_mode_falls_back_to_the_last_number():
    assert extract("we get 3, then 1,234.5 in all.", "lenient") == "1,234.5"
    assert extract(r"\boxed{3} of 12", "lenient") == "3"
    assert extract("no idea", "lenient") is None
    assert extract("we get 3", "equivalent") is None
    assert quick_verdict("-7/2", extract("it is -7/2", "lenient"), "lenient").outcome == "right"


@pytest.mark.parametrize("category", CORPUS)
def test_quick_verdicts_are_never_wrong(category):
    """What is decided without sympy agrees with the label: the parent never needs correcting."""
    for gold, answer, right in CORPUS[category]:
        found = quick_verdict(gold, extract(box(answer)))
        assert found is None or (found.outcome == "right") == right, (gold, answer, found)
        assert found is None or found.reward == float(right)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_cost_the_caller_nothing(name):
    for gold in ("42", r"\sqrt{2}", "1,2", r"\text{east}"):
        found = quick_verdict(gold, extract(box(HOSTILE[name])))
        assert found is None or found.outcome in ("wrong", "too_large", "no_answer")


def test_guard_exempts_what_the_gold_contains():
    assert too_large("42", r"\sum_{k=1}^{n} k") is not None
    assert too_large(r"\sum_{k=0}^{n-1} k", r"\sum_{k=1}^{n} k") is None
    assert too_large("x", "x^{100000}") is not None
    assert too_large("x^{100001}", "x^{100000}") is None
    assert too_large("x" * 700, "x" * 1300) is None
    assert too_large("x" * 500, "x" * 1300) is not None


@given(st.integers(), st.integers())
def test_integers_of_any_size(a, b):
    assert quick_verdict(str(a), str(b)).reward == float(a == b)
    assert quick_verdict(str(a), f"{a:,}").reward == 1.0
    assert quick_verdict(str(a), f"{a}.0").reward == 1.0


@given(st.text(max_size=200), st.text(max_size=40))
def test_any_text_gets_a_verdict_or_goes_to_a_worker(answer, gold):
    found = quick_verdict(gold, extract(box(answer)))
    assert found is None or found.outcome in OUTCOMES
    assert check_gold(gold) is None or isinstance(check_gold(gold), str)


@given(st.text(alphabet=list("\\{}()[]^_$%.,;=+-!|<>~&0123456789abei frctxspm"), max_size=60))
def test_a_usable_gold_is_right_for_itself(gold):
    if check_gold(gold) is None:
        assert quick_verdict(gold, extract(box(gold))).outcome == "right"


@pytest.mark.parametrize(
    ("gold", "usable"),
    [
        ("42", True),
        (r"2^{1009}", True),
        (r"\frac{100!}{2^{50}}", True),
        ("SRAC=LRAC", True),
        (r"\text{east}", True),
        ("9.6\n", True),
        ("", False),
        ("  ", False),
        (r"\frac{1}{2", False),
        (r"\boxed{5}", False),
        ("1}", False),
        ("\x00", False),
        ("1" * 30_000, False),
        ("...", True),
        ("$$", False),
    ],
)
def test_check_gold(gold, usable):
    assert (check_gold(gold) is None) == usable


def test_a_gold_may_list_its_forms():
    gold = r"""['\\arcsin{\\frac{10}{13}}', '50.28\n']"""
    assert quick_verdict(gold, "50.28").outcome == "right"
    assert quick_verdict(gold, r"\arcsin{\frac{10}{13}}").outcome == "right"
    assert quick_verdict(gold, "1,2").outcome == "wrong"
    assert quick_verdict("[1,2]", "1").outcome == "wrong"
    assert check_gold(gold) is None


def test_check_gold_wants_a_string():
    with refused("gold is", 5, "int"):
        check_gold(5)


@pytest.mark.skipif(not DATA, reason="NFT_TEST_DATA is not set")
def test_real_golds_are_right_for_themselves():
    for gold in golds(300):
        assert check_gold(gold) is None, gold
        assert quick_verdict(gold, extract(box(gold))).outcome == "right", gold


@pytest.mark.skipif(not DATA, reason="NFT_TEST_DATA is not set")
def test_real_golds_are_not_right_for_a_changed_copy():
    for gold in golds(300):
        changed = gold.strip() + "7" if gold.strip()[-1].isdigit() else "7 + " + gold.strip()
        found = quick_verdict(gold, extract(box(changed)))
        assert found is None or found.outcome != "right", (gold, changed)


@pytest.mark.skipif(not DATA, reason="NFT_TEST_DATA is not set")
def test_most_real_answers_never_need_a_worker():
    numeric = [gold for gold in golds(300) if gold.strip().lstrip("-").isdigit()]
    random.Random(0).shuffle(numeric)
    for gold, other in pairwise(numeric):
        assert quick_verdict(gold, other).outcome == ("right" if int(gold) == int(other) else "wrong")


def test_modes_are_those_of_the_config():
    from typing import get_args, get_type_hints

    from nft_jax.config import VerifierConfig

    assert get_args(get_type_hints(VerifierConfig)["mode"]) == MODES
