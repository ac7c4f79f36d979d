"""Units: a closed list. What stands beside a number and is not in it makes the answer text.

A unit is a scale and a power of every base unit: 1 km/h is (1000/3600, m s^-1). Two quantities with units are
compared by value; a unit that only one side has is dropped. Counted things (apples, ways) are units too.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from nft_jax.verify.maths.expression import Token, word_set

_PREFIXES = {"n": -9, "µ": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9, "T": 12}
_LONG_PREFIXES = {"nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "kilo": 3, "mega": 6, "giga": 9}
# name -> (scale, base units), the symbols and the words that take a prefix.
_SI = {"m": "m meter metre", "g": "g gram gm", "s": "s second sec", "A": "A ampere amp", "K": "K kelvin",
       "mol": "mol mole", "J": "J joule", "N": "N newton", "W": "W watt", "V": "V volt", "Pa": "Pa pascal",
       "Hz": "Hz hertz", "eV": "eV", "L": "L l liter litre", "ohm": "ohm Ω", "C": "C coulomb", "F": "F farad",
       "T": "T tesla", "pc": "pc parsec", "B": "byte", "cal": "cal calorie"}
_DERIVED = {"J": (1000, {"g": 1, "m": 2, "s": -2}), "N": (1000, {"g": 1, "m": 1, "s": -2}),
            "W": (1000, {"g": 1, "m": 2, "s": -3}), "Pa": (1000, {"g": 1, "m": -1, "s": -2}), "Hz": (1, {"s": -1}),
            "V": (1000, {"g": 1, "m": 2, "s": -3, "A": -1}), "ohm": (1000, {"g": 1, "m": 2, "s": -3, "A": -2}),
            "L": (Fraction(1, 1000), {"m": 3})}
# Other units: name -> (scale, base, spellings).
_OTHER = {
    "min": (60, "s", "minute mins"), "h": (3600, "s", "hour hr hrs"), "day": (86400, "s", "d"),
    "week": (604800, "s", "wk"),
    "month": (1, "month", "mo"), "year": (12, "month", "yr yrs"), "in": ("0.0254", "m", "inch inches"),
    "ft": ("0.3048", "m", "foot feet"), "yd": ("0.9144", "m", "yard"), "mi": ("1609.344", "m", "mile"),
    "lb": ("453.59237", "g", "pound lbs"), "oz": ("28.349523125", "g", "ounce"), "ton": (1, "ton", "tonne"),
    "gal": (1, "gallon", "gallon"), "quart": (1, "quart", "qt"), "pint": (1, "pint", "pt"), "cup": (1, "cup", ""),
    "acre": (1, "acre", ""), "deg": (1, "degree", "degree degrees"),
    "arcminute": (Fraction(1, 60), "degree", "'"), "arcsecond": (Fraction(1, 3600), "degree", "''"),
    "rad": (1, "radian", "radian"),
    "dollar": (1, "dollar", r"usd USD $ \$ buck"), "cent": ("0.01", "dollar", "¢"),
    "penny": ("0.01", "dollar", "pennies"), "euro": (1, "euro", "€ EUR"), "£": (1, "sterling", "GBP"),
    "yen": (1, "yen", "¥"), "yuan": (1, "yuan", "RMB 元"), "rupee": (1, "rupee", "₹ Rs"), "peso": (1, "peso", ""),
    "celsius": (1, "celsius", ""), "fahrenheit": (1, "fahrenheit", ""), "Å": (1, "Å", "angstrom"),
    "au": (1, "au", "AU"),
    "erg": (1, "erg", ""), "mph": (Fraction("1609.344") / 3600, "m s^-1", ""),
    "kmh": (Fraction(1000, 3600), "m s^-1", "kmph kph"), "rpm": (1, "rpm", ""),
    "wh": (1, "wh", "Wh"), "kWh": (1000, "wh", "kwh"),
    "unit": (1, "", ""), "people": (1, "people", "person persons"),
}
# Things that answers count. Plurals are made by rule.
_COUNTED = word_set("""apple orange banana pear peach plum lemon egg cookie cake pie slice piece candy chocolate pizza
    cupcake muffin donut sandwich bottle jar bag box basket carton pack packet card coin stamp marble ball toy doll
    book page chapter word letter pencil pen crayon marker paper sheet note ticket seat chair table desk room house
    floor stair step shelf window door car truck bus bike bicycle boat train plane wheel tire student child kid
    boy girl man woman friend adult teacher player member worker employee guest customer visitor passenger family
    team group class school way method arrangement permutation combination choice outcome case pair triple subset set
    solution value integer number digit element term point vertex edge face side line triangle rectangle
    circle diagonal angle factor divisor multiple path route trip game match round win loss
    goal score vote question problem test lesson song video picture photo flower tree plant rose seed leaf bird dog
    cat cow chicken pig horse sheep goat fish duck rabbit animal insect bee ant spider leg brick tile stone block
    shirt dress hat shoe sock glove coat pant button bead necklace ring time lap mile hit shot serving meal bite cup
    spoon plate glass bowl tray row column bunch stack pile fence post board rope ribbon inhabitant dot star""")
_FILLERS = word_set("of the a total different distinct possible such old")
# Words that change a number: nothing that a gold says makes them units.
NEVER = word_set("""or and not no nor approximately approx about around nearly almost less more than least most if when
    where otherwise maybe possibly either except wrong base mod modulo remainder am pm a.m. p.m. a.m p.m plus minus
    factorial infinity is are to from but for any all some true false none both guess answer unknown over
    divided undefined negative positive half quarter third squared cubed percent dozen hundred thousand million
    billion trillion lakh crore score point recurring repeating below above under root per unless versus vs ths
    th debt googol inverse inverses reciprocal square squares root roots cube cubes power powers log opposite""")


class Unit(NamedTuple):
    """Scale to its base units, and their powers; no powers is a pure number."""
    scale: Fraction
    powers: tuple[tuple[str, int], ...]


def _table() -> dict[str, Unit]:
    out = {}
    for name, spellings in _SI.items():
        scale, powers = _DERIVED.get(name, (1, {name: 1}))
        symbols, powers = spellings.split(), tuple(sorted(powers.items()))
        for word in symbols:
            short = len(word) < 4 and word not in ("gm", "sec", "amp")
            prefixes = {} if name == "B" else _PREFIXES if short else _LONG_PREFIXES
            for prefix, exponent in ("", 0), *prefixes.items():
                out[prefix + word] = Unit(Fraction(scale) * Fraction(10) ** exponent, powers)
    for name, (scale, base, spellings) in _OTHER.items():
        powers = tuple(sorted((part.partition("^")[0], int(part.partition("^")[2] or 1)) for part in base.split()))
        for word in (name, *spellings.split()):
            out[word] = Unit(Fraction(scale), powers)
    out["cc"] = Unit(Fraction(1, 10**6), (("m", 3),))
    return out


UNITS = _table()
DEGREE, RADIAN, DOLLAR = UNITS["deg"], UNITS["rad"], UNITS["dollar"]
CURRENCIES = {"$": DOLLAR, r"\$": DOLLAR, "€": UNITS["euro"], r"\euro": UNITS["euro"], "£": UNITS["£"],
              r"\pounds": UNITS["£"], r"\pound": UNITS["£"], "¥": UNITS["yen"], "₹": UNITS["rupee"],
              "USD": DOLLAR}


def _singular(word: str) -> list[str]:
    """Words that a plural may come from, the word itself first."""
    out = [word]
    if word.endswith("s") and len(word) > 2:
        out.append(word[:-1])
    if word.endswith("es"):
        out.append(word[:-2])
    if word.endswith("ies"):
        out.append(word[:-3] + "y")
    if word.endswith("ves"):
        out.append(word[:-3] + "f")
    return out + {"men": ["man"], "women": ["woman"], "children": ["child"], "vertices": ["vertex"],
                  "mice": ["mouse"]}.get(word, [])


@lru_cache(maxsize=4096)
def unit_of(word: str, extra: frozenset[str] = frozenset()) -> Unit | None:
    """The unit of one word or symbol; `extra` are the nouns of the gold."""
    for form in _singular(word):
        if form in UNITS and (form == word or len(form) > 2):
            return UNITS[form]
    lower = word.lower()
    for form in _singular(lower):
        if len(lower) > 2 and form in UNITS:
            return UNITS[form]
        if form in _COUNTED:
            return Unit(Fraction(1), ((form, 1),))
    known = word if word == "M" else lower
    return Unit(Fraction(1), ((_singular(known)[-1], 1),)) if known in extra else None


def times(a: Unit, b: Unit, power: int = 1) -> Unit:
    powers = dict(a.powers)
    for name, exponent in b.powers:
        powers[name] = powers.get(name, 0) + exponent * power
    return Unit(a.scale * b.scale ** power, tuple(sorted((name, n) for name, n in powers.items() if n)))


PURE = Unit(Fraction(1), ())


_SPELLINGS = tuple((re.compile(pattern), new) for pattern, new in (
    (r" \^ (?:\{ (-?) ?([0-9]) \}|(-?) ?([0-9])(?= |$))", r"^\1\2\3\4"),
    (r"\\frac \{ ([^{}]*) \} \{ ([^{}]*) \}", r"\1 / \2"), (r"(?:^| )(?:\\cdot|\\times|\.)(?= |$)", ""),
    (" squared", "^2"), (" cubed", "^3"), (" in total$", ""), (r"\\Omega", "ohm"),
    (r"\bdegrees [cC]\w*", "celsius"), (r"\bdegrees [fF]\w*", "fahrenheit")))
_FACTOR = re.compile(r"\s*(?:(sq|cu)(?:uare|bic)?(?: \.)? )?([^\s^]+)(?:\^(-?[0-9]))?(?: |$)", re.IGNORECASE)


def _product(said: str, extra: frozenset[str]) -> Unit | None:
    """A product of units, with powers and slashes: m / s^2, square feet, miles per hour."""
    for pattern, new in _SPELLINGS:
        said = pattern.sub(new, said)
    unit, sign, known, pure, at = PURE, 1, False, True, 0
    while at < len(said):
        match = _FACTOR.match(said, at)
        if not match:
            return None
        dimension, word, exponent = match.groups()
        at = match.end()
        if word in ("/", "per") and known:
            sign = -1
        elif word.lower() not in _FILLERS or " " not in said:
            one = None if word.lower() in NEVER else unit_of(word, extra)
            if one is None:
                return None
            power = {None: 1, "s": 2, "c": 3}[dimension and dimension[0].lower()] * int(exponent or 1)
            unit, known, pure = times(unit, one, sign * power), True, pure and not one.powers
    # cm/m is no unit.
    return unit if known and (unit.powers or pure) else None


def read_unit(found: Sequence[Token], extra: frozenset[str] = frozenset(), is_gold: bool = False) -> Unit | None:
    """The unit that all these tokens make; None when they are none. The words beside a gold's number are units,
    whatever they are, unless they change the number."""
    if len(found) > 2 and (found[0].text, found[-1].text) in (("(", ")"), ("{", "}")):
        found = found[1:-1]
    if len(found) > 20 or (found[0].text in ("'", "''") and found[0].text not in extra and not is_gold):
        return None
    unit = _product(" ".join(token.text for token in found), nouns(found) & {"M"} if is_gold else extra)
    if unit is None and is_gold and all(token.kind in ("word", "letters") and len(token.text) > 1 for token in found):
        names = {_singular(token.text.lower())[-1] for token in found if token.text.lower() not in _FILLERS}
        if names and not any(token.text.lower() in NEVER for token in found):
            return Unit(Fraction(1), tuple(sorted((name, 1) for name in names)))
    return unit


def nouns(found: Sequence[Token]) -> frozenset[str]:
    """The words of a gold that an answer may repeat beside its number."""
    words = [token.text.lower() for token in found if (token.kind == "word" and token.text[1:])
             or (token.kind == "letters" and token.text[3:])]
    marks = {token.text for token in found if token.text in ("'", "M")}
    return frozenset(form for word in words if word not in NEVER for form in _singular(word)) | marks
