"""Equality of expressions: numbers refute, algebra proves, and math-verify's known mistakes do not come through."""
import pytest

pytest.importorskip("math_verify")

from nft_jax.verify.maths import algebra
from nft_jax.verify.maths.algebra import FullLeaf, equal_in_closed_form, generator, points, refuted, to_sympy
from nft_jax.verify.maths.expression import Parser, tokens
from nft_jax.verify.maths.judge import SECOND_OPINION, judge
from nft_jax.verify.maths.normalise import normalise


def parse(text: str):
    return Parser(tokens(normalise(text))).whole()


@pytest.mark.parametrize(("gold", "answer", "expected"), [
    (r"\sqrt{8}", r"2\sqrt{2}", True), ("(x+1)(x-1)", "x^2-1", True), ("x", "X", False),
    ("|x|", "x", False), (r"\sqrt{2}", "1.4142135623730951", False),
    (r"\frac{\sqrt2}{2^{99}}", r"\frac{\sqrt2}{2^{98}}", False), ("e^{i\\pi}", "-1", True),
    (r"\frac{dx}{dt}", r"\frac{dy}{dt}", False), ("f(x)", "g(x)", False), ("x'", "x", False),
    (r"\sqrt{3+2\sqrt{2}}-1-\sqrt{2}", "0", True), (r"\sqrt{2}\cdot 10^{-30}", "0", False),
    ("2^{x+1}", r"2 \cdot 2^x", True), ("E", "e", False), (r"0.1x", r"\frac{x}{10}", True),
    (r"\cos\frac{\pi}{7}-\cos\frac{2\pi}{7}+\cos\frac{3\pi}{7}", r"\frac12", True),
    (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1", True), (r"\tan 75^\circ", r"2+\sqrt3", True),
    (r"\sqrt{\frac ab}", r"\frac{\sqrt a}{\sqrt b}", True), (r"\sqrt{x^2}", "x", False), ("x", r"e^{\ln x}", True),
    (r"\sinh(at)", r"\frac{e^{at}-e^{-at}}{2}", True), (r"\arctan 1", r"\frac{\pi}{4}", True), ("n!", "n(n-1)!", True),
    (r"\sin 2x", r"\sin x\cos x", False), ("(-8)^{1/3}", "-2", True), ("0", r"5\cdot\ln 0", False),
    (r"\operatorname{arcsinh}1", r"\ln(1+\sqrt2)", True), ("(-1)^{n+1}", "(-1)^{n-1}", True),
])
def test_equal(gold, answer, expected):
    try:
        found = FullLeaf().equal(parse(gold), parse(answer))
    except Exception:
        found = False
    assert found is expected


@pytest.mark.parametrize(("gold", "answer"), [
    ("5", "5+e^{-100}"), ("1", r"\tanh 50"), ("100!", r"\sqrt{(100!)^2+1}"), (r"\cos 1", r"\cos(1+10^{-50})"),
    ("262537412640768744", r"e^{\pi\sqrt{163}}"), ("1922", r"\sqrt[12]{1782^{12}+1841^{12}}"),
    ("354224848179261915075", r"\frac{1}{\sqrt{5}}\left(\frac{1+\sqrt{5}}{2}\right)^{100}"), ("7", r"7+\frac{1}{100!}"),
    ("x+1", "x+1+10^{-60}"), ("(1+\\sqrt{2})^{100}", "(1+\\sqrt{2})^{100}+(1-\\sqrt{2})^{100}"),
])
def test_equal_to_many_digits_is_not_equal(gold, answer):
    assert FullLeaf().equal(parse(gold), parse(answer)) is False


@pytest.mark.parametrize(("gold", "answer", "expected"), [
    (r"\sqrt{x^2-10x+25}", "|x-5|", True), (r"\max(x,4)", r"\frac{x+4+|x-4|}{2}", True), (r"|a|\cdot|b|", "|ab|", True),
    (r"\lfloor n+1\rfloor", r"\lfloor n\rfloor+1", True), ("|x-10|", "10-x", False), ("8", "|x-4|+|x+4|", False),
    (r"\lfloor n/9\rfloor", r"\lfloor n/7\rfloor", False), ("x", r"\max(x,-e^{40})", False),
    (r"\min(n,100)", "n", False),
    ("x", r"x+\max(0,10^{-9}-|x-\sqrt2|)", False), (r"\lfloor x\rfloor+\lfloor -x\rfloor", "-1", False),
    (r"\lfloor 3x\rfloor", r"\lfloor 3x+10^{-12}\rfloor", False), ("|x-1|+|x-2|", "|2-x|+|1-x|", True),
])
def test_piecewise_functions_are_equal_on_every_side_of_their_kinks(gold, answer, expected):
    assert FullLeaf().equal(parse(gold), parse(answer)) is expected


@pytest.mark.parametrize(("gold", "answer", "expected"), [
    ("x^2+y^2-1", "x(x^2+y^2)-x", False), ("y-2x", "xy-2x^2", False), ("xy-1", "x^2y^2-1", False),
    ("xy-1", r"y-\frac{1}{x}", True), ("2x-y+3", "y-2x-3", True), ("y-2x-1", r"\frac{y-1}{x}-2", False),
    ("x-5", "(x-5)^2", True), ("y^2-4x", "y^3-4xy", False),
])
def test_equations_have_the_same_solutions(gold, answer, expected):
    assert bool(FullLeaf().same_solutions(parse(gold), parse(answer))) is expected


def test_points_are_the_same_everywhere_and_other_ones_for_each_pair():
    names = sorted(to_sympy(parse("x+y")).free_symbols, key=str)
    first, again, other = (points(to_sympy(parse("x+y")), names, generator(*pair)) for pair in ("ab", "ab", "ba"))
    assert first == again != other
    assert {x > 0 for x, _ in first} == {True, False}


def test_math_verify_never_decides_about_two_numbers(monkeypatch):
    monkeypatch.setattr(algebra, "math_verify", lambda *arguments, **options: True)
    for gold, answer in ((r"\pi", r"\pi+10^{-3000}"), ("x", "x+10^{-3000}"),
                         (r"\arctan\frac12+\arctan\frac13", r"\frac{\pi}{4}")):
        assert FullLeaf().equal(parse(gold), parse(answer)) is False
    leaf = FullLeaf()
    assert not leaf.asked and not refuted(*map(to_sympy, (parse("x^{2}"), parse(r"x\cdot x"))))


def test_sums_integrals_and_limits():
    assert equal_in_closed_form(normalise(r"\sum_{k=1}^{n} k"), normalise(r"\frac{n(n+1)}{2}"))
    assert not equal_in_closed_form(normalise(r"\sum_{k=1}^{n} k"), normalise("n(n+1)"))
    assert equal_in_closed_form(normalise(r"\int_0^1 x^2dx"), normalise(r"\frac13"))
    assert not equal_in_closed_form(normalise(r"\int_0^1 x^2dx"), "0.3333333333")
    assert judge(r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}") == ("right", SECOND_OPINION)


@pytest.mark.parametrize(("gold", "answer"), [
    ("5", r"\sqrt{-1-x^2}"), ("5", r"5+\ln(-1-x^2)"), ("x", r"x+\arcsin(2+x^2)"), ("|x|", r"|x|+\sqrt{-1-x^2}"),
    (r"\ln x", r"\ln(-x)"), (r"\sqrt{x}", r"\sqrt{x}+\sqrt{-x-1}"), (r"\sin x", r"\sin x+\sqrt{-2-\cos x}"),
])
def test_what_is_real_nowhere_is_equal_to_nothing(gold, answer):
    assert FullLeaf().equal(parse(gold), parse(answer)) is False


def test_unreadable_is_not_equal():
    assert judge(r"\frac{1}{2}", r"\frac{") == ("wrong", "not equal to the gold")
