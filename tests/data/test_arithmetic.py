"""The generator: right answers (by an independent evaluation), disjoint splits, the same questions everywhere."""
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.data.arithmetic import KINDS, SOURCES, SPLITS, Ref, Step, canonical, generate, questions, solve, split_of
from refusal import refused


def python_answer(problem: str) -> Fraction:
    """By Python's own precedence; an equation by evaluating both sides at two points (it is linear)."""
    if "x" not in problem:
        return Fraction(eval(problem))
    left, right = re.sub(r"(\d)x", r"\1*x", problem).split("=")
    at = [Fraction(eval(left, {"x": x})) - Fraction(eval(right)) for x in (0, 1)]
    return -at[0] / (at[1] - at[0])


@given(st.sampled_from(SPLITS), st.integers(0, 10**6), st.sampled_from(sorted(SOURCES)))
@settings(max_examples=30, deadline=None)
def test_answers_are_right_and_problems_short_ascii(split, seed, source):
    for problem, answer in questions(split, 20, seed, source):
        assert python_answer(problem) == int(answer) >= 0
        assert re.fullmatch(r"[0-9+\-*%()x=]{3,18}", problem)


@pytest.mark.parametrize("source", SOURCES)
def test_splits_share_no_question_whatever_the_seed(source):
    drawn = {split: [q for seed in range(3) for q in generate(split, 1000, seed, source)] for split in SPLITS}
    texts = {split: {q.problem for q in questions} for split, questions in drawn.items()}
    forms = {split: {canonical(q.solution) for q in questions} for split, questions in drawn.items()}
    for found in (texts, forms):
        for one, other in (("base", "train"), ("base", "heldout"), ("train", "heldout")):
            assert not found[one] & found[other]


def test_the_split_does_not_depend_on_the_order_of_commuting_operands():
    one = (Step(17, "+", 25), Step(Ref(0), "*", 3))
    other = (Step(25, "+", 17), Step(3, "*", Ref(0)))
    assert canonical(one) == canonical(other) and split_of(one) == split_of(other)
    assert canonical((Step(25, "-", 17),)) != canonical((Step(17, "-", 25),))
    assert solve(one) == [42, 126]


def test_no_repeats_and_every_kind_in_a_large_split():
    drawn = generate("train", 20_000, 0)
    assert len({q.problem for q in drawn}) == 20_000
    first = Counter(q.kind for q in drawn[:3000])
    assert set(first) == set(KINDS)
    assert min(first.values()) > 300 and min(Counter(q.kind for q in drawn).values()) > 1500


def test_small_spaces_give_repeats_instead_of_hanging(monkeypatch):
    def tiny(rng):
        a = rng.randint(1, 6)
        return f"{a}+1", (Step(a, "+", 1),)
    monkeypatch.setitem(SOURCES, "arithmetic", {"tiny": tiny})
    drawn = questions("train", 50, 0)
    assert len(drawn) == 50 and 1 <= len(set(drawn)) <= 6


def test_seeds_differ_and_a_longer_list_begins_with_the_shorter():
    assert questions("train", 300, 5)[:100] == questions("train", 100, 5)
    assert questions("train", 100, 5) != questions("train", 100, 6)
    assert questions("train", 0, 5) == []


def test_the_same_in_processes_with_other_hash_seeds():
    code = "from nft_jax.data.arithmetic import questions; print(questions('heldout', 40, 3))"
    for hash_seed in ("0", "77"):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                             env={**os.environ, "PYTHONHASHSEED": hash_seed}).stdout
        assert out.strip() == str(questions("heldout", 40, 3))


@pytest.mark.parametrize(("split", "count", "told"), [("test", 1, ("split", "test")), ("train", -1, ("count", -1))])
def test_bad_input(split, count, told):
    with refused(*told):
        questions(split, count, 0)
