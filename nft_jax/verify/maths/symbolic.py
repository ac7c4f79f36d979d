"""Equality of two mathematical expressions, with sympy and math-verify. Only workers import this module.

1. Decimals become fractions before parsing, so sympy sees no float and nothing is rounded.
2. Both expressions are evaluated to 60 digits, at fixed points when they have variables. A difference at one
   point means unequal; agreement at every point means equal.
3. What cannot be evaluated goes to math-verify's `verify`, gold first, strict.
"""
from __future__ import annotations

import re
from functools import lru_cache

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify.grader import verify as math_verify
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from nft_jax.verify.maths.structure import Truth

DIGITS = 60
"""Decimal digits of an evaluation."""
AGREEMENT = sympy.Rational(1, 10**40)
"""Relative difference up to which two numbers are equal."""
NOTHING = sympy.Rational(1, 10**50)
"""Size up to which a number equals zero."""
POINTS = 6

_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9.])")
_NATURE = (AttributeError, TypeError, ValueError, ArithmeticError, NotImplementedError, KeyError, IndexError,
           RuntimeError, AssertionError, sympy.SympifyError)
"""What sympy raises where it has no answer. Running out of memory or time is not among them."""


def _latex(text: str) -> str:
    """A normalised answer in the parser's dialect of LaTeX."""
    text = _DECIMAL.sub(lambda m: rf"(\frac{{{int(m.group(1) + m.group(2))}}}{{{10 ** len(m.group(2))}}})", text)
    text = re.sub(r"\\text\s*\{([^{}]*)\}", lambda m: m.group(1).strip() or " ", text)
    text = re.sub(r"([a-zA-Z}])('+)", lambda m: m.group(1) + "_{" + "p" * len(m.group(2)) + "}", text)
    text = re.sub(r"\\operatorname\{([a-zA-Z]+)\}", r"\\\1 ", text)
    text = re.sub(r"\\odot(?![a-zA-Z])", "o", text)
    text = re.sub(r"\[([^\[\],]*)\](?!\{)", r"(\1)", text) if r"\sqrt[" not in text else text
    if "E" in text:
        text = re.sub(r"(?<![a-zA-Z\\])E|(?<=(?<!\\)[A-Za-z])E(?![a-z])", r"\\mathcal{E}", text)
    return text


@lru_cache(maxsize=4096)
def parse(text: str) -> sympy.Basic | None:
    """One normalised expression, with i as the imaginary unit; None when it cannot be read."""
    try:
        found = latex2sympy(_latex(text), is_real=True, convert_degrees=False, normalization_config=None,
                            conversion_config=_CONVERSION)
    except RecursionError:
        raise
    except Exception:
        # The parser raises a bare Exception for what it cannot read.
        return None
    if not isinstance(found, sympy.Basic):
        return found if isinstance(found, sympy.MatrixBase) else None
    names = {symbol: sympy.I for symbol in found.free_symbols if symbol.name == "i"}
    return found.subs(names) if names else found


def _opaque(expression: sympy.Basic) -> sympy.Basic:
    """The expression with derivatives and undefined functions as symbols: they have no value at a point."""
    def rename(node: sympy.Basic) -> sympy.Symbol:
        return sympy.Symbol("opaque " + sympy.srepr(node), real=True)

    kinds = (sympy.Derivative, AppliedUndef)
    return expression.replace(lambda node: isinstance(node, kinds), rename)


def _points(symbols: list[sympy.Symbol]) -> list[dict[sympy.Symbol, sympy.Rational]]:
    """POINTS fixed points of both signs, away from small integers, where unequal expressions often agree."""
    return [{symbol: sympy.Rational((7919 * (i + 1) * (j + 3) + 104729 * (j + 1)) % 3001 + 211, 1009)
             * (-1 if i >= POINTS // 2 and (i + j) % 2 else 1)
             for j, symbol in enumerate(symbols)} for i in range(POINTS)]


def _value(expression: sympy.Basic, point: dict) -> sympy.Expr | None:
    """Value of the expression at a point, to DIGITS digits; None where it has none."""
    try:
        value = (expression.xreplace(point) if point else expression).evalf(DIGITS)
        value = value if value.is_number and value.is_comparable is not None else None
        if value is None or value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
            return None
        parts = value.as_real_imag()
        return value if all(part.is_Float or part.is_Rational for part in parts) else None
    except _NATURE:
        return None


def _evaluated(expression: sympy.Basic) -> sympy.Basic:
    """Sums and products in closed form: else they have no value at a non-integer point."""
    return expression.doit() if expression.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit) else expression


def _size(value: sympy.Expr) -> sympy.Expr:
    """The larger of the absolute real and imaginary parts."""
    return max(abs(part) for part in value.as_real_imag())


def _close(a: sympy.Expr, b: sympy.Expr) -> bool:
    """Relative agreement; absolute against zero, which cancelled roots never reach."""
    limit = NOTHING if a == 0 or b == 0 else AGREEMENT * max(_size(a), _size(b))
    return bool(_size(a - b) <= limit)


def same_values(a: sympy.Basic, b: sympy.Basic) -> Truth:
    """Whether two expressions agree wherever both have a value; None with too few points."""
    try:
        a, b = _opaque(_evaluated(a)), _opaque(_evaluated(b))
    except _NATURE:
        return None
    symbols = sorted(a.free_symbols | b.free_symbols, key=lambda symbol: symbol.name)
    told = 0
    for point in _points(symbols) if symbols else [{}]:
        values = _value(a, point), _value(b, point)
        if None in values:
            if (values[0] is None) != (values[1] is None) and not symbols:
                return None
            continue
        if not _close(*values):
            return False
        told += 1
    return True if told >= (2 if symbols else 1) else None


def _same_equation(gold: Relational, answer: Relational) -> Truth:
    """Whether two equations have the same solutions. One of these must hold:

    1. one equation is a constant multiple of the other;
    2. both are linear in a variable and have the same solution for it, which is not 0;
    3. both have the same solutions for every variable that both can be solved for. One variable
       alone is not enough: SA = LA and -SA = LA both have A = 0.
    """
    g, a = _opaque(gold.lhs - gold.rhs), _opaque(answer.lhs - answer.rhs)
    if g.free_symbols != a.free_symbols or not g.free_symbols:
        return False
    try:
        symbols = sorted(g.free_symbols, key=lambda symbol: symbol.name)
        ratios = [(_value(g, point), _value(a, point)) for point in _points(symbols)]
        if all(None not in pair and pair[0] != 0 and pair[1] != 0 for pair in ratios):
            first = ratios[0][0] * ratios[0][1].n(DIGITS) ** -1
            if all(_close(p, q * first) for p, q in ratios):
                return True
        # A linear equation is cheap to solve, and its single solution is enough if it is not 0.
        for symbol in symbols:
            roots = _linear_root(g, symbol), _linear_root(a, symbol)
            if None not in roots and (same := same_values(*roots)) is not None:
                return same
        told = None
        for symbol in symbols:
            solved = sympy.solve(g, symbol), sympy.solve(a, symbol)
            if all(solved) and len(solved[0]) == len(solved[1]):
                if not _same_roots(*solved):
                    return False
                told = True
    except _NATURE:
        return None
    return told


def _linear_root(expression: sympy.Expr, symbol: sympy.Symbol) -> sympy.Expr | None:
    """The root of an expression that is linear in the symbol; None for others, or root 0."""
    slope = expression.diff(symbol)
    if slope == 0 or symbol in slope.free_symbols:
        return None
    rest = expression.subs(symbol, 0)
    return None if rest == 0 else -rest / slope


def _same_roots(gold: list, answer: list) -> bool:
    """Whether the roots can be paired, each with an equal one."""
    left = list(answer)
    for root in gold:
        match = next((other for other in left if same_values(root, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def equal(gold: str, answer: str) -> Truth:
    """Whether two normalised expressions or equations are equal. None when one of them cannot be parsed, or
    when nothing can be told of two equations."""
    a = parse(answer)
    if a is None:
        return None
    g = parse(gold)
    if g is None:
        return None
    if isinstance(g, sympy.Eq) and isinstance(a, sympy.Eq):
        return _same_equation(g, a)
    if isinstance(g, sympy.Expr) and isinstance(a, sympy.Expr):
        told = same_values(g, a)
        if told is not None:
            return told
        if not g.free_symbols and not a.free_symbols and not g.has(sympy.Sum, sympy.Product, sympy.Integral):
            return g == a and not g.has(sympy.nan, sympy.zoo)
    if isinstance(g, Relational) != isinstance(a, Relational):
        return False
    return bool(math_verify(g, a, strict=True, allow_set_relation_comp=True, timeout_seconds=None))


def warm_up() -> None:
    """Parse and compare one answer of each kind, so that forked workers inherit the parser's tables."""
    for gold, answer in ((r"\frac{\sqrt{3}}{2}+x^{2}", r"x^{2}+0.5\cdot 3^{1/2}"), (r"2\pi r", r"\pi\cdot 2r"),
                         (r"(x+1)(x-1)", "x^{2}-1"), (r"e^{-2t}\sin(2t)", r"2e^{-2t}\sin t\cos t"),
                         ("y=2x+3", "2x-y+3=0"), (r"\ln 2+i\frac{\pi}{3}", r"\ln 2"), (r"|x-1|", r"|1-x|"),
                         (r"a_{1}+b", r"b+a_{1}"), (r"\log_{2}(3)", r"\frac{\ln 3}{\ln 2}"), (r"x\le 3", r"3\ge x")):
        equal(gold, answer)
