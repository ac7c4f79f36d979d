"""What only workers can tell of two expressions: values that refute, zero tests that prove, and math-verify.

math-verify has the last word on expressions with names that are neither refuted nor proved, and on golds that only
its parser reads (sums, integrals, limits). It never sees a decimal, and never decides about two numbers.
"""
from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify.grader import verify as math_verify

from nft_jax.verify.maths import normal, numeric
from nft_jax.verify.maths.compare import Leaf, Truth
from nft_jax.verify.maths.expression import HYPERBOLIC, TRIGONOMETRIC, Node, Parser, Unreadable, symbols, tokens
from nft_jax.verify.maths.normalise import normalise

_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9.])")
_NATURE = (AttributeError, TypeError, ValueError, ArithmeticError, NotImplementedError, KeyError, IndexError,
           RuntimeError, AssertionError, sympy.SympifyError)
"""What sympy raises where it has no answer. Running out of memory or time is not among them."""
_FUNCTIONS = {"ln": sympy.log, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling, "max": sympy.Max,
              "min": sympy.Min, "fact": sympy.factorial, "sgn": sympy.sign, "gcd": sympy.gcd, "lcm": sympy.lcm,
              **{name: getattr(sympy, name) for name in (*TRIGONOMETRIC, *HYPERBOLIC)},
              **{"arc" + name: getattr(sympy, "a" + name) for name in (*TRIGONOMETRIC, *HYPERBOLIC[:3])}}
_CONSTANTS = {"e": sympy.E, "i": sympy.I, r"\pi": sympy.pi}


class FullLeaf(Leaf):
    """The leaf of workers. `asked` says whether math-verify accepted anything."""

    def __init__(self):
        self.asked = False

    def equal(self, gold: Node, answer: Node) -> Truth:
        found, asked = _equal(gold, answer)
        self.asked |= asked
        return found

    def proportional(self, gold: Node, answer: Node, positive: bool = False) -> Truth:
        return super().proportional(gold, answer, positive) or False

    def same_solutions(self, gold: Node, answer: Node) -> Truth:
        return self.proportional(gold, answer) or _same_factors(gold, answer)


@lru_cache(maxsize=8192)
def _equal(gold: Node, answer: Node) -> tuple[bool, bool]:
    """Whether two expressions are equal, and whether only math-verify says so."""
    told = normal.same(gold, answer)
    if told is not None:
        return told, False
    if numeric.refuted(gold, answer):
        return False, False
    if numeric.proved(gold, answer):
        return True, False
    if not (symbols(gold) | symbols(answer)) or numeric.calls(gold) & numeric.PIECEWISE != (
            numeric.calls(answer) & numeric.PIECEWISE) or numeric.calls(gold) & numeric.PIECEWISE:
        return False, False
    return (_second_opinion(gold, answer),) * 2


def _second_opinion(gold: Node, answer: Node) -> bool:
    try:
        return bool(math_verify(to_sympy(gold), to_sympy(answer), strict=True, timeout_seconds=None))
    except _NATURE:
        return False


def to_sympy(node: Node) -> sympy.Expr:
    """The expression for sympy. Names are real."""
    op, args = node
    if op == "num":
        return sympy.Rational(args[0].numerator, args[0].denominator)
    if op == "sym":
        return _CONSTANTS.get(args[0]) or sympy.Symbol(args[0], real=True)
    if op == "inf":
        return args[0] * sympy.oo
    if op == "call":
        parts = [to_sympy(arg) for arg in args[1:]]
        return _FUNCTIONS[args[0]](*parts) if args[0] in _FUNCTIONS else sympy.Function(args[0])(*parts)
    return {"add": sympy.Add, "mul": sympy.Mul, "pow": sympy.Pow}[op](*map(to_sympy, args))


def _same_factors(gold: Node, answer: Node) -> bool:
    """Whether two numerators have the same irreducible factors, so that they vanish at the same places."""
    found = []
    for node in (gold, answer):
        quotient = normal.normal(node)
        if quotient is None or not quotient.top:
            return False
        found.append(_factors(quotient))
    return found[0] is not None and found[0] == found[1]


def _factors(quotient: normal.Quotient) -> frozenset | None:
    """The factors of a numerator in its atoms, up to numbers; None where an exponent is not whole, or where the
    denominator vanishes with it."""
    top = quotient.top
    if any(exponent.denominator > 1 for monomial in top for _, exponent in monomial) or quotient.bottom != {
            normal.UNIT: 1}:
        return None
    lowest: dict = {}
    for monomial in top:
        for name, exponent in monomial:
            lowest[name] = min(lowest.get(name, Fraction(0)), exponent)
    total = sympy.Integer(0)
    for monomial, x in top.items():
        term = sympy.Rational(x.numerator, x.denominator)
        for name, exponent in {**{name: Fraction(0) for name in lowest}, **dict(monomial)}.items():
            term *= sympy.Symbol(repr(name)) ** int(exponent - lowest[name])
        total += term
    below = [sympy.Symbol(repr(name)) for name, exponent in lowest.items() if exponent < 0]
    try:
        if any(sympy.groebner([total, each]).exprs != [1] for each in below):
            return None
        return frozenset(factor.as_poly().monic() for factor, _ in sympy.factor_list(total)[1])
    except (sympy.PolynomialError, AttributeError):
        return None


# Golds that only math-verify's parser reads.

def _latex(text: str) -> str:
    """A normalised answer in the parser's dialect of LaTeX, its decimals as fractions."""
    text = _DECIMAL.sub(lambda m: rf"(\frac{{{int(m.group(1) + m.group(2))}}}{{{10 ** len(m.group(2))}}})", text)
    return re.sub(r"\\text\s*\{([^{}]*)\}", lambda m: m.group(1).strip() or " ", text)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> sympy.Expr | None:
    """A sum, integral, limit or other expression in closed form; None when it cannot be read."""
    try:
        found = to_sympy(Parser(tokens(text)).whole())
    except Unreadable:
        try:
            found = latex2sympy(_latex(text), is_real=True, convert_degrees=False, normalization_config=None,
                                conversion_config=_CONVERSION)
        except RecursionError:
            raise
        except Exception:
            # The parser raises a bare Exception for what it cannot read.
            return None
    if not isinstance(found, sympy.Expr):
        return None
    return found.subs({symbol: sympy.I for symbol in found.free_symbols if symbol.name == "i"}).doit()


def equal_in_closed_form(gold: str, answer: str) -> bool:
    """Whether two texts with sums, integrals or limits in the gold are equal. Numbers are compared exactly."""
    try:
        g, a = _parsed(gold), _parsed(answer)
        if g is None or a is None or g.has(sympy.nan, sympy.zoo) or a.has(sympy.nan, sympy.zoo):
            return False
        if g == a or sympy.simplify(g - a) == 0:
            return True
        free = g.free_symbols | a.free_symbols
        if not free or any(_apart(g, a, {symbol: sympy.Integer(i + k) for k, symbol in enumerate(
                sorted(free, key=str))}) for i in (2, 5, 11)):
            return False
        return bool(math_verify(g, a, strict=True, timeout_seconds=None))
    except _NATURE:
        return False


def _apart(a: sympy.Expr, b: sympy.Expr, point: dict) -> bool:
    """Whether the values at a point are two numbers far from each other."""
    gap = (a - b).subs(point).evalf(30)
    return bool(gap.is_number and gap.is_comparable and abs(gap) > sympy.Rational(1, 10**15))


def warm_up() -> None:
    """Parse and compare one answer of each kind, so that forked workers inherit what is loaded and cached."""
    for gold, answer in ((r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"), (r"\sqrt{x^{2}}", "|x|"), ("x", r"\max(x,-x)")):
        _equal(*(Parser(tokens(normalise(text))).whole() for text in (gold, answer)))
    _same_factors(*(Parser(tokens(text)).whole() for text in ("xy-1", "x^{2}y^{2}-1")))
    equal_in_closed_form(r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}")
