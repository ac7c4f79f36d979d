"""Units, currencies, percents, times of day, ratios, number bases: what can stand beside a number.

A unit may be dropped or added. Where both gold and answer carry one, they must agree: 15 m is not 15 cm.
"""
from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from nft_jax.verify.maths.exact import rational

# Canonical unit -> its other spellings.
_ALIASES = {
    "m": "meter metre", "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre",
    "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile", "g": "gram gm", "kg": "kilogram kilo",
    "mg": "milligram", "lb": "pound lbs", "oz": "ounce", "s": "second sec", "min": "minute mins", "h": "hour hr hrs",
    "day": "days", "week": "wk", "month": "mo", "year": "yr yrs", "l": "liter litre L", "ml": "milliliter mL",
    "deg": "degree degrees", "rad": "radian", "dollar": "dollars USD usd $", "cent": "cents ¢", "euro": "euros €",
    "pound-sterling": "£ GBP", "rupee": "rupees ₹ Rs", "yen": "¥", "mph": "", "kmh": "kmph", "square-unit": "",
    "hz": "hertz Hz", "k": "kelvin K", "j": "joule J", "n": "newton N", "w": "watt W", "v": "volt V", "pa": "pascal Pa",
    "ev": "eV", "kcal": "", "mol": "mole", "acre": "acres", "gal": "gallon gallons", "percent": "percentage pct",
    "people": "persons person", "c": "celsius C", "f": "fahrenheit F", "nm": "nanometer", "khz": "kHz", "mhz": "MHz",
    "kw": "kW", "kwh": "kWh", "mw": "MW", "erg": "ergs", "angstrom": "Å angstroms", "au": "AU", "pc": "parsec",
    "kpc": "",
}
_CANONICAL = {name: unit for unit, names in _ALIASES.items() for name in [unit, *names.split()]}
_MULTIPLIERS = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
                "trillion": 10**12}
# Words beside a number that are no unit.
_NOT_UNITS = frozenset(re.findall("[a-z]+", """
    or and not no nor approximately approx about around nearly almost less more than least most if when where otherwise
    maybe possibly either except wrong base mod modulo remainder am pm times factorial infinity minus plus i e pi half
    is are to from but for any all some true false none both guess answer unknown over divided root degenerate
    undefined negative positive quarter third"""))
# Units that are read without \\text{}.
_PLAIN = ("degrees?|deg|cm|mm|km|kg|mg|ml|mL|ft|lbs?|oz|mph|kmh|mins?|minutes?|seconds?|secs?|hours?|hrs?|days?|weeks?"
          "|months?|years?|inch(?:es)?|feet|foot|yards?|miles?|meters?|metres?|centimeters?|dollars?|cents?|euros?"
          "|units?|square units?|cubic units?|square [a-z]+|cubic [a-z]+|percent|pct|Hz|kHz|rad|radians?|USD|people"
          "|sq\\.? ?[a-z]+")
_TEXT_TAIL = re.compile(
    r"(?:\s*\\text\{[^{}]*\}(?:\s*\^\s*\{?\s*-?[0-9]\s*\}?)?(?:\s*(?:/|\\cdot)(?=\s*\\text))?)+$")
_PLAIN_TAIL = re.compile(rf"(?<=[0-9}})\]])\s*((?:{_PLAIN})(?:\s*(?:/|per)\s*[a-zA-Z]{{1,7}})?"
                         r"(?:\s*\^\s*\{?[23]\}?)?)$")
_WORD_TAIL = re.compile(r"(?<=[0-9}])\s+([a-zA-Z]{3,}(?: [a-zA-Z]{3,}){0,2})$")
_LETTER_TAIL = re.compile(r"(?<=[0-9}])\s*([mgshLJNWVK](?:/[smh])?(?:\s*\^\s*\{?[23]\}?)?)$")
_CURRENCY = re.compile(r"^([+-]?)\s*(?:\\text\{\s*)?(\\\$|\$|€|£|¥|₹|\\(?:pounds?|euro?)(?![a-zA-Z])|USD|US\\\$)"
                       r"(?:\s*\})?\s*(?=[0-9.({\\+-])")
_TIME = re.compile(r"([0-9]{1,2})(?::([0-5][0-9]))?(?::([0-5][0-9]))?\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_CLOCK = re.compile(r"([0-9]{1,2}):([0-5][0-9])")
_BASE = re.compile(r"\(?\s*(?:\\text\{)?\s*([0-9A-Fa-f]+)\s*\}?\s*\)?\s*_\s*\{?\s*\(?\s*(?:\\text\{)?\s*(?:base\s*)?"
                   r"([0-9]{1,2}|[a-z]{3,8})\s*\}?\s*\)?\s*\}?")
_BASE_WORDS = re.compile(r"([0-9A-Fa-f]+)\s*(?:\\text\{)?\s*\(?\s*(?:in )?base[\s}-]*([0-9]{1,2}|[a-z]{3,8})"
                         r"\s*\)?\s*\}?")
_NUMBER_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
                 "eleven": 11, "twelve": 12, "sixteen": 16}


class Quantity(NamedTuple):
    """A number or expression, and its unit."""
    body: str
    unit: str | None        # canonical; None without a unit
    percent: bool = False


def _canonical(raw: str) -> str | None:
    """Canonical unit of the words and exponents after a number; None when they are no unit."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", raw).replace(r"\cdot", " ")
    text = re.sub(r"\bper\b", "/", text)
    text = re.sub(r"\b(?:square|sq\.?)\s+(units?|[a-zA-Z]+)", r"\1^2", text)
    text = re.sub(r"\bcubic\s+(units?|[a-zA-Z]+)", r"\1^3", text)
    text = re.sub(r"([a-zA-Z]+)\s+squared\b", r"\1^2", text)
    text = re.sub(r"([a-zA-Z]+)\s+cubed\b", r"\1^3", text)
    text = re.sub(r"[{}\s]+(?=\^)|(?<=\^)[{\s]+|\}", "", text)
    words = re.findall(r"[a-zA-Z¢$€£¥₹Å]+|/|\^-?[0-9]|\S", text.replace(".", ""))
    out = []
    for word in words:
        if word.lower() in _NOT_UNITS or word.lower() in _MULTIPLIERS:
            return None
        if not re.fullmatch(r"[a-zA-Z¢$€£¥₹Å]+|/|\^-?[0-9]", word):
            return None
        known = _CANONICAL.get(word) or _CANONICAL.get(word.lower()) or _CANONICAL.get(word.lower().rstrip("s"))
        out.append(known or (word.lower()[:-1] if len(word) > 3 and word.lower().endswith("s") else word.lower()))
    if len([word for word in out if word.isalpha()]) > 4 or not out:
        return None
    return " ".join("" if word == "unit" else word for word in out).strip()


def _numeric(text: str) -> bool:
    return rational(text) is not None


@lru_cache(maxsize=16384)
def quantity(text: str) -> Quantity:
    """An answer with its unit taken off. Words are a unit only after what ends like a number."""
    unit = None
    currency = _CURRENCY.match(text)
    if currency:
        mark = currency.group(2)
        unit = {"€": "euro", r"\euro": "euro", "£": "pound-sterling", r"\pounds": "pound-sterling",
                r"\pound": "pound-sterling", "¥": "yen", "₹": "rupee"}.get(mark, "dollar")
        text = currency.group(1) + text[currency.end():].strip()
    if re.search(r"\\%\s*$|\\text\{\s*(?:percent|pct|\\%)\s*\}\s*$|(?<=[0-9} ])percent$", text):
        body = re.sub(r"\\%\s*$|\\text\{\s*(?:percent|pct|\\%)\s*\}\s*$|percent$", "", text).strip()
        return Quantity(body, unit, True)
    tail = _TEXT_TAIL.search(text)
    if tail is None:
        tail = _PLAIN_TAIL.search(text)
        if tail is None and (words := _WORD_TAIL.search(text)) and _numeric(text[:words.start()].strip()):
            tail = words
    if tail is not None and text[:tail.start()].strip():
        body, found = text[:tail.start()].strip(), tail.group()
        times = re.match(r"\s*(?:\\text\{)?\s*(dozen|hundred|thousand|million|billion|trillion)s?\b\s*([^{}]*)\}?(.*)$",
                         found, re.IGNORECASE)
        if times and _numeric(body):
            body = rf"({body})\cdot {_MULTIPLIERS[times.group(1).lower()]}"
            found = times.group(2) + times.group(3)
        canonical = _canonical(found) if found.strip() else None
        if canonical is None and found.strip():
            return Quantity(text, unit)
        if canonical and unit and canonical != unit:
            return Quantity(text, unit)
        return Quantity(body, unit or canonical or None, False)
    return Quantity(text, unit)


def letter_unit(text: str) -> Quantity:
    """A quantity with a one-letter unit without \\text, as in 15m: for bare-number golds."""
    tail = _LETTER_TAIL.search(text)
    if tail and _numeric(text[:tail.start()].strip()):
        return Quantity(text[:tail.start()].strip(), _canonical(tail.group(1)))
    return Quantity(text, None)


def consistent(gold: str | None, answer: str | None) -> bool:
    """Whether two units agree; a missing one agrees with every unit."""
    return gold is None or answer is None or gold == answer


def same_amount(gold: Quantity, gold_value: Fraction, answer: Quantity, answer_value: Fraction) -> bool:
    """Equality of two exact quantities. A percentage equals its value: 50% is 1/2. The answer may drop the sign
    %. It may add the sign where the gold is above 1, so that it can only be a percentage."""
    if not consistent(gold.unit, answer.unit):
        return False
    if gold.percent == answer.percent:
        return gold_value == answer_value
    if gold.percent:
        return answer_value in (gold_value, gold_value / 100)
    return answer_value / 100 == gold_value or (answer_value == gold_value and abs(gold_value) > 1)


def time_of_day(text: str) -> int | None:
    """Seconds since midnight of a time with a.m. or p.m.; None for others."""
    match = _TIME.fullmatch(re.sub(r"\\text\{|\}|~|\\", "", text).strip())
    if not match or not 1 <= int(match.group(1)) <= 12:
        return None
    hours = int(match.group(1)) % 12 + 12 * (match.group(4).lower() == "p")
    return hours * 3600 + int(match.group(2) or 0) * 60 + int(match.group(3) or 0)


def clock(text: str) -> int | None:
    """Seconds since midnight of a time like 16:30; None for others."""
    match = _CLOCK.fullmatch(re.sub(r"\\text\{|\}", "", text).strip())
    return int(match.group(1)) * 3600 + int(match.group(2)) * 60 if match and int(match.group(1)) < 24 else None


def based(text: str) -> tuple[str, int] | None:
    """Digits and base (2 to 36) of 52_8, 52_{\\text{eight}} or 52 base 8; None for others."""
    match = _BASE.fullmatch(text.strip()) or _BASE_WORDS.fullmatch(text.strip())
    if not match or not re.search("[0-9]", match.group(1)):
        return None
    base = _NUMBER_WORDS.get(match.group(2)) or (int(match.group(2)) if match.group(2).isdigit() else 0)
    return (match.group(1).upper().lstrip("0") or "0", base) if 2 <= base <= 36 else None


def ratio(text: str) -> list[Fraction] | None:
    """The terms of a ratio of 2 to 6 exact numbers, a:b or a:b:c; None for others."""
    parts = text.split(":")
    if not 2 <= len(parts) <= 6:
        return None
    terms = [rational(part.strip()) for part in parts]
    return None if any(term is None for term in terms) else terms
