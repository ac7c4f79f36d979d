"""From a normalised text to one typed answer that consumed all of it. What the grammar does not know is text.

Gold and answer are read alike. A `Hint` from the gold decides only what is ambiguous by itself: whether C is a
choice, whether 15m has a unit, which nouns are units.
"""
from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from nft_jax.verify.maths import answer as A
from nft_jax.verify.maths.answer import Choice, Conditioned, Items, Literal, Ratio, Region, Residue, Sides, Text, Value
from nft_jax.verify.maths.expression import (
    GREEK,
    ONE,
    RELATIONS,
    Node,
    Parser,
    Token,
    Unreadable,
    add,
    divide,
    exact,
    matching,
    mul,
    negative,
    nests,
    num,
    power,
    raw,
    spelled,
    split,
    sym,
    symbols,
    tokens,
    without_degrees,
    word_set,
)
from nft_jax.verify.maths.units import CURRENCIES, DEGREE, NEVER, nouns, read_unit, times, unit_of

MAX_ITEMS = 60
"""Longer lists are text."""
NUMBER_SETS = (r"\Reals", r"\Integers", r"\Naturals", r"\Rationals", r"\Complexes")
_SEPARATORS = frozenset((",", ";", "and", "or", r"\lor", r"\land", r"\&"))
_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_OR = ("or", r"\lor")
_AND = ("and", r"\land", r"\&")

_NOTHING = re.compile(r"(?:(?:there )?(?:is|are|exists?) )?(?:(?:no|none)(?: (?:such|real|integer|positive|valid"
                      r"|possible|natural|rational))*"
                      r"(?: (?:solutions?|roots?|values?|numbers?|integers?|pairs?|triples?|functions?))?"
                      r"(?: of [a-z])?(?: exists?)?|the empty set|empty set)")
_EVERYTHING = re.compile(r"(?:for )?(?:all|any|every)(?: possible)? (?:reals?(?: numbers?| values?)?)"
                         r"(?: of)?(?: [a-z])?"
                         r"|(?:the )?(?:set of )?(?:all )?real numbers")
_ANNOUNCING = word_set("""the final my our answer answers result value solution solutions is are equals be so thus
    therefore hence we get have that it : correct option choice required of exactly""")
_QUANTITIES = word_set("""area volume perimeter length width height depth total sum product difference quotient
    remainder distance speed velocity acceleration time cost price profit loss revenue number amount average mean
    median mode variance slope radius diameter circumference angle ratio max min maximum minimum value result
    solution answer probability age mass weight force energy power pressure density temperature rate percentage percent
    range degree digit digits count size rank order base side hypotenuse coefficient constant term intercept vertex
    center discriminant determinant trace gcd lcm""")
_OF = word_set("of the a an in for total final required surface lateral shaded largest smallest greatest least")

_LETTER = r"(?:[A-Za-z]|\\(?:" + "|".join(sorted(GREEK, key=len, reverse=True)) + r"))"
_SIMPLE = rf"{_LETTER}(?:_(?:[A-Za-z]+|[0-9]+|\\[a-zA-Z]+|\{{[^{{}}]+\}}))?'*(?:\^\\cdot)?"
_SEGMENT = r"(?:[A-Z]{2,5}(?:_[A-Za-z0-9]+)?|[A-Z]_[A-Za-z0-9\\]+|[A-Z])"
_ACCENTED = (r"\\(?:overline|bar|vec|hat|tilde|widehat|overrightarrow|mathcal|dot|ddot)\s?[A-Za-z]{1,3}"
             r"(?:_[A-Za-z0-9]+)?'*")
_UNIT = rf"(?:{_SIMPLE}|{_SEGMENT}|{_ACCENTED})"
_ANGLE = r"(?:m?\\angle_?[A-Z]{1,3}'*|\\(?:triangle|Delta)[A-Z]{3}|[A-Z]|\\(?:theta|alpha|beta|gamma|phi|varphi|angle))"
_NAME = re.compile(rf"(?:{_UNIT}|{_ANGLE}|\|{_UNIT}\||\\\|{_UNIT}\\\||\\(?:sin|cos|tan|cot|sec|csc){_ANGLE}"
                   rf"|\\(?:sin|cos|tan|cot|sec|csc)\({_ANGLE}\)"
                   rf"|{_SIMPLE}(?:\+{_SIMPLE})+|{_UNIT}(?::{_UNIT})+|{_SEGMENT}/{_SEGMENT})")
_ARGUMENT = rf"-?(?:{_LETTER}|[0-9]+)"
_FUNCTION = re.compile(rf"(?P<f>{_SIMPLE})(?P<inverse>\^-1)?\((?P<args>{_ARGUMENT}(?:,{_ARGUMENT})*)\)")
_EVENT = re.compile(r"(?:P|Pr|\\Pr|E|Var|\\mathbb\s?[EP])([(\[].+[)\]])")
_DECIMAL = re.compile(r"-?[0-9,]*\.[0-9]+|-?[0-9.]+\\(?:times|cdot)10\^-?[0-9]+|-?[0-9.]+[eE]-?[0-9]+")
_CLOCK = re.compile(r"([0-9]{1,2})(?::([0-5][0-9]))?(?::([0-5][0-9]))?(?:([ap])\.?\s?m\.?)?")
_NAMES = re.compile(rf"\({_SIMPLE}(?:,{_SIMPLE})+\)")

_ONES = {word: i for i, word in enumerate(
    re.findall("[a-z]+", """zero one two three four five six seven eight nine ten eleven
    twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"""))}
_TENS = {word: 10 * (i + 2) for i, word in enumerate(
    re.findall("[a-z]+", "twenty thirty forty fifty sixty seventy eighty ninety"))}
_TIMES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
          "score": 20, "lakh": 10**5, "crore": 10**7, "gross": 144}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
          "eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000}


class Hint(NamedTuple):
    """What the gold says about ambiguous answers."""
    nouns: frozenset[str] = frozenset()
    choice: bool = False
    number: bool = False
    is_gold: bool = False
    natural: bool = False
    ratio: bool = False


GOLD = Hint(is_gold=True)


@lru_cache(maxsize=8192)
def read(text: str, hint: Hint = GOLD, grouped: bool = True):
    """The typed answer of a normalised text: one of the classes of answer.py."""
    try:
        return _Reader(hint).answer(tokens(text, grouped))
    except (Unreadable, IndexError, ArithmeticError, RecursionError):
        return text_of(text)


@lru_cache(maxsize=8192)
def text_of(text: str) -> Text:
    """The words of a text: without case and \\text where it has words only."""
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    plain = " ".join(plain.strip(" .{}").split())
    if re.fullmatch(r"[^\W\d_]+(?:[ ,.'’\-]+[^\W\d_]+)*", plain):
        words = re.sub(r"^(?:the|an|a) ", "", plain.casefold())
        return Text("does not exist" if words == "dne" else words)
    if plain != text and re.fullmatch(r"[\w ,.:'’\-]+", plain):
        return Text(plain.casefold())
    return Text("\0" + re.sub(r"\s+", "", text))


def same_words(gold: str, answer: str) -> bool:
    """Whether two normalised texts are the same words, with \\text around them or without. Letters that may be a
    product need \\text on one side, or the same case."""
    g, a = text_of(gold).words, text_of(answer).words
    surely = r"\text" in gold + answer or len(g) > 3 or (_is_word(gold) and _is_word(answer.title()))
    return g == a and not g.startswith("\0") and len(g) > 1 and surely


def hint_of(gold, text: str) -> Hint:
    """The hint that a gold gives."""
    members = gold.items if isinstance(gold, Items) else (gold,)
    found = frozenset()
    if any(isinstance(each, Value | Sides) for each in members):
        with contextlib.suppress(Unreadable):
            found = nouns(tokens(text))
    return Hint(nouns=found, choice=all(isinstance(each, Choice) for each in members),
                number=isinstance(gold, Value) and gold.node.value is not None, ratio=any(isinstance(each, Ratio) for each in _bare(gold)))


def encloses(found: Sequence[Token], left: str, right: str) -> bool:
    """Whether one pair of brackets stands around everything; ( may close with ] in an interval."""
    if len(found) < 2 or found[0].text != left or found[-1].text != right:
        return False
    try:
        return matching(found, 0) == len(found) - 1
    except Unreadable:
        return False


def _balanced(found: Sequence[Token]) -> bool:
    """Whether every bracket within closes within, so that brackets around belong together."""
    depth = 0
    for token in found:
        depth += nests(token)
        if depth < 0:
            return False
    return depth == 0


class _Reader:
    def __init__(self, hint: Hint):
        self.hint, self.depth = hint, 0

    def answer(self, found: Sequence[Token]):
        self.depth += 1
        if self.depth > 12 or not found:
            raise Unreadable
        found = self._without_remarks(found)
        at = next((i for i, token in enumerate(found) if i and token.text == "(" and found[-1].text == ")"
                   and r"\in" in [each.text for each in found[i:i + 4]]), None)
        if at is not None:
            # a_n = 2n (n \in N): a condition in brackets is one behind a comma.
            found = (*found[:at], Token("sign", ","), *found[at + 1:-1])
        try:
            for special in (self._phrase, self._choice, self._clock):
                if (answer := special(found)) is not None:
                    return answer
            parts, marks = split(found, _SEPARATORS)
            if marks:
                return self._list(parts, marks)
            return self.single(found)
        finally:
            self.depth -= 1

    def _without_remarks(self, found: Sequence[Token]) -> Sequence[Token]:
        """The tokens without The answer is, and without a final "only"."""
        end = 0
        while end < len(found) - 1 and (found[end].kind in ("word", "letters") or found[end].text == ":") and (
                found[end].text.lower() in _ANNOUNCING):
            end += 1
        said = {token.text.lower() for token in found[:end]}
        if end and said & {"answer", "answers", "is", "are", "equals", "exactly"}:
            found = found[end:]
        while len(found) > 1 and found[-1].text.lower() == "only" and found[-1].kind in ("word", "letters"):
            found = found[:-1]
        return found

    # Answers in words.

    def _phrase(self, found: Sequence[Token]):
        at = next((i for i, token in enumerate(found) if token.text.lower() == "except"), None)
        if at and (self._phrase(found[:at]) == A.REALS or (found[0].text == r"\Reals" and at == 1)):
            rest = found[at + 1 + (found[at + 1].text == "for"):]
            return A.combined(_first_only, A.REALS, _region(Items("list", _bare(self.answer(rest)))))
        kinds = {token.kind for token in found}
        if len(found) == 1 and found[0].text == r"\emptyset":
            return A.EMPTY
        if len(found) == 1 and found[0].kind == "letters" and _is_word(found[0].text):
            number = number_in_words(found)
            if number is None and not _NOTHING.fullmatch(found[0].text.lower()):
                raise Unreadable
        if not kinds <= {"word", "letters", "sign"} or ("word" not in kinds and "letters" not in kinds):
            return None
        said = " ".join(token.text.lower() for token in found if token.text not in (".", "!"))
        if any(token.kind == "sign" and token.text not in (".", "-", "!") for token in found):
            return None
        if _NOTHING.fullmatch(said):
            return A.EMPTY
        if _EVERYTHING.fullmatch(said):
            return A.REALS
        number = number_in_words(found)
        return None if number is None else Value(num(number))

    def _choice(self, found: Sequence[Token]):
        """(C), C., \\text{C}, Option C, (C) 12. Words behind the letter are no choice."""
        at = 0
        while at < len(found) and found[at].text.lower() in ("option", "choice"):
            at += 1
        named, bracket = at > 0, found[at].text == "(" if at < len(found) else False
        at += bracket
        if at >= len(found) or not re.fullmatch("[A-Ja-j]", found[at].text):
            return None
        token, rest = found[at], found[at + 1:]
        closed = bool(rest) and rest[0].text in ((")",) if bracket else (".", ":", ")"))
        if bracket and not closed:
            return None
        marked = named or closed or token.kind == "word"
        if token.text.islower() and not self.hint.choice and token.kind != "word":
            return None
        if not (marked or (self.hint.choice and not rest)):
            return None
        rest = rest[closed:]
        rest = rest[1:] if rest and rest[0].text in (".", ":") else rest
        if not rest:
            return Choice(token.text.upper())
        if not closed or split(rest, _SEPARATORS | RELATIONS)[1] or not any(each.kind == "number" for each in rest):
            return None
        value = self.single(rest)
        return Choice(token.text.upper(), value) if isinstance(value, Value) else None

    def _clock(self, found: Sequence[Token]):
        """A time of day. Without a.m. and p.m., 16:30 is 4:30 p.m., and 4:30 is not. 7:32 beside a ratio is one."""
        if len(found) > 8 or (found[0].value is None and found[0].text != "{") or self.hint.ratio:
            return None
        match = _CLOCK.fullmatch(raw(found).lower())
        if not match or not (match[2] or match[4]):
            return None
        hours, half = int(match[1]), match[4]
        if hours > 23 or (half and not 1 <= hours <= 12):
            return None
        hours = hours % 12 + 12 * (half == "p") if half else hours
        return Literal(f"{hours}:{match[2] or '00'}:{match[3] or '00'}{' marked' if half and hours < 13 else ''}")

    # Lists.

    def _list(self, parts: list[tuple[Token, ...]], marks: list[str]):
        if len(parts) > MAX_ITEMS:
            raise Unreadable
        if not all(parts):
            # Between a comma and "and" nothing stands; nowhere else.
            empty = [i for i, part in enumerate(parts) if not part]
            if any(i in (0, len(parts) - 1) or marks[i - 1] not in (",", ";") or marks[i] in (",", ";") for i in empty):
                raise Unreadable
            parts = [part for part in parts if part]
            marks = [mark for i, mark in enumerate(marks) if i + 1 not in empty]
        if _has_dots(parts):
            return Items("list", self._progression(parts))
        condition = self._condition(parts[-1]) if set(marks) <= {",", ";"} else None
        if condition is not None:
            return self._conditioned(self.answer(_joined(parts[:-1], marks)), *condition)
        members: list = []
        for part in parts:
            member = self._member(part)
            members += member.items if isinstance(member, Items) and member.kind == "list" else [member]
        logic = set(marks) <= {r"\land", r"\lor"}
        if logic and all(isinstance(each, Value) and symbols(each.node) for each in members):
            raise Unreadable
        if len(members) > 1 and set(marks) <= {",", ";"} and _counts(members[-1]) and any(
                isinstance(each, Value | Sides) for each in members[:-1]):
            return self._conditioned(members[0] if len(members) == 2 else self._grouped(members[:-1]),
                                     members[-1].name, r"\Naturals")
        if marks == ["and"] and all(isinstance(each, Value) and each.unit and each.unit.powers for each in members):
            # 2 hours and 30 minutes are one amount.
            first, second = members
            if first.unit.powers == second.unit.powers and first.unit.scale > second.unit.scale:
                return replace(first, node=add(first.node, mul(second.node, num(second.unit.scale / first.unit.scale))))
        if any(isinstance(each, Region) for each in members):
            names = {each.name for each in members if isinstance(each, Region | Sides) and each.name}
            if names:
                return self._combined(members, marks, names)
        return self._grouped(members)

    def _member(self, part: Sequence[Token]):
        """One of several answers; words are allowed where nothing else can be meant."""
        if (choice := self._choice(part)) is not None:
            return choice
        try:
            return self.single(part)
        except Unreadable:
            if all(token.kind in ("word", "letters", "number") for token in part):
                return Text(" ".join(token.text.casefold() for token in part))
            raise

    def _progression(self, parts) -> tuple[Value, ...]:
        """1, 2, ..., n with integers whose step is plain."""
        at = next(i for i, part in enumerate(parts) if part[0].text == r"\ldots")
        if at == 0 or at != len(parts) - 2:
            raise Unreadable
        numbers = [self.single(part) for i, part in enumerate(parts) if i != at]
        values = [each.node.value if isinstance(each, Value) else None for each in numbers]
        if any(value is None or value.denominator != 1 for value in values):
            raise Unreadable
        first, last = values[:-1], values[-1]
        step = first[1] - first[0] if len(first) > 1 else Fraction(1)
        count = (last - first[0]) / step if step else Fraction(-1)
        if count.denominator != 1 or not len(first) <= count < MAX_ITEMS or any(
                value != first[0] + i * step for i, value in enumerate(first)):
            raise Unreadable
        return tuple(Value(num(first[0] + i * step)) for i in range(int(count) + 1))

    def _condition(self, part: Sequence[Token]) -> tuple[str, str] | None:
        """n and its set of numbers, of n \\in \\mathbb{N}; None for others."""
        sides, marks = split(part, {r"\in"})
        if len(marks) != 1 or not sides[1] or sides[1][0].text not in NUMBER_SETS:
            return None
        if not {token.text for token in sides[1][1:]} <= {"^", "_", "{", "}", "+", r"\cdot", "0", r"\ast", ">", r"\ge"}:
            return None
        name = raw(sides[0])
        return (name, sides[1][0].text) if re.fullmatch(_SIMPLE, name) else None

    def _conditioned(self, value, name: str, numbers: str):
        """A value under a condition on a name that it has; for all reals it says nothing."""
        if isinstance(value, Region):
            return value if numbers == r"\Reals" and value.name in (name, None) else Conditioned(value, numbers)
        nodes = [each.node for each in _bare(value) if isinstance(each, Value)]
        if not nodes or not any(name in symbols(node) for node in nodes) or (
                numbers in (r"\Reals", r"\Complexes") and name in "ijklmnpq"):
            raise Unreadable
        return Conditioned(value, numbers)

    def _combined(self, members, marks, names: set[str]) -> Region:
        """Inequalities joined by or (a union), by and (an intersection), or by commas: an intersection unless that
        is empty."""
        if len(names) > 1 or (set(marks) & set(_OR) and set(marks) & set(_AND)):
            raise Unreadable
        parts = list(map(_region, members))
        both = A.combined(all, *parts)
        if set(marks) & set(_OR) or (both == A.NO_REALS and not set(marks) & set(_AND)):
            both = A.combined(any, *parts)
        return replace(both, name=names.pop())

    def _grouped(self, members: list):
        """Members that repeat their names in blocks, x = 1, y = 2 or x = 2, y = 1, are one tuple for each block."""
        names = [each.name if isinstance(each, Sides) and len(each.values) == 1 else None for each in members]
        if None in names:
            # x = 3, -5: one name for all of them.
            if len({name for name in names if name}) == 1 and names[0] is not None:
                members = [each.values[0] if name else each for each, name in zip(members, names, strict=True)]
            return Items("list", tuple(members))
        size = next((i for i in range(1, len(names)) if names[i] == names[0]), len(names))
        blocks = [names[i:i + size] for i in range(0, len(names), size)]
        if len(set(names[:size])) != size or any(sorted(block) != sorted(blocks[0]) for block in blocks):
            return Items("list", tuple(members))
        if size == 1:
            values = [value for each in members for value in _values(each.values[0])]
            return Items("list", tuple(members if names[0].endswith(")") or has_names(values) else values))
        # (x, y) is meant where y = 1, x = 2 is written.
        order = _alphabetical(blocks[0])
        groups = []
        for start in range(0, len(names), size):
            found = {each.name: each.values[0] for each in members[start:start + size]}
            groups.append(Items("named", tuple(found[name] for name in order), tuple(order)))
        return groups[0] if len(groups) == 1 else Items("list", tuple(groups))

    # One answer.

    def single(self, found: Sequence[Token]):
        if not found:
            raise Unreadable
        if encloses(found, "{", "}"):
            return self.answer(found[1:-1])
        if len(found) == 1 and found[0].kind == "word" and len(found[0].text) == 1:
            return Value(sym(found[0].text))
        if len(found[0].text) == 1 and found[0].text.isupper() and encloses(found[1:], "(", ")") and (
                split(found[2:-1], (",",))[1]):
            return self.single(found[1:])
        if found[0].text == "(" and raw(found[-5:]).endswith(")^T"):
            end = matching(found, 0)
            if raw(found[end + 1:]) == "^T" and split(found[1:end], (",", ";"))[1]:
                found = found[:end + 1]
        if any(token.text in (r"\pm", r"\mp") and not _in_list(found[:i]) for i, token in enumerate(found)):
            return Items("list", tuple(self.single(_signed(found, sign)) for sign in "+-"))
        parts, marks = split(found, RELATIONS)
        if marks:
            return self._relation(parts, marks)
        for operation in (r"\cup", r"\cap", r"\setminus"):
            parts, marks = split(found, (operation,))
            if marks:
                return self._set_operation(parts, operation)
        if len(found) == 1 and found[0].text in NUMBER_SETS:
            return A.REALS if found[0].text == r"\Reals" else Text("\0" + found[0].text)
        for special in (self._bracketed, self._environment, self._ratio, self._residue, self._based):
            if (answer := special(found)) is not None:
                return answer
        return self.quantity(found)

    def _set_operation(self, parts, operation: str):
        members = [self.single(part) for part in parts]
        if operation == r"\cup" and all(isinstance(each, Items) and each.kind == "set" for each in members):
            return Items("set", tuple(item for each in members for item in each.items))
        region = A.combined({r"\cup": any, r"\cap": all, r"\setminus": _first_only}[operation], *map(_region, members))
        return A.EMPTY if region == A.NO_REALS else region

    def _bracketed(self, found: Sequence[Token]):
        if encloses(found, r"\{", r"\}"):
            return self._set(found[1:-1])
        if found[0].text == r"\langle" and found[-1].text == r"\rangle":
            return Items("tuple", tuple(self.single(part) for part in split(found[1:-1], (",", ";"))[0]))
        left, right = found[0].text, found[-1].text
        if left not in ("(", "[", "]") or right not in (")", "]", "[") or len(found) < 3 or (
                found[1].text == r"\begin" and found[-5].text == r"\end") or not _balanced(found[1:-1]):
            return None
        kind = {"()": "tuple", "[]": "[]"}.get(left + right, "")
        parts, marks = split(found[1:-1], (",", ";"))
        if not marks:
            if kind == "[]":
                # A bracket alone is no value: [7] is a list of one.
                raise Unreadable
            inner = self.single(found[1:-1]) if kind else None
            return None if isinstance(inner, Value | Text) else inner
        if not kind:
            return self._interval(found)
        if len(parts) > MAX_ITEMS or not all(parts):
            raise Unreadable
        if _has_dots(parts):
            return Items(kind, self._progression(parts))
        items = tuple(self.single(part) for part in parts)
        if any(isinstance(item, Value) and item.node.op == "inf" for item in items):
            return self._interval(found)
        if any(isinstance(item, Text) for item in items):
            raise Unreadable
        return Items(kind, items)

    def _interval(self, found: Sequence[Token]) -> Region:
        parts, _marks = split(found[1:-1], (",", ";"))
        if len(parts) != 2:
            raise Unreadable
        low, high = (self.quantity(part).node for part in parts)
        return A.interval(low, found[0].text in ("(", "]"), high, found[-1].text in (")", "["))

    def _set(self, inner: Sequence[Token]):
        if not inner:
            return A.EMPTY
        at = next((i for i, token in enumerate(inner) if token.text in ("|", r"\mid", ":")), None)
        if at is not None and (head := self._builder_name(inner[:at])):
            body = self.answer(inner[at + 1:])
            if isinstance(body, Region) and body.name == head:
                return replace(body, name=None)
            raise Unreadable
        parts, marks = split(inner, (",", ";"))
        answer = self._list(parts, marks) if marks else self.single(inner)
        if isinstance(answer, Items) and answer.kind == "list":
            return Items("set", answer.items)
        if isinstance(answer, Text | Sides | Region | Conditioned):
            raise Unreadable
        return Items("set", (answer,))

    def _builder_name(self, head: Sequence[Token]) -> str | None:
        condition = self._condition(head)
        if condition is not None:
            return condition[0] if condition[1] == r"\Reals" else None
        name = raw(head)
        return name if re.fullmatch(_SIMPLE, name) else None

    def _environment(self, found: Sequence[Token]):
        """Matrices, columns, and equations in cases. A determinant is none of them."""
        at = next((i for i, token in enumerate(found) if token.text == r"\begin"), None)
        if at is None:
            return self._unit_vectors(found)
        end = next((i for i, token in enumerate(found) if token.text == r"\end"), len(found))
        name = found[at + 2].text
        body, after = found[at + 4:end], found[end + 4:]
        before = found[:at]
        if before and after and (before[-1].text, after[0].text) in (("(", ")"), ("[", "]")):
            before, after = before[:-1], after[1:]
        columns = [token.text for i, token in enumerate(body) if token.text == "&" and body[i + 1].text != "="]
        if name in ("aligned", "align", "equation", "gather", "gathered", "split", "cases", "array") and not (
                before or after or columns) and (name != "array" or "=" in raw(body) or r"\\" not in raw(body)):
            body = body[matching(body, 0) + 1:] if body[0].text == "{" else body
            rows = [[token for token in row if token.text != "&"] for row in split(body, ("\\\\",))[0] if row]
            rows = [row[:-1] if row[-1].text in (",", ";") else row for row in rows]
            return self.answer(_joined(rows, [","] * len(rows)))
        if found[end + 2].text != name:
            raise Unreadable
        if name not in ("pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix"):
            raise Unreadable
        if name == "array" and body and body[0].text == "{":
            body = body[matching(body, 0) + 1:]
        turned = raw(after) in ("^T", r"^\top", r"^\intercal", "^t", r"^\mathsfT", r"^\mathrmT")
        if after and not turned:
            raise Unreadable
        scale = Parser(before).whole() if before else ONE
        rows = [[mul(scale, Parser(cell).whole()) for cell in split(row, ("&",))[0]]
                for row in split(body, ("\\\\",))[0] if row]
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise Unreadable
        return _matrix(list(zip(*rows, strict=True)) if turned else rows)

    def _unit_vectors(self, found: Sequence[Token]):
        """2i + 3j - k with unit vectors is the column of 2, 3 and -1."""
        if not any(token.text == r"\unitvector" for token in found):
            return None
        node = Parser(found).whole()
        column: dict[str, Node] = {}
        for term in node.args if node.op == "add" else (node,):
            factors = term.args if term.op == "mul" else (term,)
            axes = [each for each in factors if each.op == "sym" and each.args[0].startswith(r"\unitvector")]
            if len(axes) != 1 or axes[0].args[0][-1] in column:
                raise Unreadable
            column[axes[0].args[0][-1]] = mul(*(each for each in factors if each is not axes[0]))
        axes = "ijk" if "k" in column else "ij"
        return _matrix([[column.get(axis, num(0))] for axis in axes])

    def _ratio(self, found: Sequence[Token]):
        parts, marks = split(found, (":", "to"))
        if not marks:
            return None
        if len(parts) > 6:
            raise Unreadable
        return Ratio(tuple(Parser(part, self.hint.natural).whole() for part in parts))

    def _residue(self, found: Sequence[Token], congruent: bool = False):
        """3 \\pmod 7 is a class; 10 \\bmod 7 is the number 3."""
        text = [token.text for token in found]
        at = next((i for i, each in enumerate(text) if each in (r"\pmod", "mod", r"\bmod", r"\mod")), None)
        if at is None:
            return None
        start, end = at, len(found)
        if text[at] == r"\bmod" and not congruent:
            return None
        if text[at] == "mod":
            if at == 0 or text[at - 1] != "(" or text[-1] != ")":
                raise Unreadable
            start, end = at - 1, end - 1
        return Residue(Parser(found[:start]).whole(), Parser(found[at + 1:end]).whole())

    def _based(self, found: Sequence[Token]):
        said = raw(found)
        match = re.fullmatch(r"\(?([0-9]+[0-9A-F]*)\)?_\(?(?:base)?([0-9]{1,2}|[a-z]+)\)?", said) or re.fullmatch(
            r"\(?([0-9]+[0-9A-F]*)\)?\(?(?:in)?base-?([0-9]{1,2}|[a-z]+)\)?", said)
        if not match:
            return None
        base = int(match[2]) if match[2].isdigit() else _ONES.get(match[2], 0)
        if not 2 <= base <= 16 or any(int(digit, 16) >= base for digit in match[1]):
            raise Unreadable
        return Value(num(int(match[1]))) if base == 10 else Literal(f"{match[1].lstrip('0') or '0'} to base {base}")

    # Relations.

    def name(self, found: Sequence[Token]) -> str | None:
        """The name that stands before =, or None: letters, segments, f(x), P(...), |z|, the area of ABC, ..."""
        if not found or len(found) > 24:
            return None
        words = [token for token in found if (token.kind == "word" and len(token.text) > 1)
                 or (token.kind == "letters" and token.text.lower() in _QUANTITIES)]
        if words and not any(token.text == "_" for token in found) and not _EVENT.fullmatch(raw(found)):
            others = [token for token in found if token not in words and not (
                token.kind == "letters" or token.text in (r"\triangle", r"\angle"))]
            known = all(token.text.lower() in _QUANTITIES | _OF or token.text.isupper() or unit_of(token.text.lower())
                        for token in words)
            asked = any(token.text.lower() in _QUANTITIES for token in words)
            return "\\text " + raw(found) if known and asked and not others else None
        if found[0].text == r"\frac":
            return self._fraction_name(found)
        said = spelled(found)
        function = _FUNCTION.fullmatch(said)
        event = _EVENT.fullmatch(said)
        if event and not re.search(r"(?<!\\)\b[A-Za-z0-9]", event[1]):
            return None
        if function and function["inverse"] and re.search("[0-9]", function["args"]):
            return None
        # NOT and WRONG are no segments, ABCD is one.
        if said.isalpha() and said.isupper() and (said.lower() in NEVER or (said[3:] and list(said) != sorted(said))):
            return None
        known = _NAME.fullmatch(said) and len({*said.split("+")}) == said.count("+") + 1
        return said if known or function or event or _NAMES.fullmatch(said) else None

    def _fraction_name(self, found: Sequence[Token]) -> str | None:
        middle = matching(found, 1)
        if matching(found, middle + 1) != len(found) - 1:
            return None
        top, bottom = raw(found[1:middle + 1]), raw(found[middle + 1:])
        if re.fullmatch(rf"(?:{_SEGMENT}|{_ACCENTED})", top) and re.fullmatch(rf"(?:{_SEGMENT}|{_ACCENTED})", bottom):
            return f"{top}/{bottom}"
        node = Parser(found).whole()
        return node.args[0] if node.op == "sym" else None

    def _relation(self, parts, marks):
        if not parts[0] and marks[0] == "=" and len(parts) == 2:
            return self.single(parts[1])
        if not all(parts):
            if marks == [r"\approx"] and parts[1]:
                value = self.quantity(parts[1])
                return replace(value, about=True)
            raise Unreadable
        if marks == [r"\equiv"] and self.name(parts[0]) is not None:
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
        if marks != [r"\in"]:
            raise Unreadable
        name = self.name(parts[0])
        members = self.answer(parts[1])
        if name is None:
            raise Unreadable
        if isinstance(members, Items) and members.kind in ("tuple", "[]") and len(members.items) == 2:
            members = as_interval(members)
        if isinstance(members, Region):
            return replace(members, name=name)
        if isinstance(members, Items) and members.kind == "set":
            return Items("list", members.items) if members.items else members
        raise Unreadable

    def _sides(self, parts, marks):
        about = None
        if marks[-1] == r"\approx":
            about = self.quantity(parts[-1])
            if about.decimal is None and (about.node.value is None or about.node.value.denominator != 1):
                raise Unreadable
            parts, marks = parts[:-1], marks[:-1]
        if r"\approx" in marks:
            raise Unreadable
        if len(parts) == 2 and self.name(parts[0]) is None and re.fullmatch(_SIMPLE, spelled(parts[1])):
            parts = parts[::-1]
        name = self.name(parts[0])
        while name is not None and len(parts) > 2 and self.name(parts[1]) is not None:
            parts = parts[1:]
        if about is not None and (not marks):
            value = self.single(parts[0])
            if name is not None and not (isinstance(value, Value) and not symbols(value.node)):
                return Sides(name, (replace(about, about=True),))
            return Sides(None, (value,), None, about)
        values = tuple(self.single(part) for part in parts[name is not None:])
        if any(isinstance(value, Text) for value in values):
            raise Unreadable
        node = None
        if len(parts) == 2:
            try:
                left, right = (without_degrees(Parser(part, self.hint.natural).whole()) for part in parts)
                node = add(left, negative(right))
            except Unreadable:
                node = None
        if name is None and node is None and any(not isinstance(value, Value) for value in values):
            raise Unreadable
        if name is not None and _NAMES.fullmatch(name) and len(values) == 1 and isinstance(values[0], Items) and (
                values[0].kind == "tuple" and len(values[0].items) == name.count(",") + 1):
            names = name[1:-1].split(",")
            order = _alphabetical(names)
            return Items("named", tuple(values[0].items[names.index(each)] for each in order), tuple(order))
        return Sides(name, values, node, about)

    def _inequality(self, parts, marks):
        if "=" in marks or r"\approx" in marks:
            raise Unreadable
        names = [self._named_side(part) for part in parts]
        nodes = [None if name else without_degrees(Parser(part, self.hint.natural).whole())
                 for part, name in zip(parts, names, strict=True)]
        if len(parts) == 3 and names[1] and r"\ne" not in marks:
            ups = {mark in ("<", r"\le") for mark in marks}
            if len(ups) != 1:
                raise Unreadable
            first, last = nodes[0] or _node(names[0]), nodes[2] or _node(names[2])
            strict = [mark in "<>" for mark in marks]
            if ups == {False}:
                first, last, strict = last, first, strict[::-1]
            return replace(A.interval(first, strict[0] or first.op == "inf", last, strict[1] or last.op == "inf"),
                           name=names[1])
        if len(parts) != 2:
            raise Unreadable
        left, right = (node or _node(name) for node, name in zip(nodes, names, strict=True))
        mark = marks[0]
        if not names[0] and names[1]:
            names, left, right = names[::-1], right, left
            mark = _TURNED.get(mark, mark)
        if names[0] and names[0] not in symbols(right):
            return replace(A.ray(mark, right), name=names[0])
        if left.op == "call" and left.args[0] == "abs" and not symbols(right) and (middle := _shifted(left.args[1])):
            return self._around(mark, *middle, right)
        sign = {"<": "<", ">": "<", r"\le": "<=", r"\ge": "<="}.get(mark, "!=")
        node = add(left, negative(right))
        return A.Inequality(sign, negative(node) if mark in (">", r"\ge") else node)

    def _named_side(self, part) -> str | None:
        said = raw(part)
        return said if (re.fullmatch(_SIMPLE, said) and said not in ("e", r"\pi")) or re.fullmatch(
            r"[A-Z]{2,4}|[a-zA-Z]\([a-z]\)|\\angle[A-Z]{1,3}", said) else None

    def _around(self, mark: str, name: str, middle: Node, bound: Node) -> Region:
        """|x - middle| < bound, and its like."""
        if (A.real(bound) or 0) <= 0:
            raise Unreadable
        if mark == r"\ne":
            raise Unreadable
        inner = mark in ("<", r"\le")
        ends = add(middle, negative(bound)), add(middle, bound)
        sides = A.ray(_TURNED[mark], ends[0]), A.ray(mark, ends[1])
        return replace(A.combined(all if inner else any, *sides), name=name)

    # Quantities.

    def quantity(self, found: Sequence[Token]) -> Value:
        """An expression with what may stand beside it: a currency, a unit, a percent sign, words that multiply."""
        found, unit = self._currency(found)
        loose = self._loose_unit(found)
        if loose is not None:
            node, rest = loose
        else:
            parser = Parser(found, self.hint.natural)
            node = exact(parser.sum())
            rest = found[parser.at:]
        literal = self._decimal(found[:len(found) - len(rest)])
        node, rest = self._scaled(node, rest)
        plain = without_degrees(node)
        if plain != node:
            node, unit = plain, unit or DEGREE
        if unit == DEGREE and (parts := re.fullmatch(r"([0-9.]+)'(?:([0-9.]+)'')?", raw(rest))):
            node, rest = add(node, num(Fraction(parts[1]) / 60 + Fraction(parts[2] or 0) / 3600)), ()
        percent = False
        if rest and (rest[0].text == r"\%" or rest[0].text.lower() in ("percent", "pct")):
            percent, rest = True, rest[1:]
        if rest and rest[0].text == "(" and rest[-1].text == ")" and number_in_words(rest[1:-1]) == node.value:
            rest = ()
        if rest and all(token.text == "'" for token in rest):
            rest = (Token("sign", "'" * len(rest)),)
        if rest:
            node, unit = self._with_unit(node, unit, rest)
        return Value(node, unit, percent, literal)

    def _currency(self, found: Sequence[Token]):
        sign = found[0].text == "-" and len(found) > 2
        token = found[sign]
        text = token.text
        if text == "US" and len(found) > sign + 1 and found[sign + 1].text in ("$", r"\$"):
            return (*found[:sign], *found[sign + 2:]), CURRENCIES["$"]
        if text in CURRENCIES and len(found) > sign + 1:
            return (*found[:sign], *found[sign + 1:]), CURRENCIES[text]
        return found, None

    def _loose_unit(self, found: Sequence[Token]):
        """15m, 9.8 m/s^2: letters beside a number without \\text. Beside a space, or where the gold is a bare
        number, they are a unit if all of them are."""
        at = next((i for i, token in enumerate(found) if token.kind == "letters" or token.text == r"\Omega"), None)
        if not at or (found[at - 1].kind != "number" and found[at - 1].text not in ("}", ")", r"\pi")):
            return None
        word = found[at].text
        if word in ("e", "i", "x", "pi") or not (found[at].spaced or self.hint.number or len(word) > 1):
            return None
        try:
            node = Parser(found[:at], self.hint.natural).whole()
        except Unreadable:
            return None
        if symbols(node) or (node.value is None and len(word) < 2):
            return None
        rest = found[at:]
        if word.lower() in _TIMES or word.lower() in ("percent", "pct", "degrees", "degree", "deg") or len(word) > 3:
            return node, rest
        if len(word) == 1 and not found[at].spaced and not self.hint.number:
            return None
        unit = read_unit(rest, self.hint.nouns, self.hint.is_gold and (len(word) > 2 or word == "M"))
        return None if unit is None else (node, rest)

    def _decimal(self, found: Sequence[Token]) -> str | None:
        said = raw(found)
        return said if _DECIMAL.fullmatch(said) else None

    def _scaled(self, node: Node, rest: Sequence[Token]):
        """3 million, 5 dozen, 3 halves, 5 squared."""
        while rest and rest[0].kind in ("word", "letters"):
            word = rest[0].text.lower()
            single = word[:-1] if word.endswith("s") else word
            if (times_ := _TIMES.get(word) or _TIMES.get(single)) and node.value is not None:
                node, rest = mul(node, num(times_)), rest[1:]
            elif (part := _PARTS.get(word) or _PARTS.get(single)) and node.value is not None:
                node, rest = divide(node, num(part)), rest[1:]
            elif word in ("squared", "cubed") and len(rest) == 1:
                node, rest = power(node, num(2 if word == "squared" else 3)), rest[1:]
            else:
                break
        return node, rest

    def _with_unit(self, node: Node, unit, rest):
        """The unit behind a value; several quantities, 2 hours 30 minutes, are added up."""
        at = next((i for i, token in enumerate(rest) if token.kind == "number" and i and rest[i - 1].text not in (
            "^", "{", "-")), None)
        if at is not None:
            first = read_unit(rest[:at], self.hint.nouns)
            second = self.quantity(rest[at:])
            if first is None or second.unit is None or first.powers != second.unit.powers or not first.powers:
                raise Unreadable
            return add(node, mul(second.node, num(second.unit.scale / first.scale))), first
        found = read_unit(rest, self.hint.nouns, self.hint.is_gold)
        if found is None:
            raise Unreadable
        if unit is not None and unit.powers != found.powers:
            return node, times(unit, found)
        return node, found


def _matrix(rows: Sequence[Sequence[Node]]) -> Items:
    if all(len(row) == 1 for row in rows):
        return Items("column", tuple(Value(row[0]) for row in rows))
    return Items("matrix", tuple(Items("row", tuple(map(Value, row))) for row in rows))


def _is_word(letters: str) -> bool:
    """Whether bare letters alone are a word, not a product: 4 or more, a capital before small ones, one twice."""
    return (len(letters) > 3 and not letters.isupper()) or (len(letters) == 3 and (
        letters.istitle() or len(set(letters)) < 3))


def _first_only(has: Sequence[bool]) -> bool:
    return has[0] and not any(has[1:])


def _region(each) -> Region:
    """What can be a part of a region: an interval, points, a value under a name. Raises Unreadable."""
    if isinstance(each, Items) and each.kind in ("tuple", "[]"):
        return as_interval(each)
    if isinstance(each, Region):
        return each
    values = each.values if isinstance(each, Sides) and each.name else each.items if isinstance(each, Items) else ()
    if not values or not all(isinstance(value, Value) for value in values):
        raise Unreadable
    return A.combined(any, *(A.ray("=", value.node) for value in values))


def as_interval(pair: Items) -> Region:
    """(1, 2) or [1, 2] as an interval. Raises Unreadable where the ends are in the wrong order."""
    ends = [item.node if isinstance(item, Value) else None for item in pair.items]
    if len(ends) != 2 or None in ends:
        raise Unreadable
    return A.interval(ends[0], pair.kind == "tuple", ends[1], pair.kind == "tuple")


def _alphabetical(names: list[str]) -> list[str]:
    """The order in which a tuple of these names is meant: x, y, z, w and the alphabet; of others the given one."""
    if any(len(name) > 1 for name in names):
        return names
    return sorted(names, key=lambda name: "~" if name == "w" and "x" in names else name)


def _counts(each) -> bool:
    """Whether it says n >= 1 or n >= 0, of what counts the terms of a sequence."""
    return each in [Region((num(least),), (False, True, True), name) for name in "nkmij" for least in (0, 1)]


def _values(answer) -> tuple:
    """The members of a bare list, else the answer alone."""
    return answer.items if isinstance(answer, Items) and answer.kind == "list" else (answer,)


def _bare(answer) -> tuple:
    """The members of a list without their names."""
    return tuple(value for each in _values(answer) for value in (each.values if isinstance(each, Sides) else (each,)))


def has_names(values) -> bool:
    """Whether a value is an expression with names."""
    return any(isinstance(value, Value) and symbols(value.node) for value in values)


def _has_dots(parts: Sequence[Sequence[Token]]) -> bool:
    return any(len(part) == 1 and part[0].text == r"\ldots" for part in parts)


def _joined(parts, marks) -> tuple[Token, ...]:
    out: list[Token] = list(parts[0])
    for part, mark in zip(parts[1:], marks, strict=False):
        out += [Token("sign", mark), *part]
    return tuple(out)


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
    other = "-" if sign == "+" else "+"
    return tuple(Token("sign", sign if token.text == r"\pm" else other) if token.text in (r"\pm", r"\mp") else token
                 for token in found)


def _node(name: str) -> Node:
    return Parser(tokens(name)).whole()


def _shifted(node: Node) -> tuple[str, Node] | None:
    """The name and the middle of x - middle; None for other expressions."""
    names = symbols(node)
    if len(names) != 1:
        return None
    name = next(iter(names))
    terms = node.args if node.op == "add" else (node,)
    if sym(name) not in terms:
        return None
    rest = [term for term in terms if term != sym(name)]
    if any(symbols(term) for term in rest):
        return None
    return name, negative(add(*rest)) if rest else num(0)


def number_in_words(found: Sequence[Token]) -> Fraction | None:
    """forty-two, three hundred and five, one half, two thirds; None for other words."""
    words = [token.text.lower() for token in found if token.text != "-"]
    if not words or any(token.kind not in ("word", "letters") and token.text != "-" for token in found):
        return None
    total = current = 0
    seen = False
    for i, word in enumerate(words):
        single = word[:-1] if word.endswith("s") else word
        if word in _ONES or word in _TENS:
            value = _ONES.get(word, _TENS.get(word))
            if seen and (current % 10 or (word in _TENS and current % 100) or (value >= 10 and current % 100)):
                return None
            current, seen = current + value, True
        elif word == "hundred" and seen:
            current *= 100
        elif word in _TIMES and seen:
            total, current = total + current * _TIMES[word], 0
        elif word == "and" and seen and i < len(words) - 1 and current % 100 == 0:
            continue
        elif i == len(words) - 1 and (seen or word in ("half", "quarter")) and (_PARTS.get(word) or _PARTS.get(single)):
            return Fraction(total + current if seen else 1, _PARTS.get(word) or _PARTS[single])
        elif i == 0 and word == "a" and len(words) == 2:
            current, seen = 1, True
        else:
            return None
    return Fraction(total + current) if seen else None
