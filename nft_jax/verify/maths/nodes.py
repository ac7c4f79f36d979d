"""Expressions, and their exact arithmetic.

`Node(op, args)` is an expression: `num` (Fraction), `sym` (name), `add`, `mul`, `pow` (base, exponent), `call` (name,
arguments), `inf`. `exact` does the arithmetic of one as it is written; there are no floats.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

MAX_BITS = 200_000
"""Bits of numerator and denominator together; anything larger is not written out."""
MAX_FACTORIAL = 5_000
TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc")
HYPERBOLIC = ("sinh", "cosh", "tanh", "coth")
REAL_FUNCTIONS = (*TRIGONOMETRIC, *HYPERBOLIC, *("arc" + name for name in TRIGONOMETRIC + HYPERBOLIC[:3]))


class Unreadable(Exception):
    """The grammar does not know the text, or its value is undefined or too large to write out."""


class Node(NamedTuple):
    op: str
    args: tuple

    @property
    def value(self) -> Fraction | None:
        """The exact value of a number; None for everything else."""
        return self.args[0] if self.op == "num" else None


def num(value: Fraction | int) -> Node:
    return Node("num", (Fraction(value),))


def sym(name: str) -> Node:
    return Node("sym", (name,))


ZERO, ONE, MINUS_ONE = num(0), num(1), num(-1)
PI, E, I = sym(r"\pi"), sym("e"), sym("i")
INFINITY = Node("inf", (1,))


def _checked(value: Fraction) -> Node:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise Unreadable
    return Node("num", (value,))


def add(*terms: Node) -> Node:
    """The sum, with its numbers added up. Infinities have no arithmetic."""
    total, rest = Fraction(0), []
    for term in terms:
        if term.op == "num":
            total += term.args[0]
        elif term.op == "add":
            total += sum((part.args[0] for part in term.args if part.op == "num"), Fraction(0))
            rest += [part for part in term.args if part.op != "num"]
        else:
            rest.append(term)
    if any(term.op == "inf" for term in rest) and (len(rest) > 1 or total):
        raise Unreadable
    number = _checked(total)
    if not rest:
        return number
    rest += [number] if total else []
    return rest[0] if len(rest) == 1 else Node("add", tuple(rest))


def mul(*factors: Node) -> Node:
    """The product, with its numbers multiplied."""
    total, rest = Fraction(1), []
    for factor in factors:
        parts = factor.args if factor.op == "mul" else (factor,)
        for part in parts:
            if part.op == "num":
                total *= part.args[0]
            else:
                rest.append(part)
    if any(factor.op == "inf" for factor in rest):
        if len(rest) > 1 or abs(total) != 1:
            raise Unreadable
        return Node("inf", (int(total) * rest[0].args[0],))
    number = _checked(total)
    if not rest or (not total and all(defined(factor) for factor in rest)):
        return number
    rest = rest if total == 1 else [number, *rest]
    return rest[0] if len(rest) == 1 else Node("mul", tuple(rest))


def defined(node: Node) -> bool:
    """Whether an expression surely has a value: zero times an undefined one is not zero."""
    if node.op in ("num", "sym"):
        return True
    return node.op in ("add", "mul") and all(map(defined, node.args))


def negative(node: Node) -> Node:
    return mul(MINUS_ONE, node)


def divide(top: Node, bottom: Node) -> Node:
    return mul(top, power(bottom, MINUS_ONE))


def power(base: Node, exponent: Node) -> Node:
    """base ** exponent; numbers at once where the result is rational. Roots of odd order of negative numbers are
    real: (-8)^{1/3} is -2."""
    if "inf" in (base.op, exponent.op):
        raise Unreadable
    if exponent.op != "num":
        if base == ZERO:
            raise Unreadable
        return Node("pow", (base, exponent))
    n = exponent.args[0]
    if n == 1:
        return base
    if base.op == "pow" and base.args[1].op == "num" and n.denominator == base.args[1].args[0].denominator == 1:
        return power(base.args[0], num(n * base.args[1].args[0]))
    if base.op != "num":
        return ONE if n == 0 and defined(base) else Node("pow", (base, exponent))
    b = base.args[0]
    if b == 0 and n <= 0:
        raise Unreadable
    if b in (0, 1):
        return base
    if n.denominator > 1:
        roots = _root(b, n.denominator)
        return Node("pow", (base, exponent)) if roots is None else power(num(roots), num(n.numerator))
    if abs(b) == 1:
        return num(b ** (int(n) % 2))
    if max(b.numerator.bit_length(), b.denominator.bit_length()) * abs(n) > MAX_BITS:
        return Node("pow", (base, exponent))
    return num(b ** int(n))


def _root(value: Fraction, order: int) -> Fraction | None:
    """The rational root of an order, or None. Long numbers keep their roots of higher order."""
    def whole(n: int) -> int:
        return math.isqrt(n) if order == 2 else round(n ** (1 / order)) if n.bit_length() < 1000 else 0

    if order > 60 or (value < 0 and order % 2 == 0):
        return None
    root = Fraction(whole(abs(value.numerator)), whole(value.denominator) or 1) * (-1 if value < 0 else 1)
    return root if root ** order == value else None


EXACT: dict[str, Callable] = {
    "abs": abs, "floor": math.floor, "ceil": math.ceil, "sgn": lambda value: (value > 0) - (value < 0),
    "max": lambda *each: max(each), "min": lambda *each: min(each), "gcd": math.gcd, "lcm": math.lcm,
    "fact": math.factorial, "binom": math.comb, "mod": lambda n, modulus: n % modulus}
"""Functions whose values are rational."""
_OF_INTEGERS: dict[str, Callable[..., bool]] = {
    "gcd": lambda *each: True, "lcm": lambda *each: True, "fact": lambda n: 0 <= n <= MAX_FACTORIAL,
    "binom": lambda n, k: 0 <= k <= n <= MAX_FACTORIAL, "mod": lambda n, modulus: modulus > 0}
"""Functions of integers, and where they are defined."""


def call(name: str, *args: Node) -> Node:
    """A function's value, at once where it is a small exact one."""
    if name in TRIGONOMETRIC or name == "cis":
        args = (_degrees_as(in_radians, args[0]),)
    if name in ("exp", "cis"):
        return power(E, args[0] if name == "exp" else mul(I, args[0]))
    values = [arg.value for arg in args]
    if name == "binom" and None in values:
        n, k = args
        return divide(call("fact", n), mul(call("fact", k), call("fact", add(n, negative(k)))))
    if (name, values) == ("ln", [0]) or (name == "mod" and None in values):
        raise Unreadable
    if name not in EXACT or None in values:
        return Node("call", (name, *args))
    if name in _OF_INTEGERS:
        if any(value.denominator != 1 for value in values) or not _OF_INTEGERS[name](*values):
            raise Unreadable
        values = list(map(int, values))
    return num(EXACT[name](*values))


_OPERATIONS: dict[str, Callable[..., Node]] = {"add": add, "mul": mul, "pow": power, "call": call}


def exact(node: Node) -> Node:
    """The expression with its arithmetic done. Raises Unreadable where it has no value."""
    if node.op not in _OPERATIONS:
        return node
    return _OPERATIONS[node.op](*(exact(arg) if isinstance(arg, Node) else arg for arg in node.args))


def in_radians(degrees: Node) -> Node:
    return mul(degrees, PI, num(Fraction(1, 180)))


def without_degrees(node: Node) -> Node:
    """The expression with its degree marks dropped."""
    return _degrees_as(without_degrees, node)


def _degrees_as(other: Callable[[Node], Node], node: Node) -> Node:
    """The expression with something else for what has a degree mark."""
    if node.op == "call" and node.args[0] == "degrees":
        return other(node.args[1])
    if node.op in ("add", "mul"):
        parts = [_degrees_as(other, arg) for arg in node.args]
        return add(*parts) if node.op == "add" else mul(*parts)
    return node


def walk(node: Node) -> Iterator[Node]:
    """An expression and all within it."""
    yield node
    for arg in node.args:
        if isinstance(arg, Node):
            yield from walk(arg)


def symbols(node: Node) -> frozenset[str]:
    """The names in an expression, without e, i and pi."""
    return frozenset(each.args[0] for each in walk(node) if each.op == "sym" and each not in (E, I, PI))
