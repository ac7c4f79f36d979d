"""Exact rationals, against fractions.Fraction."""
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.verify.maths.exact import MAX_BITS, plain_integer, rational, recurring
from nft_jax.verify.maths.normalise import normalise

FRACTIONS = st.fractions(max_denominator=10**6)
DIGITS = st.text(alphabet="0123456789", min_size=1, max_size=12)


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
    "x", "", "1,2", "1 2", "(1", "1)", r"\frac{1}{0}", "1/0", "0^{-1}", "2^{1/2}", "9^{9^{9}}",
    "10^{1000000}", "3!!", "(-1)!", "100000!", r"\sqrt{2}", "1/2(3)", "--", "1..2", "\u0665", "1e9999999",
    "7" * 5000, "(" * 50 + "1" + ")" * 50,
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
