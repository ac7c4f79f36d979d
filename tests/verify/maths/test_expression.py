"""Expressions: numbers against fractions.Fraction, and a grammar that reads everything or nothing."""
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.verify.maths.expression import Parser, plain_integer, recurring, tokens
from nft_jax.verify.maths.nodes import MAX_BITS, Unreadable
from nft_jax.verify.maths.normalise import normalise

FRACTIONS = st.fractions(max_denominator=10**6)
DIGITS = st.text(alphabet="0123456789", min_size=1, max_size=12)


def parse(text: str):
    return Parser(tokens(text)).whole()


def rational(text: str) -> Fraction | None:
    """The exact value, or None for what is no rational number or unreadable."""
    try:
        return parse(text).value
    except Unreadable:
        return None


@given(FRACTIONS)
def test_spellings_of_a_fraction(value):
    top, bottom = value.numerator, value.denominator
    for text in (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{2 * top}}}{{{2 * bottom}}}",
                 rf"({top}) \div {bottom}"):
        assert rational(normalise(text)) == value


@given(FRACTIONS, FRACTIONS, FRACTIONS)
def test_arithmetic(a, b, c):
    text = f"({a}) + ({b}) \\cdot ({c}) - ({a})^2"
    assert rational(text) == a + b * c - a**2


@given(st.integers(0, 10**6), st.integers(1, 500), st.integers(1, 500))
def test_mixed_numbers(whole, top, bottom):
    value = rational(rf"{whole}\frac{{{top}}}{{{bottom}}}")
    assert value == (whole + Fraction(top, bottom) if top < bottom else whole * Fraction(top, bottom))


@given(DIGITS, DIGITS, st.integers(-400, 400))
def test_scientific(whole, part, exponent):
    expected = Fraction(f"{whole}.{part}") * Fraction(10) ** exponent
    for text in (f"{whole}.{part}e{exponent}", rf"{whole}.{part} \times 10^{{{exponent}}}",
                 f"{whole}.{part}*10^{exponent}"):
        assert rational(normalise(text)) == expected


@given(DIGITS, DIGITS)
def test_recurring_decimals_are_the_limit_of_their_digits(head, block):
    value = recurring(f"0.{head}", block)
    for repeats in (1, 5):
        cut = Fraction(f"0.{head}{block * repeats}")
        assert abs(value - cut) <= Fraction(1, 10 ** (len(head) + repeats * len(block)))
    assert rational(rf"0.{head}\overline{{{block}}}") == value


@pytest.mark.parametrize("text", [
    "x", "", "1,2", "1 2", "(1", "1)", r"\frac{1}{0}", "1/0", "0^{-1}", "2^{1/2}", "9^{9^{9}}", "10^{1000000}", "3!!",
    "(-1)!", "100000!", r"\sqrt{2}", "--", "1..2", "\u0665", "1e9999999", "7" * 5000, "(" * 50 + "1" + ")" * 50,
    "5{7}", "1{0}", "0^{0}", r"\infty-\infty", "2^{3}5", r"\frac{1}{2}3", "5_{n}",
])
def test_not_an_exact_rational(text):
    assert rational(text) is None


def test_size_is_bounded():
    assert rational("2^{1009}") == 2**1009
    assert rational(f"2^{{{MAX_BITS}}}") is None
    assert rational(f"(-1)^{{{10**9 + 1}}}") == -1
    assert rational(r"\frac{100!}{2^{50}}").denominator == 1


@given(st.integers())
def test_plain_integers_are_canonical_digits(value):
    assert plain_integer(f"{value:+d}") == str(value)
    assert plain_integer(f"{value:,}") == str(value)
    assert plain_integer(f"{value}.5") is None


@pytest.mark.parametrize(("text", "other"), [
    ("ba^{2}", "a^{2}b"), ("ab^{-1}", r"\frac{a}{b}"), (r"\sin^{2} x", r"(\sin x)^{2}"), (r"\tan^{-1} 2", r"\arctan 2"),
    (r"\sin 2x\cos x", r"\sin(2x)\cdot \cos(x)"), ("{x}{y}", "xy"), (r"\sin \pi/4", r"\sin(\frac{\pi}{4})"),
    ("1/2x", r"\frac{1}{2}x"), (r"\max(1,\max\{2,3\})", "3"), ("3+i4", "3+4i"),
    (r"20\bmod 7", "6"), (r"\log_{2}8", r"\frac{\ln 8}{\ln 2}"), ("|x|+|y|", "|y|+|x|"),
])
def test_grammar(text, other):
    algebra = pytest.importorskip("nft_jax.verify.maths.algebra")
    assert algebra.FullLeaf().equal(parse(text), parse(other)) is True


@pytest.mark.parametrize("text", [r"5\cong 7", r"\sout{42}", r"\overline{42}", r"\hat{42}", "5#", r"\neg",
                                  r"4\phantom 2", "5?", r"\text{x}5", "x^", "^2", r"\frac{1}", "|x", "5 % 7"])
def test_what_the_grammar_does_not_know_is_unreadable(text):
    with pytest.raises((Unreadable, IndexError)):
        parse(text)
