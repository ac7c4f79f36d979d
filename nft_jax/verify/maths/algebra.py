"""Whether two expressions are equal, with sympy and mpmath: numbers refute, only algebra proves. For workers only.

1. Both sides are evaluated at points that are random for each pair (from a digest of both, so the same on every
   machine). A difference that stays when the precision doubles refutes.
2. The difference is proved to be zero by rewriting it into exponentials, logarithms of primes, |x| and roots, once
   for each choice of signs of its names, or, for an algebraic number, by its minimal polynomial.
3. math-verify has the last word on expressions with names, and on golds that only its parser reads (sums, integrals,
   limits). It never sees a decimal, and never decides about two numbers.
"""
from __future__ import annotations

import hashlib
import itertools
import random
import re
import sys
from fractions import Fraction
from functools import lru_cache

import mpmath
import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify.grader import verify as math_verify
from mpmath import mp

from nft_jax.verify.maths.compare import Leaf, Truth
from nft_jax.verify.maths.expression import OPEN_FORM, Parser, tokens
from nft_jax.verify.maths.nodes import REAL_FUNCTIONS, Node, Unreadable

# Numbers of up to nodes.MAX_BITS bits are written out on the way to mpmath.
sys.set_int_max_str_digits(100_000)
DIGITS = 40
_STEPS = (sympy.floor, sympy.ceiling, sympy.sign, sympy.Mod, sympy.gcd, sympy.lcm)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9.])")
_NATURE = (AttributeError, TypeError, ValueError, ArithmeticError, NotImplementedError, KeyError, IndexError,
           RuntimeError, AssertionError, sympy.SympifyError, sympy.PolynomialError)
"""What sympy raises where it has no answer. Running out of memory or time is not among them."""
_FUNCTIONS = {"ln": sympy.log, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling, "max": sympy.Max,
              "min": sympy.Min, "fact": sympy.factorial, "sgn": sympy.sign, "gcd": sympy.gcd, "lcm": sympy.lcm,
              **{name: getattr(sympy, name.replace("arc", "a")) for name in REAL_FUNCTIONS}}
_CONSTANTS = {"e": sympy.E, "i": sympy.I, r"\pi": sympy.pi}
_X = sympy.Symbol("x")


class FullLeaf(Leaf):
    """The leaf of workers. `asked` says whether math-verify accepted anything."""

    def __init__(self):
        self.asked = False

    def equal(self, gold: Node, answer: Node) -> Truth:
        found, asked = _equal(gold, answer)
        self.asked |= asked
        return found

    def proportional(self, gold: Node, answer: Node, positive: bool = False) -> Truth:
        return _proportional(gold, answer, positive)

    def same_solutions(self, gold: Node, answer: Node) -> Truth:
        return super().same_solutions(gold, answer) or _same_factors(gold, answer)


@lru_cache(maxsize=8192)
def _equal(gold: Node, answer: Node) -> tuple[bool, bool]:
    """Whether two expressions are equal, and whether only math-verify says so."""
    try:
        g, a = to_sympy(gold), to_sympy(answer)
        if g == a:
            return not g.has(sympy.nan, sympy.zoo), False
        if refuted(g, a):
            return False, False
        if proved(g, a):
            return True, False
        gap = sympy.expand(g - a)
        # Its tolerance would forgive what is tiny, and it knows no kinks.
        if not gap.free_symbols or gap.has(sympy.Abs, sympy.Max, sympy.Min, *_STEPS) or any(
                abs(n.p.bit_length() - n.q.bit_length()) > 2000 for n in (g + sympy.Dummy() * a).atoms(sympy.Rational)):
            return False, False
        return (bool(math_verify(g, a, strict=True, timeout_seconds=None)),) * 2
    except _NATURE:
        return False, False


def to_sympy(node: Node) -> sympy.Expr:
    """The expression for sympy. Names are real; roots of odd order of numbers are real."""
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
    parts = [to_sympy(arg) for arg in args]
    if op == "pow":
        if args[1].value is not None and args[1].value.denominator % 2 and args[1].value.denominator > 1 and (
                parts[0].is_real):
            return sympy.sign(parts[0]) ** args[1].value.numerator * sympy.Abs(parts[0]) ** parts[1]
        return sympy.Pow(*parts)
    return (sympy.Add if op == "add" else sympy.Mul)(*parts)


# Values refute.

def generator(a: object, b: object) -> random.Random:
    """Random numbers for a pair: the same ones everywhere."""
    return random.Random(hashlib.sha256(f"{a}\0{b}".encode("utf-8", "backslashreplace")).digest())


def points(expression: sympy.Expr, names: list, rng: random.Random) -> list[tuple[Fraction, ...]]:
    """Points of both signs and many sizes, integers among them; of piecewise functions also on and around the numbers
    in the expression, where the kinks are."""
    piecewise = expression.has(sympy.Abs, sympy.Max, sympy.Min, *_STEPS)
    numbers = sorted({Fraction(abs(int(n.p)), int(n.q)) for n in expression.atoms(sympy.Rational)})[:8]
    kinks = [Fraction(0), *(sign * n for n in numbers for sign in (1, -1)), *(p * q for p in numbers for q in numbers)]
    kinds = (lambda: Fraction(rng.randint(2, 40)), lambda: Fraction(rng.randint(1, 10**6), 100003),
             lambda: -Fraction(rng.randint(1, 10**6), 100003), lambda: Fraction(rng.randint(-10**9, 10**9), 997),
             lambda: rng.choice(kinks) + Fraction(rng.randint(-10**4, 10**4), 9973), lambda: rng.choice(kinks))
    out = [tuple(kind() for _ in names) for kind in kinds for _ in range(12 if piecewise else 2)]
    return out + [tuple(rng.choice(kinds[:5])() for _ in names) for _ in range(24 if piecewise else 8)]


def _value(function, point: tuple):
    """A value; None where there is none, or one too large."""
    try:
        found = mp.mpmathify(function(*(mp.mpf(x.numerator) / x.denominator for x in point)))
        return None if mp.isnan(found) or mp.isinf(found) else found
    except (*_NATURE, mp.NoConvergence, MemoryError):
        return None


def _factorial(x):
    """x!, of numbers that do not take long."""
    if abs(x) > 200:
        raise ValueError
    return mp.factorial(x)


def refuted(a: sympy.Expr, b: sympy.Expr) -> bool:
    """Whether the values differ for sure, at a point where both are real or have an i in them."""
    # Nothing of the two cancels.
    beside = a + sympy.Dummy() * b
    names = sorted(a.free_symbols | b.free_symbols, key=str)
    unknown = sorted(beside.atoms(sympy.core.function.AppliedUndef), key=str)
    stand_in = {function: sympy.Dummy(real=True) for function in unknown}
    names += stand_in.values()
    sides = [sympy.lambdify(names, side.xreplace(stand_in), [{"factorial": _factorial}, "mpmath"]) for side in (a, b)]
    is_complex = (a + b).has(sympy.I)
    for i, point in enumerate(points(beside, names, generator(a, b)) if names else [()]):
        # At the first two, integers, more digits are looked at: a tiny difference is one.
        for digits in (DIGITS, 5 * DIGITS, 20 * DIGITS)[:1 if i > 1 else 3]:
            gaps = []
            for precision in (digits, 2 * digits):
                with mpmath.workdps(precision):
                    values = [_value(side, point) for side in sides]
                    if None in values:
                        gaps = [] if names or values == [None, None] else [1, 1]
                        break
                    if names and not is_complex and any(abs(mp.im(each)) > mp.mpf(10) ** -20 for each in values):
                        break
                    gaps.append(abs(values[0] - values[1]))
                    if gaps[-1] <= mp.mpf(10) ** (-precision * 4 // 5) * abs(values[0]):
                        break
            if len(gaps) == 2 and gaps[0] and abs(gaps[0] - gaps[1]) < gaps[0] / 10:
                return True
    return False


# Algebra proves.

def proved(a: sympy.Expr, b: sympy.Expr) -> bool:
    """Whether the difference is zero, for every choice of signs of the names where it is real."""
    gap = a - b
    names = sorted(gap.free_symbols, key=str)
    if not names:
        return gap == 0 or _is_zero(gap) or _is_zero_number(gap)
    signed = [name for name in names if any(
        name in each.free_symbols for each in gap.atoms(sympy.Abs, sympy.Max, sympy.Min, sympy.log, sympy.Pow)
        if not (each.is_Pow and each.exp.is_Integer))]
    if len(signed) > 3:
        return False
    inside = 0
    for signs in itertools.product((1, -1), repeat=len(signed)):
        case = gap.subs({name: sign * sympy.Symbol(f"{name}", positive=True)
                         for name, sign in zip(signed, signs, strict=True)})
        # (-1)^n is real at integers only, \arcsin x at small numbers.
        outside = not gap.has(sympy.I) and all(
            any(abs(sympy.im(side.subs({name: (place + i) * dict(zip(signed, signs, strict=True)).get(name, 1)
                                        for i, name in enumerate(names)}).evalf(20))) > 1e-9 for side in (a, b))
            for place in (sympy.Rational(7919, 1009), sympy.Integer(3), sympy.Rational(1, 7 * len(names))))
        if not outside and case != 0 and not _is_zero(case):
            return False
        inside += not outside
    # What is real nowhere is equal to nothing.
    return inside > 0


def _is_zero(gap: sympy.Expr) -> bool:
    """Whether rewriting makes it zero: trigonometric and hyperbolic functions as exponentials, logarithms of products
    as sums, powers of sums as products, factorials by their quotients, max and min by |x|."""
    if gap.has(sympy.factorial):
        gap = sympy.combsimp(gap)
    gap = gap.rewrite([sympy.Max, sympy.Min], sympy.Abs)
    gap = gap.replace(lambda e: e.is_Pow and e.exp.is_Rational and not e.exp.is_Integer and e.base.is_Add,
                      lambda e: sympy.Pow(sympy.factor(e.base), e.exp))
    gap = gap.replace(lambda e: isinstance(e, sympy.log) and e.args[0].is_Rational, _prime_logarithms)
    circular = (sympy.functions.elementary.trigonometric.TrigonometricFunction,
                sympy.functions.elementary.hyperbolic.HyperbolicFunction)
    gap = gap.replace(lambda e: isinstance(e, circular), lambda e: e.rewrite(sympy.exp))
    gap = sympy.expand(sympy.expand_log(gap, force=True), power_base=True, power_exp=True)
    gap = gap.replace(lambda e: isinstance(e, sympy.exp) and (e.args[0] / (sympy.I * sympy.pi)).is_Rational,
                      lambda e: e.rewrite(sympy.cos))
    if gap == 0:
        return True
    top = sympy.fraction(sympy.together(gap))[0]
    return sympy.expand(sympy.powsimp(sympy.expand(top, power_base=True, power_exp=True), combine="exp")) == 0 or (
        sympy.expand(top, power_base=True, power_exp=True, complex=False) == 0)


def _prime_logarithms(log: sympy.log) -> sympy.Expr:
    return sympy.Add(*(n * sympy.log(p) for p, n in sympy.factorrat(log.args[0]).items())) if log.args[0] > 0 else log


def _is_zero_number(gap: sympy.Expr) -> bool:
    """Whether an algebraic number is zero, by its minimal polynomial; numbers of other kinds are not told."""
    try:
        return sympy.minimal_polynomial(gap, _X, compose=True) == _X
    except (*_NATURE, sympy.polys.polyerrors.NotAlgebraic):
        return False


@lru_cache(maxsize=4096)
def _proportional(gold: Node, answer: Node, positive: bool) -> bool:
    try:
        factor = sympy.cancel(sympy.expand(to_sympy(gold)) / sympy.expand(to_sympy(answer)))
        if factor.free_symbols:
            factor = sympy.simplify(factor)
    except _NATURE:
        return False
    return not factor.free_symbols and factor.is_finite and factor != 0 and (not positive or bool(factor > 0))


@lru_cache(maxsize=4096)
def _same_factors(gold: Node, answer: Node) -> bool:
    """Whether two numerators have the same irreducible factors, so that they vanish at the same places. None of
    those may be where a denominator vanishes."""
    found = []
    try:
        for node in (gold, answer):
            top, bottom = sympy.fraction(sympy.together(to_sympy(node)))
            if bottom.free_symbols and sympy.groebner([top, bottom]).exprs != [1]:
                return False
            found.append({factor.as_poly().monic() for factor, _ in sympy.factor_list(top)[1]})
    except _NATURE:
        return False
    return bool(found[0]) and found[0] == found[1]


# Golds that only math-verify's parser reads.

@lru_cache(maxsize=1024)
def _parsed(text: str) -> sympy.Expr | None:
    """A sum, integral, limit or other expression in closed form; None when it cannot be read."""
    try:
        found = to_sympy(Parser(tokens(text)).whole())
    except (Unreadable, IndexError):
        if not OPEN_FORM.search(text):
            return None
        # The parser gets decimals as fractions.
        text = _DECIMAL.sub(lambda m: rf"(\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}})", text)
        try:
            found = latex2sympy(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text), is_real=True, convert_degrees=False,
                                normalization_config=None, conversion_config=_CONVERSION)
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
        return bool(g.free_symbols | a.free_symbols) and not refuted(g, a) and bool(
            math_verify(g, a, strict=True, timeout_seconds=None))
    except _NATURE:
        return False


def warm_up() -> None:
    """Compare one pair of each kind, so that forked workers inherit what is loaded and cached."""
    for gold, answer in ((r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"), ("x", r"\max(x,-x)"), (r"\sin(2x)", r"2\sin x\cos x"),
                         (r"\ln 8+e^{x}", r"3\ln 2+e^{x}"), ("n!", "n(n-1)!"), ("(x+1)(x-1)", "x^{2}-1")):
        _equal(*(Parser(tokens(text)).whole() for text in (gold, answer)))
    _same_factors(*(Parser(tokens(text)).whole() for text in ("xy-1", "x^{2}y^{2}-1")))
    equal_in_closed_form(r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}")
