"""The symbolic leaf, called directly: math-verify's known mistakes do not come through."""
import pytest

pytest.importorskip("math_verify")

from nft_jax.verify.maths.judge import judge
from nft_jax.verify.maths.normalise import normalise
from nft_jax.verify.maths.symbolic import equal, parse, same_values


@pytest.mark.parametrize(("gold", "answer", "expected"), [
    (r"\sqrt{8}", r"2\sqrt{2}", True), ("(x+1)(x-1)", "x^2-1", True), ("x", "X", False),
    ("|x|", "x", False), (r"\sqrt{2}", "1.4142135623730951", False),
    (r"\frac{\sqrt2}{2^{99}}", r"\frac{\sqrt2}{2^{98}}", False), ("xy=1", r"y=\frac{1}{x}", True),
    ("x=x+1", "y=y+2", False), ("e^{i\\pi}", "-1", True), (r"\frac{dx}{dt}", r"\frac{dy}{dt}", False),
    ("f(x)", "g(x)", False), ("x'", "x", False), (r"\sqrt{3+2\sqrt{2}}-1-\sqrt{2}", "0", True),
    (r"\sqrt{2}\cdot 10^{-30}", "0", False), (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True),
    ("2^{x+1}", r"2 \cdot 2^x", True), ("E", "e", False), (r"0.1x", r"\frac{x}{10}", True),
])
def test_equal(gold, answer, expected):
    assert bool(equal(normalise(gold), normalise(answer))) is expected


def test_no_float_reaches_sympy():
    import sympy

    assert not parse(normalise("0.1x+2.5^{0.5}")).has(sympy.Float)


def test_unreadable_is_not_equal():
    assert parse(r"\frac{") is None
    assert equal(r"\frac{", r"\frac{") is None
    assert judge(r"\frac{1}{2}", r"\frac{") == ("wrong", "not equal to the gold")


def test_no_common_points_is_no_answer():
    import sympy

    x = sympy.Symbol("x", real=True)
    assert same_values(sympy.zoo * x, sympy.nan * x) is None
