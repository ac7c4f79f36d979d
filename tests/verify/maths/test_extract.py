"""Extraction: the last complete box, and what the modes strict and lenient read instead."""
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import box
from nft_jax.config import VerifierConfig
from nft_jax.verify.maths.extract import MODES, extract, last_box, with_open_thought
from nft_jax.verify.maths.judge import answer_of, quick_verdict


@pytest.mark.parametrize(("response", "expected"), [
    (r"\boxed{8}", "8"), (r"first \boxed{8}, no: \boxed{9}", "9"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{\boxed{3} + 1}", "3"),
    (r"\boxed{1} and \boxed{2", "1"), (r"\boxed{\frac{1}{2}", None), (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{[1, \}2)}", r"[1, \}2)"), (r"{ stray \boxed{5}", "5"), ("} } \\boxed{5}", "5"),
    ("the answer is 8", None), (r"\boxed 8", "8"), (r"\fbox{8}", "8"), (r"\boxed{}", None), ("\\boxed\n{8}", "8"),
    (r"\boxed {8}", "8"), (r"\boxed eight", None), (r"\boxed -8.", "-8"), (r"\fbox{8}\boxed{9}", "9"),
    ("% \\boxed{8}", None),
    ("\\boxed{7}\n% \\boxed{8}", "7"), ("\\boxed{7} % \\boxed{8}", "7"), ("by 50% to \\boxed{8}", "8"),
    (r"\boxed{50%}", "50%"),
    ("\\boxed{7}% \\boxed{8}\n so \\boxed{9}", "9"), (r"by $20$ % to \boxed{8}", "8"),
    (r"\boxed{ }", None), (r"\boxed{7} then \boxed{}", None), ("", None), ("boxed{5}", None),
    (r"x = 5 \\ \boxed{5}", "5"), ("\\\\boxed{5}", "5"), ("<think>\\boxed{1}</think> \\boxed{2}", "2"),
    ("<think>\\boxed{1}</think> I give up", None), ("\\boxed{4\n}", "4"),
    ("<think>\\boxed{1}? Let me check", None), ("Hm \\boxed{1}.</think> \\boxed{2}", "2"), ("\\boxed{1}</think>", None),
    ("<think>a</think>\\boxed{1}<think>\\boxed{2}</think>\\boxed{3}", "3"), ("\\boxed{1}<think>\\boxed{2}", "1"),
    ("<think>a<think>b</think>\\boxed{1}</think>\\boxed{2}", "2"), ("<think>" + "a" * (1 << 20) + "\\boxed{1}", None),
    ("<think>a</think>\\boxed{1}<think>\\boxed{2}</think>", None),
    ("\\boxed{\\text{a } b}", "\\text{a } b"), ("\\boxed{\ud800}", "\ud800"),
])
def test_last_complete_box(response, expected):
    assert extract(response) == expected


@pytest.mark.parametrize(("response", "joined"), [
    (r"The integers are \boxed{3}, \boxed{5}, \boxed{7}.", "3, 5, 7"), (r"$n=\boxed{1}$ and $n=\boxed{-2}$", "1, -2"),
    (r"\boxed{8}, no: \boxed{9}", "9"), (r"\boxed{4}\boxed{2}", "2"),
    (r"\boxed{1}. Now \boxed{2} or \boxed{3}", "2, 3"),
    (r"\boxed{3}", "3"), ("none", None),
])
def test_boxes_in_a_row_are_one_list_where_the_gold_is_a_list(response, joined):
    assert extract(response, several=True) == joined
    assert answer_of(response, "1, 2, 3") == joined
    assert answer_of(response, "7") == extract(response)


def test_extraction_is_one_pass():
    """Work is proportional to the text: tokens are visited once, so these finish at once rather than never."""
    assert last_box(r"\boxed{" * 50_000) is None
    assert last_box(r"\boxed{" * 50_000 + "7" + "}" * 50_000) == "7"
    assert last_box("\\" * 400_000) is None


@pytest.mark.parametrize(("prompt", "response", "judged"), [
    ("Q<think>", "a", "<think>a"), ("Q<think>\n", "a", "<think>a"), ("Q<think>\n", "<think>a", "<think>a"),
    ("Q<think>\n\n</think>\n\n", "a", "a"), ("Think between <think> and </think>. Q", "a", "a"),
    ("Begin with <think>. Q", "a", "a"), ("", "a", "a")])
def test_a_prompt_may_open_the_thought(prompt, response, judged):
    assert with_open_thought(prompt, response) == judged


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


def test_modes_are_those_of_the_config():
    assert get_args(get_type_hints(VerifierConfig)["mode"]) == MODES
