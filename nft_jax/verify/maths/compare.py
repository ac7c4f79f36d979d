"""Whether two normalised answers mean the same: a ladder of rules, from spelling to structure.

1. The same spelling is equal.
2. `RUNGS` are asked in order: each looks for one kind of answer (numbers, times, lists, ...). The first that
   knows the kind decides; a rung that does not know it says `PASS`.
3. Two single expressions that are left go to `leaf`, after brackets and units are off.

The result is True, False, or None where `leaf` could not tell: in the calling process it never can
(`structure.unknown`), in a worker it is `symbolic.equal`. A table of the conventions is in nft_jax/verify/README.md.
"""
from __future__ import annotations

import re

from nft_jax.verify.maths import units
from nft_jax.verify.maths.exact import plain_integer, rational
from nft_jax.verify.maths.normalise import key
from nft_jax.verify.maths.structure import (
    Interval,
    Leaf,
    Shape,
    Truth,
    both,
    choice,
    closes_early,
    hedged,
    intervals,
    is_name,
    matrix,
    shape,
    split,
    unordered,
    words,
)

MAX_DEPTH = 8
"""Comparisons within each other; deeper ones are unequal."""
PASS = object()
"""What a rung returns for a kind of answer that it does not know."""
_EQUALS = re.compile(r"(?<![<>!:\\])=|\\approx(?![a-zA-Z])")
_ORDER = re.compile(r"\\(?:le|ge|ne|in|cup)(?![a-zA-Z])|[<>]|\\mathbb\{R\}")
_MEMBER = re.compile(r"^([^,;]{1,20}?)\\in(?![a-zA-Z])")


def compare(gold: str, answer: str, leaf: Leaf, depth: int = 0) -> Truth:
    """Equality of two normalised answers in the form that the gold asks for."""
    if key(gold) == key(answer):
        return True
    if depth > MAX_DEPTH or not gold or not answer:
        return False

    def same(x: str, y: str) -> Truth:
        return compare(x, y, leaf, depth + 1)

    for rung in RUNGS:
        truth = rung(gold, answer, same, leaf)
        if truth is not PASS:
            return truth
    return _expressions(gold, answer, same if depth < MAX_DEPTH else None, leaf)


def exactly(gold: str, answer: str) -> Truth:
    """Equality of two plain numbers with their units; None when either is anything else."""
    integers = plain_integer(gold), plain_integer(answer)
    if None not in integers:
        return integers[0] == integers[1]
    g, a = units.quantity(gold), units.quantity(answer)
    g_value, a_value = rational(g.body), rational(a.body)
    if g_value is None and a_value is None:
        return None
    # 15m: a letter is a unit only beside a gold that is a bare number.
    if a_value is None and g_value is not None and g.unit is None and (loose := units.letter_unit(answer)).unit:
        a, a_value = loose, rational(loose.body)
    if g_value is None or a_value is None:
        return None
    return units.same_amount(g, g_value, a, a_value)


def _numbers(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Plain numbers, exactly."""
    truth = exactly(gold, answer)
    if truth is None:
        return PASS
    # 100,200 may be one number or two: `_shapes` has a look at it.
    if truth is False and shape(gold) and shape(answer):
        return PASS
    return truth


def _times(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Times of day with a.m. or p.m.; 13:00 and later may stand without."""
    times = units.time_of_day(gold), units.time_of_day(answer)
    if times == (None, None):
        return PASS
    gold_time, answer_time = (units.clock(text) if time is None and (units.clock(text) or 0) >= 13 * 3600 else time
                              for time, text in zip(times, (gold, answer), strict=True))
    return gold_time == answer_time


def _bases(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Numbers with their base: the digits and the base must be the same."""
    bases = units.based(gold), units.based(answer)
    return bases[0] == bases[1] if any(bases) else PASS


def _ratios(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Ratios a:b, up to a common factor; a single number is a ratio to 1."""
    g, a = units.ratio(gold), units.ratio(answer)
    if not (g or a):
        return PASS
    g, a = g or [rational(gold), 1], a or [rational(answer), 1]
    if len(g) != len(a) or None in g or None in a:
        return False
    pairs = list(zip(g, a, strict=True))
    return any(g) and any(a) and all(x * pairs[i][1] == y * pairs[i][0] for x, y in pairs for i in range(len(pairs)))


def _choices(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Letters of multiple choice. Where both are bare, c is not C: they may be variables."""
    letters = choice(gold), choice(answer)
    if not letters[0] or not re.search(r"\\text|\(|[A-J]$", gold) or len(key(gold)) > 12:
        return PASS
    variables = letters[0] not in answer and not re.search(r"\\text|[().:]", gold + answer)
    return letters[0] == letters[1] if letters[1] and not variables else PASS


def _words(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Words, whatever their case. A gold in \\text{} that lists several is an unordered list."""
    g, a = words(gold), words(answer)
    if g and a and g == a:
        return True
    if g and r"\text" in gold and not _ORDER.search(answer) and "=" not in answer:
        return _same_list_of_words(gold, answer)
    return PASS


def _same_list_of_words(gold: str, answer: str) -> bool:
    split_words = re.compile(r",| and | or ")
    lists = [sorted(part.strip() for part in split_words.split(words(text.replace(",", " and ")) or "") if part.strip())
             for text in (gold, answer)]
    return len(lists[0]) > 1 and lists[0] == lists[1]


def _equations(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """`name = value` is its value, a = b = c must be a true chain, and two equations go to the leaf."""
    if "=" not in gold + answer and r"\approx" not in answer:
        return PASS
    if _listed(gold) or _listed(answer):
        return PASS
    (g, _), (a, marks) = split(gold, _EQUALS), split(answer, _EQUALS)
    if any(mark != "=" for mark in marks):
        return False
    if len(g) == 1 and len(a) == 1:
        return PASS
    if "" in g or "" in a:
        return False
    g_named, a_named = len(g) > 1 and is_name(g[0]), len(a) > 1 and is_name(a[0])
    if len(g) == 1:
        # A gold x against the answer y = x: the name y could be the value, so both sides count.
        links = a[1:] if a_named and not (is_name(gold) and len(a) == 2 and is_name(a[1])) else a
        return both(same(gold, link) for link in links)
    if len(a) == 1:
        return same(g[-1], answer) if g_named else False
    if g_named and a_named:
        same_name = key(g[0]) == key(a[0]) or "(" in g[0] + a[0] or r"\text" in g[0] + a[0]
        if same_name:
            return both(same(g[-1], link) for link in a[1:])
    if len(g) == 2 and len(a) == 2:
        return False if hedged(gold, answer) else leaf(gold, answer)
    return False


def _listed(text: str) -> bool:
    found = shape(text)
    return found is not None and found.kind == "list"


def _ranges(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Intervals, their unions, and inequalities in one variable, whose name may be left out."""
    if not (_ORDER.search(gold) or _ORDER.search(answer)):
        return PASS
    g, a = intervals(gold), intervals(answer)
    if g is None or a is None:
        # `x \\in` before anything else may be dropped.
        stripped = [_MEMBER.sub(lambda found: "" if is_name(found[1]) else found[0], text).strip()
                    for text in (gold, answer)]
        return PASS if stripped == [gold, answer] else same(*stripped)
    names = {part.name for part in g if part.name}, {part.name for part in a if part.name}
    if names[0] and names[1] and names[0] != names[1]:
        return False
    if len(g) != len(a):
        return False
    # `unordered` pairs strings, so every interval gets a label.
    table = {f"\0{side}{i}": part for side, parts in (("g", g), ("a", a)) for i, part in enumerate(parts)}
    labels = [[label for label in table if label[1] == side] for side in "ga"]
    return unordered(*labels, lambda p, q: _same_interval(table[p], table[q], same))


def _same_interval(gold: Interval, answer: Interval, same: Leaf) -> Truth:
    if (gold.low_open, gold.high_open) != (answer.low_open, answer.high_open):
        return False
    return both([same(gold.low, answer.low), same(gold.high, answer.high)])


def _matrices(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Matrices entry by entry; a determinant is no matrix."""
    g, a = matrix(gold), matrix(answer)
    if g is None or a is None:
        return PASS
    if g[0] != a[0] or [len(row) for row in g[1]] != [len(row) for row in a[1]]:
        return False
    return both(same(x, y) for p, q in zip(g[1], a[1], strict=True) for x, y in zip(p, q, strict=True))


def _shapes(gold: str, answer: str, same: Leaf, leaf: Leaf) -> Truth:
    """Lists and sets in any order, tuples and intervals in theirs; the numbers of items must agree."""
    g, a = shape(gold), shape(answer)
    if g is None and a is None:
        return PASS
    if r"\ldots" in answer or r"\ldots" in gold:
        return False
    if g is None or a is None:
        return _single(g, a, gold, answer, same)
    if len(g.items) != len(a.items):
        return False
    kinds = {g.kind, a.kind}
    pairs = zip(g.items, a.items, strict=True)
    if kinds <= {"list", "set"}:
        # A gold that names its values, x = 1, y = 2, orders an answer that does not.
        names = [key(split(item, _EQUALS)[0][0]) for item in g.items if "=" in item]
        if len(set(names)) == len(g.items) > 1 and not any("=" in item for item in a.items):
            return both(same(x, y) for x, y in pairs)
        return unordered(g.items, a.items, same)
    ordered = (g.kind == a.kind or kinds == {"tuple", "()"} or kinds == {"list", "tuple"}
               or (kinds == {"list", "[]"} and len(g.items) != 2))
    return both(same(x, y) for x, y in pairs) if ordered else False


def _single(g: Shape | None, a: Shape | None, gold: str, answer: str, same: Leaf) -> Truth:
    """One side is a single expression: only a set of one can be equal to it."""
    one, other, turned = (g, answer, False) if g is not None else (a, gold, True)
    if one.kind == "set" and not one.items:
        return key(other) == r"\emptyset"
    if one.kind == "set" and len(one.items) == 1:
        return same(other, one.items[0]) if turned else same(one.items[0], other)
    if one.kind == "list" and not turned and "=" in answer and not _listed(answer):
        return PASS
    return False


RUNGS = (_numbers, _times, _bases, _ratios, _choices, _words, _equations, _ranges, _matrices, _shapes)
"""(gold, answer, same, leaf) -> Truth or PASS. `same` compares parts, `leaf` expressions."""


def _expressions(gold: str, answer: str, same: Leaf | None, leaf: Leaf) -> Truth:
    """Two single expressions, without brackets and units. `same` is None at MAX_DEPTH."""
    g, a = units.quantity(gold), units.quantity(answer)
    if not units.consistent(g.unit, a.unit):
        return False
    if not g.body or not a.body:
        return False
    if g.percent != a.percent:
        return None
    bodies = [_bare(g.body), _bare(a.body)]
    if bodies != [gold, answer] and same is not None:
        return same(*bodies)
    if hedged(gold, answer):
        return False
    if answer.startswith("[") and answer.endswith("]") and not gold.startswith("[") and not closes_early(answer):
        return False
    values = rational(gold), rational(answer)
    if None not in values:
        return values[0] == values[1]
    return leaf(gold, answer)


def _bare(text: str) -> str:
    """The text without one pair of round brackets around everything."""
    whole = text.startswith("(") and text.endswith(")") and not closes_early(text) and shape(text) is None
    return text[1:-1].strip() if whole else text
