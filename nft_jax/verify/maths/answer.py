"""What an answer can be. `read.py` makes one of these of the whole text; `compare.py` says which are equal."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from nft_jax.verify.maths.expression import INFINITY, Node, Unreadable, negative
from nft_jax.verify.maths.units import Unit


@dataclass(frozen=True)
class Value:
    """A number or an expression, perhaps with a unit. `decimal` is the number as it was written, where it was a
    decimal; `about` says that a sign of approximation stood before it."""
    node: Node
    unit: Unit | None = None
    percent: bool = False
    decimal: str | None = None
    about: bool = False


@dataclass(frozen=True)
class Items:
    """`kind`: list (no brackets), set, tuple, [] (square brackets), named (x = 1, y = 2: `names` has x and y)."""
    kind: str
    items: tuple
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """All real numbers between two ends."""
    low: Node
    low_open: bool
    high: Node
    high_open: bool


@dataclass(frozen=True)
class Region:
    """A union of intervals; `name` is the variable, None where none was written."""
    spans: tuple[Span, ...]
    name: str | None = None


@dataclass(frozen=True)
class Sides:
    """name = value = value, or an equation without a name. `node` is left minus right where there are two sides.
    `about` is the decimal behind a final sign of approximation."""
    name: str | None
    values: tuple
    node: Node | None = None
    about: Value | None = None


@dataclass(frozen=True)
class Inequality:
    """`node` < 0, <= 0 or != 0, in more than one variable."""
    sign: str
    node: Node


@dataclass(frozen=True)
class Conditioned:
    """A value for every integer or real value of a variable: 2k pi, k in Z."""
    value: object
    condition: str


@dataclass(frozen=True)
class Choice:
    letter: str
    rest: object = None


@dataclass(frozen=True)
class Ratio:
    terms: tuple[Node, ...]


@dataclass(frozen=True)
class Clock:
    """A time of day; `marked` with a.m. or p.m."""
    seconds: int
    marked: bool


@dataclass(frozen=True)
class Residue:
    node: Node
    modulus: Node


@dataclass(frozen=True)
class Based:
    """Digits to a base other than ten."""
    digits: str
    base: int


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Text:
    """What no other kind is: equal only to the same text."""
    words: str


EMPTY = Items("set", ())


# Intervals.

def real(node: Node) -> float | None:
    """A floating-point value, to put ends in order; None for expressions with names."""
    try:
        return _real(node)
    except (ArithmeticError, ValueError, KeyError):
        return None


_REAL: dict[str, Callable] = {
    "abs": abs, "floor": math.floor, "ceil": math.ceil, "max": max, "min": min, "ln": math.log, "sin": math.sin,
    "cos": math.cos, "tan": math.tan, "arctan": math.atan, "arcsin": math.asin, "arccos": math.acos}


def _real(node: Node) -> float:
    if node.op == "num":
        return float(node.args[0])
    if node.op == "inf":
        return math.inf * node.args[0]
    if node.op == "sym":
        return {r"\pi": math.pi, "e": math.e}[node.args[0]]
    if node.op == "call":
        return float(_REAL[node.args[0]](*map(_real, node.args[1:])))
    parts = [_real(arg) for arg in node.args]
    if node.op == "add":
        return math.fsum(parts)
    if node.op == "mul":
        return math.prod(parts)
    base, exponent = parts
    if base < 0 and node.args[1].value is not None and node.args[1].value.denominator % 2:
        return -((-base) ** exponent) if node.args[1].value.numerator % 2 else (-base) ** exponent
    value = base ** exponent
    if isinstance(value, complex):
        raise ValueError
    return value


def before(a: Node, b: Node) -> bool | None:
    """Whether a < b; None where it cannot be told."""
    if a.value is not None and b.value is not None:
        return a.value < b.value
    x, y = real(a), real(b)
    return None if x is None or y is None else x < y


LINE = Span(negative(INFINITY), True, INFINITY, True)
REALS = Region((LINE,))


def _lowest(a: Span, b: Span, high: bool, inner: bool) -> tuple[Node, bool]:
    """Of two ends the one that belongs to the intersection (`inner`) or to the union. Raises Unreadable."""
    (x, x_open), (y, y_open) = [(s.high, s.high_open) if high else (s.low, s.low_open) for s in (a, b)]
    if x == y:
        return x, (x_open or y_open) if inner else (x_open and y_open)
    less = before(x, y)
    for end, other in (((x, x_open), y), ((y, y_open), x)):
        if end[0].op == "inf" and less is None:
            # The other end has a name in it, so it is the inner one.
            return (other, y_open if other is y else x_open) if inner else end
    if less is None:
        raise Unreadable
    return (x, x_open) if (less != high) != inner else (y, y_open)


def intersection(a: tuple[Span, ...], b: tuple[Span, ...]) -> tuple[Span, ...]:
    out = []
    for p in a:
        for q in b:
            low, high = _lowest(p, q, False, True), _lowest(p, q, True, True)
            if before(high[0], low[0]) or (high[0] == low[0] and (low[1] or high[1])):
                continue
            out.append(Span(*low, *high))
    return tuple(out)


def union(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """The spans in order, those that touch made one. Spans that cannot be ordered stay as they are."""
    keys = [real(span.low) for span in spans]
    if None in keys or None in [real(span.high) for span in spans]:
        return spans
    out: list[Span] = []
    for span in sorted(spans, key=lambda span: (real(span.low), span.low_open)):
        last = out[-1] if out else None
        if last is not None and (before(span.low, last.high) or (span.low == last.high and not (
                span.low_open and last.high_open))):
            out[-1] = Span(last.low, last.low_open, *_lowest(last, span, True, False))
        else:
            out.append(span)
    return tuple(out)


def complement(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    out = (LINE,)
    for span in spans:
        pieces = []
        if span.low.op != "inf":
            pieces.append(Span(LINE.low, True, span.low, not span.low_open))
        if span.high.op != "inf":
            pieces.append(Span(span.high, not span.high_open, LINE.high, True))
        out = intersection(out, tuple(pieces))
    return union(out)


def point(node: Node) -> Span:
    return Span(node, False, node, False)
