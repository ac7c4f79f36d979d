"""Typed answers: what is read, what is text, and properties of the comparison that hold for every answer."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.verify.maths import answer as A
from nft_jax.verify.maths.compare import Leaf, both, compare, either, unordered
from nft_jax.verify.maths.expression import split, tokens
from nft_jax.verify.maths.normalise import closing, key, nesting, normalise
from nft_jax.verify.maths.read import hint_of, read
from nft_jax.verify.maths.units import UNITS, read_unit

NUMBERS = st.lists(st.integers(-50, 50), min_size=2, max_size=6)


def same(gold: str, answer: str):
    g = read(normalise(gold))
    return compare(g, read(normalise(answer), hint_of(g, normalise(gold))), Leaf())


@given(NUMBERS, st.randoms(use_true_random=False))
def test_lists_are_unordered_and_tuples_are_not(numbers, rng):
    shuffled = rng.sample(numbers, len(numbers))
    plain, other = ", ".join(map(str, numbers)), ", ".join(map(str, shuffled))
    assert same(plain, other) is True
    assert same(plain, rf"\{{{other}\}}") is True
    assert same(f"({plain})", f"({other})") is (numbers == shuffled)
    assert same(plain, other + ", 77") is False


BRACKETS = st.sampled_from(["()", "[]", "(]", "[)"])


@given(st.integers(-50, 50), st.integers(1, 50), BRACKETS, BRACKETS)
def test_interval_brackets_matter(low, width, first, second):
    high = low + width
    one, other = (f"{marks[0]}{low}, {high}{marks[1]}" for marks in (first, second))
    assert same(one, other) is (first == second)
    signs = [r"\le" if marks in "[]" else "<" for marks in second]
    assert same(other, rf"{low} {signs[0]} x {signs[1]} {high}") is True


@given(st.permutations([0, 1, 2, 3]), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_pairing_finds_a_hidden_permutation(order, extra):
    items = list("0123")
    assert unordered(items, items, lambda g, a: order[int(g)] == int(a) or (int(g), int(a)) in extra) is True
    assert unordered(items, items, lambda g, a: order[int(g)] == int(a) and int(g) != 2) is False
    assert unordered(items, items, lambda g, a: None if int(g) == 2 else order[int(g)] == int(a)) is None


def test_three_valued_logic():
    assert both([True, True]) is both([]) is True and both([True, None]) is None and both([None, False]) is False
    assert either([False, None]) is None and either([None, True]) is True and either([]) is False


@given(st.text(max_size=80))
def test_normalising_is_total_and_settles(text):
    once = normalise(text)
    assert key(normalise(once)) == key(normalise(normalise(once)))
    assert nesting(once) >= 0


@given(st.text(alphabet=list("(){}[]\\,;a1 |=<^_"), max_size=60))
def test_reading_is_total(text):
    found = read(text)
    assert compare(found, found, Leaf()) in (True, None) or isinstance(found, A.Value)
    parts, marks = split([], {","})
    assert len(parts) == len(marks) + 1


@pytest.mark.parametrize(("text", "kind"), [
    ("5", A.Value), (r"5 \text{ cm}", A.Value), ("x=5", A.Sides), ("(1,2)", A.Items), (r"\{1,2\}", A.Items),
    ("[1,2)", A.Region), ("x>2", A.Region), (r"x\ne 2", A.Region), ("x+y<3", A.Inequality), ("2:3", A.Ratio),
    ("12:30", A.Literal), ("52_8", A.Literal), (r"3\pmod 7", A.Residue), (r"\text{(C)}", A.Choice),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", A.Items),
    (r"\text{east}", A.Text), (r"2k\pi, k\in\mathbb{Z}", A.Conditioned), (r"\text{no solution}", A.Items),
    (r"\text{all real numbers}", A.Region), (r"|x|<3", A.Region), (r"\mathbb{R}\setminus[1,3]", A.Region),
    # A word, a mark or a relation that the grammar does not know makes it text.
    (r"5\text{ unless seven}", A.Text), (r"5\cong 7", A.Text), (r"\not=5", A.Text), (r"\text{never } x=5", A.Text),
    (r"5_{\text{wrong}}", A.Text), ("5?", A.Text), (r"(E)\rightarrow(A)", A.Text), (r"4\text{ modulo seven}", A.Text),
    ("[7]", A.Text), (r"1,-2,\ldots", A.Text), (r"3^{+1}_{-1}", A.Text), (r"\boxed{5}7", A.Text),
])
def test_kinds(text, kind):
    assert isinstance(read(normalise(text)), kind)


@pytest.mark.parametrize(("gold", "answer", "expected"), [
    ("3", r"3\text{ halves}", False), (r"\frac32", r"3\text{ halves}", True), ("25", r"5\text{ squared}", True),
    ("5", r"5\text{ squared}", False), ("40", r"2\text{ score}", True), ("45", r"\text{forty-five}", True),
    ("305", r"\text{three hundred and five}", True), ("45", r"\text{forty-six}", False),
    ("5", r"\text{five or six}", False),
    (r"2 \text{ hours } 30 \text{ minutes}", r"2.5 \text{ hours}", True), (r"3\text{ m}", r"300\text{ cm}", True),
    (r"3\text{ m}", r"300\text{ m}", False), (r"18\text{ widgets}", "18 widgets", True), ("18", "18 widgets", False),
    (r"7\text{ inverse}", "7", False), ("5", r"5\text{n}", False), ("5", r"\$5", True), (r"\$5", "€5", False),
])
def test_words_beside_a_number_are_a_unit_or_arithmetic_or_text(gold, answer, expected):
    assert (same(gold, answer) is True) is expected


@pytest.mark.parametrize(("gold", "answer", "expected"), [
    (r"\begin{cases}x&x\ge0\\-x&x<0\end{cases}", r"\begin{cases}-x&x<0\\x&0\le x\end{cases}", True),
    (r"\begin{cases}x&x\ge0\\-x&x<0\end{cases}", r"\begin{cases}x&x<0\\-x&x\ge0\end{cases}", None),
    (r"\begin{cases}x&x\ge0\\5&x<0\end{cases}", r"\begin{cases}x&x>0\\5&x<0\end{cases}", False),
    (r"\{1,2,3\}", r"\{n\in\mathbb{Z}\mid 0<n\le3\}", True), (r"\{1,2,3\}", r"\{n\in\mathbb{Z}\mid 0<n<3\}", False),
    (r"\{1,2,3\}", r"\{n\in\mathbb{R}\mid 0<n\le3\}", False), (r"p\land q", r"q\land p", True),
    (r"1,234\frac{1}{2}", "1234.5", True), ("1.8", r"\text{1 4/5}", True), ("1.8 cups", r"\text{1 4/5 cups}", True),
    ("617", r"1,234\frac{1}{2}", False), (r"p\land q", r"p\lor q", False), (r"p\land q", "p, q", False),
    (r"x<a\text{ and }x>2", r"2<x<a", True),
    (r"(-\infty,1)\cup[3,\infty)", r"x\ge3\text{ or }x<1", True), (r"[0,2]\cap(1,3)", "(1,2]", True),
    (r"[0,2]\cup(1,3)", "[0,3)", True), (r"[0,2]\setminus\{1\}", r"[0,1)\cup(1,2]", True),
    (r"x<a\text{ or }x>b", r"x>b\text{ or }x<a", True), ("[1,1]", r"\{1\}", False),
    (r"(3,\infty)", r"(3,+\infty[", True), ("4i", "4i 1", False),
    ("12", r"12}\text{ students}", False), ("20", r"20{\text{ km}}", True), ("10", r"10\;\mathrm{m\,s^}-1{}", False),
    ("10", r"10\;\mathrm{s\,m^{-1}}", True),
    (r"[0,1]\setminus\mathbb{R}", r"\emptyset", True), (r"(0,1)\cap(2,3)", r"\mathbb{R}", False),
])
def test_cases_propositions_mixed_numbers_and_regions(gold, answer, expected):
    assert same(gold, answer) is expected


@pytest.mark.parametrize(("text", "scale", "powers"), [
    (r"\text{ km/h}", 1000 / 3600, {"m": 1, "s": -1}), (r"\text{ square feet}", 0.3048**2, {"m": 2}),
    ("m s^{-1}", 1, {"m": 1, "s": -1}),
    (r"\text{ meters per second squared}", 1, {"m": 1, "s": -2}),
    ("N", 1000, {"g": 1, "m": 1, "s": -2}),
    (r"\text{ kg m}^{2}", 1000, {"g": 1, "m": 2}), (r"\frac{\text{m}}{\text{s}^{2}}", 1, {"m": 1, "s": -2}),
])
def test_units(text, scale, powers):
    unit = read_unit(tokens(text))
    assert float(unit.scale) == pytest.approx(scale) and dict(unit.powers) == powers


@pytest.mark.parametrize("kind", ["matrix", "smallmatrix"])
@pytest.mark.parametrize(("left", "right", "expected"), [("(", ")", True), ("[", "]", True), ("|", "|", False),
                                                         (r"\|", r"\|", False), ("5", "", False), ("(", "]", False)])
def test_a_matrix_has_brackets_and_a_determinant_has_none(kind, left, right, expected):
    answer = rf"{left}\begin{{{kind}}}1&2\\3&4\end{{{kind}}}{right}"
    assert same(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", answer) is expected


def test_units_are_a_closed_list():
    assert {"cm", "kPa", "µm", "hour", "$", "mph"} <= UNITS.keys() and "wrong" not in UNITS
    assert read_unit(tokens(r"\text{ or}")) is None


def test_braces():
    assert closing(r"{a\}{b}}", 0) == 7
    assert closing("{a", 0) == -1


@pytest.mark.parametrize(("gold", "answer"), [
    ("2", r"x=2\approx 1.5e500"), (r"\sqrt{2}", r"\sqrt{2}\approx 1.5\times10^{500}"),
    (r"\sqrt{2}", rf"\sqrt{{2}}\approx 1{'0' * 320}\times10^{{-320}}"),
    (r"\sqrt{2}", rf"\sqrt{{2}}\approx 0.{'0' * 330}14\times10^{{331}}")])
def test_an_approximation_beyond_floats_is_no_value_and_no_exception(gold, answer):
    """An exception would be the outcome "error", with which an answer takes itself out of its group."""
    assert same(gold, answer) is False
