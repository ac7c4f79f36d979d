"""Expressions the model wrote, read by a parser of ours and never by Python: polynomials and antiderivatives.

A closed set of characters and bounds on length, depth and size come first; then a tree of
("number", Fraction), ("name", str), ("sum", [tree...]), ("product", [(tree, inverted)...]), ("power", base, exponent)
and ("call", function, argument), which is expanded with exact fractions (`polynomial`) or differentiated at fixed
points (`is_antiderivative`). * has to be written, as the tasks ask; both ** and ^ are powers.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

from nft_jax.types import InputError

LENGTH, DEPTH, DIGITS = 2000, 40, 60
"""Bounds on an expression: characters, brackets and powers inside each other, digits of one number."""
TERMS, EXPONENT, BITS, STEPS = 500, 100, 4000, 20_000
"""Bounds on a polynomial: its terms, one written exponent, bits of a coefficient, terms multiplied in all."""
PRECISION, TOLERANCE = 200, 1e-25
"""Bits of the arithmetic that differentiates, and the relative difference that it may leave."""
POINTS = tuple(Fraction(sign * n, 1000) for n in (53, 171, 293, 719, 1313, 2239, 3761, 5417, 11_317, 13_709, 17_903)
               for sign in (1, -1))
ENOUGH = 3
"""An integrand has to be real at this many of the points; those of the tasks are."""
CONSTANTS = frozenset({"C", "c", "K", "k"})
"""Names of the constant of integration."""
Tree = tuple
Terms = dict[tuple[tuple[str, int], ...], Fraction]     # {((name, exponent), ...) by name: coefficient}, none of it 0

_FUNCTIONS = {name: name for name in (
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "sqrt", "abs")}
_FUNCTIONS |= {"ln": "log", "Abs": "abs", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}
_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|([A-Za-z]+)|(\*\*|[-+*/^()|]))")


class _Unreadable(ValueError):
    """Not an expression, or one beyond the bounds."""


def parse(text: str) -> Tree | None:
    """Tree of an expression; None for any other text, and for one beyond the bounds."""
    if len(text) > LENGTH or not re.fullmatch(r"[0-9A-Za-z.+\-*/^()| \t\r\n]+", text):
        return None
    text, tokens, at = text.strip(), [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return None
        tokens.append(found)
        at = found.end()
    try:
        return _Parser(tokens).whole()
    except _Unreadable:
        return None


class _Parser:
    """Recursive descent: sum > product > signed > power > atom. One instance reads one list of tokens."""

    def __init__(self, tokens: list[re.Match]):
        self.tokens, self.at, self.depth = tokens, 0, 0

    def peek(self) -> str | None:
        return self.tokens[self.at][3] if self.at < len(self.tokens) else None

    def take(self, *symbols: str) -> str | None:
        symbol = self.peek()
        if symbol not in symbols:
            return None
        self.at += 1
        return symbol

    def whole(self) -> Tree:
        tree = self.sum()
        if self.at < len(self.tokens):
            raise _Unreadable
        return tree

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > DEPTH:
            raise _Unreadable
        terms = [self.product()]
        while sign := self.take("+", "-"):
            term = self.product()
            terms.append(_negated(term) if sign == "-" else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("sum", terms)

    def product(self) -> Tree:
        factors = [(self.signed(), False)]
        while sign := self.take("*", "/"):
            factors.append((self.signed(), sign == "/"))
        return factors[0][0] if len(factors) == 1 else ("product", factors)

    def signed(self) -> Tree:
        negative = False
        while sign := self.take("+", "-"):
            negative ^= sign == "-"
        tree = self.power()
        return _negated(tree) if negative else tree

    def power(self) -> Tree:
        base = self.atom()
        if not self.take("**", "^"):
            return base
        self.depth += 1                       # to the right first: 2**3**2 is 2**9
        if self.depth > DEPTH:
            raise _Unreadable
        exponent = self.signed()
        self.depth -= 1
        return "power", base, exponent

    def atom(self) -> Tree:
        if opened := self.take("(", "|"):
            return self.closed(opened)
        if self.at >= len(self.tokens):
            raise _Unreadable
        number, name, _ = self.tokens[self.at].groups()
        self.at += 1
        if number and len(number) <= DIGITS:
            return "number", Fraction(number)
        if name in _FUNCTIONS and (opened := self.take("(", "|")):
            return "call", _FUNCTIONS[name], self.closed(opened)
        if name and name not in _FUNCTIONS:
            return "name", name
        raise _Unreadable

    def closed(self, opened: str) -> Tree:
        inner = self.sum()
        if not self.take(")" if opened == "(" else "|"):
            raise _Unreadable
        return inner if opened == "(" else ("call", "abs", inner)


def _negated(tree: Tree) -> Tree:
    return "product", [(("number", Fraction(-1)), False), (tree, False)]


def polynomial(text: str) -> Terms | None:
    """Coefficients of a polynomial that is written out, {((name, exponent), ...): coefficient}; terms may come in any
    order and more than once. None for any other text: brackets that are still to be multiplied out (a number may stand
    before them) are no answer to a multiplication."""
    tree = parse(text)
    try:
        return None if tree is None else _expand(tree, [STEPS])
    except (_Unreadable, ZeroDivisionError):
        return None


def _expand(tree: Tree, left: list[int]) -> Terms:
    """`left` holds the number of terms that may still be multiplied or added."""
    match tree:
        case "number", value:
            return {(): value} if value else {}
        case "name", name:
            return {((name, 1),): Fraction(1)}
        case "sum", trees:
            total: Terms = {}
            for term in trees:
                for monomial, value in _expand(term, left).items():
                    _spend(left, 1)
                    total[monomial] = total.get(monomial, Fraction(0)) + value
            return _checked(total)
        case "product", factors:
            product: Terms = {(): Fraction(1)}
            for factor, inverted in factors:
                terms = _expand(factor, left)
                if inverted:
                    terms = {(): 1 / _number(terms)}
                product = _times(product, terms, left)
            return product
        case "power", base, exponent:
            terms, count = _expand(base, left), _number(_expand(exponent, left))
            if count.denominator != 1 or not 0 <= count <= EXPONENT:
                raise _Unreadable
            product = {(): Fraction(1)}
            for _ in range(int(count)):
                product = _times(product, terms, left)
            return product
    raise _Unreadable                         # a function is no polynomial


def _number(terms: Terms) -> Fraction:
    if terms.keys() - {()}:
        raise _Unreadable
    return terms.get((), Fraction(0))


def _spend(left: list[int], count: int) -> None:
    left[0] -= count
    if left[0] < 0:
        raise _Unreadable


def _times(first: Terms, second: Terms, left: list[int]) -> Terms:
    long = max(len(first), len(second)) > 1
    if long and not (first.keys() <= {()} or second.keys() <= {()}):
        raise _Unreadable                     # not multiplied out
    _spend(left, len(first) * len(second))
    product: Terms = {}
    for one, value in first.items():
        for other, factor in second.items():
            exponents = dict(one)
            for name, exponent in other:
                exponents[name] = exponents.get(name, 0) + exponent
            product[tuple(sorted(exponents.items()))] = value * factor
    return _checked(product)


def _checked(terms: Terms) -> Terms:
    if len(terms) > TERMS or any(max(abs(v.numerator), v.denominator).bit_length() > BITS for v in terms.values()):
        raise _Unreadable
    return {monomial: value for monomial, value in terms.items() if value}


def is_antiderivative(text: str, integrand: str, variable: str) -> bool:
    """Whether the text is an expression in `variable`, with or without a constant, whose derivative is the integrand.

    Decided by automatic differentiation (value and derivative through the tree) in 200 bits at `POINTS`: at every one
    where the integrand is real the answer has to be real too, and the derivative the same. An unevaluated integral is
    no answer. Raises InputError for an integrand that is not read, or real at fewer than `ENOUGH` of the points.
    """
    tree, target = parse(text), parse(integrand)
    points = []
    for point in POINTS if target is not None else ():
        try:
            points.append((point, _dual(target, variable, point)[0]))
        except (_Unreadable, ArithmeticError):
            continue
    if len(points) < ENOUGH:
        raise InputError(f"the integrand {integrand[:80]!r} (variable {variable[:20]!r}) cannot be judged: it is not "
                         f"an expression that is read here, or real at fewer than {ENOUGH} of the points tried. Choose "
                         "another task.")
    if tree is None:
        return False
    try:
        return all(abs(_dual(tree, variable, point)[1] - value) <= TOLERANCE * abs(value) + TOLERANCE ** 2
                   for point, value in points)
    except (_Unreadable, ArithmeticError):
        return False


@lru_cache(1)
def _reals():
    """Arithmetic of our own, so that nobody's precision changes."""
    import mpmath
    context = mpmath.MPContext()
    context.prec = PRECISION
    return context


def _dual(tree: Tree, variable: str, point: Fraction) -> tuple:
    """(value, derivative) at the point, real numbers of `_reals`. Raises _Unreadable where it is not real or huge."""
    reals = _reals()
    match tree:
        case "number", number:
            found = reals.mpf(number.numerator) / number.denominator, reals.zero
        case "name", name:
            if name == variable:
                found = reals.mpf(point.numerator) / point.denominator, reals.one
            else:
                known: Mapping = {"E": reals.e, "e": reals.e, "pi": reals.pi} | dict.fromkeys(CONSTANTS, reals.euler)
                if name not in known:
                    raise _Unreadable
                found = +known[name], reals.zero
        case "sum", trees:
            parts = [_dual(term, variable, point) for term in trees]
            found = sum((v for v, _ in parts), reals.zero), sum((d for _, d in parts), reals.zero)
        case "product", factors:
            value, slope = reals.one, reals.zero
            for factor, inverted in factors:
                v, d = _dual(factor, variable, point)
                if inverted:
                    v, d = 1 / v, -d / v ** 2
                value, slope = value * v, slope * v + value * d
            found = value, slope
        case "power", base, exponent:
            found = _power(_dual(base, variable, point), _dual(exponent, variable, point))
        case "call", function, argument:
            found = _call(function, *_dual(argument, variable, point))
    if any(part and abs(reals.mag(part)) > 100_000 for part in found):
        raise _Unreadable
    return found


def _power(base: tuple, exponent: tuple) -> tuple:
    (b, db), (e, de) = base, exponent
    if not de and e == int(e):
        if abs(e) > 1000:
            raise _Unreadable
        e = int(e)
        return b ** e, e * b ** (e - 1) * db if e else 0 * db
    if b <= 0:
        raise _Unreadable                     # not real, or not differentiable
    log, dlog = _call("log", b, db)
    return _call("exp", e * log, de * log + e * dlog)


def _call(function: str, x, dx) -> tuple:
    reals = _reals()
    if x and reals.mag(x) > 15 and function not in ("log", "sqrt", "abs", "atan"):
        raise _Unreadable                     # such arguments cost precision, and exp of them memory
    if (function in ("log", "sqrt") and x <= 0) or (function in ("asin", "acos") and abs(x) >= 1):
        raise _Unreadable
    value = abs(x) if function == "abs" else getattr(reals, function)(x)
    match function:
        case "sin" | "sinh":
            slope = (reals.cos if function == "sin" else reals.cosh)(x)
        case "cos":
            slope = -reals.sin(x)
        case "cosh":
            slope = reals.sinh(x)
        case "tan":
            slope = 1 + value ** 2
        case "tanh":
            slope = 1 - value ** 2
        case "asin" | "acos":
            slope = (1 if function == "asin" else -1) / reals.sqrt(1 - x ** 2)
        case "atan":
            slope = 1 / (1 + x ** 2)
        case "exp":
            slope = value
        case "log":
            slope = 1 / x
        case "sqrt":
            slope = 1 / (2 * value)
        case "abs":
            slope = reals.sign(x)
    return value, slope * dx
