"""Countdown: reach a number with some of four numbers, each used at most once. Questions, reward, worked solutions.

`2,3,5,7=24` asks for an expression of 2, 3, 5 and 7 whose value is 24. It is boxed, may have + - * / and brackets, and
is judged by exact arithmetic. Short expressions are easy to find, and long ones add more, so what a policy still finds
can be counted. Imports no jax.
"""
import hashlib
import operator
import random
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

from experiments.nano.stack_programs import Tree, split_of
from nft_jax.verify.maths.extract import extract
from nft_jax.verify.rewards import register
from nft_jax.verify.rewards.gym import read_expression

COUNT, LARGEST = 4, 9                   # numbers of a question, from 1 to LARGEST
TARGETS = range(1, 61)
FEWEST = 8                              # different right expressions of a question
LONGEST = 64                            # characters of a right expression
PRIME = 2**61 - 1
STYLES = ("forward", "backward", "trials", "direct")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_QUESTION = re.compile(r"(\d+(?:,\d+)*)=(\d+)")


def read(problem: str) -> tuple[tuple[int, ...], int]:
    """Numbers and target of a question."""
    numbers, target = _QUESTION.fullmatch(problem).groups()
    return tuple(map(int, numbers.split(","))), int(target)


def reaches(prompt: str, response: str, gold: str) -> float:
    """1 when the boxed expression uses no number more often than the question has it, and its value is the target,
    exactly."""
    numbers, target = read(prompt)
    found = _boxed(response)
    return float(found is not None and found[0] == target and Counter(found[1]) <= Counter(numbers))


def _boxed(response: str) -> tuple[Fraction, list[int]] | None:
    text = extract(response)
    return None if text is None or len(text) > LONGEST else read_expression(text)


def solution(prompt: str, response: str) -> str:
    """Which solution a right answer is. Two are the same when they are the same function of the numbers, so neither
    order nor brackets nor signs make a new one.

    The function's value at one random point tells (Schwartz and Zippel): every number has a stand-in modulo PRIME.
    """
    text = re.sub(r"\d+", lambda number: str(_stand_in(int(number[0]))), extract(response))
    value, _ = read_expression(text)
    return str(value.numerator * pow(value.denominator, -1, PRIME) % PRIME)


register("countdown", solution=solution)(reaches)


@lru_cache(1024)
def _stand_in(number: int) -> int:
    return int.from_bytes(hashlib.blake2b(b"%d" % number, digest_size=7).digest())


# ---- every expression of some numbers ------------------------------------------------------------------------------


class Expression(NamedTuple):
    """plain: all its parts are whole and not negative."""
    tree: Tree
    value: Fraction
    plain: bool


@lru_cache(4096)
def expressions(numbers: tuple[int, ...]) -> dict[int, Expression]:
    """Every function of the numbers, each used once: the key is its value for the stand-ins, as in `solution`. Of the
    ways to write one, a plain one is taken."""
    if len(numbers) == 1:
        return {_stand_in(numbers[0]): Expression(str(numbers[0]), Fraction(numbers[0]), True)}
    found: dict[int, Expression] = {}
    places = range(len(numbers))
    for size in range(1, len(numbers)):
        for chosen in combinations(places, size):
            left = expressions(tuple(numbers[i] for i in chosen))
            right = expressions(tuple(numbers[i] for i in places if i not in chosen))
            for (a, one), (b, other) in ((x, y) for x in left.items() for y in right.items()):
                for sign, calculate in OPERATIONS.items():
                    if sign == "/" and (other.value == 0 or b == 0):
                        continue
                    key = (a * pow(b, -1, PRIME) if sign == "/" else calculate(a, b)) % PRIME
                    if key in found and found[key].plain:
                        continue
                    value = calculate(one.value, other.value)
                    plain = one.plain and other.plain and value >= 0 and value.denominator == 1
                    if key not in found or plain:
                        found[key] = Expression((sign, one.tree, other.tree), value, plain)
    return found


@lru_cache(1024)
def of_some(numbers: tuple[int, ...]) -> dict[int, Expression]:
    """Every function of some of the numbers, each used at most once, as `expressions`; the shortest way to write it."""
    found: dict[int, Expression] = {}
    for size in range(1, len(numbers) + 1):
        for chosen in sorted(set(combinations(numbers, size))):
            for key, each in expressions(chosen).items():
                if key not in found or (each.plain and not found[key].plain):
                    found[key] = each
    return found


def right(numbers: tuple[int, ...], target: int) -> list[Expression]:
    """The different right expressions."""
    return [each for each in of_some(numbers).values() if each.value == target]


def size_of(tree: Tree) -> int:
    """Numbers in an expression."""
    return 1 if isinstance(tree, str) else size_of(tree[1]) + size_of(tree[2])


@lru_cache(1)
def universe(fewest: int) -> dict[str, list[str]]:
    """Split -> its questions with so many different right expressions, in the order of their numbers. No target is one
    of the numbers."""
    found: dict[str, list[str]] = {"base": [], "train": [], "heldout": []}
    for numbers in combinations_with_replacement(range(1, LARGEST + 1), COUNT):
        every = of_some(numbers).values()
        counts, plain = Counter(each.value for each in every), {each.value for each in every if each.plain}
        for target in TARGETS:
            if counts[target] >= fewest and target in plain and target not in numbers:
                problem = f"{','.join(map(str, numbers))}={target}"
                found[split_of(problem)].append(problem)
    return found


def questions(split: str, count: int) -> list[dict]:
    """Rows with a problem and nothing else, in an order with a fixed seed."""
    found = list(universe(FEWEST)[split])
    random.Random(f"countdown/{split}").shuffle(found)
    return [{"problem": problem, "answer": ""} for problem in found[:count]]


# ---- worked solutions ----------------------------------------------------------------------------------------------


def infix(tree: Tree, outer: str = "", is_right: bool = False) -> str:
    """The expression as one writes it, with the brackets it needs."""
    if isinstance(tree, str):
        return tree
    sign, left, right = tree
    text = f"{infix(left, sign)}{sign}{infix(right, sign, True)}"
    if outer in ("*", "/"):
        return f"({text})" if is_right or sign in "+-" else text
    return f"({text})" if outer == "-" and is_right and sign in "+-" else text


def turned(tree: Tree, rng: random.Random) -> Tree:
    """The tree with the operands of sums and products in a random order."""
    if isinstance(tree, str):
        return tree
    sign, left, right = tree[0], turned(tree[1], rng), turned(tree[2], rng)
    return (sign, right, left) if sign in "+*" and rng.random() < 0.5 else (sign, left, right)


def parts(tree: Tree) -> list[tuple[str, int]]:
    """The operations of a plain tree as text, `3*5`, each with its value, operands first."""
    if isinstance(tree, str):
        return []
    left, right = parts(tree[1]), parts(tree[2])
    a, b = (done[-1][1] if done else int(leaf) for done, leaf in ((left, tree[1]), (right, tree[2])))
    return [*left, *right, (f"{a}{tree[0]}{b}", int(OPERATIONS[tree[0]](Fraction(a), b)))]


def worked(numbers: tuple[int, ...], target: int, style: str, rng: random.Random) -> str:
    """A right answer in one style of working:

    forward     the operations, one after the other: 3*5=15;15-7=8;
    backward    the target and how it is made, then how its parts are: 8=15-7;15=3*5;
    trials      one or two wrong expressions with their values, then the right one
    direct      no working
    """
    tree = turned(_draw([each.tree for each in right(numbers, target) if each.plain], rng), rng)
    working = ""
    if style == "forward":
        working = "".join(f"{text}={value};" for text, value in parts(tree))
    elif style == "backward":
        working = "".join(f"{value}={text};" for text, value in reversed(parts(tree)))
    elif style == "trials":
        wrong = [each.tree for each in of_some(numbers).values()
                 if each.plain and target != each.value <= 99 and not isinstance(each.tree, str)]
        tried = [turned(_draw(wrong, rng), rng) for _ in range(rng.randint(1, 2))] + [tree]
        working = ",".join(f"{infix(each)}={parts(each)[-1][1]}" for each in tried) + ";"
    return f"{working}\\boxed{{{infix(tree)}}}"


def _draw(trees: list[Tree], rng: random.Random) -> Tree:
    """One of the trees: first its size, then the tree, so that the many long ones do not hide the short ones."""
    size = rng.choice(sorted({size_of(tree) for tree in trees}))
    return rng.choice([tree for tree in trees if size_of(tree) == size])


def attempts(seed: int) -> Iterator[tuple[str, str]]:
    """(problem, right answer) of the base split, for ever: size, solution and style are drawn alike. Nothing wrong is
    shown: a small model is wrong by itself, and what it then believes is calibrated."""
    rng, found = random.Random(f"countdown/{seed}"), universe(1)["base"]
    while True:
        problem = rng.choice(found)
        yield problem, worked(*read(problem), rng.choice(STYLES), rng)
