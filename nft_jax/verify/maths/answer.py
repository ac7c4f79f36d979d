"""What an answer can be. `read.py` makes one of these of the whole text; `compare.py` says which are equal."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nft_jax.verify.maths.expression import Node, Unreadable
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
    """`kind`: list (no brackets), set, tuple, column, row, matrix (of rows), [] (square brackets), named (x = 1, y = 2:
    `names` has x and y)."""
    kind: str
    items: tuple
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """A set of real numbers. `ends` are where it begins and ends, in order. `held` says of the numbers below the
    first end, the first end, the numbers up to the second end, and so on, whether they belong to it. `name` is the
    variable, None where none was written."""
    ends: tuple[Node, ...]
    held: tuple[bool, ...]
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
class Residue:
    node: Node
    modulus: Node


@dataclass(frozen=True)
class Literal:
    """A time of day, or digits to a base other than ten."""
    written: str


@dataclass(frozen=True)
class Text:
    """What no other kind is: equal only to the same text."""
    words: str


EMPTY = Items("set", ())


class Hint(NamedTuple):
    """What the gold says about ambiguous answers."""
    nouns: frozenset[str] = frozenset()
    choice: bool = False
    number: bool = False
    is_gold: bool = False
    natural: bool = False
    ratio: bool = False


# Regions.

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


REALS, NO_REALS = Region((), (True,)), Region((), (False,))
_RAYS = {"<": (True, False, False), r"\le": (True, True, False), "=": (False, True, False),
         ">": (False, False, True), r"\ge": (False, True, True), r"\ne": (True, False, True)}
"""Whether a relation holds below, at and above a number."""


def ray(mark: str, bound: Node) -> Region:
    """The numbers that stand in a relation to a bound."""
    held = _RAYS[mark]
    if bound.op == "inf":
        return Region((), (held[0 if bound.args[0] > 0 else 2],))
    return Region((bound,), held)


def interval(low: Node, low_open: bool, high: Node, high_open: bool) -> Region:
    """Raises Unreadable where no number lies between the ends, or an infinite one belongs to it."""
    if before(high, low) or (low == high and (low_open or high_open)) or (low.op == "inf" and not low_open) or (
            high.op == "inf" and not high_open):
        raise Unreadable
    return combined(all, ray(">" if low_open else r"\ge", low), ray("<" if high_open else r"\le", high))


def combined(rule: Callable[[Sequence[bool]], bool], *regions: Region) -> Region:
    """The numbers of which `rule` holds, given for each region whether it has the number. Ends with names keep the
    order in which they are given."""
    ends: list[Node] = []
    for end in (end for region in regions for end in region.ends):
        if end not in ends:
            ends.insert(next((i for i, other in enumerate(ends) if before(end, other)), len(ends)), end)
    held = list(map(rule, zip(*(_over(region, ends) for region in regions), strict=True)))
    kept = [i for i in range(len(ends)) if len({*held[2 * i:2 * i + 3]}) > 1]
    return Region(tuple(ends[i] for i in kept), (held[0], *(each for i in kept for each in held[2 * i + 1:2 * i + 3])))


def _over(region: Region, ends: Sequence[Node]) -> list[bool]:
    """What `held` is for more ends than the region's own."""
    out, at = [], 0
    for end in ends:
        own = end in region.ends
        out += [region.held[at], region.held[at + own]]
        at += 2 * own
    return [*out, region.held[at]]
