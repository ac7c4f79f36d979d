"""Answers in words: numbers, no solution, all real numbers, and text."""
from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from nft_jax.verify.maths.answer import Text
from nft_jax.verify.maths.expression import Token

NOTHING = re.compile(r"\\emptyset|(?:(?:there )?(?:is|are|exists?) )?(?:(?:no|none)"
                     r"(?: (?:such|real|integer|positive|valid|possible|natural|rational))*"
                     r"(?: (?:solutions?|roots?|values?|numbers?|integers?|pairs?|triples?|functions?))?"
                     r"(?: of [a-z])?(?: exists?)?|the empty set|empty set)")
EVERYTHING = re.compile(r"(?:for )?(?:all|any|every)(?: possible)? (?:reals?(?: numbers?| values?)?)(?: of)?(?: [a-z])?"
                        r"|(?:the )?(?:set of )?(?:all )?real numbers")
_TO_NINETEEN = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen"""
_ONES = {word: i for i, word in enumerate(re.findall("[a-z]+", _TO_NINETEEN))}
_TENS = {word: 10 * i for i, word in enumerate(
    ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)}
# The largest first.
TIMES = {"trillion": 10**12, "billion": 10**9, "crore": 10**7, "million": 10**6, "lakh": 10**5, "thousand": 1000,
         "gross": 144, "hundred": 100, "score": 20, "dozen": 12}
PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
         "eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000}


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
    surely = r"\text" in gold + answer or len(g) > 3 or (is_word(gold) and is_word(answer.title()))
    return g == a and not g.startswith("\0") and len(g) > 1 and surely


def is_word(letters: str) -> bool:
    """Whether bare letters alone are a word, not a product: 4 or more, a capital before small ones, one twice."""
    return (len(letters) > 3 and not letters.isupper()) or (len(letters) == 3 and (
        letters.istitle() or len(set(letters)) < 3))


def number_in_words(found: Sequence[Token]) -> Fraction | None:
    """forty-two, three hundred and five, one half, two thirds; None for other words."""
    words = [token.text.lower() for token in found if token.text != "-"]
    if not words or any(token.kind not in ("word", "letters") and token.text != "-" for token in found):
        return None
    *several, last = words
    part = PARTS.get(last) or PARTS.get(last.removesuffix("s"))
    if part is None:
        return _whole(words)
    number = 1 if several == ["a"] or (not several and last in ("half", "quarter")) else _whole(several)
    return None if number is None else Fraction(number, part)


def _whole(words: Sequence[str]) -> int | None:
    """A whole number: what stands before the largest of its scales, and what stands behind it."""
    for scale, times in TIMES.items():
        if scale in words:
            at = words.index(scale)
            above = 1 if words[:at] == ["a"] else _whole(words[:at])
            rest = words[at + 1 + (words[at + 1:at + 2] == ["and"]):]
            below = _whole(rest) if rest or words[-1] == "and" else 0
            return None if above is None or below is None or below >= times else above * times + below
    values = [_ONES.get(word, _TENS.get(word)) for word in words]
    if None in values or not 0 < len(values) < 3 or (len(values) == 2 and not (values[0] >= 20 and 0 < values[1] < 10)):
        return None
    return sum(values)


def small_number(word: str) -> int | None:
    """eight; None for other words."""
    return _ONES.get(word)
