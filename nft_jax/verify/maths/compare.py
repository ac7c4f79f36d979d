"""Which typed answers mean the same. The conventions are in README.md.

The result is True, False, or None where the leaf could not tell. A `Leaf` compares expressions: in the calling
process by spelling and exact value (`Leaf` itself), in a worker by all means (`algebra.FullLeaf`).
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from nft_jax.verify.maths import answer as A
from nft_jax.verify.maths.nodes import (
    ONE,
    PI,
    ZERO,
    Node,
    Unreadable,
    add,
    in_radians,
    mul,
    negative,
    num,
    sym,
    symbols,
    walk,
)
from nft_jax.verify.maths.read import has_names
from nft_jax.verify.maths.regions import as_interval, ray, real
from nft_jax.verify.maths.units import DEGREE, RADIAN

Truth = bool | None
"""None: it cannot be told."""
_DERIVATIVE = re.compile("d([1-4]) (.+)/[xt]")
_CONSTANTS = [sym(name) for name in ("C", "c", "K", "k", "C_1", "c_1")]
_FUNCTION = re.compile(r"([A-Za-z]|\\[a-z]+)(_[A-Za-z0-9]+)?(\(.*\))")


class Leaf:
    """Compares expressions by spelling and exact value: True, or False for two numbers, else None."""

    def equal(self, gold: Node, answer: Node) -> Truth:
        if gold == answer:
            return True
        return None if gold.value is None or answer.value is None else False

    def proportional(self, gold: Node, answer: Node, positive: bool = False) -> Truth:
        """Whether one is a constant multiple of the other; by a positive number if asked."""
        return True if gold == answer else None

    def same_solutions(self, gold: Node, answer: Node) -> Truth:
        """Whether gold = 0 and answer = 0 have the same solutions."""
        return self.proportional(gold, answer)


def both(values: Iterable[Truth]) -> Truth:
    """Three-valued and: False if any value is False, else None if any is None, else True."""
    return _combined(values, False)


def either(values: Iterable[Truth]) -> Truth:
    """Three-valued or: True if any value is True, else None if any is None, else False."""
    return _combined(values, True)


def _combined(values: Iterable[Truth], decisive: bool) -> Truth:
    """The first decisive value ends it."""
    result: Truth = not decisive
    for value in values:
        if value is decisive:
            return decisive
        result = None if value is None else result
    return result


def compare(gold, answer, leaf: Leaf) -> Truth:
    """Whether an answer means the same as the gold; both from `read`. The first kind that either has decides."""
    for kind, rule in _RULES.items():
        if isinstance(gold, kind) or isinstance(answer, kind):
            return rule(gold, answer, leaf)
    raise TypeError(f"{gold!r} and {answer!r} are no answers")


def _conditioned(gold, answer, leaf: Leaf) -> Truth:
    """n in N may be said or left out, but not of a region; two conditions must agree."""
    stated = [each for each in (gold, answer) if isinstance(each, A.Conditioned)]
    if len({each.condition for each in stated}) > 1 or (len(stated) == 1 and isinstance(stated[0].value, A.Region)):
        return False
    g, a = (each.value if isinstance(each, A.Conditioned) else each for each in (gold, answer))
    return compare(g, a, leaf)


def _choices(gold, answer, leaf: Leaf) -> Truth:
    """A choice is its letter; the value beside the gold's letter is right too."""
    if isinstance(gold, A.Choice) and isinstance(answer, A.Choice):
        return gold.letter == answer.letter
    if isinstance(gold, A.Choice):
        return gold.rest is not None and compare(gold.rest, answer, leaf)
    if isinstance(gold, A.Value) and gold.node.op == "sym":
        return gold.node.args[0] == answer.letter
    return isinstance(gold, A.Items) and len(gold.items) == 1 and compare(gold.items[0], answer, leaf)


def _literals(gold, answer, leaf: Leaf) -> Truth:
    """Words, times of day and digits to a base are equal to themselves only."""
    return gold == answer


# Equations and names.

def _sides(gold, answer, leaf: Leaf) -> Truth:
    """Under one name the values are compared, else the solutions of the equations. name = value is its value."""
    if not isinstance(gold, A.Sides):
        return _stated(gold, answer, leaf)
    if not isinstance(answer, A.Sides):
        return (gold.name is not None or not has_names(gold.values)) and compare(gold.values[-1], answer, leaf)
    if gold.name and answer.name and _same_name(gold.name, answer.name):
        return _stated(gold.values[-1], answer, leaf)
    if gold.node is None or answer.node is None or answer.about:
        return False
    if gold.name and answer.name and symbols(gold.node) != symbols(answer.node):
        return False
    return leaf.same_solutions(gold.node, answer.node)


def _same_name(gold: str, answer: str) -> bool:
    """Names are the same if they are spelled so; a function may have another letter, words may be others."""
    if gold == answer or gold.startswith(r"\text") or answer.startswith(r"\text"):
        return True
    primes = {_DERIVATIVE.sub(lambda m: m[2] + "'" * int(m[1]), name) for name in (gold, answer)}
    if len(primes) == 1 and "'" in gold + answer:
        # y' is the derivative by x or by t.
        return True
    g, a = _FUNCTION.fullmatch(gold), _FUNCTION.fullmatch(answer)
    if g and a:
        return g[3] == a[3]
    return bool((g and "(" not in answer and len(answer) == 1) or (a and "(" not in gold and len(gold) == 1))


def _stated(gold, answer: A.Sides, leaf: Leaf) -> Truth:
    """`x = 2 + 3 = 5` is 5: every side is, or else the chain is not true."""
    values = answer.values
    letters = [each.node.args[0] for each in (gold, *values) if isinstance(each, A.Value) and each.node.op == "sym"]
    if len(answer.name or "") == 1 and len(letters) > len(values) and all(len(name) == 1 for name in letters):
        # A = B says nothing of the value B.
        return False
    told = both(compare(gold, value, leaf) for value in values)
    if answer.about is not None and answer.about.unit and isinstance(values[-1], A.Value) and values[-1].unit is None:
        told = compare(gold, replace(values[-1], unit=answer.about.unit), leaf)
    if answer.about is None or told is False:
        if answer.about is not None and isinstance(gold, A.Value) and gold.decimal is not None:
            return both([_rounds(values[-1], answer.about), compare(gold, answer.about, leaf)])
        return told
    return both([told, _rounds(values[-1], answer.about)])


def _rounds(value, about: A.Value) -> bool:
    """Whether a decimal is the value, rounded or cut to its digits."""
    exact = real(value.node) if isinstance(value, A.Value) else None
    shown = about.node.value
    if exact is None or shown is None or (value.unit and about.unit not in (None, value.unit)):
        return False
    written = re.match(r"-?([0-9,]*)\.?([0-9]*)", about.decimal or str(shown))
    try:
        factor = abs(float(shown) / float(Fraction(written[0].replace(",", "")))) if shown else 1.0
        last, gap = factor * 10.0 ** -len(written[2]), abs(exact) - abs(float(shown))
    except (OverflowError, ZeroDivisionError):
        # A number beyond floats is no value that floats hold. Raising would make the verdict "error", which leaves the
        # answer out of its group.
        return False
    return exact * float(shown) >= 0 and (abs(gap) < 0.5000001 * last or 0 <= gap < last)


# Values and units.

def _values(gold: A.Value, answer: A.Value, leaf: Leaf) -> Truth:
    """Expressions with their units, percent signs and signs of approximation."""
    lone = [each for each in (gold, answer) if each.unit == DEGREE and each.node.op == "sym"]
    if len(lone) == 1:
        return False
    if answer.about and not gold.about and (gold.decimal is None or answer.decimal is None):
        return False
    if "inf" in (gold.node.op, answer.node.op):
        return gold.node == answer.node
    if gold.percent or answer.percent:
        return _percentages(gold, answer, leaf)
    g, a = gold.unit, answer.unit
    if g is not None and a is not None and g.powers and a.powers:
        if {g, a} == {DEGREE, RADIAN}:
            return leaf.equal(_in_radians(gold), _in_radians(answer))
        if g.powers != a.powers:
            return False
        if g.scale != a.scale:
            return leaf.equal(mul(gold.node, num(g.scale)), mul(answer.node, num(a.scale)))
    elif DEGREE in (g, a) and (PI in walk(gold.node) or PI in walk(answer.node)):
        # Without a unit, a value with pi is in radians.
        return leaf.equal(_in_radians(gold), _in_radians(answer))
    elif RADIAN in (g, a) and PI not in walk(gold.node):
        return False
    told = leaf.equal(gold.node, answer.node)
    if told is not True and (other := _with_constant(gold.node, answer.node)) is not None:
        return leaf.equal(gold.node, other)
    return told


def _with_constant(gold: Node, answer: Node) -> Node | None:
    """The answer with the gold's constant of integration, where both add one: + C is + K."""
    terms = [node.args if node.op == "add" else () for node in (gold, answer)]
    mine, other = ([term for term in part if term in _CONSTANTS] for part in terms)
    if len(mine) != 1 or len(other) != 1 or mine == other or len(symbols(gold)) < 2 or (
            mine[0].args[0] in symbols(answer) or len(symbols(answer)) != len(symbols(gold))):
        return None
    rest = add(*(term for term in answer.args if term != other[0]))
    return None if other[0].args[0] in symbols(rest) else add(rest, mine[0])


def _in_radians(value: A.Value) -> Node:
    return in_radians(value.node) if value.unit == DEGREE else value.node


def _percentages(gold: A.Value, answer: A.Value, leaf: Leaf) -> Truth:
    """50% is 1/2. An answer may drop the sign %. It may add the sign where the gold is above 1, so that it can only
    be a percentage."""
    if (gold.unit and gold.unit.powers) or (answer.unit and answer.unit.powers):
        return False
    hundredth = num(Fraction(1, 100))
    if gold.percent and answer.percent:
        return leaf.equal(gold.node, answer.node)
    if gold.percent:
        return answer.unit is None and either(
            leaf.equal(node, answer.node) for node in (gold.node, mul(gold.node, hundredth)))
    large = abs(real(gold.node) or 0) > 1
    return either([leaf.equal(gold.node, mul(answer.node, hundredth)), large and leaf.equal(gold.node, answer.node)])


# The other kinds.

def _ratios(gold, answer, leaf: Leaf) -> Truth:
    """Ratios up to a common factor; a single value is a ratio to 1. A zero keeps the other terms as they are."""
    g, a = (each.terms if isinstance(each, A.Ratio) else (each.node, ONE) if isinstance(each, A.Value) else ()
            for each in (gold, answer))
    if len(g) != len(a):
        return False
    if ZERO in (*g, *a):
        return both(map(leaf.equal, g, a))
    return both(leaf.equal(mul(p, a[0]), mul(q, g[0])) for p, q in zip(g[1:], a[1:], strict=True))


def _residues(gold, answer, leaf: Leaf) -> Truth:
    """Classes to the same modulus; one side may leave the modulus out, with the same representative."""
    if not (isinstance(gold, A.Residue | A.Value) and isinstance(answer, A.Residue | A.Value)):
        return False
    if isinstance(gold, A.Value) or isinstance(answer, A.Value):
        return leaf.equal(gold.node, answer.node)
    g, a, modulus = gold.node.value, answer.node.value, gold.modulus.value
    same = leaf.equal(gold.node, answer.node) if None in (g, a) or not modulus else (g - a) % modulus == 0
    return both([leaf.equal(gold.modulus, answer.modulus), same])


def _inequalities(gold, answer, leaf: Leaf) -> Truth:
    """Inequalities in several variables: the same up to a positive factor."""
    gold, answer = _as_inequality(gold), _as_inequality(answer)
    if not (isinstance(gold, A.Inequality) and isinstance(answer, A.Inequality)) or gold.sign != answer.sign:
        return False
    return leaf.proportional(gold.node, answer.node, positive=gold.sign != "!=")


def _as_inequality(each):
    """y <= 4 - x as an inequality in x and y."""
    if not isinstance(each, A.Region) or len(each.ends) != 1 or not each.name or each.held[0] == each.held[2]:
        return each
    node = add(sym(each.name), negative(each.ends[0]))
    return A.Inequality("<=" if each.held[1] else "<", node if each.held[0] else negative(node))


def _regions(gold, answer, leaf: Leaf) -> Truth:
    """Intervals, unions of them and inequalities in one variable, whose name may be left out."""
    try:
        g, a = (_as_region(each) for each in (gold, answer))
    except Unreadable:
        return False
    if (g.name and a.name and g.name != a.name) or g.held != a.held:
        return False
    return both(map(leaf.equal, g.ends, a.ends))


def _as_region(each) -> A.Region:
    """Raises Unreadable for what is no region."""
    if isinstance(each, A.Region):
        return each
    if isinstance(each, A.Items) and each.kind in ("tuple", "[]"):
        return as_interval(each)
    if isinstance(each, A.Value):
        return ray("=", each.node)
    raise Unreadable


def _items(gold, answer, leaf: Leaf) -> Truth:
    """Lists and sets in any order, tuples in theirs. A list under names is ordered by them."""
    if not (isinstance(gold, A.Items) and isinstance(answer, A.Items)):
        return _single(gold, answer, leaf)
    g, a = gold.kind, answer.kind
    def same(p, q) -> Truth:
        # A set of one is its member only where it is the whole answer.
        return isinstance(p, A.Items) == isinstance(q, A.Items) and compare(p, q, leaf)

    if {g, a} <= {"list", "set"} or (g == "list" and a == "named") or g == a in ("cases", r"\land", r"\lor"):
        return unordered(gold.items, answer.items, same)
    if len(gold.items) != len(answer.items):
        return False
    if g == a == "named":
        if set(gold.names) != set(answer.names):
            return False
        # x = 1, y = 2 in the order of the gold.
        answer = replace(answer, items=tuple(answer.items[answer.names.index(name)] for name in gold.names))
    elif not (g == a or {g, a} <= {"tuple", "list", "named"} or {g, a} == {"tuple", "column"} or (
            {g, a} == {"list", "[]"} and len(gold.items) != 2)):
        return False
    return both(same(p, q) for p, q in zip(gold.items, answer.items, strict=True))


def _single(gold, answer, leaf: Leaf) -> Truth:
    """One value against several: they are one if all of them are equal to it."""
    if isinstance(gold, A.Items):
        return gold.kind in ("set", "list") and len(gold.items) == 1 and compare(gold.items[0], answer, leaf)
    if answer.kind == "[]" and isinstance(gold, A.Value):
        return _regions(gold, answer, leaf)
    if answer.kind not in ("set", "list") or not answer.items:
        return False
    if any(compare(answer.items[0], item, leaf) is False for item in answer.items[1:]):
        return False
    return both(compare(gold, item, leaf) for item in answer.items)


_RULES: dict[type, Callable[..., Truth]] = {
    A.Conditioned: _conditioned, A.Choice: _choices, A.Text: _literals, A.Sides: _sides, A.Ratio: _ratios,
    A.Literal: _literals, A.Residue: _residues, A.Inequality: _inequalities, A.Region: _regions, A.Items: _items,
    A.Value: _values}


def unordered(gold: Sequence, answer: Sequence, same: Callable[[object, object], Truth]) -> Truth:
    """Whether the items are the same in some order. Members that an answer repeats count once, where the gold has
    none twice."""
    table = [[same(g, a) for a in answer] for g in gold]
    if len(gold) == len(answer):
        if _perfect([[cell is True for cell in row] for row in table]):
            return True
        if _perfect([[cell is not False for cell in row] for row in table]):
            return None
        return False
    if len(answer) < len(gold):
        return False
    covered = both([*(either(row) for row in table), *(either(column) for column in zip(*table, strict=True))])
    alone = not any(same(g, h) for i, g in enumerate(gold) for h in gold[:i])
    return covered if alone and gold else False


def _perfect(edges: list[list[bool]]) -> bool:
    """Whether a bipartite graph has a perfect matching (augmenting paths)."""
    partner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, edge in enumerate(edges[row]):
            if edge and column not in seen:
                seen.add(column)
                if column not in partner or place(partner[column], seen):
                    partner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(edges)))
