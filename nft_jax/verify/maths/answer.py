"""What an answer can be. `read.py` makes one of these of the whole text; `compare.py` says which are equal."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nft_jax.verify.maths.nodes import Node
from nft_jax.verify.maths.units import Unit


@dataclass(frozen=True)
class Value:
    """A number or an expression, perhaps with a unit. `decimal` is the number as it was written, where it was a
    decimal; `about` says that a sign of approximation stood before it."""
    node: Node
    unit: Unit | None = None
    percent: bool = False
    decimal: str | None = None
    about: bool = False


@dataclass(frozen=True)
class Items:
    """`kind`: list (no brackets), set, tuple, column, row, matrix and cases (both of rows), [] (square brackets),
    \\land and \\lor (propositions), named (x = 1, y = 2: `names` has x and y)."""
    kind: str
    items: tuple
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """A set of real numbers. `ends` are where it begins and ends, in order. `held` says of the numbers below the
    first end, the first end, the numbers up to the second end, and so on, whether they belong to it. `name` is the
    variable, None where none was written."""
    ends: tuple[Node, ...]
    held: tuple[bool, ...]
    name: str | None = None


@dataclass(frozen=True)
class Sides:
    """name = value = value, or an equation without a name. `node` is left minus right where there are two sides.
    `about` is the decimal behind a final sign of approximation."""
    name: str | None
    values: tuple
    node: Node | None = None
    about: Value | None = None


@dataclass(frozen=True)
class Inequality:
    """`node` < 0, <= 0 or != 0, in more than one variable."""
    sign: str
    node: Node


@dataclass(frozen=True)
class Conditioned:
    """A value for every integer or real value of a variable: 2k pi, k in Z."""
    value: object
    condition: str


@dataclass(frozen=True)
class Choice:
    letter: str
    rest: object = None


@dataclass(frozen=True)
class Ratio:
    terms: tuple[Node, ...]


@dataclass(frozen=True)
class Residue:
    node: Node
    modulus: Node


@dataclass(frozen=True)
class Literal:
    """A time of day, or digits to a base other than ten."""
    written: str


@dataclass(frozen=True)
class Text:
    """What no other kind is: equal only to the same text."""
    words: str


EMPTY = Items("set", ())
REALS, NO_REALS = Region((), (True,)), Region((), (False,))


class Hint(NamedTuple):
    """What the gold says about ambiguous answers."""
    nouns: frozenset[str] = frozenset()
    choice: bool = False
    number: bool = False
    is_gold: bool = False
    natural: bool = False
    ratio: bool = False
