"""An expression with what may stand beside it: a currency, a unit, a percent sign, words that multiply."""
from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from nft_jax.verify.maths.answer import Hint, Value
from nft_jax.verify.maths.expression import Parser, Token, raw
from nft_jax.verify.maths.nodes import Node, Unreadable, add, divide, exact, mul, num, power, symbols, without_degrees
from nft_jax.verify.maths.units import CURRENCIES, DEGREE, Unit, read_unit, times
from nft_jax.verify.maths.words import PARTS, TIMES, number_in_words

_DECIMAL = re.compile(r"-?[0-9,]*\.[0-9]+|-?[0-9.]+\\(?:times|cdot)10\^-?[0-9]+|-?[0-9.]+[eE]-?[0-9]+")


def read_quantity(found: Sequence[Token], hint: Hint) -> Value:
    """The value of all these tokens. Raises Unreadable where something is left over."""
    found, unit = _currency(found)
    loose = _loose_unit(found, hint)
    if loose is not None:
        node, rest = loose
    else:
        parser = Parser(found, hint.natural)
        node = exact(parser.sum())
        rest = found[parser.at:]
    said = raw(found[:len(found) - len(rest)])
    node, rest = _scaled(node, rest)
    plain = without_degrees(node)
    if plain != node:
        node, unit = plain, unit or DEGREE
    if unit == DEGREE and (parts := re.fullmatch(r"([0-9.]+)'(?:([0-9.]+)'')?", raw(rest))):
        node, rest = add(node, num(Fraction(parts[1]) / 60 + Fraction(parts[2] or 0) / 3600)), ()
    percent = len(rest) > 0 and rest[0].text.lower() in (r"\%", "percent", "pct")
    rest = rest[percent:]
    if rest and rest[0].text == "(" and rest[-1].text == ")" and number_in_words(rest[1:-1]) == node.value:
        rest = ()
    if rest and all(token.text == "'" for token in rest):
        rest = (Token("sign", "'" * len(rest)),)
    if rest:
        node, unit = _with_unit(node, unit, rest, hint)
    return Value(node, unit, percent, said if _DECIMAL.fullmatch(said) else None)


def _currency(found: Sequence[Token]) -> tuple[Sequence[Token], Unit | None]:
    """The tokens without a currency before the number, and the currency."""
    sign = found[0].text == "-" and len(found) > 2
    at = sign + (found[sign].text == "US")
    unit = CURRENCIES.get(found[at].text) if len(found) > at + 1 else None
    return ((*found[:sign], *found[at + 1:]), unit) if unit else (found, None)


def _loose_unit(found: Sequence[Token], hint: Hint) -> tuple[Node, Sequence[Token]] | None:
    """15m, 9.8 m/s^2: letters beside a number without \\text. Beside a space, or where the gold is a bare number,
    they are a unit if all of them are."""
    at = next((i for i, token in enumerate(found) if token.kind == "letters" or token.text == r"\Omega"), None)
    if not at or (found[at - 1].kind != "number" and found[at - 1].text not in ("}", ")", r"\pi")):
        return None
    word = found[at].text
    if word in ("e", "i", "x", "pi") or not (found[at].spaced or hint.number or len(word) > 1):
        return None
    try:
        node = Parser(found[:at], hint.natural).whole()
    except Unreadable:
        return None
    if symbols(node) or (node.value is None and len(word) < 2):
        return None
    known = len(word) > 3 or word.lower() in TIMES or word.lower() in ("pct", "deg") or read_unit(
        found[at:], hint.nouns, hint.is_gold and (len(word) > 2 or word == "M"))
    return (node, found[at:]) if known else None


def _scaled(node: Node, rest: Sequence[Token]) -> tuple[Node, Sequence[Token]]:
    """3 million, 5 dozen, 3 halves, 5 squared."""
    while rest and rest[0].kind in ("word", "letters"):
        word = rest[0].text.lower()
        factor, part = (table.get(word) or table.get(word.removesuffix("s")) for table in (TIMES, PARTS))
        if (factor or part) and node.value is not None:
            node = mul(node, num(factor)) if factor else divide(node, num(part))
        elif word in ("squared", "cubed") and len(rest) == 1:
            node = power(node, num(2 if word == "squared" else 3))
        else:
            break
        rest = rest[1:]
    return node, rest


def _with_unit(node: Node, unit: Unit | None, rest: Sequence[Token], hint: Hint) -> tuple[Node, Unit]:
    """The unit behind a value; several quantities, 2 hours 30 minutes, are added up."""
    at = next((i for i, token in enumerate(rest) if token.kind == "number" and i and rest[i - 1].text not in (
        "^", "{", "-")), None)
    found = read_unit(rest[:at], hint.nouns, hint.is_gold and at is None)
    if found is None:
        raise Unreadable
    if at is not None:
        second = read_quantity(rest[at:], hint)
        if second.unit is None or found.powers != second.unit.powers or not found.powers:
            raise Unreadable
        return add(node, mul(second.node, num(second.unit.scale / found.scale))), found
    return node, times(unit, found) if unit is not None and unit.powers != found.powers else found
