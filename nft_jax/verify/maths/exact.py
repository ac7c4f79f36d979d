"""Exact rational arithmetic on answers: integers of any size, (recurring) decimals, fractions, powers.

`rational` reads a normalised answer as one `fractions.Fraction`; None is anything else. There are no floats.
"""
from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 200_000
"""Bits of numerator and denominator together; anything larger is not written out."""
MAX_FACTORIAL = 5_000
MAX_DIGITS = 4_000
"""Longer runs of digits are compared as strings (`plain_integer`): converting them takes quadratic time."""
MAX_LENGTH = 8_000
MAX_DEPTH = 40

_TOKEN = re.compile(r"""\s*(?:
    (?P<mixed>[0-9]+\s+[0-9]+\s*/\s*[0-9]+)
  | (?P<recurring>(?P<head>[0-9]*\.[0-9]*)(?:\\(?:overline|bar|dot)\s*\{(?P<block>[0-9]+)\}|\((?P<paren>[0-9]+)\)
        |\\dot\s*\{?(?P<first>[0-9])\}?(?P<between>[0-9]*)\\dot\s*\{?(?P<last>[0-9])\}?|\\dot\s*(?P<single>[0-9])))
  | (?P<dotted>[0-9]*\.[0-9]+)\s*\\ldots
  | (?P<scientific>[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+(?![0-9a-zA-Z]))
  | (?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)
  | (?P<word>\\(?:frac|binom|sqrt|cdot|times|div))(?![a-zA-Z])
  | (?P<sign>[-+/^!(){}])
)""", re.VERBOSE)
_INTEGER = re.compile(r"\s*([+-]?)\s*([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)\s*")


class _NotRational(Exception):
    """The text is no exact rational, or one too large to write out."""


def plain_integer(text: str) -> str | None:
    """A literal integer in canonical digits, of any length, without converting it."""
    match = _INTEGER.fullmatch(text)
    if not match:
        return None
    digits = match.group(2).replace(",", "").lstrip("0")
    return ("-" if match.group(1) == "-" and digits else "") + (digits or "0")


def _checked(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise _NotRational
    return value


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent. Raises _NotRational for a fractional exponent or a result too large."""
    if exponent.denominator != 1 or (base == 0 and exponent <= 0):
        raise _NotRational
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and bits * abs(exponent) > MAX_BITS:
        raise _NotRational
    return base ** int(exponent) if abs(exponent) <= MAX_BITS else base ** (int(exponent) % 2)


def recurring(head: str, block: str) -> Fraction:
    """0.1 and 6 give 0.1666... as a fraction."""
    whole, _, digits = head.partition(".")
    start = Fraction(int(whole + digits or "0"), 10 ** len(digits))
    return start + Fraction(int(block), 10 ** len(digits) * (10 ** len(block) - 1))


def _dotted(text: str) -> Fraction:
    """0.333... and 0.1666...: two full periods at the end recur, or three of a single digit."""
    digits = text.partition(".")[2]
    for period in range(1, len(digits) // 2 + 1):
        times, block = (3 if period == 1 else 2), digits[-period:]
        if digits.endswith(block * times):
            return recurring(text, block)
    raise _NotRational


def _scientific(text: str) -> Fraction:
    mantissa, exponent = re.split("[eE]", text)
    if len(exponent) > 6:
        raise _NotRational
    return _checked(Fraction(mantissa.rstrip(".")) * power(Fraction(10), Fraction(int(exponent))))


def _mixed(text: str) -> Fraction:
    """1 4/5: a whole number and a proper fraction."""
    whole, top, bottom = (int(digits) for digits in re.findall("[0-9]+", text))
    if not 0 < top < bottom:
        raise _NotRational
    return whole + Fraction(top, bottom)


class _Reader:
    """Recursive descent over the tokens of one answer: sum > product > signed > power > atom."""

    def __init__(self, text: str):
        self.tokens: list[tuple[str, str, re.Match]] = []
        self.at = 0
        self.depth = 0
        end, text = 0, text.strip()
        while end < len(text):
            match = _TOKEN.match(text, end)
            if not match:
                raise _NotRational
            kind = "recurring" if match.group("recurring") else match.lastgroup
            value = match.group(kind)
            if re.search(f"[0-9]{{{MAX_DIGITS}}}", value):
                raise _NotRational
            self.tokens.append((kind, value, match))
            end = match.end()

    def peek(self) -> str:
        if self.at >= len(self.tokens):
            return ""
        kind, value, _ = self.tokens[self.at]
        return value if kind in ("sign", "word") else kind

    def take(self, *wanted: str) -> bool:
        if self.peek() in wanted:
            self.at += 1
            return True
        return False

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise _NotRational

    def sum(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NotRational
        value = self.product()
        while self.peek() in ("+", "-"):
            plus = self.take("+") or not self.take("-")
            term = self.product()
            value = _checked(value + term if plus else value - term)
        self.depth -= 1
        return value

    def product(self) -> Fraction:
        value, divided = self.signed(), False
        while True:
            if self.take(r"\cdot", r"\times"):
                value *= self.signed()
            elif self.take("/", r"\div"):
                divisor = self.signed()
                if divisor == 0:
                    raise _NotRational
                value, divided = value / divisor, True
            elif self.peek() in ("(", "{", r"\frac", r"\binom", r"\sqrt") and not divided:
                value *= self.power()
            else:
                return _checked(value)
            _checked(value)

    def signed(self) -> Fraction:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take("-") or not self.take("+") else sign
        return sign * self.power()

    def power(self) -> Fraction:
        base = self.atom()
        while self.take("!"):
            if base.denominator != 1 or not 0 <= base <= MAX_FACTORIAL or self.peek() == "!":
                raise _NotRational
            base = Fraction(math.factorial(int(base)))
        if self.take("^"):
            exponent = self.group() if self.peek() == "{" else self.atom()
            if self.peek() in ("^", "!"):
                raise _NotRational
            return _checked(power(base, exponent))
        return base

    def group(self) -> Fraction:
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    def atom(self) -> Fraction:
        if self.at >= len(self.tokens):
            raise _NotRational
        kind, text, match = self.tokens[self.at]
        if text == "{":
            return self.group()
        self.at += 1
        if kind == "number":
            value = Fraction(text.replace(",", "").rstrip("."))
            return value + self._fraction_part(value) if "." not in text else value
        if kind == "mixed":
            return _mixed(text)
        if kind == "scientific":
            return _scientific(text)
        if kind == "dotted":
            return _dotted(match.group("dotted"))
        if kind == "recurring":
            block = match.group("block") or match.group("paren") or match.group("single")
            block = block or match.group("first") + match.group("between") + match.group("last")
            return recurring(match.group("head"), block)
        if text == "(":
            value = self.sum()
            self.expect(")")
            return value
        if text in (r"\frac", r"\binom", r"\sqrt"):
            return self._command(text)
        raise _NotRational

    def _fraction_part(self, whole: Fraction) -> Fraction:
        """A proper \\frac right after an integer makes a mixed number: 1\\frac{4}{5} is 9/5."""
        if self.peek() != r"\frac":
            return Fraction(0)
        start = self.at
        self.at += 1
        top, bottom = self.group(), self.group()
        literal = all(token[1] in "{}" or token[0] == "number" for token in self.tokens[start + 1:self.at])
        if not literal or not 0 < top < bottom or self.peek() in ("^", "!"):
            self.at = start
            return Fraction(0)
        return top / bottom

    def _command(self, name: str) -> Fraction:
        first = self.group()
        if name == r"\sqrt":
            roots = [math.isqrt(part) if part >= 0 else -1 for part in (first.numerator, first.denominator)]
            if first < 0 or [root * root for root in roots] != [first.numerator, first.denominator]:
                raise _NotRational
            return Fraction(*roots)
        second = self.group()
        if name == r"\frac":
            if second == 0:
                raise _NotRational
            return _checked(first / second)
        if first.denominator != 1 or second.denominator != 1 or not 0 <= second <= first <= MAX_FACTORIAL:
            raise _NotRational
        return Fraction(math.comb(int(first), int(second)))


@lru_cache(maxsize=16384)
def rational(text: str) -> Fraction | None:
    """The exact value of a normalised answer of numbers only; None for others, or too large."""
    if len(text) > MAX_LENGTH or not text:
        return None
    try:
        reader = _Reader(text)
        value = reader.sum()
    except (_NotRational, ZeroDivisionError):
        return None
    return value if reader.at == len(reader.tokens) else None
