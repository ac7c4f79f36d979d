"""Structure: properties of the comparison that hold for every answer, with exact leaves only."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.verify.maths import units
from nft_jax.verify.maths.compare import compare
from nft_jax.verify.maths.normalise import closing, key, nesting, normalise
from nft_jax.verify.maths.structure import both, intervals, matrix, shape, split, unknown, unordered

NUMBERS = st.lists(st.integers(-50, 50), min_size=2, max_size=6)


def same(gold: str, answer: str):
    return compare(normalise(gold), normalise(answer), unknown)


@given(NUMBERS, st.randoms(use_true_random=False))
def test_lists_are_unordered_and_tuples_are_not(numbers, rng):
    shuffled = rng.sample(numbers, len(numbers))
    plain, other = ", ".join(map(str, numbers)), ", ".join(map(str, shuffled))
    assert same(plain, other) is True
    assert same(plain, rf"\{{{other}\}}") is True
    assert same(f"({plain})", f"({other})") is (numbers == shuffled)
    assert same(plain, other + ", 77") is False


BRACKETS = st.sampled_from(["()", "[]", "(]", "[)"])


@given(st.integers(-50, 50), st.integers(-50, 50), BRACKETS, BRACKETS)
def test_interval_brackets_matter(low, high, first, second):
    one, other = (f"{marks[0]}{low},{high}{marks[1]}" for marks in (first, second))
    assert same(one, other) is (first == second)
    signs = [r"\le" if marks in "[]" else "<" for marks in second]
    assert same(other, rf"{low} {signs[0]} x {signs[1]} {high}") is True


@given(st.permutations([0, 1, 2, 3]), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_pairing_finds_a_hidden_permutation(order, extra):
    items = list("0123")
    assert unordered(items, items, lambda g, a: order[int(g)] == int(a) or (int(g), int(a)) in extra) is True
    assert unordered(items, items, lambda g, a: order[int(g)] == int(a) and int(g) != 2) is False
    assert unordered(items, items, lambda g, a: None if int(g) == 2 else order[int(g)] == int(a)) is None


def test_three_valued_and():
    assert both([True, True]) is both([]) is True and both([True, None]) is None and both([None, False]) is False


@given(st.text(max_size=80))
def test_normalising_is_total_and_settles(text):
    once = normalise(text)
    assert key(normalise(once)) == key(normalise(normalise(once)))
    assert nesting(once) >= 0


@given(st.text(alphabet=list("(){}[]\\,;a1 "), max_size=60))
def test_structure_is_total(text):
    parts, marks = split(text, __import__("re").compile(","))
    assert len(parts) == len(marks) + 1
    assert shape(text) is None or len(shape(text).items) >= 0
    assert intervals(text) is None or intervals(text)
    assert compare(text, text, unknown) is True


@pytest.mark.parametrize(("text", "body", "unit", "percent"), [
    (r"5 \text{cm}", "5", "cm", False), (r"5 \text{square feet}", "5", "ft ^2", False),
    (r"\$5", "5", "dollar", False), (r"5\%", "5", None, True),
    (r"5 \text{miles per hour}", "5", "mi / h", False), ("12 inches", "12", "in", False),
    (r"5 \text{or}", r"5 \text{or}", None, False), ("2k", "2k", None, False),
    (r"3 \text{million}", r"(3)\cdot 1000000", None, False), (r"x \text{degrees}", "x", "deg", False),
    ("5 units", "5", None, False),
])
def test_units_come_off(text, body, unit, percent):
    assert units.quantity(text) == (body, unit, percent)


@pytest.mark.parametrize(("text", "expected"), [
    ("4:30 p.m.", 16.5), ("12 a.m.", 0), ("12:15 PM", 12.25), ("13:00 p.m.", None), ("4:30", None)])
def test_times_of_day(text, expected):
    assert units.time_of_day(text) == (None if expected is None else expected * 3600)


def test_braces_and_matrices():
    assert closing(r"{a\}{b}}", 0) == 7
    assert closing("{a", 0) == -1
    assert matrix(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}") == ("matrix", [["1", "2"], ["3", "4"]])
    assert matrix("1") is None
