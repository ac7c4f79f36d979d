"""Normal form of an expression: a quotient of two polynomials in atoms, with exact coefficients.

Atoms are names, primes (for their roots), i, e, pi, exponentials of monomials, logarithms of primes, nested roots and
other functions. Trigonometric and hyperbolic functions become exponentials, logarithms of products become sums. Two
expressions whose difference has an empty numerator are equal: that is a proof. No sympy here.
"""
from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from nft_jax.verify.maths.expression import Node

MAX_TERMS = 300
MAX_POWER = 40
_TRIALS = 2_000
"""Primes up to this number are found; what is left is an atom of its own."""

Monomial = frozenset
"""Of (atom, exponent) pairs."""
Poly = dict
"""Monomial -> Fraction."""
UNIT: Monomial = frozenset()


class Hard(Exception):
    """No normal form: too large, infinite, or divided by zero."""


class Quotient:
    """Two polynomials."""
    __slots__ = ("bottom", "top")

    def __init__(self, top: Poly, bottom: Poly | None = None):
        self.top, self.bottom = top, {UNIT: Fraction(1)} if bottom is None else bottom
        if not self.bottom:
            raise Hard
        if len(self.top) > MAX_TERMS or len(self.bottom) > MAX_TERMS:
            raise Hard

    @property
    def term(self) -> tuple[Monomial, Fraction] | None:
        """The only term of a quotient that has no other, else None."""
        if len(self.top) == 1 and self.bottom == {UNIT: 1}:
            return next(iter(self.top.items()))
        return None


def constant(value: Fraction | int) -> Quotient:
    return Quotient({UNIT: Fraction(value)} if value else {})


def atom(name, exponent: Fraction | int = 1) -> Quotient:
    factor, monomial, rest = _monomials(UNIT, frozenset([(name, Fraction(exponent))]))
    single = Quotient({monomial: factor})
    return single if rest is None else multiply(single, rest)


def _sum(a: Poly, b: Poly, sign: int = 1) -> Poly:
    out = dict(a)
    for monomial, value in b.items():
        total = out.get(monomial, 0) + sign * value
        if total:
            out[monomial] = total
        else:
            out.pop(monomial, None)
    return out


def _times(a: Poly, b: Poly) -> Quotient:
    """The product of two polynomials; powers of roots that come out whole make it a quotient."""
    if len(a) * len(b) > 10 * MAX_TERMS:
        raise Hard
    out: Poly = {}
    whole: Quotient | None = None
    for m, x in a.items():
        for n, y in b.items():
            if not m or not n:
                factor, monomial, rest = Fraction(1), m or n, None
            else:
                factor, monomial, rest = _monomials(m, n)
            value = x * y * factor
            if value.numerator.bit_length() > 100_000:
                raise Hard
            if rest is not None:
                part = multiply(Quotient({monomial: value}), rest)
                whole = part if whole is None else plus(whole, part)
                continue
            total = out.get(monomial, 0) + value
            if total:
                out[monomial] = total
            else:
                out.pop(monomial, None)
    return Quotient(out) if whole is None else plus(Quotient(out), whole)


def _monomials(m: Monomial, n: Monomial) -> tuple[Fraction, Monomial, Quotient | None]:
    """The product of two monomials: a number, a monomial, and what roots came to (or None)."""
    powers = dict(m)
    for name, exponent in n:
        powers[name] = powers.get(name, 0) + exponent
    factor, rest = Fraction(1), None
    for name in [*powers]:
        exponent = powers[name]
        if not exponent:
            del powers[name]
        elif isinstance(name, int):
            whole = exponent.__floor__()
            factor *= Fraction(name) ** whole
            exponent -= whole
        elif name == "i":
            exponent %= 4
            factor *= -1 if exponent >= 2 else 1
            exponent %= 2
        elif name == "turn":                       # e^{i pi}
            exponent %= 2
            factor *= -1 if exponent >= 1 else 1
            exponent %= 1
        elif isinstance(name, tuple) and name[0] == "abs":
            whole = exponent.__floor__() // 2 * 2
            if whole:
                part = integer_power(thaw(name[1]), whole)
                rest = part if rest is None else multiply(rest, part)
            exponent -= whole
        elif name[0] == "root" and isinstance(name, tuple):
            whole = exponent.__floor__()
            if whole:
                part = integer_power(thaw(name[1]), whole)
                rest = part if rest is None else multiply(rest, part)
            exponent -= whole
        else:
            continue
        if exponent:
            powers[name] = exponent
        else:
            powers.pop(name, None)
    return factor, frozenset(powers.items()), rest


def plus(a: Quotient, b: Quotient, sign: int = 1) -> Quotient:
    if a.bottom == b.bottom:
        return Quotient(_sum(a.top, b.top, sign), a.bottom)
    left, right, bottom = _times(a.top, b.bottom), _times(b.top, a.bottom), _times(a.bottom, b.bottom)
    return divided(plus(left, right, sign), bottom)


def multiply(a: Quotient, b: Quotient) -> Quotient:
    top = _times(a.top, b.top)
    if a.bottom == {UNIT: 1} and b.bottom == {UNIT: 1}:
        return top
    return divided(top, _times(a.bottom, b.bottom))


def divided(a: Quotient, b: Quotient) -> Quotient:
    """a / b. A divisor of one term goes into the exponents."""
    if not b.top:
        raise Hard
    if a.bottom == b.bottom == {UNIT: 1}:
        if b.term is not None:
            return _times(a.top, _inverse(*b.term))
        return Quotient(a.top, b.top)
    return divided(_times(a.top, b.bottom), _times(a.bottom, b.top))


def _inverse(monomial: Monomial, value: Fraction) -> Poly:
    factor, single, rest = _monomials(UNIT, frozenset((name, -exponent) for name, exponent in monomial))
    if rest is not None:
        raise Hard
    return {single: factor / value}


def integer_power(base: Quotient, n: int) -> Quotient:
    if n < 0:
        return divided(constant(1), integer_power(base, -n))
    if base.term is not None and n > MAX_POWER:
        return _term_power(base, Fraction(n))
    if n > MAX_POWER:
        raise Hard
    out = constant(1)
    for _ in range(n):
        out = multiply(out, base)
    return out


def freeze(value: Quotient) -> tuple:
    return frozenset(value.top.items()), frozenset(value.bottom.items())


def thaw(key: tuple) -> Quotient:
    return Quotient(dict(key[0]), dict(key[1]))


def _content(value: Quotient) -> Fraction:
    """The positive number that can be taken out of a quotient, so that what is left does not depend on it."""
    first = min(value.top, key=_order)
    last = min(value.bottom, key=_order)
    return abs(value.top[first] / value.bottom[last])


def _order(monomial: Monomial) -> str:
    return text(monomial)


def text(value) -> str:
    """A canonical text of atoms, monomials and nodes; numbers in base 16, which has no limit of length."""
    if isinstance(value, Fraction):
        return f"{value.numerator:x}/{value.denominator:x}"
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(map(text, value))) + "}"
    if isinstance(value, tuple):
        return "(" + ",".join(map(text, value)) + ")"
    return f"{value:x}" if isinstance(value, int) else str(value)


def _without(value: Quotient, content: Fraction) -> Quotient:
    last = value.bottom[min(value.bottom, key=_order)]
    return Quotient({m: x / last / content for m, x in value.top.items()},
                    {m: x / last for m, x in value.bottom.items()})


@lru_cache(maxsize=2048)
def factors(n: int) -> tuple[tuple[int, int], ...]:
    """The prime factors with their exponents; a rest beyond the trial divisors counts as one."""
    out, p = [], 2
    while p * p <= n and p < _TRIALS:
        count = 0
        while n % p == 0:
            n, count = n // p, count + 1
        if count:
            out.append((p, count))
        p += 1 if p == 2 else 2
    return (*out, (n, 1)) if n > 1 else tuple(out)


def is_name(name) -> bool:
    return isinstance(name, str) and name not in ("i", "turn", "e", r"\pi")


def _number_power(value: Fraction, exponent: Fraction) -> Quotient:
    """A positive number to a rational power, by its primes."""
    out = constant(1)
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        if part.bit_length() > 2_000:
            raise Hard
        for prime, count in factors(part):
            whole = (exponent * count * sign).__floor__()
            if abs(whole) * prime.bit_length() > 100_000:
                raise Hard
            rest = exponent * count * sign - whole
            out = multiply(out, constant(Fraction(prime) ** whole))
            if rest:
                out = multiply(out, atom(prime, rest))
    return out


def root(base: Quotient, exponent: Fraction) -> Quotient:
    """base to a rational power, real where it can be. Numbers and positive constants come out of the root; of names
    only a single one does, so that \\sqrt{x^2} is not x."""
    if exponent.denominator == 1:
        return integer_power(base, int(exponent))
    if not base.top:
        if exponent <= 0:
            raise Hard
        return base
    if base.term is not None:
        return _term_power(base, exponent)
    content = _content(base)
    key = freeze(_without(base, content))
    return multiply(_number_power(content, exponent), atom(("root", key), exponent))


def _term_power(base: Quotient, exponent: Fraction) -> Quotient:
    monomial, value = base.term
    out = _number_power(abs(value), exponent)
    rest = []
    for name, power in monomial:
        positive = isinstance(name, int) or name in ("e", r"\pi") or (
            isinstance(name, tuple) and name[0] in ("exp", "root") and "i" not in mentioned(name))
        if positive or exponent.denominator == 1:
            part = atom(name, power)
            if isinstance(name, int):
                part = _number_power(Fraction(name), power * exponent)
            else:
                part = atom(name, power * exponent)
            out = multiply(out, part)
        else:
            rest.append((name, power))
    if exponent.denominator == 2 and value > 0 and all(is_name(name) for name, _ in rest):
        even = [(name, power) for name, power in rest if (power * exponent).denominator == 1]
        for name, power in even:
            out = multiply(out, _absolute(atom(name, power * exponent)))
        rest = [each for each in rest if each not in even]
    if len(rest) == 1 and rest[0][1] == 1 and value > 0 and is_name(rest[0][0]):
        return multiply(out, atom(rest[0][0], exponent))
    if not rest and value < 0:
        if exponent.denominator == 2:
            return multiply(out, integer_power(atom("i"), exponent.numerator % 4))
        if exponent.denominator % 2 or exponent.denominator == 1:
            return multiply(out, constant((-1) ** exponent.numerator))
    if rest or value < 0:
        if exponent.denominator == 1:
            raise Hard
        key = freeze(Quotient({frozenset(rest): Fraction(1 if value > 0 else -1)}))
        out = multiply(out, atom(("root", key), exponent))
    return out


def exponential(value: Quotient) -> Quotient:
    """e to the power of a quotient: a product of one atom for each term."""
    if value.bottom != {UNIT: 1}:
        if not value.top:
            return constant(1)
        content = _content(value)
        return atom(("exp", frozenset([(("quotient", freeze(_without(value, content))), Fraction(1))])), content)
    out = constant(1)
    for monomial, x in value.top.items():
        powers = dict(monomial)
        logs = [name for name in powers if isinstance(name, tuple) and name[0] == "ln"]
        if not monomial:
            part = atom("e", x)
        elif powers == {"i": 1, r"\pi": 1}:
            part = _turn(x)
        elif len(powers) == len(logs) == 1 and powers[logs[0]] == 1:
            part = _number_power(Fraction(logs[0][1]), x) if isinstance(logs[0][1], int) else root(thaw(logs[0][1]), x)
        else:
            part = atom(("exp", monomial), x)
        out = multiply(out, part)
    return out


def _turn(x: Fraction) -> Quotient:
    """e^{i pi x}."""
    return atom("i", 2 * x) if (2 * x).denominator == 1 else atom("turn", x)


def logarithm(value: Quotient) -> Quotient:
    """Sums of logarithms of the factors; names are taken as positive."""
    if not value.top:
        raise Hard
    if value.bottom != {UNIT: 1}:
        return plus(logarithm(Quotient(value.top)), logarithm(Quotient(value.bottom)), -1)
    if value.term is None:
        content = _content(value)
        key = freeze(_without(value, content))
        return plus(_number_logarithm(content), atom(("ln", key)))
    monomial, x = value.term
    out = _number_logarithm(abs(x))
    if x < 0:
        out = plus(out, multiply(atom("i"), atom(r"\pi")))
    for name, exponent in monomial:
        if isinstance(name, int):
            part = atom(("ln", name))
        elif name == "e":
            part = constant(1)
        elif name == "i" or name == "turn":
            part = multiply(constant(Fraction(1, 2) if name == "i" else 1), multiply(atom("i"), atom(r"\pi")))
        elif name[0] == "exp" and isinstance(name, tuple):
            part = Quotient({name[1]: Fraction(1)})
        elif name[0] == "root" and isinstance(name, tuple):
            part = logarithm(thaw(name[1]))
        else:
            part = atom(("ln", freeze(atom(name))))
        out = plus(out, multiply(constant(exponent), part))
    return out


def _number_logarithm(value: Fraction) -> Quotient:
    out = constant(0)
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        if part.bit_length() > 2_000:
            raise Hard
        for prime, count in factors(part):
            out = plus(out, multiply(constant(count * sign), atom(("ln", prime))))
    return out


def _circular(name: str, x: Quotient) -> Quotient:
    """Trigonometric and hyperbolic functions as exponentials."""
    if name in ("cot", "sec", "csc", "coth"):
        if name == "cot":
            return divided(_circular("cos", x), _circular("sin", x))
        if name == "coth":
            return divided(_circular("cosh", x), _circular("sinh", x))
        return divided(constant(1), _circular({"sec": "cos", "csc": "sin"}[name], x))
    if name in ("tan", "tanh"):
        return divided(_circular("sin" + name[3:], x), _circular("cos" + name[3:], x))
    i = constant(1) if name.endswith("h") else atom("i")
    first, second = exponential(multiply(i, x)), exponential(multiply(constant(-1), multiply(i, x)))
    if name.startswith("cos"):
        return divided(plus(first, second), constant(2))
    return divided(plus(first, second, -1), multiply(constant(2), i))


_CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")


@lru_cache(maxsize=8192)
def _normal(node: Node) -> Quotient:
    op, args = node
    if op == "num":
        return constant(args[0])
    if op == "sym":
        return atom(args[0])
    if op == "add":
        out = _normal(args[0])
        for arg in args[1:]:
            out = plus(out, _normal(arg))
        return out
    if op == "mul":
        out = _normal(args[0])
        for arg in args[1:]:
            out = multiply(out, _normal(arg))
        return out
    if op == "pow":
        exponent = args[1].value
        if exponent is not None:
            return root(_normal(args[0]), exponent)
        if args[0] == Node("sym", ("e",)):
            return exponential(_normal(args[1]))
        return exponential(multiply(_normal(args[1]), logarithm(_normal(args[0]))))
    if op == "call":
        return _call(args[0], [_normal(arg) for arg in args[1:]])
    raise Hard


def _call(name: str, args: list[Quotient]) -> Quotient:
    if name == "ln":
        return logarithm(args[0])
    if name in _CIRCULAR:
        return _circular(name, args[0])
    if name == "fact":
        return _factorial(args[0])
    if name == "abs":
        return _absolute(args[0])
    if name in ("max", "min"):
        out = args[0]
        for arg in args[1:]:
            gap = _absolute(plus(out, arg, -1))
            out = multiply(constant(Fraction(1, 2)), plus(plus(out, arg), gap, 1 if name == "max" else -1))
        return out
    if name in ("floor", "ceil") and args[0].bottom == {UNIT: 1}:
        whole = Fraction(args[0].top.get(UNIT, Fraction(0)).__floor__())
        return plus(constant(whole), atom((name, freeze(plus(args[0], constant(whole), -1)))))
    return atom((name, *map(freeze, args)))


def _absolute(x: Quotient) -> Quotient:
    """|x|, of a product as the product of those of its factors."""
    if not x.top:
        return x
    if x.term is not None:
        monomial, value = x.term
        out = constant(abs(value))
        for name, exponent in monomial:
            if is_name(name) and exponent.denominator == 1:
                part = atom(name, exponent) if exponent % 2 == 0 else atom(("abs", freeze(atom(name))), exponent)
            else:
                positive = isinstance(name, int) or name in ("e", r"\pi") or (
                    isinstance(name, tuple) and name[0] in ("exp", "root", "abs") and "i" not in mentioned(name))
                part = atom(name, exponent) if positive else atom(("abs", freeze(atom(name, exponent))))
            out = multiply(out, part)
        return out
    content = _content(x)
    rest = _without(x, content)
    if rest.top[min(rest.top, key=_order)] < 0:
        rest = multiply(constant(-1), rest)
    return multiply(constant(content), atom(("abs", freeze(rest))))


def mentioned(value) -> set[str]:
    """The names in an atom, a monomial or a frozen quotient."""
    if isinstance(value, tuple | frozenset):
        return set().union(*map(mentioned, value)) if value else set()
    return {value} if isinstance(value, str) else set()


def _factorial(x: Quotient) -> Quotient:
    """(n + c)! is n! (n + 1) ... (n + c)."""
    shift = x.top.get(UNIT, Fraction(0))
    if x.bottom != {UNIT: 1} or shift.denominator != 1 or abs(shift) > MAX_POWER:
        return atom(("fact", freeze(x)))
    base = plus(x, constant(shift), -1)
    out = atom(("fact", freeze(base))) if base.top else constant(1)
    for j in range(1, abs(int(shift)) + 1):
        step = plus(base, constant(j if shift > 0 else 1 - j))
        out = multiply(out, step) if shift > 0 else divided(out, step)
    return out


def normal(node: Node) -> Quotient | None:
    """The normal form, or None."""
    try:
        return _normal(node)
    except (Hard, RecursionError, ZeroDivisionError, ValueError):
        return None


def difference(a: Node, b: Node) -> Quotient | None:
    left, right = normal(a), normal(b)
    if left is None or right is None:
        return None
    try:
        return plus(left, right, -1)
    except (Hard, RecursionError, ZeroDivisionError, ValueError):
        return None


def independent(top: Poly) -> bool:
    """Whether no relation holds between the atoms, so that a polynomial with terms is not zero: names, roots of
    primes, i, and one of e and pi."""
    found, numbers = set(), 0
    for monomial in top:
        for name, exponent in monomial:
            if isinstance(name, int):
                if name > _TRIALS * _TRIALS:
                    return False
            elif isinstance(name, str) and name != "turn":
                if name in ("e", r"\pi"):
                    found.add(name)
                if exponent.denominator > 1:
                    return False
            else:
                return False
            numbers += 1
    return len(found) < 2


def same(a: Node, b: Node) -> bool | None:
    """Equality by normal forms: a proof either way, or None."""
    if a == b:
        return True
    found = difference(a, b)
    if found is None:
        return None
    if not found.top:
        return True
    return False if independent(found.top) else None


def ratio(a: Node, b: Node) -> Fraction | None:
    """The number that a / b is; None where it is none, or cannot be told."""
    left, right = normal(a), normal(b)
    if left is None or right is None or not left.top or not right.top:
        return None
    try:
        top, bottom = _times(left.top, right.bottom), _times(right.top, left.bottom)
    except Hard:
        return None
    if set(top.top) != set(bottom.top) or top.bottom != bottom.bottom:
        return None
    first = next(iter(top.top))
    factor = top.top[first] / bottom.top[first]
    return factor if all(x == factor * bottom.top[m] for m, x in top.top.items()) else None
