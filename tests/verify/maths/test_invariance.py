"""What keeps the meaning of an answer keeps it right; a word, another digit or another sign does not."""
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("math_verify")

from corpus import is_right
from nft_jax.verify.maths.algebra import warm_up
from words import NEUTRAL, THINGS, WORDS

bounded = settings(max_examples=60, deadline=None, derandomize=True)
small = st.integers(-99, 99)
letters = st.sampled_from(("x", "n", "k", "S_{10}", "a_{5}", r"\lambda", "AB", r"\text{Area}", "P(A)"))


@pytest.fixture(scope="module", autouse=True)
def loaded():
    warm_up()


@st.composite
def fractions(draw) -> str:
    top, bottom = draw(st.integers(1, 999)), draw(st.integers(2, 99))
    assume(math.gcd(top, bottom) == 1)
    return rf"{draw(st.sampled_from(('', '-')))}\frac{{{top}}}{{{bottom}}}"


@st.composite
def radicals(draw) -> str:
    a, b, c = draw(st.integers(2, 30)), draw(st.sampled_from((2, 3, 5, 7, 11))), draw(st.integers(0, 20))
    return rf"{c}+{a}\sqrt{{{b}}}" if c else rf"{a}\sqrt{{{b}}}"


@st.composite
def polynomials(draw) -> str:
    a, b, c = draw(st.integers(2, 20)), draw(st.integers(1, 50)), draw(st.integers(1, 50))
    return f"{a}x^2{draw(st.sampled_from('+-'))}{b}x{draw(st.sampled_from('+-'))}{c}"


def joined(values: list, separator: str = ", ") -> str:
    return separator.join(map(str, values))


integers = st.integers(-10**6, 10**6).map(str)
decimals = st.decimals(-999, 999, places=2).map(str)
numbers = st.one_of(integers, decimals, fractions(), radicals())
several = st.lists(small, min_size=2, max_size=4, unique=True)
tuples = several.map(lambda values: f"({joined(values)})")
sets = several.map(lambda values: rf"\{{{joined(values)}\}}")
intervals = st.tuples(small, st.integers(1, 50), st.sampled_from(("()", "[]", "(]", "[)"))).map(
    lambda drawn: f"{drawn[2][0]}{drawn[0]}, {drawn[0] + drawn[1]}{drawn[2][1]}")
golds = st.one_of(numbers, tuples, sets, intervals, polynomials())

# Each keeps the meaning of any answer.
STYLES = st.sampled_from((r"{{{}}}", r"\displaystyle {}", r"\boldsymbol{{{}}}", r"\color{{red}}{{{}}}", r"\;{}\,",
                          r"\mathbf{{{}}}", r"\boxed{{{}}}", r"\textcolor{{blue}}{{{}}}", r"\large {}"))
AROUND = st.sampled_from(("{}", " {} ", "${}$", r"\({}\)", "{}.", "$${}$$", "${}$.", r"\text{{Answer: }}{}"))
UNITS = st.sampled_from((r"\text{ cm}", r"\,\mathrm{m}", r"\text{ square meters}", r"\text{ km/h}", r"\text{ kg}",
                         r"\text{ hours}", r"\text{ dollars}", r"\text{ units}", r"\text{ m}^2", r"\text{ days}"))


@bounded
@given(golds, st.lists(STYLES, max_size=2), AROUND)
def test_styles_keep_an_answer_right(gold, styles, around):
    answer = gold
    for style in [*styles, around]:
        answer = style.format(answer)
    assert is_right(gold, answer), answer


@bounded
@given(golds)
def test_spaces_and_brackets_that_stretch_keep_an_answer_right(gold):
    stretched = gold
    for mark in "()[]":
        stretched = stretched.replace(mark, (r"\left" if mark in "([" else r"\right") + mark)
    assert is_right(gold, stretched)
    assert is_right(gold, gold.replace(",", r" ,\; ").replace("+", " + ").replace(r"\frac", r"\dfrac"))


@bounded
@given(numbers, letters, UNITS)
def test_a_name_and_a_unit_keep_a_number_right(gold, name, unit):
    assert is_right(gold, f"{name} = {gold}") and is_right(f"{name} = {gold}", gold)
    assert is_right(gold, gold + unit) and is_right(gold + unit, gold)
    assert is_right(gold, f"{name}={gold}{unit}")


@bounded
@given(several, st.randoms(use_true_random=False))
def test_names_and_separators_keep_several_values_right(values, rng):
    shuffled = rng.sample(values, len(values))
    gold = joined(values)
    names = ["a", "b", "c", "d"][:len(values)]
    assert is_right(f"({gold})", f"({joined(names)}) = ({gold})")
    assert is_right(f"({gold})", joined([f"{name}={value}" for name, value in zip(names, values, strict=True)]))
    for answer in (joined(shuffled, "; "), rf"\{{{joined(shuffled)}\}}", f"x = {joined(shuffled)}",
                   joined([f"x={value}" for value in shuffled], r"\text{ or }"),
                   joined(shuffled[:-1]) + rf"\text{{ and }}{shuffled[-1]}", rf"x\in\{{{joined(shuffled)}\}}"):
        assert is_right(gold, answer), answer
    assert not is_right(f"({gold})", f"({joined(values[::-1])})")
    assert not is_right(gold, joined(values[1:])) and not is_right(gold, joined([*values, 1000]))


@bounded
@given(small, st.integers(1, 40), st.sampled_from((2, 3, 5, 7)), st.sampled_from("xnt"))
def test_plus_and_minus_may_be_written_out(a, b, c, name):
    both, plus, minus = (rf"{a}{sign}{b}\sqrt{{{c}}}" for sign in (r"\pm ", "+", "-"))
    for answer in (f"{plus},{minus}", rf"{name}={both}", rf"\{{{minus},{plus}\}}",
                   rf"{name}={plus}\text{{ or }}{name}={minus}"):
        assert is_right(both, answer) and is_right(answer, both), answer
    assert not is_right(both, plus) and not is_right(both, f"{plus},{plus}") and not is_right(plus, both)


@bounded
@given(intervals, st.sampled_from("xat"))
def test_an_interval_is_an_inequality(gold, name):
    low, high = gold[1:-1].split(", ")
    below, above = (r"\le" if mark in "[]" else "<" for mark in (gold[0], gold[-1]))
    for answer in (rf"{low} {below} {name} {above} {high}", rf"{name}\in {gold}",
                   rf"\{{{name} \mid {low} {below} {name} {above} {high}\}}",
                   rf"{name} {below.replace('<', '>').replace('le', 'ge')} {low}\text{{ and }}{name} {above} {high}"):
        assert is_right(gold, answer), answer
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    assert not is_right(gold, other[gold[0]] + gold[1:]) and not is_right(gold, gold[:-1] + other[gold[-1]])


@pytest.mark.parametrize("beside", [r"7\text{{ {0}}}", r"\text{{7 {0}}}", "7 {0}", r"7\ \mathrm{{{0}}}",
                                    r"7\text{{{0}}}"])
def test_only_the_name_of_a_thing_may_follow_a_number(beside):
    assert {word for word in WORDS if is_right("7", beside.format(word))} <= THINGS | {"only"}


@pytest.mark.parametrize("beside", [r"\text{{{0} }}7", r"\text{{{0} 7}}", "{0} 7", r"\mathrm{{{0}}}\ 7"])
def test_only_a_word_without_weight_may_precede_a_number(beside):
    assert {word for word in WORDS if is_right("7", beside.format(word))} <= NEUTRAL


@pytest.mark.parametrize("word", [word for word in WORDS if len(word) > 3][::5])
def test_a_word_is_not_another_word(word):
    other = WORDS[WORDS.index(word) - 1]
    for answer in (other, rf"\text{{not {word}}}", rf"\text{{{word} or {other}}}", word[:-1], f"un{word}",
                   rf"\text{{{word}, {other}}}", rf"\neg\text{{{word}}}"):
        assert not is_right(rf"\text{{{word}}}", answer), answer


def value(text: str) -> Fraction | None:
    """The value of an integer, a decimal or a quotient of two; None where the text is none of them."""
    try:
        top, *bottom = map(Fraction, text.split("/"))
        return top / bottom[0] if bottom else top
    except (ValueError, ZeroDivisionError):
        return None


@st.composite
def edits(draw, text: str) -> str:
    """The text with one digit changed, added or left out, its point elsewhere, or its other sign."""
    kind = draw(st.sampled_from(("digit", "more", "less", "sign", "point")))
    places = [place for place, mark in enumerate(text) if mark.isdigit()]
    place = draw(st.sampled_from(places))
    if kind == "digit":
        return text[:place] + draw(st.sampled_from("0123456789")) + text[place + 1:]
    if kind == "more":
        return text[:place] + draw(st.sampled_from("0123456789")) + text[place:]
    if kind == "less":
        return text[:place] + text[place + 1:]
    if kind == "sign":
        return text[1:] if text.startswith("-") else f"-{text}"
    bare = text.replace(".", "")
    return bare[:place] + "." + bare[place:]


quotients = st.tuples(st.integers(-999, 999), st.integers(1, 999)).map("{0[0]}/{0[1]}".format)
plain = st.one_of(integers, decimals, quotients,
                  st.integers(10**20, 10**30).map(str), st.decimals("0.00001", "0.001", places=9).map("{:f}".format))


@settings(bounded, max_examples=300)
@given(st.data(), plain)
def test_another_number_is_never_right(data, gold):
    answer = data.draw(edits(gold))
    number = value(answer)
    assume(number != value(gold))
    assert not is_right(gold, answer) and not is_right(gold, f"x = {answer}")


@bounded
@given(st.data(), radicals())
def test_another_radical_is_never_right(data, gold):
    def exact(text: str) -> tuple[int, bool, int]:
        """What makes c + a sqrt(b) that number: c, the sign of a, and a * a * b."""
        head, _, root = text.partition(r"\sqrt{")
        whole, _, factor = head.rpartition("+")
        factor = int(factor) if factor.strip("-") else int(f"{factor}1")
        return int(whole or 0), factor > 0, factor * factor * int(root[:-1])

    answer = data.draw(edits(gold).filter(lambda text: "." not in text and "{}" not in text))
    assume(exact(answer) != exact(gold))
    assert not is_right(gold, answer), answer
