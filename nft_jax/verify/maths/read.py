"""From a normalised text to one typed answer that consumed all of it. What the grammar does not know is text.

Gold and answer are read alike, from the outside in: remarks, phrases and choices; lists at their separators; relations;
operations of sets; brackets, matrices, ratios and classes; at last a quantity. A `Hint` from the gold decides only what
is ambiguous by itself: whether C is a choice, whether 15m has a unit, which nouns are units.
"""
from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, pairwise

from nft_jax.verify.maths import answer as A
from nft_jax.verify.maths.answer import Choice, Conditioned, Hint, Items, Literal, Ratio, Region, Residue, Sides, Value
from nft_jax.verify.maths.expression import (
    RELATIONS,
    Parser,
    Token,
    matching,
    nests,
    raw,
    spelled,
    split,
    tokens,
    word_set,
)
from nft_jax.verify.maths.names import NAMES, SIMPLE, name_of
from nft_jax.verify.maths.nodes import ONE, Node, Unreadable, add, mul, negative, num, sym, symbols, without_degrees
from nft_jax.verify.maths.quantity import read_quantity
from nft_jax.verify.maths.regions import (
    AND,
    OR,
    TURNED,
    around,
    combined,
    first_only,
    integers_in,
    interval,
    ray,
    region_of,
    set_operation,
    united,
)
from nft_jax.verify.maths.units import nouns
from nft_jax.verify.maths.words import EVERYTHING, NOTHING, is_word, number_in_words, small_number, text_of

MAX_ITEMS = 60
"""Longer lists are text."""
_SEPARATORS = frozenset((",", ";")) | AND | OR
_ANNOUNCING = word_set("""the final my our answer answers result value solution solutions is are equals be so thus
    therefore hence we get have that it : correct option choice required of exactly""")
_SAYING = word_set("answer answers is are equals exactly")
_CLOCK = re.compile(r"([0-9]{1,2})(?::([0-5][0-9]))?(?::([0-5][0-9]))?(?:([ap])\.?\s?m\.?)?")
_BASED = re.compile(r"\(?([0-9]+[0-9A-F]*)\)?(?:_\(?(?:base)?|\(?(?:in)?base-?)([0-9]{1,2}|[a-z]+)\)?")
_NUMBER_SET = re.compile(r"(\\(?:Reals|Integers|Naturals|Rationals|Complexes))(?:[\^_+0>]|\\(?:cdot|ast|ge))*")
_VARIABLE = re.compile(rf"(?!e$){SIMPLE.pattern}|[A-Z]{{2,4}}|[a-zA-Z]\([a-z]\)|\\angle[A-Z]{{1,3}}")
_ARRANGED = word_set("aligned align equation gather gathered split cases array")
_MATRICES = word_set("pmatrix bmatrix matrix array smallmatrix Bmatrix")
_TRANSPOSED = ("^T", r"^\top", r"^\intercal", "^t", r"^\mathsfT", r"^\mathrmT")
GOLD = Hint(is_gold=True)


@lru_cache(maxsize=8192)
def read(text: str, hint: Hint = GOLD, grouped: bool = True):
    """The typed answer of a normalised text: one of the classes of answer.py."""
    try:
        return _Reader(hint).answer(tokens(text, grouped))
    except (Unreadable, IndexError, ArithmeticError, RecursionError):
        return text_of(text)


def hint_of(gold, text: str) -> Hint:
    """The hint that a gold gives."""
    members = gold.items if isinstance(gold, Items) else (gold,)
    found = frozenset()
    if any(isinstance(each, Value | Sides) for each in members):
        with contextlib.suppress(Unreadable):
            found = nouns(tokens(text))
    return Hint(nouns=found, choice=all(isinstance(each, Choice) for each in members),
                number=isinstance(gold, Value) and gold.node.value is not None,
                ratio=any(isinstance(each, Ratio) for each in bare(gold)))


def encloses(found: Sequence[Token], left: str, right: str) -> bool:
    """Whether one pair of brackets stands around everything."""
    return len(found) > 1 and (found[0].text, found[-1].text) == (left, right) and _balanced(found[1:-1])


def _balanced(found: Sequence[Token]) -> bool:
    """Whether every bracket within closes within, so that brackets around belong together."""
    depths = list(accumulate(map(nests, found), initial=0))
    return min(depths) == depths[-1] == 0


class _Reader:
    def __init__(self, hint: Hint):
        self.hint = hint

    def node(self, found: Sequence[Token]) -> Node:
        """The one expression that all tokens make."""
        return Parser(found, self.hint.natural).whole()

    def answer(self, found: Sequence[Token]):
        """One answer, or a list of several."""
        found = _without_remarks(found)
        at = next((i for i, token in enumerate(found) if i and token.text == "(" and found[-1].text == ")"
                   and r"\in" in [each.text for each in found[i:i + 4]]), None)
        if at is not None:
            # a_n = 2n (n \in N): a condition in brackets is one behind a comma.
            found = (*found[:at], Token("sign", ","), *found[at + 1:-1])
        for special in (self._phrase, self._choice, self._clock):
            if (answer := special(found)) is not None:
                return answer
        # Between a comma and "and" nothing stands; nowhere else.
        found = [token for token, following in zip(found, (*found[1:], found[0]), strict=True)
                 if token.text not in (",", ";") or following.text not in OR | AND]
        parts, marks = split(found, _SEPARATORS)
        return self._list(found, parts, set(marks)) if marks else self.single(found)

    # Answers in words.

    def _phrase(self, found: Sequence[Token]):
        """No solution, all real numbers, all real numbers except 2, forty-two."""
        at = next((i for i, token in enumerate(found) if token.text.lower() == "except"), None)
        if at and self.answer(found[:at]) == A.REALS:
            rest = found[at + 1 + (found[at + 1].text == "for"):]
            return combined(first_only, A.REALS, region_of(Items("list", bare(self.answer(rest)))))
        said = " ".join(token.text.lower() for token in found if token.text not in (".", "!"))
        if NOTHING.fullmatch(said):
            return A.EMPTY
        if EVERYTHING.fullmatch(said):
            return A.REALS
        if (number := number_in_words(found)) is not None:
            return Value(num(number))
        if len(found) == 1 and found[0].kind == "letters" and is_word(found[0].text):
            raise Unreadable
        return None

    def _choice(self, found: Sequence[Token]):
        """(C), C., \\text{C}, Option C, (C) 12. Words behind the letter are no choice."""
        at = next((i for i, token in enumerate(found) if token.text.lower() not in ("option", "choice")), 0)
        bracket = found[at].text == "("
        letter, rest = found[at + bracket], found[at + bracket + 1:]
        closed = len(rest) > 0 and rest[0].text in ((")",) if bracket else (".", ":", ")"))
        upright = letter.kind == "word"
        if not re.fullmatch("[A-Ja-j]", letter.text) or (bracket and not closed) or (
                letter.text.islower() and not self.hint.choice and not upright) or not (
                at or closed or upright or (self.hint.choice and not rest)):
            return None
        rest = rest[closed:]
        rest = rest[len(rest) > 0 and rest[0].text in (".", ":"):]
        if not rest:
            return Choice(letter.text.upper())
        if not closed or split(rest, _SEPARATORS | RELATIONS)[1] or not any(each.kind == "number" for each in rest):
            return None
        value = self.single(rest)
        return Choice(letter.text.upper(), value) if isinstance(value, Value) else None

    def _clock(self, found: Sequence[Token]):
        """A time of day. Without a.m. and p.m., 16:30 is 4:30 p.m., and 4:30 is not. 7:32 beside a ratio is one."""
        match = _CLOCK.fullmatch(raw(found).lower()) if len(found) < 9 and not self.hint.ratio else None
        if not match or not (match[2] or match[4]):
            return None
        hours, half = int(match[1]), match[4]
        if hours > 23 or (half and not 1 <= hours <= 12):
            return None
        hours = hours % 12 + 12 * (half == "p") if half else hours
        return Literal(f"{hours}:{match[2] or '00'}:{match[3] or '00'}{' marked' if half and hours < 13 else ''}")

    # Lists.

    def _list(self, found: Sequence[Token], parts: list[tuple[Token, ...]], marks: set[str]):
        if len(parts) > MAX_ITEMS or not all(parts):
            raise Unreadable
        if _has_dots(parts):
            return Items("list", self._progression(parts))
        plain = marks <= {",", ";"}
        if plain and (condition := _condition(parts[-1])) is not None:
            return _conditioned(self.answer(found[:len(found) - len(parts[-1]) - 1]), *condition)
        members = [each for part in parts for each in _values(self._member(part))]
        if marks <= {r"\land", r"\lor"} and all(isinstance(each, Value) and symbols(each.node) for each in members):
            # p \land q is a proposition.
            if len(marks) > 1:
                raise Unreadable
            return Items(marks.pop(), tuple(members))
        if plain and _counts(members[-1]) and any(isinstance(each, Value | Sides) for each in members[:-1]):
            return _conditioned(members[0] if len(members) == 2 else _grouped(members[:-1]),
                                members[-1].name, r"\Naturals")
        if marks == {"and"} and len(members) == 2 and all(
                isinstance(each, Value) and each.unit and each.unit.powers for each in members):
            # 2 hours and 30 minutes are one amount.
            first, second = members
            if first.unit.powers == second.unit.powers and first.unit.scale > second.unit.scale:
                return replace(first, node=add(first.node, mul(second.node, num(second.unit.scale / first.unit.scale))))
        if any(isinstance(each, Region) for each in members) and (
                names := {each.name for each in members if isinstance(each, Region | Sides) and each.name}):
            return united(members, marks, names)
        return _grouped(members)

    def _member(self, part: Sequence[Token]):
        """One of several answers; words are allowed where nothing else can be meant."""
        if (choice := self._choice(part)) is not None:
            return choice
        try:
            return self.single(part)
        except Unreadable:
            if all(token.kind in ("word", "letters", "number") for token in part):
                return A.Text(" ".join(token.text.casefold() for token in part))
            raise

    def _progression(self, parts) -> tuple[Value, ...]:
        """1, 2, ..., n with integers whose step is plain."""
        if [_has_dots([part]) for part in parts[1:]] != [False] * (len(parts) - 3) + [True, False]:
            raise Unreadable
        values = [self.node(part).value for i, part in enumerate(parts) if i != len(parts) - 2]
        if any(value is None or value.denominator != 1 for value in values):
            raise Unreadable
        *first, last = map(int, values)
        step = first[1] - first[0] if len(first) > 1 else 1
        if not step:
            raise Unreadable
        full = range(first[0], last + step, step)[:MAX_ITEMS]
        if list(full[:len(first)]) != first or full[-1] != last:
            raise Unreadable
        return tuple(Value(num(value)) for value in full)

    # One answer.

    def single(self, found: Sequence[Token]):
        """One answer without separators."""
        if not found:
            raise Unreadable
        if encloses(found, "{", "}"):
            return self.answer(found[1:-1])
        if len(found) == 1 and found[0].kind == "word" and len(found[0].text) == 1:
            return Value(sym(found[0].text))
        if len(found[0].text) == 1 and found[0].text.isupper() and encloses(found[1:], "(", ")") and (
                split(found[2:-1], (",",))[1]):
            # A(1, 2) is a point with its name.
            return self.single(found[1:])
        if found[0].text == "(" and raw(found[-5:]).endswith(")^T"):
            end = matching(found, 0)
            found = found[:end + 1] if raw(found[end + 1:]) == "^T" and split(found[1:end], (",", ";"))[1] else found
        if any(token.text in (r"\pm", r"\mp") and not _in_list(found[:i]) for i, token in enumerate(found)):
            return Items("list", tuple(self.single(_signed(found, sign)) for sign in "+-"))
        parts, marks = split(found, RELATIONS)
        if marks:
            return self._relation(parts, marks)
        for operation, rule in ((r"\cup", any), (r"\cap", all), (r"\setminus", first_only)):
            parts, marks = split(found, (operation,))
            if marks:
                return set_operation(rule, [self.single(part) for part in parts])
        if [token.text for token in found] == [r"\Reals"]:
            return A.REALS
        for special in (self._bracketed, self._environment, self._ratio, self._residue, self._based):
            if (answer := special(found)) is not None:
                return answer
        return read_quantity(found, self.hint)

    def _bracketed(self, found: Sequence[Token]):
        """Sets, tuples, intervals, and what stands in brackets alone."""
        if encloses(found, r"\{", r"\}"):
            return self._set(found[1:-1])
        left, right = found[0].text, found[-1].text
        if (left, right) == (r"\langle", r"\rangle"):
            return Items("tuple", tuple(map(self.single, split(found[1:-1], (",", ";"))[0])))
        if left not in ("(", "[", "]") or right not in (")", "]", "[") or len(found) < 3 or (
                found[1].text == r"\begin" and found[-5].text == r"\end") or not _balanced(found[1:-1]):
            return None
        kind = {"()": "tuple", "[]": "[]"}.get(left + right, "")
        parts, marks = split(found[1:-1], (",", ";"))
        if not marks:
            if kind != "tuple":
                # A bracket alone is no value: [7] is a list of one.
                raise Unreadable
            inner = self.single(found[1:-1])
            return None if isinstance(inner, Value) else inner
        if len(parts) > MAX_ITEMS or not all(parts):
            raise Unreadable
        if _has_dots(parts):
            return Items(kind, self._progression(parts))
        items = tuple(map(self.single, parts))
        if kind and not any(isinstance(item, Value) and item.node.op == "inf" for item in items):
            if any(isinstance(item, A.Text) for item in items):
                raise Unreadable
            return Items(kind, items)
        if len(items) != 2 or not all(isinstance(item, Value) and not item.about for item in items):
            raise Unreadable
        return interval(items[0].node, left in "(]", items[1].node, right in ")[")

    def _set(self, inner: Sequence[Token]):
        if not inner:
            return A.EMPTY
        at = next((i for i, token in enumerate(inner) if token.text in ("|", r"\mid", ":")), None)
        if at is not None and (head := _condition(inner[:at]) or (raw(inner[:at]), r"\Reals")) and (
                SIMPLE.fullmatch(head[0])):
            body = self.answer(inner[at + 1:])
            if not isinstance(body, Region) or body.name != head[0] or head[1] not in (r"\Reals", r"\Integers"):
                raise Unreadable
            return replace(body, name=None) if head[1] == r"\Reals" else integers_in(body)
        parts, marks = split(inner, (",", ";"))
        answer = self._list(inner, parts, set(marks)) if marks else self.single(inner)
        if isinstance(answer, A.Text | Sides | Region | Conditioned):
            raise Unreadable
        return Items("set", _values(answer))

    def _environment(self, found: Sequence[Token]):
        """Matrices, columns, and equations in cases. A determinant is none of them."""
        at = next((i for i, token in enumerate(found) if token.text == r"\begin"), None)
        if at is None:
            return self._unit_vectors(found)
        end = next((i for i, token in enumerate(found) if token.text == r"\end"), len(found))
        name, before, body, after = found[at + 2].text, found[:at], found[at + 4:end], found[end + 4:]
        if before and after and (before[-1].text, after[0].text) in (("(", ")"), ("[", "]")):
            before, after = before[:-1], after[1:]
        if body[0].text == "{" and name in ("array", "aligned"):
            body = body[matching(body, 0) + 1:]
        columns = [token.text for token, following in pairwise(body)
                   if token.text == "&" and following.text != "="]
        if name in _ARRANGED and not (before or after or columns) and (
                name != "array" or "=" in raw(body) or r"\\" not in raw(body)):
            rows = [[token for token in row if token.text != "&"] for row in split(body, ("\\\\",))[0] if row]
            rows = [row[:-1] if row[-1].text in (",", ";") else row for row in rows]
            return self.answer([token for row in rows for token in (Token("sign", ","), *row)][1:])
        if name == "cases" and not (before or after):
            rows = [split(row, ("&",))[0] for row in split(body, ("\\\\",))[0] if row]
            return Items("cases", tuple(Items("row", tuple(map(self.single, row))) for row in rows))
        turned = raw(after) in _TRANSPOSED
        if found[end + 2].text != name or name not in _MATRICES or (after and not turned):
            raise Unreadable
        scale = self.node(before) if before else ONE
        rows = [[mul(scale, self.node(cell)) for cell in split(row, ("&",))[0]]
                for row in split(body, ("\\\\",))[0] if row]
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise Unreadable
        return _matrix(list(zip(*rows, strict=True)) if turned else rows)

    def _unit_vectors(self, found: Sequence[Token]):
        """2i + 3j - k with unit vectors is the column of 2, 3 and -1."""
        if not any(token.text == r"\unitvector" for token in found):
            return None
        node = self.node(found)
        column: dict[str, Node] = {}
        for term in node.args if node.op == "add" else (node,):
            factors = term.args if term.op == "mul" else (term,)
            axes = [each for each in factors if each.op == "sym" and each.args[0].startswith(r"\unitvector")]
            if len(axes) != 1 or axes[0].args[0][-1] in column:
                raise Unreadable
            column[axes[0].args[0][-1]] = mul(*(each for each in factors if each is not axes[0]))
        return _matrix([[column.get(axis, num(0))] for axis in ("ijk" if "k" in column else "ij")])

    def _ratio(self, found: Sequence[Token]):
        parts, marks = split(found, (":", "to"))
        return Ratio(tuple(map(self.node, parts))) if marks else None

    def _residue(self, found: Sequence[Token], congruent: bool = False):
        """3 \\pmod 7 is a class; 10 \\bmod 7 is the number 3, but behind \\equiv."""
        marks = (r"\pmod", "mod", r"\mod", r"\bmod")[:3 + congruent]
        at = next((i for i, token in enumerate(found) if token.text in marks), None)
        if at is None:
            return None
        bare_word = found[at].text == "mod"
        if bare_word and (at == 0 or (found[at - 1].text, found[-1].text) != ("(", ")")):
            raise Unreadable
        return Residue(self.node(found[:at - bare_word]), self.node(found[at + 1:len(found) - bare_word]))

    def _based(self, found: Sequence[Token]):
        match = _BASED.fullmatch(raw(found))
        if not match:
            return None
        base = int(match[2]) if match[2].isdigit() else small_number(match[2]) or 0
        if not 2 <= base <= 16 or any(int(digit, 16) >= base for digit in match[1]):
            raise Unreadable
        return Value(num(int(match[1]))) if base == 10 else Literal(f"{match[1].lstrip('0') or '0'} to base {base}")

    # Relations.

    def _relation(self, parts: list[tuple[Token, ...]], marks: list[str]):
        if not parts[0] and len(parts) == 2 and marks[0] in ("=", r"\approx"):
            value = self.single(parts[1])
            return value if marks[0] == "=" else replace(value, about=True)
        if not all(parts):
            raise Unreadable
        if marks == [r"\equiv"] and name_of(parts[0]) is not None:
            # x \equiv 3 \pmod 7 is the class.
            if (residue := self._residue(parts[1], True)) is None:
                raise Unreadable
            return residue
        if r"\in" in marks:
            return self._membership(parts, marks)
        if set(marks) <= {"=", r"\approx"}:
            return self._sides(parts, marks)
        return self._inequality(parts, marks)

    def _membership(self, parts, marks):
        """x \\in (1, 2), x \\in \\{1, 2\\}."""
        name, members = name_of(parts[0]), self.answer(parts[1])
        if marks != [r"\in"] or name is None or not isinstance(members, Items | Region):
            raise Unreadable
        if isinstance(members, Items) and members.kind == "set":
            return Items("list", members.items) if members.items else members
        return replace(region_of(members), name=name)

    def _sides(self, parts, marks):
        """A value under its name, a chain of values, or an equation."""
        about = None
        if marks[-1] == r"\approx":
            about = read_quantity(parts[-1], self.hint)
            if about.decimal is None and (about.node.value is None or about.node.value.denominator != 1):
                raise Unreadable
            parts, marks = parts[:-1], marks[:-1]
        if r"\approx" in marks:
            raise Unreadable
        if len(parts) == 2 and name_of(parts[0]) is None and SIMPLE.fullmatch(spelled(parts[1])):
            parts = parts[::-1]
        name = name_of(parts[0])
        while name is not None and len(parts) > 2 and name_of(parts[1]) is not None:
            parts = parts[1:]
        if about is not None and not marks:
            value = self.single(parts[0])
            if name is not None and not (isinstance(value, Value) and not symbols(value.node)):
                return Sides(name, (replace(about, about=True),))
            return Sides(None, (value,), None, about)
        values = tuple(self.single(part) for part in parts[name is not None:])
        node = None
        if len(parts) == 2:
            with contextlib.suppress(Unreadable):
                node = self._difference(*map(self.node, parts))
        if any(isinstance(value, A.Text) for value in values) or (
                name is None and node is None and any(not isinstance(value, Value) for value in values)):
            raise Unreadable
        if name is not None and NAMES.fullmatch(name) and len(values) == 1 and isinstance(values[0], Items) and (
                values[0].kind == "tuple" and len(values[0].items) == name.count(",") + 1):
            return _under_names(dict(zip(name[1:-1].split(","), values[0].items, strict=True)))
        return Sides(name, values, node, about)

    def _difference(self, left: Node, right: Node) -> Node:
        return add(without_degrees(left), negative(without_degrees(right)))

    def _inequality(self, parts, marks):
        """Numbers that a variable may be, or an inequality in several variables."""
        if "=" in marks or r"\approx" in marks or len(parts) > 3:
            raise Unreadable
        names = [raw(part) if _VARIABLE.fullmatch(raw(part)) else None for part in parts]
        nodes = [sym(name) if name else without_degrees(self.node(part))
                 for name, part in zip(names, parts, strict=True)]
        if len(parts) == 3 and marks[0] in (">", r"\ge"):
            names, nodes, marks = names[::-1], nodes[::-1], [TURNED[mark] for mark in marks[::-1]]
        if len(parts) == 3:
            region = combined(all, ray(TURNED[marks[0]], nodes[0]), ray(marks[1], nodes[2]))
            if not names[1] or r"\ne" in marks or region == A.NO_REALS:
                raise Unreadable
            return replace(region, name=names[1])
        (left, right), mark = nodes, marks[0]
        if not names[0] and names[1]:
            names, left, right, mark = names[::-1], right, left, TURNED[mark]
        if names[0] and names[0] not in symbols(right):
            return replace(ray(mark, right), name=names[0])
        if left.op == "call" and left.args[0] == "abs" and not symbols(right) and (
                region := around(mark, left.args[1], right)):
            return region
        node = self._difference(left, right)
        sign = {"<": "<", ">": "<", r"\le": "<=", r"\ge": "<="}.get(mark, "!=")
        return A.Inequality(sign, negative(node) if mark in (">", r"\ge") else node)


def _without_remarks(found: Sequence[Token]) -> Sequence[Token]:
    """The tokens without The answer is, and without a final "only"."""
    end = next((i for i, token in enumerate(found) if token.text.lower() not in _ANNOUNCING), 0)
    if {token.text.lower() for token in found[:end]} & _SAYING:
        found = found[end:]
    while len(found) > 1 and found[-1].text.lower() == "only":
        found = found[:-1]
    return found


def _condition(part: Sequence[Token]) -> tuple[str, str] | None:
    """n and its set of numbers, of n \\in \\mathbb{N}; None for others."""
    sides, marks = split(part, {r"\in"})
    name, numbers = raw(sides[0]), _NUMBER_SET.fullmatch(raw(sides[-1]))
    return (name, numbers[1]) if len(marks) == 1 and numbers and SIMPLE.fullmatch(name) else None


def _conditioned(value, name: str, numbers: str):
    """A value under a condition on a name that it has; for all reals it says nothing."""
    if isinstance(value, Region):
        return value if numbers == r"\Reals" and value.name in (name, None) else Conditioned(value, numbers)
    nodes = [each.node for each in bare(value) if isinstance(each, Value)]
    if not any(name in symbols(node) for node in nodes) or (
            numbers in (r"\Reals", r"\Complexes") and name in "ijklmnpq"):
        raise Unreadable
    return Conditioned(value, numbers)


def _grouped(members: list) -> Items:
    """Members that repeat their names in blocks, x = 1, y = 2 or x = 2, y = 1, are one tuple for each block."""
    names = [each.name if isinstance(each, Sides) and len(each.values) == 1 else None for each in members]
    if None in names:
        # x = 3, -5: one name for all of them.
        if names[0] is not None and set(names) == {names[0], None}:
            members = [each.values[0] if name else each for each, name in zip(members, names, strict=True)]
        return Items("list", tuple(members))
    size = len(set(names))
    blocks = [{each.name: each.values[0] for each in members[i:i + size]} for i in range(0, len(names), size)]
    if any(block.keys() != set(names) for block in blocks):
        return Items("list", tuple(members))
    if size == 1:
        values = [value for each in members for value in _values(each.values[0])]
        return Items("list", tuple(members if names[0].endswith(")") or has_names(values) else values))
    groups = tuple(map(_under_names, blocks))
    return groups[0] if len(groups) == 1 else Items("list", groups)


def _under_names(values: dict) -> Items:
    """A tuple in the order that is meant by these names: x, y, z, w and the alphabet; of others the given one."""
    names = list(values)
    if all(len(name) == 1 for name in names):
        names = sorted(names, key=lambda name: "~" if name == "w" and "x" in values else name)
    return Items("named", tuple(values[name] for name in names), tuple(names))


def _matrix(rows: Sequence[Sequence[Node]]) -> Items:
    if all(len(row) == 1 for row in rows):
        return Items("column", tuple(Value(row[0]) for row in rows))
    return Items("matrix", tuple(Items("row", tuple(map(Value, row))) for row in rows))


def _counts(each) -> bool:
    """Whether it says n >= 1 or n >= 0, of what counts the terms of a sequence."""
    return each in [Region((num(least),), (False, True, True), name) for name in "nkmij" for least in (0, 1)]


def _values(answer) -> tuple:
    """The members of a bare list, else the answer alone."""
    return answer.items if isinstance(answer, Items) and answer.kind == "list" else (answer,)


def bare(answer) -> tuple:
    """The members of a list without their names."""
    return tuple(value for each in _values(answer) for value in (each.values if isinstance(each, Sides) else (each,)))


def has_names(values) -> bool:
    """Whether a value is an expression with names."""
    return any(isinstance(value, Value) and symbols(value.node) for value in values)


def _has_dots(parts: Sequence[Sequence[Token]]) -> bool:
    return any(len(part) == 1 and part[0].text == r"\ldots" for part in parts)


def _in_list(found: Sequence[Token]) -> bool:
    """Whether brackets with several members, or of a set, are open behind these tokens."""
    depth = 0
    for token in reversed(found):
        depth -= nests(token)
        if (depth < 0 and token.text == r"\{") or (depth == 0 and token.text == "," and "(" in [t.text for t in found]):
            return True
    return False


def _signed(found: Sequence[Token], sign: str) -> tuple[Token, ...]:
    """The tokens with every \\pm as the sign, and every \\mp as the other."""
    signs = {r"\pm": sign, r"\mp": "-" if sign == "+" else "+"}
    return tuple(Token("sign", signs[token.text]) if token.text in signs else token for token in found)
