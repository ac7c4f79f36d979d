"""Rewards of reasoning-gym's tasks by name: data.source "reasoning-gym:TASK" with verifier.reward "reasoning-gym".

A task's own scorer decides, in the verifier's workers: "reasoning-gym" is 1 only where it says exactly 1,
"reasoning-gym-soft" is its score. The scorers that evaluate the model's text as code are never called: `SCORERS`
replaces every one of them. Tasks whose items change are refused (`nft_jax.data.sources.refuse_task`).
Checked against reasoning-gym 0.1.25.
"""
from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache

from nft_jax.data.sources import CHANGING_TASKS, EVALUATING_TASKS
from nft_jax.types import InputError
from nft_jax.verify.maths.judge import last_box
from nft_jax.verify.rewards.gym_algebra import is_antiderivative, polynomial
from nft_jax.verify.rewards.registry import register

ROUNDING = 1e-9
"""Scorers that add up shares may end this much above 1."""
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def final_answer(response: str) -> str:
    """What the response gives as its answer: the last complete box, else the last <answer>...</answer>, else all of
    it, without white space around it."""
    boxed = last_box(response)
    tagged = _TAGGED.findall(response) if boxed is None else []
    return (boxed if boxed is not None else tagged[-1] if tagged else response).strip()


def read_expression(text: str) -> tuple[Fraction, list[int]] | None:
    """Value of an expression of whole numbers, + - * / and brackets, and the numbers in it; None for any other text.

    Nothing is evaluated by Python: the syntax tree is walked, and there is no power in it.
    """
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
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Sub(), right):
                return value(left) - value(right)
            case ast.BinOp(left, ast.Mult(), right):
                return value(left) * value(right)
            case ast.BinOp(left, ast.Div(), right):
                return value(left) / value(right)
        raise ValueError("no arithmetic")

    try:
        return value(ast.parse(text.strip(), mode="eval").body), numbers
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _makes(target: Callable[[dict], int]) -> Callable[[str, dict], float]:
    """1 for an expression that uses the given numbers, each once, and has the target as its value."""
    def score(answer: str, item: dict) -> float:
        found = read_expression(answer)
        if found is None:
            return 0.0
        value, numbers = found
        return float(value == target(item) and Counter(numbers) == Counter(item["metadata"]["numbers"]))
    return score


def _same_rows(answer: str, item: dict) -> float:
    """1 for the one right answer; the number of spaces between entries does not matter."""
    def rows(text: str) -> list[list[str]]:
        return [line.split() for line in text.strip().splitlines()]
    return float(rows(answer) == rows(item["answer"]))


def _queens(answer: str, item: dict) -> float:
    """1 for a board of Q and _ that keeps the queens of the puzzle and has one in every row, none attacking another;
    spaces between the squares do not matter."""
    puzzle = item["metadata"]["puzzle"]
    size = len(puzzle)
    if len(answer) > 4 * size * (size + 1) or not re.fullmatch(r"[Q_ \t\r\n]+", answer):
        return 0.0
    board = ["".join(line.split()) for line in answer.strip().splitlines()]
    if len(board) != size or any(len(row) != size or row.count("Q") != 1 for row in board):
        return 0.0
    columns = [row.index("Q") for row in board]
    free = all(len(set(lines)) == size for lines in (
        columns, [row + column for row, column in enumerate(columns)],
        [row - column for row, column in enumerate(columns)]))
    kept = all(board[row][column] == "Q" for row in range(size) for column in range(size)
               if puzzle[row][column] == "Q")
    return float(free and kept)


def _multiplied_out(answer: str, item: dict) -> float:
    """1 for the product written out, in any order of its terms; the question's own brackets are no answer."""
    found = polynomial(answer)
    return float(found is not None and found == polynomial(item["answer"]))


def _integrates(answer: str, item: dict) -> float:
    """1 for an expression whose derivative is the integrand, whatever its constant."""
    return float(is_antiderivative(answer, item["metadata"]["integrand"], item["metadata"]["variable"]))


SCORERS: dict[str, Callable[[str, dict], float]] = {
    "countdown": _makes(lambda item: item["metadata"]["target"]),
    "puzzle24": _makes(lambda item: 24),
    "spiral_matrix": _same_rows,
    "binary_matrix": _same_rows,
    "string_insertion": _same_rows,
    "n_queens": _queens,
    "polynomial_multiplication": _multiplied_out,
    "simple_integration": _integrates,
    "intermediate_integration": _integrates,
    "game_of_life_halting": _same_rows,      # its own scorer says 1 to any text
}
"""Tasks whose own scorer is not used -> (answer, item) -> reward."""


@lru_cache(8)
def _dataset(task: str, size: int, seed: int):
    import reasoning_gym
    return reasoning_gym.create_dataset(task, size=size, seed=seed)


@lru_cache(4096)
def _item(task: str, size: int, seed: int, index: int) -> dict:
    return _dataset(task, size, seed)[index]


def score(response: str, gold: str) -> float:
    """The task's score of a response, in [0, 1]. `gold` is what `read_gold` made. An empty answer is 0."""
    origin = json.loads(gold)
    task, answer = origin["task"], final_answer(response)
    if (task in EVALUATING_TASKS and task not in SCORERS) or task in CHANGING_TASKS:
        raise InputError(f"reasoning-gym:{task} is not offered: its scorer runs the model's text as code, or its items "
                         "change from one read to the next.")
    if not answer:
        return 0.0
    place = task, origin["size"], origin["seed"], origin["index"]
    if task in SCORERS:
        return SCORERS[task](answer, _item(*place))
    try:
        value = float(_dataset(*place[:3]).score_answer(answer, _item(*place)))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, SyntaxError):
        return 0.0                           # some scorers raise on text that is no answer (0.1.25)
    return math.nextafter(1, 0) if 1 < value < 1 + ROUNDING else value      # not exactly 1, so not right


def read_gold(row: Mapping) -> str:
    """Where the item comes from, as JSON: scorers want all of it, and it is made again from its task, seed and index.
    Raises ValueError for a row that is not of reasoning-gym."""
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
