"""Sets of real numbers: rays at relations, and what `or`, `and` and the operations of sets make of them."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from nft_jax.verify.maths.answer import EMPTY, NO_REALS, Items, Region, Sides, Value
from nft_jax.verify.maths.nodes import EXACT, Node, Unreadable, add, negative, num, symbols

LONGEST = 60
"""Integers of a region that are written out."""
TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
"""A relation, read from the other side."""
OR, AND = frozenset(("or", r"\lor")), frozenset(("and", r"\land", r"\&"))


def real(node: Node) -> float | None:
    """A floating-point value, to put ends in order; None for expressions with names."""
    try:
        return _real(node)
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _real(node: Node) -> float:
    op, args = node
    if op in ("num", "inf"):
        return float(args[0]) * (math.inf if op == "inf" else 1.0)
    if op == "sym":
        return {r"\pi": math.pi, "e": math.e}[args[0]]
    parts = [_real(arg) for arg in args if isinstance(arg, Node)]
    if op == "call":
        name = {"ln": "log", "degrees": ""}.get(args[0], args[0].replace("arc", "a"))
        return float((EXACT.get(name) or getattr(math, name))(*parts))
    if op != "pow":
        return math.fsum(parts) if op == "add" else math.prod(parts)
    base, exponent = parts
    order = args[1].value
    if base < 0 and order is not None and order.denominator % 2:
        return (-base) ** exponent * (-1) ** order.numerator
    # A complex number is no float.
    return float(base ** exponent)


def before(a: Node, b: Node) -> bool | None:
    """Whether a < b; None where it cannot be told."""
    if a.value is not None and b.value is not None:
        return a.value < b.value
    x, y = real(a), real(b)
    return None if x is None or y is None else x < y


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
    """The numbers of which `rule` holds, given for each region whether it has the number. Ends with names stand in the
    order that they are given in, or in the other where nothing were left: x < a and x > 2 is (2, a)."""
    found = _combined(rule, regions)
    return found if found.ends or rule not in (any, all) else _combined(rule, regions[::-1])


def _combined(rule: Callable[[Sequence[bool]], bool], regions: Sequence[Region]) -> Region:
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


def first_only(has: Sequence[bool]) -> bool:
    return has[0] and not any(has[1:])


def region_of(each) -> Region:
    """What can be a part of a region: an interval, points, a value under a name. Raises Unreadable."""
    if isinstance(each, Items) and each.kind in ("tuple", "[]"):
        return as_interval(each)
    if isinstance(each, Region):
        return each
    values = each.values if isinstance(each, Sides) and each.name else each.items if isinstance(each, Items) else ()
    if not values or not all(isinstance(value, Value) for value in values):
        raise Unreadable
    return combined(any, *(ray("=", value.node) for value in values))


def integers_in(region: Region) -> Items:
    """The set of the integers in a bounded region. Raises Unreadable for other regions."""
    low, high = region.ends[0].value, region.ends[-1].value
    if None in (low, high) or region.held[0] or region.held[-1] or high - low > LONGEST:
        raise Unreadable
    inside = [num(n) for n in range(math.ceil(low), math.floor(high) + 1)
              if combined(all, region, ray("=", num(n))) != NO_REALS]
    return Items("set", tuple(map(Value, inside)))


def as_interval(pair: Items) -> Region:
    """(1, 2) or [1, 2] as an interval. Raises Unreadable where the ends are in the wrong order."""
    if len(pair.items) != 2 or not all(isinstance(item, Value) for item in pair.items):
        raise Unreadable
    low, high = (item.node for item in pair.items)
    return interval(low, pair.kind == "tuple", high, pair.kind == "tuple")


def around(mark: str, inside: Node, bound: Node) -> Region | None:
    """|x - middle| < bound, and its like; None for other expressions."""
    terms = inside.args if inside.op == "add" else (inside,)
    names = [term for term in terms if term.op == "sym"]
    middle = negative(add(*(term for term in terms if term.op != "sym")))
    if len(names) != 1 or symbols(middle):
        return None
    if (real(bound) or 0) <= 0 or mark == r"\ne":
        raise Unreadable
    ends = ray(TURNED[mark], add(middle, negative(bound))), ray(mark, add(middle, bound))
    return replace(combined(all if mark in ("<", r"\le") else any, *ends), name=names[0].args[0])


def united(members, marks: set[str], names: set[str]) -> Region:
    """Inequalities joined by or (a union), by and (an intersection), or by commas: an intersection unless that is
    empty."""
    if len(names) > 1 or (marks & OR and marks & AND):
        raise Unreadable
    parts = list(map(region_of, members))
    found = combined(all, *parts)
    if marks & OR or (found == NO_REALS and not marks & AND):
        found = combined(any, *parts)
    return replace(found, name=names.pop())


def set_operation(rule, members: list):
    if rule is any and all(isinstance(each, Items) and each.kind == "set" for each in members):
        return Items("set", tuple(item for each in members for item in each.items))
    region = combined(rule, *map(region_of, members))
    return EMPTY if region == NO_REALS else region
