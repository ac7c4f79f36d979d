"""Whether two normalised answers mean the same: the ladder from spelling to structure, with symbolic leaves.

`compare` has three values: True, False, or None where a leaf could not tell. With the leaf that never can tell
(`structure.unknown`) it is what the calling process runs; a worker passes the symbolic comparison.

Conventions: a bare list of solutions is unordered, a tuple is ordered; `name = value` is its value; `a = b = c` must
be a true chain; units may be dropped or added; alternatives beyond the gold are wrong.
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
_EQUALS = re.compile(r"(?<![<>!:\\])=|\\approx(?![a-zA-Z])")
_ORDER = re.compile(r"\\(?:le|ge|ne|in|cup)(?![a-zA-Z])|[<>]|\\mathbb\{R\}")


def compare(gold: str, answer: str, leaf: Leaf, depth: int = 0) -> Truth:
    """Equality of two normalised answers in the form the gold asks for."""
    if key(gold) == key(answer):
        return True
    if depth > MAX_DEPTH or not gold or not answer:
        return False
    for rung in (_numbers, _labels, _equations, _ranges, _matrices, _shapes):
        settled, truth = rung(gold, answer, leaf, depth + 1)
        if settled:
            return truth
    return _expressions(gold, answer, leaf, depth + 1)


_PASS: tuple[bool, Truth] = (False, None)
"""What a rung returns when the answers are none of its business; otherwise (True, its word)."""


def exactly(gold: str, answer: str) -> Truth:
    """Two plain numbers with their units; None when either is anything else."""
    integers = plain_integer(gold), plain_integer(answer)
    if None not in integers:
        return integers[0] == integers[1]
    g, a = units.quantity(gold), units.quantity(answer)
    g_value, a_value = rational(g.body), rational(a.body)
    if g_value is None and a_value is None:
        return None
    if a_value is None and g_value is not None and g.unit is None and (loose := units.letter_unit(answer)).unit:
        a, a_value = loose, rational(loose.body)
    if g_value is None or a_value is None:
        return None
    return units.same_amount(g, g_value, a, a_value)


def _numbers(gold: str, answer: str, leaf: Leaf, depth: int) -> tuple[bool, Truth]:
    truth = exactly(gold, answer)
    if truth is False and shape(gold) and shape(answer):       # 100,200 may be one number or two
        return _PASS
    return (False, None) if truth is None else (True, truth)


def _labels(gold: str, answer: str, leaf: Leaf, depth: int) -> tuple[bool, Truth]:
    """Times, ratios, number bases, choices and words."""
    times = units.time_of_day(gold), units.time_of_day(answer)
    if any(time is not None for time in times):
        times = tuple(units.clock(text) if time is None and (units.clock(text) or 0) >= 13 * 3600 else time
                      for time, text in zip(times, (gold, answer), strict=True))
        return True, times[0] == times[1]
    bases = units.based(gold), units.based(answer)
    if any(bases):
        return True, bases[0] == bases[1]
    ratios = units.ratio(gold), units.ratio(answer)
    if any(ratios):
        return True, _same_ratio(ratios[0] or [rational(gold), 1], ratios[1] or [rational(answer), 1])
    letters = choice(gold), choice(answer)
    if letters[0] and re.search(r"\\text|\(|[A-J]$", gold) and len(key(gold)) <= 12:
        variables = letters[0] not in answer and not re.search(r"\\text|[().:]", gold + answer)    # c is not C
        if letters[1] and not variables:
            return True, letters[0] == letters[1]
    spoken = words(gold), words(answer)
    if spoken[0] and spoken[1] and spoken[0] == spoken[1]:
        return True, True
    if spoken[0] and r"\text" in gold and not _ORDER.search(answer) and "=" not in answer:
        return True, _same_list_of_words(gold, answer)
    return _PASS


def _same_list_of_words(gold: str, answer: str) -> bool:
    split_words = re.compile(r",| and | or ")
    lists = [sorted(part.strip() for part in split_words.split(words(text.replace(",", " and ")) or "") if part.strip())
             for text in (gold, answer)]
    return len(lists[0]) > 1 and lists[0] == lists[1]


def _same_ratio(gold: list, answer: list) -> bool:
    if len(gold) != len(answer) or None in gold or None in answer:
        return False
    pairs = list(zip(gold, answer, strict=True))
    return any(gold) and any(answer) and all(g * pairs[i][1] == a * pairs[i][0]
                                             for g, a in pairs for i in range(len(pairs)))


def _equations(gold: str, answer: str, leaf: Leaf, depth: int) -> tuple[bool, Truth]:
    if "=" not in gold + answer and r"\approx" not in answer:
        return _PASS
    if _listed(gold) or _listed(answer):
        return _PASS
    (g, _), (a, marks) = split(gold, _EQUALS), split(answer, _EQUALS)
    if any(mark != "=" for mark in marks):
        return True, False
    if len(g) == 1 and len(a) == 1:
        return _PASS
    if "" in g or "" in a:
        return True, False
    g_named, a_named = len(g) > 1 and is_name(g[0]), len(a) > 1 and is_name(a[0])
    if len(g) == 1:
        links = a[1:] if a_named and not (is_name(gold) and len(a) == 2 and is_name(a[1])) else a
        return True, both(compare(gold, link, leaf, depth) for link in links)
    if len(a) == 1:
        return True, compare(g[-1], answer, leaf, depth) if g_named else False
    if g_named and a_named:
        same_name = key(g[0]) == key(a[0]) or "(" in g[0] + a[0] or r"\text" in g[0] + a[0]
        if same_name:
            return True, both(compare(g[-1], link, leaf, depth) for link in a[1:])
    if len(g) == 2 and len(a) == 2:
        return True, False if hedged(gold, answer) else leaf(gold, answer)
    return True, False


def _listed(text: str) -> bool:
    found = shape(text)
    return found is not None and found.kind == "list"


_MEMBER = re.compile(r"^([^,;]{1,20}?)\\in(?![a-zA-Z])")


def _ranges(gold: str, answer: str, leaf: Leaf, depth: int) -> tuple[bool, Truth]:
    if not (_ORDER.search(gold) or _ORDER.search(answer)):
        return _PASS
    stripped = [_MEMBER.sub(lambda found: "" if is_name(found[1]) else found[0], text).strip()
                for text in (gold, answer)]
    g, a = intervals(gold), intervals(answer)
    if g is None or a is None:
        if stripped != [gold, answer]:
            return True, compare(*stripped, leaf, depth)
        return _PASS
    names = {part.name for part in g if part.name}, {part.name for part in a if part.name}
    if names[0] and names[1] and names[0] != names[1]:
        return True, False
    if len(g) != len(a):
        return True, False
    table = {f"\0{side}{i}": part for side, parts in (("g", g), ("a", a)) for i, part in enumerate(parts)}
    labels = [[label for label in table if label[1] == side] for side in "ga"]
    return True, unordered(*labels, lambda p, q: _same_interval(table[p], table[q], leaf, depth))


def _same_interval(gold: Interval, answer: Interval, leaf: Leaf, depth: int) -> Truth:
    if (gold.low_open, gold.high_open) != (answer.low_open, answer.high_open):
        return False
    return both([compare(gold.low, answer.low, leaf, depth), compare(gold.high, answer.high, leaf, depth)])


def _matrices(gold: str, answer: str, leaf: Leaf, depth: int) -> tuple[bool, Truth]:
    g, a = matrix(gold), matrix(answer)
    if g is None or a is None:
        return _PASS
    if g[0] != a[0] or [len(row) for row in g[1]] != [len(row) for row in a[1]]:
        return True, False
    return True, both(compare(x, y, leaf, depth) for p, q in zip(g[1], a[1], strict=True)
                      for x, y in zip(p, q, strict=True))


def _shapes(gold: str, answer: str, leaf: Leaf, depth: int) -> tuple[bool, Truth]:
    g, a = shape(gold), shape(answer)
    if g is None and a is None:
        return _PASS
    if r"\ldots" in answer or r"\ldots" in gold:
        return True, False

    def same(x: str, y: str) -> Truth:
        return compare(x, y, leaf, depth)

    if g is None or a is None:
        return _single(g, a, gold, answer, same)
    if len(g.items) != len(a.items):
        return True, False
    kinds = {g.kind, a.kind}
    pairs = zip(g.items, a.items, strict=True)
    if kinds <= {"list", "set"}:
        names = [key(split(item, _EQUALS)[0][0]) for item in g.items if "=" in item]
        if len(set(names)) == len(g.items) > 1 and not any("=" in item for item in a.items):
            return True, both(same(x, y) for x, y in pairs)
        return True, unordered(g.items, a.items, same)
    if g.kind == a.kind or kinds == {"tuple", "()"} or (kinds == {"list", "tuple"}) \
            or (kinds == {"list", "[]"} and len(g.items) != 2):
        return True, both(same(x, y) for x, y in pairs)
    return True, False


def _single(g: Shape | None, a: Shape | None, gold: str, answer: str, same: Leaf) -> tuple[bool, Truth]:
    """One side is a single expression: only a set of one can be equal to it."""
    one, other, turned = (g, answer, False) if g is not None else (a, gold, True)
    if one.kind == "set" and not one.items:
        return True, key(other) == r"\emptyset"
    if one.kind == "set" and len(one.items) == 1:
        return True, same(other, one.items[0]) if turned else same(one.items[0], other)
    if one.kind == "list" and not turned and "=" in answer and not _listed(answer):
        return _PASS
    return True, False


def _expressions(gold: str, answer: str, leaf: Leaf, depth: int) -> Truth:
    """Two single expressions: take brackets and units off, then it is the leaf's word."""
    g, a = units.quantity(gold), units.quantity(answer)
    if not units.consistent(g.unit, a.unit):
        return False
    if (g.percent != a.percent) or not g.body or not a.body:
        return False if not (g.body and a.body) else None
    bodies = [_bare(g.body), _bare(a.body)]
    if bodies != [gold, answer] and depth <= MAX_DEPTH:
        return compare(*bodies, leaf, depth)
    if hedged(gold, answer):
        return False
    if answer.startswith("[") and answer.endswith("]") and not gold.startswith("[") and not closes_early(answer):
        return False
    values = rational(gold), rational(answer)
    if None not in values:
        return values[0] == values[1]
    return leaf(gold, answer)


def _bare(text: str) -> str:
    """Without one pair of round brackets around everything."""
    whole = text.startswith("(") and text.endswith(")") and not closes_early(text) and shape(text) is None
    return text[1:-1].strip() if whole else text
