"""Rewards of reasoning-gym: data.source reasoning-gym:TASK, verifier.reward reasoning-gym.

A row's gold says where its item comes from, and the worker makes the item again. The task's own scorer judges
the final answer. A scorer that runs the model's text as code is never called: its task has a scorer here
(`SCORERS`) or is refused (`refuse_task`). Checked against reasoning-gym 0.1.25.
"""
from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache

from nft_jax.types import InputError
from nft_jax.verify.maths.extract import last_box, without_thoughts
from nft_jax.verify.rewards.registry import register

ROUNDING = 1e-9
"""A scorer that adds up shares may end this much above 1."""
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def final_answer(response: str) -> str:
    """The last complete box outside of thoughts, else the last <answer>...</answer>, else all of it, stripped."""
    response = without_thoughts(response)
    boxed = last_box(response)
    tagged = _TAGGED.findall(response) if boxed is None else []
    return (boxed if boxed is not None else tagged[-1] if tagged else response).strip()


def read_expression(text: str) -> tuple[Fraction, list[int]] | None:
    """Value of a sum of whole numbers with + - * / ( ), and its numbers; None for other text. Python evaluates
    nothing: the syntax tree is walked, and powers are not read."""
    if len(text) > 200 or not re.fullmatch(r"[0-9+\-*/() ]+", text):
        return None
    numbers: list[int] = []

    def value(node: ast.AST) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                numbers.append(number)
                return Fraction(number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left, sign, right) if type(sign) in _OPERATIONS:
                return _OPERATIONS[type(sign)](value(left), value(right))
        raise ValueError("no arithmetic")

    try:
        return value(ast.parse(text.strip(), mode="eval").body), numbers
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


# Scorers of ours: (answer, item) -> reward.

def _makes(target: Callable[[dict], int]) -> Callable[[str, dict], float]:
    """1 for an expression whose value is the target and that uses every given number once."""
    def score(answer: str, item: dict) -> float:
        found = read_expression(answer)
        if found is None:
            return 0.0
        value, numbers = found
        return float(value == target(item) and Counter(numbers) == Counter(item["metadata"]["numbers"]))
    return score


def _same_rows(answer: str, item: dict) -> float:
    """1 for the rows of the item's answer; the number of spaces between entries does not matter."""
    rows, expected = ([line.split() for line in text.strip().splitlines()] for text in (answer, item["answer"]))
    return float(rows == expected)


def _queens(answer: str, item: dict) -> float:
    """1 for a board of Q and _, spaced or not, that keeps the puzzle's queens, one a row, none attacking another."""
    puzzle = item["metadata"]["puzzle"]
    size = len(puzzle)
    if len(answer) > 4 * size * (size + 1) or not re.fullmatch(r"[Q_ \t\r\n]+", answer):
        return 0.0
    board = ["".join(line.split()) for line in answer.strip().splitlines()]
    if len(board) != size or any(len(row) != size or row.count("Q") != 1 for row in board):
        return 0.0
    columns = [row.index("Q") for row in board]
    diagonals = [row + column for row, column in enumerate(columns)]
    antidiagonals = [row - column for row, column in enumerate(columns)]
    free = all(len(set(lines)) == size for lines in (columns, diagonals, antidiagonals))
    kept = all(row.index("Q") == column for row, column in zip(puzzle, columns, strict=True) if "Q" in row)
    return float(free and kept)


SCORERS: dict[str, Callable[[str, dict], float]] = {
    "countdown": _makes(lambda item: item["metadata"]["target"]),
    "puzzle24": _makes(lambda item: 24),
    "spiral_matrix": _same_rows,
    "binary_matrix": _same_rows,
    "string_insertion": _same_rows,
    "n_queens": _queens,
    "game_of_life_halting": _same_rows,      # its own scorer says 1 to any text
}
"""Tasks whose own scorer is not used -> our scorer."""
ALGEBRA_TASKS = frozenset({"polynomial_multiplication", "simple_integration", "intermediate_integration"})
"""Their own scorer runs the model's text as code, and another one would need a computer algebra."""
EVALUATING_TASKS = frozenset(SCORERS) - {"game_of_life_halting"} | ALGEBRA_TASKS
"""Their own scorer runs the model's text as code (sympy's parse_expr, or eval)."""
CHANGING_TASKS = frozenset({"list_functions"})
"""An item differs from one read to the next, so a run could not be resumed exactly."""


def refuse_task(task: str, reward: str, field: str = "data.source") -> None:
    """Raises InputError for a task that is not offered (with this reward), naming `field`."""
    named = f"{field} is 'reasoning-gym:{task}'"
    other = "Choose another task, such as reasoning-gym:chain_sum"
    if task in ALGEBRA_TASKS:
        raise InputError(f"{named}: its scorer runs the model's text as code, and no other is offered. {other}, or "
                         "write its questions to a .jsonl file and judge them by a reward of your own.")
    if task in CHANGING_TASKS:
        raise InputError(f"{named}: this task changes its questions from one read to the next, so a run could not be "
                         f"resumed. {other}.")
    if task in EVALUATING_TASKS and not reward.startswith("reasoning-gym"):
        raise InputError(f"{named} with verifier.reward = {reward!r}: this task's scorer runs the model's text as "
                         f"code. Set verifier.reward to reasoning-gym, which has a safe scorer for it. {other}.")


@lru_cache(8)
def _dataset(task: str, size: int, seed: int):
    import reasoning_gym
    return reasoning_gym.create_dataset(task, size=size, seed=seed)


@lru_cache(4096)
def _item(task: str, size: int, seed: int, index: int) -> dict:
    return _dataset(task, size, seed)[index]


def score(response: str, gold: str) -> float:
    """The task's score of a response, in [0, 1]. `gold` is what `read_gold` made. An empty answer is 0. Raises
    InputError for a task that is not offered."""
    origin = json.loads(gold)
    task, answer = origin["task"], final_answer(response)
    refuse_task(task, "reasoning-gym")
    if not answer:
        return 0.0
    place = task, origin["size"], origin["seed"], origin["index"]
    if task in SCORERS:
        return SCORERS[task](answer, _item(*place))
    try:
        value = float(_dataset(*place[:3]).score_answer(answer, _item(*place)))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, SyntaxError):
        return 0.0                    # some scorers raise on text that is no answer (0.1.25)
    # A score that rounding left above 1 is not exactly 1, so the answer is not right.
    return math.nextafter(1, 0) if 1 < value < 1 + ROUNDING else value


def read_gold(row: Mapping) -> str:
    """Task, size, seed and index of the row's item, and its answer, as JSON. Scorers want the whole item, and
    these numbers make it again. Raises ValueError for a row of another source."""
    if not isinstance(row.get("gym"), Mapping):
        raise ValueError("the row is not of reasoning-gym: with this reward, data.source is reasoning-gym:TASK")
    return json.dumps(row["gym"] | {"answer": row.get("answer")}, default=str)


def _prepare(allow_weak_sandbox: bool) -> None:
    try:
        import reasoning_gym  # noqa: F401
    except ImportError as problem:
        raise InputError("verifier.reward is reasoning-gym: the package is not installed. Run: pip install "
                         "reasoning-gym (it needs a C compiler).") from problem


@register("reasoning-gym", read_gold=read_gold, prepare=_prepare)
def exactly(prompt: str, response: str, gold: str) -> float:
    """1 where the task's scorer says exactly 1, else 0."""
    return float(score(response, gold) == 1)


@register("reasoning-gym-soft", read_gold=read_gold, prepare=_prepare)
def soft(prompt: str, response: str, gold: str) -> float:
    """The task's own score."""
    return score(response, gold)
