"""Numbers may refute, only algebra may prove: values of expressions at points, and exact zero tests.

`refuted` evaluates both sides at points that are random for each pair (from a digest of both, so the same on every
machine) and looks for a difference that stays when the precision doubles. `proved` replaces names and
transcendental numbers by random integers in the normal form of the difference. What is left is an algebraic
number. If it is not zero, the product of its conjugates is at least 1, which bounds it from below:
|n| >= u^(1-D) for an algebraic integer of degree D whose conjugates are at most u. A smaller value is zero.

Only workers import this module.
"""
from __future__ import annotations

import hashlib
import itertools
import math
import random
from fractions import Fraction
from functools import lru_cache

import mpmath
from mpmath import mp

from nft_jax.verify.maths.expression import HALF, PI, Node, add, call, divide, mul, negative, num, power, symbols
from nft_jax.verify.maths.normal import Hard, Quotient, mentioned, normal, plus, text, thaw

DIGITS = 40
MAX_BITS = 60_000
"""Precision at which an exact zero test gives up."""
LARGEST = 10**7
"""Exponents and arguments of factorials beyond it have no value here."""
PIECEWISE = frozenset(("abs", "max", "min", "floor", "ceil", "sgn", "gcd", "lcm"))
_INVERSE = {"arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan, "arccot": mp.acot, "arcsec": mp.asec,
            "arccsc": mp.acsc, "arcsinh": mp.asinh, "arccosh": mp.acosh, "arctanh": mp.atanh}
_DIRECT = {"sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "sinh": mp.sinh,
           "cosh": mp.cosh, "tanh": mp.tanh, "coth": mp.coth}


class Undefined(Exception):
    """No value: 0/0, \\ln 0, or one too large to compute."""


class Outside(Exception):
    """The point is outside of the real domain."""


def generator(a: object, b: object) -> random.Random:
    """Random numbers for a pair: the same ones everywhere."""
    said = f"{text(a)}\0{text(b)}".encode("utf-8", "backslashreplace")
    return random.Random(hashlib.sha256(said).digest())


# Values at a point.

def value(node: Node, point: dict[str, Fraction]):
    """The value, a real or complex number of mpmath's. Raises Undefined, and Outside where a part with names in it
    is not real."""
    op, args = node
    if op == "num":
        return mp.mpf(args[0].numerator) / args[0].denominator
    if op == "sym":
        name = args[0]
        if name in point:
            return mp.mpf(point[name].numerator) / point[name].denominator
        return {r"\pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[name]
    if op == "add":
        return mp.fsum(value(arg, point) for arg in args)
    if op == "mul":
        return mp.fprod([value(arg, point) for arg in args])
    if op == "pow":
        return _power(node, point)
    if op == "call":
        return _call(args[0], [value(arg, point) for arg in args[1:]], bool(symbols(node)))
    raise Undefined


def _power(node: Node, point):
    base, n = value(node.args[0], point), node.args[1].value
    if not base:
        exponent = value(node.args[1], point)
        if mp.re(exponent) <= 0:
            raise Undefined
        return mp.mpf(0)
    exponent = value(node.args[1], point)
    if abs(exponent) * (1 + abs(mp.log(abs(base)))) > LARGEST:
        raise Undefined
    if mp.im(base) == 0 and mp.re(base) < 0 and mp.im(exponent) == 0:
        base = mp.re(base)
        if n is None and mp.isint(exponent):
            n = Fraction(int(exponent))
        if n is not None and n.denominator % 2:
            return (-1) ** (n.numerator % 2) * mp.power(-base, mp.re(exponent))
        if symbols(node):
            raise Outside
    return mp.power(base, exponent)


def _call(name: str, args: list, named: bool):
    x = args[0]
    is_real = all(mp.im(arg) == 0 for arg in args)
    if name == "ln":
        if not x:
            raise Undefined
        if named and (not is_real or mp.re(x) < 0):
            raise Outside
        return mp.log(x)
    if name == "abs":
        return abs(x)
    if name in ("floor", "ceil", "max", "min", "sgn", "gcd", "lcm"):
        if not is_real:
            raise Undefined
        return _stepped(name, [mp.re(arg) for arg in args])
    if name == "fact":
        if not is_real or abs(x) > LARGEST // 100 or (mp.re(x) < 0 and mp.isint(mp.re(x))):
            raise Undefined
        return mp.gamma(x + 1)
    if name in _DIRECT:
        if abs(x) > LARGEST:
            raise Undefined
        return _DIRECT[name](x)
    if name in _INVERSE:
        found = _INVERSE[name](x)
        if named and mp.im(found) != 0:
            raise Outside
        return found
    if name == "degrees":
        return x
    # An unknown function: any number that depends on its arguments only.
    digest = hashlib.sha256((name + "".join(mp.nstr(arg, 15) for arg in args)).encode()).digest()
    return mp.mpf(int.from_bytes(digest[:4], "big") + 1) / 2**31


def _stepped(name: str, args: list):
    if name in ("max", "min"):
        return max(args) if name == "max" else min(args)
    if name == "sgn":
        return mp.sign(args[0])
    nearest = [mp.nint(arg) for arg in args]
    whole = [abs(arg - near) < mp.mpf(10) ** (-mp.dps // 2) for arg, near in zip(args, nearest, strict=True)]
    if name in ("gcd", "lcm"):
        if not all(whole):
            raise Undefined
        return mp.mpf({"gcd": math.gcd, "lcm": math.lcm}[name](*map(int, nearest)))
    return nearest[0] if whole[0] else mp.floor(args[0]) if name == "floor" else mp.ceil(args[0])


def _differs(a: Node, b: Node, point, digits: int) -> bool | None:
    """Whether the values differ for sure; None where both have none."""
    found = []
    for precision in (digits, 2 * digits):
        with mpmath.workdps(precision):
            sides = []
            for node in (a, b):
                try:
                    side = value(node, point)
                    sides.append(None if mp.isnan(side) or mp.isinf(side) else side)
                except (Undefined, ZeroDivisionError, ValueError, OverflowError, mp.NoConvergence):
                    sides.append(None)
            if sides == [None, None]:
                return None
            if None in sides:
                return True
            gap = abs(sides[0] - sides[1])
            if gap <= mp.mpf(10) ** (-precision * 4 // 5) * max(abs(sides[0]), mp.mpf(10) ** -precision):
                return False
            found.append(gap)
    return bool(abs(found[0] - found[1]) < found[0] / 10)


def constants(node: Node) -> set[Fraction]:
    """The numbers in an expression."""
    if node.op == "num":
        return {node.args[0]}
    return set().union(*(constants(arg) for arg in node.args if isinstance(arg, Node))) if node.op != "sym" else set()


def calls(node: Node) -> set[str]:
    """The names of the functions in an expression."""
    inner = set().union(*(calls(arg) for arg in node.args if isinstance(arg, Node)), set())
    return inner | {node.args[0]} if node.op == "call" else inner


def points(a: Node, b: Node, names: list[str], rng: random.Random) -> list[dict[str, Fraction]]:
    """Points of both signs and many sizes; integers among them; around the numbers in the expressions, where the
    kinks of piecewise functions are."""
    piecewise = bool((calls(a) | calls(b)) & PIECEWISE)
    numbers = sorted({abs(n) for n in constants(a) | constants(b)})[:12]
    kinks = [sign * n for n in numbers for sign in (1, -1)] + [p * q for p in numbers[:6] for q in numbers[:6]]
    kinks += [p / q for p in numbers[:6] for q in numbers[:6] if q]

    def one(kind: int) -> Fraction:
        if kind == 0:
            return Fraction(rng.randint(2, 40))
        if kind == 1:
            return Fraction(rng.randint(1, 10**6), 10**5 + 3)
        if kind == 2:
            return -Fraction(rng.randint(1, 10**6), 10**5 + 3)
        if kind == 3:
            return rng.choice((1, -1)) * Fraction(rng.randint(10**3, 10**9), rng.randint(1, 997))
        if kind == 4:
            return rng.choice(kinks or [Fraction(0)]) + Fraction(rng.randint(-10**4, 10**4), 9973)
        return rng.choice((1, -1)) * Fraction(rng.randint(1, 10**6), 10**6)

    rounds = 8 if piecewise else 2
    exact = [{name: rng.choice(kinks) for name in names} for _ in range(24)] if piecewise and kinks else []
    exact += [dict.fromkeys(names, kink) for kink in kinks[:40]] if piecewise else []
    out = [*exact] + [{name: one(kind) for name in names} for kind in (0, 1, 2, 4, 5, 1, 3)[:7] for _ in range(rounds)]
    return out + [{name: one(rng.randrange(6)) for name in names} for _ in range(4 * rounds)]


def refuted(a: Node, b: Node) -> bool:
    """Whether the values differ somewhere. Constants get more digits until they do."""
    names = sorted(symbols(a) | symbols(b))
    if not names:
        return any(_differs(a, b, {}, digits) is not False for digits in (DIGITS, 5 * DIGITS, 20 * DIGITS))
    for point in points(a, b, names, generator(a, b)):
        try:
            if _differs(a, b, point, DIGITS):
                return True
        except Outside:
            continue
    return False


# Exact zero tests.

class _Number:
    """A value, and logarithms to base 2 of what bounds the conjugates of its numerator and of its denominator."""
    __slots__ = ("bottom", "top", "value")

    def __init__(self, value, top: float, bottom: float):
        self.value, self.top, self.bottom = value, max(top, 0.0), max(bottom, 0.0)


class _Test:
    """One assignment of random integers to everything that is free, at one precision. A free positive number is the
    `order`-th power of an integer, so that its fractional powers are integers too."""

    def __init__(self, rng: random.Random, order: int, fixed: dict[str, Fraction], signs: dict):
        self.rng, self.fixed, self.signs, self.free, self.degree = rng, fixed, signs, {}, 1
        self.radicals, self.need = {}, 64.0
        self.order, self.wanted_order = order, order

    def integer(self, key, signed: bool) -> int:
        if key not in self.free:
            self.free[key] = self.rng.randint(2, 2**16) * (self.rng.choice((1, -1)) if signed else 1)
        return self.free[key]

    def number(self, x: Fraction) -> _Number:
        if x.numerator.bit_length() + x.denominator.bit_length() > MAX_BITS:
            raise Undefined
        return _Number(mp.mpf(x.numerator) / x.denominator, abs(x.numerator).bit_length(), x.denominator.bit_length())

    def is_zero(self, x: _Number) -> bool:
        """Exact where the precision is high enough; `need` says what it must be."""
        bits = (self.degree - 1) * x.top + x.bottom + 8
        self.need = max(self.need, 2 * bits + x.top + x.bottom + 64)
        if self.need > MAX_BITS:
            raise Undefined
        return abs(x.value) < mp.mpf(2) ** -bits

    def quotient(self, x: Quotient) -> _Number:
        top, bottom = self.poly(x.top), self.poly(x.bottom)
        if self.is_zero(bottom):
            raise Outside
        return _Number(top.value / bottom.value, top.top + bottom.bottom, top.bottom + bottom.top)

    def poly(self, poly) -> _Number:
        total = self.number(Fraction(0))
        for monomial, x in poly.items():
            term = self.number(x)
            for name, exponent in monomial:
                part = self.atom(name, exponent)
                term = _Number(term.value * part.value, term.top + part.top, term.bottom + part.bottom)
            total = _Number(total.value + term.value, max(total.top + term.bottom, term.top + total.bottom) + 1,
                            total.bottom + term.bottom)
        return total

    def atom(self, name, exponent: Fraction) -> _Number:
        if isinstance(name, int):
            return self.root(("prime", name), self.number(Fraction(name)), exponent)
        if name == "i":
            self.radicals.setdefault("i", 2)
            return self.settled(_Number(mp.mpc(0, 1), 0, 0))
        if name == "turn":
            self.radicals[("turn", exponent.denominator)] = 2 * exponent.denominator
            return self.settled(_Number(mp.expjpi(mp.mpf(exponent.numerator) / exponent.denominator), 0, 0))
        if isinstance(name, str) and name not in ("e", r"\pi"):
            base = self.number(self.fixed[name] if name in self.fixed else Fraction(self.integer(name, True)))
            return self.root(name, base, exponent)
        if isinstance(name, tuple) and name[0] == "root":
            return self.root(name, self.quotient(thaw(name[1])), exponent)
        if isinstance(name, tuple) and name[0] == "abs":
            # The sign was decided for the region.
            inner = self.quotient(thaw(name[1]))
            return self.raised(_Number(self.signs[name] * inner.value, inner.top, inner.bottom), exponent)
        # Transcendental numbers, exponentials, unknown functions: one free positive number each.
        base = self.integer(name, False)
        self.wanted_order = math.lcm(self.wanted_order, exponent.denominator)
        steps = exponent * self.wanted_order
        if self.wanted_order > 60 or abs(steps) * base.bit_length() > MAX_BITS // 8:
            raise Undefined
        return self.number(Fraction(base) ** int(steps))

    def settled(self, x: _Number) -> _Number:
        self.degree = math.prod(self.radicals.values())
        return x

    def raised(self, x: _Number, exponent: Fraction) -> _Number:
        n = int(exponent)
        if exponent.denominator != 1 or abs(n) > 1000:
            raise Undefined
        if n < 0 and self.is_zero(x):
            raise Outside
        powers = (x.top * abs(n), x.bottom * abs(n))
        return _Number(x.value ** n, *(powers if n >= 0 else powers[::-1]))

    def root(self, key, base: _Number, exponent: Fraction) -> _Number:
        """A real root of a real number. Raises Outside where there is none."""
        q = exponent.denominator
        if q == 1:
            return self.raised(base, exponent)
        if q > 60:
            raise Undefined
        if abs(mp.im(base.value)) > mp.mpf(2) ** (-mp.prec // 2):
            raise Outside
        x = mp.re(base.value)
        if self.is_zero(_Number(x, base.top, base.bottom)):
            x = mp.mpf(0)
        if x < 0 and q % 2 == 0:
            raise Outside
        self.radicals[key, q] = q
        root = -mp.root(-x, q) if x < 0 else mp.root(x, q)
        found = _Number(root, (base.top + (q - 1) * base.bottom) / q, base.bottom)
        return self.raised(self.settled(found), Fraction(exponent.numerator))


def _zero_at(gap: Quotient, seed: int, fixed: dict[str, Fraction], signs: dict) -> bool | None:
    """Whether the difference is zero at one random assignment, exactly; None outside of the domain."""
    bits, order = 256, 1
    while True:
        test = _Test(random.Random(seed), order, fixed, signs)
        with mpmath.workprec(bits):
            try:
                found = test.is_zero(test.poly(gap.top))
            except Outside:
                found = None
        if test.need <= bits and test.wanted_order == order:
            return found
        bits, order = max(bits, int(test.need) + 64), test.wanted_order


def _always_zero(gap: Quotient, rng: random.Random, places: list[dict[str, Fraction]], signs: dict) -> bool:
    """Whether the difference is zero at all these places that are in the domain, and at two of them at least."""
    told = [_zero_at(gap, rng.getrandbits(64), place, signs) for place in places]
    return False not in told and told.count(True) >= min(2, len(told))


def proved(a: Node, b: Node) -> bool:
    """Whether the two are equal. Without |x| and even roots of sums, zeros at random places are a proof. With them,
    each region where no sign changes is looked at: of one name, the intervals between the kinks; of several names,
    every choice of signs."""
    left, right = normal(settled(a)), normal(settled(b))
    if left is None or right is None:
        return False
    try:
        gap, rng = plus(left, right, -1), generator(b, a)
        if not gap.top:
            return True
        atoms = _atoms(gap)
        if any(name[0] in ("floor", "ceil", "sgn", "gcd", "lcm") for name in atoms):
            return False
        names = sorted(symbols(a) | symbols(b))
        bends = [name for name in atoms if name[0] == "abs"]
        roots = [thaw(name[1]) for name in atoms if name[0] == "root" and (mentioned(name[1]) & set(names))]
        roots = [root for root in roots if root.term is None]
        if not bends and not roots:
            return _always_zero(gap, rng, [{}] * (8 if names else 3), {})
        if len(names) == 1:
            return _zero_between_kinks(gap, rng, names[0], bends, roots)
        if roots or len(bends) > 5 or not names:
            return False
        return all(_always_zero(gap, rng, [{}] * 4, dict(zip(bends, signs, strict=True)))
                   for signs in itertools.product((1, -1), repeat=len(bends)))
    except (Undefined, Hard, OverflowError, ZeroDivisionError, ValueError, mp.NoConvergence):
        return False


def _atoms(gap: Quotient) -> list[tuple]:
    """The functions in a quotient, those in their arguments too."""
    out: dict[tuple, None] = {}
    for poly in (gap.top, gap.bottom):
        for monomial in poly:
            for name, _ in monomial:
                if isinstance(name, tuple) and name[0] in ("abs", "root", "floor", "ceil", "sgn", "gcd", "lcm"):
                    out[name] = None
                    for part in name[1:]:
                        out |= dict.fromkeys(_atoms(thaw(part)))
    return [*out]


def _zero_between_kinks(gap: Quotient, rng: random.Random, name: str, bends: list, roots: list[Quotient]) -> bool:
    """Whether the difference in one name is zero in each interval between the roots of what changes its sign."""
    kinks: list = [mp.mpf(0)]
    with mpmath.workdps(60):
        for part in [thaw(bend[1]) for bend in bends] + roots:
            kinks += _real_roots(part, name)
        kinks.sort()
        edges = [kinks[0] - 1000, *kinks, kinks[-1] + 1000]
        for low, high in itertools.pairwise(edges):
            if high - low < mp.mpf(10) ** -40:
                continue
            places = [Fraction(int(mp.floor((low + (high - low) * rng.randint(1, 999) / 1000) * 2**200)), 2**200)
                      for _ in range(3)]
            signs = {}
            for bend in bends:
                sides = [mp.sign(_actual(thaw(bend[1]), {name: place})) for place in places]
                if len(set(sides)) > 1:
                    return False
                signs[bend] = int(sides[0])
            told = [_zero_at(gap, rng.getrandbits(64), {name: place}, signs) for place in places]
            # Outside of the domain nothing needs to hold.
            if False in told or (None in told and True in told):
                return False
    return True


def _real_roots(part: Quotient, name: str) -> list:
    """The real roots and poles of a polynomial with constant coefficients. Raises Undefined for other functions."""
    out = []
    for poly in (part.top, part.bottom):
        lowest = min(Fraction(0), *(dict(m).get(name, Fraction(0)) for m in poly))
        degrees: dict[int, object] = {}
        for monomial, x in poly.items():
            powers = dict(monomial)
            degree = powers.pop(name, Fraction(0)) - lowest
            if degree.denominator > 1 or name in mentioned(frozenset(powers.items())):
                raise Undefined
            value = _actual(Quotient({frozenset(powers.items()): x}), {})
            degrees[int(degree)] = degrees.get(int(degree), 0) + value
        top = max(degrees)
        if top:
            found = mp.polyroots([degrees.get(i, 0) for i in range(top, -1, -1)], maxsteps=200, extraprec=200)
            out += [mp.re(root) for root in found if abs(mp.im(root)) < mp.mpf(10) ** -15 * (1 + abs(root))]
    return out


def _actual(part: Quotient, point: dict[str, Fraction]):
    """The real value of a quotient, with e and pi as they are."""
    values = []
    for poly in (part.top, part.bottom):
        total = mp.mpf(0)
        for monomial, x in poly.items():
            term = mp.mpf(x.numerator) / x.denominator
            for name, exponent in monomial:
                term *= mp.power(_actual_atom(name, point), mp.mpf(exponent.numerator) / exponent.denominator)
            total += term
        values.append(total)
    if any(mp.im(each) != 0 for each in values) or not values[1]:
        raise Undefined
    return values[0] / values[1]


def _actual_atom(name, point):
    if isinstance(name, int):
        return mp.mpf(name)
    if isinstance(name, str):
        found = point.get(name)
        if found is not None:
            return mp.mpf(found.numerator) / found.denominator
        if name in ("e", r"\pi"):
            return +mp.e if name == "e" else +mp.pi
    elif name[0] == "root":
        return _actual(thaw(name[1]), point)
    elif name[0] == "abs":
        return abs(_actual(thaw(name[1]), point))
    elif name[0] == "ln":
        return mp.log(name[1] if isinstance(name[1], int) else _actual(thaw(name[1]), point))
    elif name[0] == "exp":
        return mp.exp(_actual(Quotient({name[1]: Fraction(1)}), point))
    raise Undefined


# Constants inside piecewise and inverse functions.

@lru_cache(maxsize=4096)
def settled(node: Node) -> Node:
    """The expression with the floors, absolute values, ... of constants decided, and with inverse trigonometric
    functions of constants as multiples of pi where they are."""
    if node.op in ("num", "sym", "inf"):
        return node
    args = tuple(settled(arg) if isinstance(arg, Node) else arg for arg in node.args)
    if node.op != "call":
        return {"add": add, "mul": mul, "pow": power}[node.op](*args)
    node = Node("call", args)
    name, inner = args[0], args[1:]
    if symbols(node):
        return node
    try:
        with mpmath.workdps(60):
            values = [value(each, {}) for each in inner]
            if name in ("floor", "ceil", "max", "min", "abs") and all(mp.im(each) == 0 for each in values):
                return _decided(name, inner, [mp.re(each) for each in values], node)
            if name in ("arcsin", "arccos", "arctan", "arccot"):
                return _multiple_of_pi(name, inner[0], mp.re(_INVERSE[name](values[0])) / mp.pi, node)
            if name in ("arcsinh", "arccosh", "arctanh"):
                return _as_logarithm(name, inner[0])
    except (Undefined, ZeroDivisionError, ValueError):
        return node
    return node


def _decided(name: str, inner: tuple[Node, ...], values: list, node: Node) -> Node:
    if name == "abs":
        return node if abs(values[0]) < mp.mpf(10) ** -40 else inner[0] if values[0] > 0 else negative(inner[0])
    if name in ("max", "min"):
        return inner[values.index(max(values) if name == "max" else min(values))]
    nearest = mp.nint(values[0])
    if abs(values[0] - nearest) < mp.mpf(10) ** -40:
        return num(int(nearest)) if proved(inner[0], num(int(nearest))) else node
    return num(int(mp.floor(values[0]) if name == "floor" else mp.ceil(values[0])))


def _multiple_of_pi(name: str, x: Node, turns, node: Node) -> Node:
    for q in range(1, 61):
        p = mp.nint(turns * q)
        if abs(turns * q - p) < mp.mpf(10) ** -40:
            angle = mul(num(Fraction(int(p), q)), PI)
            return angle if proved(call(name[3:], angle), x) else node
    return node


def _as_logarithm(name: str, x: Node) -> Node:
    one = num(1)
    if name == "arctanh":
        return mul(HALF, call("ln", divide(add(one, x), add(one, negative(x)))))
    square = add(mul(x, x), one if name == "arcsinh" else num(-1))
    return call("ln", add(x, power(square, HALF)))
