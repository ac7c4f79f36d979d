"""How an answer is put together: lists, sets, tuples, intervals, inequalities, matrices, words, choices.

Every function reads a normalised answer at its top level. `compare` says what the parts mean to each other.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from nft_jax.verify.maths.normalise import key, normalise

Truth = bool | None
"""None: it cannot be told."""
Leaf = Callable[[str, str], Truth]
"""(part of the gold, part of the answer) -> whether they are equal."""

MAX_ITEMS = 40
"""Longer lists are not paired: they are equal only where they are spelled alike."""

_SEPARATOR = re.compile(r"[,;]|\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
                        r"|\\(?:lor|vee|land|wedge)(?![a-zA-Z])")
_RELATION = re.compile(r"\\(?:le|ge|ne|in|approx|equiv|sim|cong|subset|subseteq|notin|mid)(?![a-zA-Z])|[=<>]")
_NAME = re.compile(
    r"(?:\\(?:text|mathcal|mathbb|overline|bar|vec|hat|tilde|widehat|overrightarrow|dot|ddot)\s*\{[^{}]*\}|\\(?:angle|triangle"
    r"|Delta|ell|nabla)?\s*(?:[A-Za-z]{1,3}|[A-Z]{1,5})|\\(?!pi|infty|frac|sqrt|sin|cos|tan|ln|log|exp)[a-zA-Z]+|[a-zA-Z]{1,12})"
    r"(?:\s*_\s*(?:\{[^{}]*\}|[a-zA-Z0-9]))?'*(?:\s*\^\s*\{-1\}(?=\s*\())?(?:\s*\(\s*[-a-zA-Z0-9,.\s\\]{1,20}\))?"
    r"|\\frac\s*\{\s*(?:d|\\partial)[^{}]*\}\s*\{\s*(?:d|\\partial)[^{}]*\}")
_CHOICE = re.compile(r"(?:\\text\s*\{)?\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*:?\s*\}?\s*(?:\\text\s*\{)?)?"
                     r"(?:\(\s*(?:\\text\s*\{)?\s*([A-Ja-j])\s*\}?\s*\)"
                     r"|([A-Ja-j])(?:[.):]|\b))\s*[.:]?\s*\}?")
_WORDS = re.compile(r"[^\W\d_]+(?:(?:, ?|[ '.\-])[^\W\d_]+)*\.?")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?(?:small)?matrix|array)\}(.*)\\end\{\1\}", re.DOTALL)
_SET_BUILDER = re.compile(r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{R\}\s*)?(?:\||:|\\mid(?![a-zA-Z]))(.+)\\\}")
_HEDGE = re.compile(r"\\ldots|\\text\s*\{[^{}]*[a-zA-Z]|\\approx|\\sim|\?")


def unknown(gold: str, answer: str) -> Truth:
    """The leaf of the calling process: what is not settled exactly is left to a worker."""
    return None


def both(values: Iterable[Truth]) -> Truth:
    """Three-valued and: False if any value is False, else None if any is None, else True."""
    result: Truth = True
    for value in values:
        if value is False:
            return False
        result = None if value is None else result
    return result


def split(text: str, separator: re.Pattern) -> tuple[list[str], list[str]]:
    """Parts and separators of a text, cut at the matches that stand outside every bracket."""
    # Half-open intervals pair ( with ], so one depth serves all brackets.
    parts, found, depth, start, i = [], [], 0, 0, 0
    marks = {match.start(): match.end() for match in separator.finditer(text)}
    while i < len(text):
        if depth == 0 and i in marks:
            parts.append(text[start:i].strip())
            found.append(text[i:marks[i]])
            i = start = marks[i]
            continue
        if text[i] == "\\":
            environment = re.compile(r"\\(begin|end)\{[a-zA-Z]+\}|\\(langle|rangle)(?![a-zA-Z])").match(text, i)
            if environment:
                depth += 1 if environment.group(1) == "begin" or environment.group(2) == "langle" else -1
                i = environment.end()
                continue
            following = text[i + 1:i + 2]
            depth += (following == "{") - (following == "}")
            i += 2
            continue
        depth += (text[i] in "({[") - (text[i] in ")}]")
        i += 1
    parts.append(text[start:].strip())
    return parts, found


class Shape(NamedTuple):
    """A bracketed or listed answer. `kind` is list, set, tuple, or the two brackets."""
    kind: str
    items: tuple[str, ...]


@lru_cache(maxsize=8192)
def shape(text: str) -> Shape | None:
    """How a normalised answer is put together at its top level; None for a single expression."""
    parts, found = split(text, _SEPARATOR)
    parts = [part for part in parts if part]
    if found and (len(parts) > 1 or text.count("(") != text.count(")")):
        return Shape("list", tuple(_with_signs(parts)))
    if re.search(r"\\(?:pm|mp)(?![a-zA-Z])", text) and not _RELATION.search(text) and not _bracketed(text):
        signed = _with_signs([text])
        return Shape("list", tuple(signed)) if len(signed) > 1 else None
    return _bracketed(text)


def _bracketed(text: str) -> Shape | None:
    """The shape of a text that one pair of brackets encloses."""
    for left, right, kind in ((r"\{", r"\}", "set"), (r"\langle", r"\rangle", "tuple"), ("(", ")", "tuple"),
                              ("[", "]", "[]"), ("(", "]", "(]"), ("[", ")", "[)"), ("]", "[", "()")):
        if not (text.startswith(left) and text.endswith(right) and len(text) >= len(left + right)):
            continue
        inside = text[len(left):len(text) - len(right)].strip()
        if kind == "set" and not inside:
            return Shape("set", ())
        if closes_early(text):
            return None
        parts, _ = split(inside, re.compile("[,;]"))
        if kind != "set" and len(parts) < 2:
            return None
        return Shape(kind, tuple(_with_signs(parts)))
    return None


def closes_early(text: str) -> bool:
    """Whether the first bracket closes before the end, as in (1,2)(3,4)."""
    depth, i = 0, 0
    while i < len(text) - 1:
        if text[i] == "\\":
            depth += (text[i + 1] == "{") - (text[i + 1] == "}")
            i += 2
        else:
            depth += (text[i] in "({[") - (text[i] in ")}]")
            i += 1
        if depth == 0 and i < len(text) and not text.startswith((r"\langle", "]")):
            return True
    return False


def _with_signs(parts: Sequence[str]) -> list[str]:
    """The parts, every a \\pm b as its two values."""
    out: list[str] = []
    for part in parts:
        if re.search(r"\\(?:pm|mp)(?![a-zA-Z])", part):
            for sign, opposite in (("+", "-"), ("-", "+")):
                signed = re.sub(r"\\mp(?![a-zA-Z])", opposite, re.sub(r"\\pm(?![a-zA-Z])", sign, part)).strip()
                out.append(re.sub(r"^\+\s*", "", signed))
        else:
            out.append(part)
    return out


def is_name(text: str) -> bool:
    """Whether the text only names a value: x, x_1, AB, f(x), \\text{Area}, \\frac{dy}{dx}."""
    return _NAME.fullmatch(text.strip()) is not None


class Interval(NamedTuple):
    """Its ends are normalised texts; `name` is the variable, "" when none was written."""
    low: str
    low_open: bool
    high: str
    high_open: bool
    name: str = ""


def intervals(text: str, depth: int = 0) -> list[Interval] | None:
    """Intervals or inequalities in one variable, in the order written; None for others."""
    if depth > 2:
        return None
    text = text.strip()
    if text == r"\mathbb{R}":
        return [Interval(r"-\infty", True, r"\infty", True)]
    if builder := _SET_BUILDER.fullmatch(text):
        return intervals(builder.group(2), depth + 1)
    membership = re.fullmatch(r"(.+?)\\in(?![a-zA-Z])(.+)", text)
    if membership and is_name(membership.group(1)):
        inner = intervals(membership.group(2).strip(), depth + 1)
        name = key(membership.group(1).strip())
        return None if inner is None else [part._replace(name=name) for part in inner]
    pieces, found = split(text, re.compile(r"\\cup(?![a-zA-Z])|\\text\{\s*or\s*\}|(?<![a-zA-Z\\])or(?![a-zA-Z])|,"))
    if len(pieces) > 1:
        inner = [intervals(piece, depth + 1) for piece in pieces]
        relations = all(_RELATION.search(piece) for piece in pieces)
        if any(part is None for part in inner) or not (relations or all(mark.startswith(r"\cup") for mark in found)):
            return None
        return [part for group in inner for part in group]
    bracketed = _bracketed(text)
    if bracketed and bracketed.kind in ("tuple", "[]", "(]", "[)", "()") and len(bracketed.items) == 2:
        return [Interval(bracketed.items[0], text[0] in "(]", bracketed.items[1], text[-1] in ")[")]
    return _inequality(text)


def _inequality(text: str) -> list[Interval] | None:
    """One inequality, or a double one, in one variable as intervals."""
    parts, signs = split(text, re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]"))
    if len(parts) == 3 and is_name(parts[1]) and (set(signs) <= {"<", r"\le"} or set(signs) <= {">", r"\ge"}):
        if signs[0] in (">", r"\ge"):
            parts, signs = parts[::-1], signs[::-1]
        return [Interval(parts[0], signs[0] in "<>", parts[2], signs[1] in "<>", key(parts[1]))]
    if len(parts) != 2:
        return None
    if signs[0] == r"\ne":
        rays = (Interval(r"-\infty", True, parts[1], True), Interval(parts[1], True, r"\infty", True))
        return [ray._replace(name=key(parts[0])) for ray in rays] if is_name(parts[0]) else None
    less = signs[0] in ("<", r"\le")
    if modulus := re.fullmatch(r"\|\s*([a-zA-Z])\s*\|", parts[0]):
        return _around_zero(modulus.group(1), parts[1], less, signs[0] in "<>")
    if is_name(parts[0]) and not is_name(parts[1]):
        name, bound, bounded_above = parts[0], parts[1], less
    elif is_name(parts[1]) and not is_name(parts[0]):
        name, bound, bounded_above = parts[1], parts[0], not less
    else:
        return None
    is_open = signs[0] in "<>"
    if bounded_above:
        return [Interval(r"-\infty", True, bound, is_open, key(name))]
    return [Interval(bound, is_open, r"\infty", True, key(name))]


def _around_zero(name: str, bound: str, less: bool, is_open: bool) -> list[Interval]:
    """|name| < bound (`less`), or |name| > bound, taking the bound as positive."""
    opposite = f"-({bound})"
    if less:
        return [Interval(opposite, is_open, bound, is_open, name)]
    return [Interval(r"-\infty", True, opposite, is_open, name), Interval(bound, is_open, r"\infty", True, name)]


def matrix(text: str) -> tuple[str, list[list[str]]] | None:
    """Kind and entries of an answer that is one matrix. Determinants (vmatrix) are another kind."""
    text = text.strip()
    bracketed = re.fullmatch(r"([(\[])\s*(\\begin\{(?:small)?(?:matrix|array)\}.*)[)\]]", text, re.DOTALL)
    match = _MATRIX.fullmatch(bracketed.group(2).strip() if bracketed else text)
    if not match or r"\begin" in match.group(2):
        return None
    body = re.sub(r"^\s*\{[lcr|\s]*\}", "", match.group(2)) if match.group(1) == "array" else match.group(2)
    rows = [row for row in body.split(r"\\") if row.strip()]
    kind = match.group(1).replace("small", "")
    return kind if kind[0] in "vV" else "matrix", [[normalise(cell) for cell in row.split("&")] for row in rows]


def words(text: str) -> str | None:
    """Casefolded words of an answer in `\\text{...}`, or of a bare one with 4 letters or more."""
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    marked = plain != text
    plain = " ".join(plain.replace("\\", "").strip(" .{}").split())
    if not _WORDS.fullmatch(plain) or not (marked or len(plain) >= 4) or (marked and len(plain) < 2):
        return None
    return re.sub(r"^(?:the|an|a) ", "", plain.casefold().rstrip("."))


def choice(text: str) -> str | None:
    """Letter of a multiple-choice answer: C, (C), \\text{(C)}, \\textbf{(C)} 12. None for others."""
    match = _CHOICE.match(text.strip())
    if not match:
        return None
    rest = text.strip()[match.end():]
    marked = match.group(1) or ("." in match.group() or ")" in match.group() or ":" in match.group())
    if rest.strip() and (not marked or _SEPARATOR.search(rest) or re.search(r"\(\s*[A-J]\s*\)", rest)):
        return None
    return (match.group(1) or match.group(2)).upper()


def unordered(gold: Sequence[str], answer: Sequence[str], same: Leaf) -> Truth:
    """Whether the items can be paired one to one, equal with equal."""
    if len(gold) != len(answer):
        return False
    if len(gold) > MAX_ITEMS:
        return None
    table = [[same(g, a) for a in answer] for g in gold]
    if _perfect([[cell is True for cell in row] for row in table]):
        return True
    return None if _perfect([[cell is not False for cell in row] for row in table]) else False


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


def hedged(gold: str, answer: str) -> bool:
    """Whether the answer carries words, dots or an approximation sign that the gold does not."""
    return {mark[:5] for mark in _HEDGE.findall(answer)} - {mark[:5] for mark in _HEDGE.findall(gold)} != set()
