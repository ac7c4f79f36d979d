"""What may stand before = without being an equation: letters, segments, f(x), P(...), |z|, the area of ABC."""
from __future__ import annotations

import re
from collections.abc import Sequence

from nft_jax.verify.maths.expression import GREEK, Parser, Token, matching, raw, spelled, word_set
from nft_jax.verify.maths.units import NEVER, unit_of

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
SIMPLE = re.compile(_SIMPLE)
NAMES = re.compile(rf"\({_SIMPLE}(?:,{_SIMPLE})+\)")
_NAME = re.compile(rf"(?:{_UNIT}|{_ANGLE}|\|{_UNIT}\||\\\|{_UNIT}\\\||\\(?:sin|cos|tan|cot|sec|csc){_ANGLE}"
                   rf"|\\(?:sin|cos|tan|cot|sec|csc)\({_ANGLE}\)"
                   rf"|{_SIMPLE}(?:\+{_SIMPLE})+|{_UNIT}(?::{_UNIT})+|{_SEGMENT}/{_SEGMENT}|{NAMES.pattern})")
_QUOTIENT = re.compile(rf"\\frac(?:{_SEGMENT}|{_ACCENTED})/(?:{_SEGMENT}|{_ACCENTED})")
_ARGUMENT = rf"-?(?:{_LETTER}|[0-9]+)"
_FUNCTION = re.compile(rf"{_SIMPLE}(?P<inverse>\^-1)?\((?P<args>{_ARGUMENT}(?:,{_ARGUMENT})*)\)")
_EVENT = re.compile(r"(?:P|Pr|\\Pr|E|Var|\\mathbb\s?[EP])([(\[].+[)\]])")


def name_of(found: Sequence[Token]) -> str | None:
    """The name that these tokens are, or None."""
    if not found or len(found) > 24:
        return None
    said = spelled(found)
    event, function = _EVENT.fullmatch(said), _FUNCTION.fullmatch(said)
    words = [token for token in found if (token.kind == "word" and len(token.text) > 1)
             or (token.kind == "letters" and token.text.lower() in _QUANTITIES)]
    if words and not event and not any(token.text == "_" for token in found):
        return _in_words(found, words)
    if found[0].text == r"\frac":
        return _fraction(found)
    if event and not re.search(r"(?<!\\)\b[A-Za-z0-9]", event[1]):
        return None
    if function and function["inverse"] and re.search("[0-9]", function["args"]):
        return None
    # NOT and WRONG are no segments, ABCD is one.
    if said.isalpha() and said.isupper() and (said.lower() in NEVER or (said[3:] and list(said) != sorted(said))):
        return None
    known = _NAME.fullmatch(said) and len({*said.split("+")}) == said.count("+") + 1
    return said if known or function or event else None


def _in_words(found: Sequence[Token], words: Sequence[Token]) -> str | None:
    """The area of the circle; None where no word is a quantity, or another one is unknown."""
    known = all(token.text.lower() in _QUANTITIES | _OF or token.text.isupper() or unit_of(token.text.lower())
                for token in words)
    asked = any(token.text.lower() in _QUANTITIES for token in words)
    others = [token for token in found if token not in words and token.kind != "letters" and (
        token.text not in (r"\triangle", r"\angle"))]
    return "\\text " + raw(found) if known and asked and not others else None


def _fraction(found: Sequence[Token]) -> str | None:
    """AB/CD of segments, or a derivative."""
    middle = matching(found, 1)
    if matching(found, middle + 1) != len(found) - 1:
        return None
    said = f"{raw(found[:middle + 1])}/{raw(found[middle + 1:])}"
    if _QUOTIENT.fullmatch(said):
        return said.removeprefix(r"\frac")
    node = Parser(found).whole()
    return node.args[0] if node.op == "sym" else None
