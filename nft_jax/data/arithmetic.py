"""Seeded generators of short arithmetic questions, in splits that share no question.

The embedded model was made for the source "arithmetic"; it has to learn "arithmetic-hard".

1. A question is drawn as its `solution`: the steps that solve it. Its text and its answer follow from it.
2. The canonical form of a solution does not depend on the order of commuting operands.
3. A stable hash of the canonical form decides the split: "base" (what the embedded model was made
   from), "train" or "heldout". A question is in the same split for any seed and count.
"""
from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import NamedTuple

from nft_jax.types import InputError

SPLITS = ("base", "train", "heldout")
PATIENCE = 10_000
"""Draws in a row without a new question, after which repeats are allowed."""


class Ref(int):
    """An operand that is the result of an earlier step."""


class Step(NamedTuple):
    """`left op right`. An operand is a number, or a `Ref` to the result of an earlier step."""
    left: int | Ref
    op: str
    right: int | Ref


class Question(NamedTuple):
    """A problem with the steps that solve it; the answer is the result of the last one."""
    kind: str
    problem: str
    solution: tuple[Step, ...]

    @property
    def answer(self) -> str:
        return str(solve(self.solution)[-1])


def calculate(left: int, op: str, right: int) -> int:
    """The result of a step, in whole numbers; 0 where the divisor is 0."""
    return {"+": left + right, "-": left - right, "*": left * right,
            "/": left // right if right else 0, "%": left % right if right else 0}[op]


def solve(solution: tuple[Step, ...]) -> list[int]:
    """The results of all steps, in order."""
    results: list[int] = []
    for left, op, right in solution:
        left, right = (results[x] if isinstance(x, Ref) else x for x in (left, right))
        results.append(calculate(left, op, right))
    return results


def canonical(solution: tuple[Step, ...]) -> str:
    """The solution as one bracketed expression in which the operands of + and * stand in a fixed order."""
    texts: list[str] = []
    for left, op, right in solution:
        operands = [texts[x] if isinstance(x, Ref) else str(x) for x in (left, right)]
        if op in "+*":
            operands.sort()
        texts.append(f"({operands[0]}{op}{operands[1]})")
    return texts[-1]


def split_of(solution: tuple[Step, ...]) -> str:
    """The split of a question, the same in every process and on every platform."""
    digest = hashlib.blake2b(canonical(solution).encode(), digest_size=4).digest()
    return SPLITS[int.from_bytes(digest, "big") % len(SPLITS)]


Drawn = tuple[str, tuple[Step, ...]]
"""Text of a problem, and its solution."""


def _sum(rng: random.Random, terms: int) -> Drawn:
    """a + b - c ..., every partial sum within 0..99."""
    total = rng.randint(2, 99)
    text, solution = str(total), []
    for index in range(terms - 1):
        op = rng.choice([op for op, possible in (("+", total <= 97), ("-", total >= 2)) if possible])
        term = rng.randint(2, 99 - total if op == "+" else total)
        solution.append(Step(Ref(index - 1) if index else total, op, term))
        text += f"{op}{term}"
        total = calculate(total, op, term)
    return text, tuple(solution)


def _precedence(rng: random.Random) -> Drawn:
    """a+b*c, b*c+a, a-b*c, b*c-a or b*c+d*e: products come first."""
    b, c = rng.randint(2, 9), rng.randint(2, 9)
    product, first, form = Ref(0), Step(b, "*", c), rng.randrange(5)
    if form == 4:
        d, e = rng.randint(2, 9), rng.randint(2, 9)
        return f"{b}*{c}+{d}*{e}", (first, Step(d, "*", e), Step(product, "+", Ref(1)))
    a = rng.randint(*((2, 99), (2, 99), (b * c, 99), (1, b * c))[form])
    op = "+" if form < 2 else "-"
    if form in (0, 2):
        return f"{a}{op}{b}*{c}", (first, Step(a, op, product))
    return f"{b}*{c}{op}{a}", (first, Step(product, op, a))


def _bracket_of(rng: random.Random, value: int, least: int = 1, sums: float = 0.5) -> tuple[str, Step]:
    """(a+b), in a share `sums` of the draws, or (a-b) with b of `least` or more: the bracket and
    the step that gives `value`, every number at most 99."""
    if rng.random() < sums:
        b = rng.randint(1, value - 1)
        step = Step(value - b, "+", b)
    else:
        b = rng.randint(least, 99 - value)
        step = Step(value + b, "-", b)
    return f"({step.left}{step.op}{step.right})", step


def _bracket(rng: random.Random) -> Drawn:
    """(a+b)*c, (a-b)*c or c*(a+b), c*(a-b): the bracket, within 2..20, comes first."""
    inner, c = rng.randint(2, 20), rng.randint(2, 9)
    bracket, first = _bracket_of(rng, inner, sums=0.3)
    if rng.random() < 0.5:
        return f"{bracket}*{c}", (first, Step(Ref(0), "*", c))
    return f"{c}*{bracket}", (first, Step(c, "*", Ref(0)))


def _equation(rng: random.Random) -> Drawn:
    """ax+b=c, b+ax=c or ax-b=c with a whole solution x within 1..12."""
    a, x = rng.randint(2, 9), rng.randint(1, 12)
    form = rng.randrange(3)
    b = rng.randint(1, 60) if form < 2 else rng.randint(1, a * x)
    c = a * x + b if form < 2 else a * x - b
    text = (f"{a}x+{b}={c}", f"{b}+{a}x={c}", f"{a}x-{b}={c}")[form]
    return text, (Step(c, "-" if form < 2 else "+", b), Step(Ref(0), "/", a))


def _remainder(rng: random.Random) -> Drawn:
    """(a+b)%c or (a-b)%c, the bracket within 10..98 and below 10c."""
    c = rng.randint(3, 9)
    inner = rng.randint(10, min(98, 10 * c - 1))
    bracket, first = _bracket_of(rng, inner)
    return f"{bracket}%{c}", (first, Step(Ref(0), "%", c))


def _bracket_then(rng: random.Random) -> Drawn:
    """(a-b)*c-d or (a+b)*c-d, every partial result within 0..99."""
    c = rng.randint(2, 9)
    inner = rng.randint(3, 99 // c)
    d = rng.randint(2, inner * c)
    bracket, first = _bracket_of(rng, inner, least=2)
    return f"{bracket}*{c}-{d}", (first, Step(Ref(0), "*", c), Step(Ref(1), "-", d))


def _product_remainder(rng: random.Random) -> Drawn:
    """a*b%c, the product within 10..98 and below 10c."""
    c = rng.randint(3, 9)
    a = rng.randint(2, 19)
    b = rng.randint(-(-10 // a), min(98, 10 * c - 1) // a)
    return f"{a}*{b}%{c}", (Step(a, "*", b), Step(Ref(0), "%", c))


def _long_remainder(rng: random.Random) -> Drawn:
    """(a+b-c)%d, the bracket within 10..98 and below 10d."""
    d = rng.randint(3, 9)
    inner = rng.randint(10, min(98, 10 * d - 1))
    c = rng.randint(1, 99 - inner)
    a = rng.randint(1, inner + c - 1)
    first = Step(a, "+", inner + c - a)
    return f"({a}+{first.right}-{c})%{d}", (first, Step(Ref(0), "-", c), Step(Ref(1), "%", d))


def _sum_equation(rng: random.Random) -> Drawn:
    """ax=b+c with a whole solution x within 1..12."""
    a, x = rng.randint(2, 9), rng.randint(1, 12)
    b = rng.randint(1, a * x - 1)
    return f"{a}x={b}+{a * x - b}", (Step(b, "+", a * x - b), Step(Ref(0), "/", a))


KINDS: dict[str, Callable[[random.Random], Drawn]] = {
    "sum3": lambda rng: _sum(rng, 3), "sum4": lambda rng: _sum(rng, 4), "precedence": _precedence,
    "bracket": _bracket, "equation": _equation, "remainder": _remainder}

HARD_KINDS: dict[str, Callable[[random.Random], Drawn]] = {
    "sum4": KINDS["sum4"], "equation": _equation, "bracket_then": _bracket_then,
    "product_remainder": _product_remainder, "long_remainder": _long_remainder, "sum_equation": _sum_equation}
"""Two kinds that the embedded model was made for, and four that it never saw. Those four combine
steps that it knows in a new way, and at first it is right on less than a fifth of them."""

SOURCES = {"arithmetic": KINDS, "arithmetic-hard": HARD_KINDS}


def draw(rng: random.Random, source: str = "arithmetic") -> Question:
    """One question of any split; all kinds of the source are equally likely."""
    kinds = SOURCES[source]
    kind = rng.choice(tuple(kinds))
    return Question(kind, *kinds[kind](rng))


def generate(split: str, count: int, seed: int, source: str = "arithmetic") -> list[Question]:
    """`count` questions of a split of one of the `SOURCES`; the first n do not depend on `count`. No problem
    comes twice while a new one is found within PATIENCE draws. Raises InputError for an unknown split or a
    count < 0."""
    if split not in SPLITS:
        raise InputError(f"split is {split!r}: the arithmetic generator has the splits {', '.join(SPLITS)}.")
    if count < 0:
        raise InputError(f"count is {count}: ask for 0 or more questions.")
    rng, chosen = random.Random(f"{split}/{seed}"), []
    seen, failures = set(), 0
    while len(chosen) < count:
        question = draw(rng, source)
        if split_of(question.solution) != split:
            continue
        repeated = question.problem in seen
        failures = failures + 1 if repeated else 0
        if repeated and failures < PATIENCE:
            continue
        seen.add(question.problem)
        chosen.append(question)
    return chosen


def questions(split: str, count: int, seed: int, source: str = "arithmetic") -> list[tuple[str, str]]:
    """`count` (problem, answer) pairs of a split; see `generate`."""
    return [(question.problem, question.answer) for question in generate(split, count, seed, source)]
