"""Rewards for programs: the model writes a Python function or a program, hidden tests decide.

The gold of a task is JSON:

    {"entry": "f", "tests": [{"args": [1, 2], "expected": 3}, ...]}          a function
    {"tests": [{"stdin": "1 2\\n", "expected": "3\\n"}, ...]}                 a program

Optional: "seconds" of wall clock for each test (1), and "tolerance" for floats (1e-9): relative to the expected value,
absolute where 0.0 is expected. verifier.deadline must leave room for all tests of a task (10 s, say).

Expected values never enter the sandbox. Only plain JSON comes out of it, and it is compared here: nothing that
a submission prints, overrides or exits with can pass a test.
"""
from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from nft_jax.runtime.tables import integer
from nft_jax.verify.maths.extract import without_thoughts
from nft_jax.verify.rewards.registry import plain_gold, register
from nft_jax.verify.rewards.sandbox import Limits, find_sandbox, run_submission

TOLERANCE = 1e-9
LONGEST_SOURCE = 100_000
_FENCE = re.compile(r"^[ \t]*```[ \t]*([a-zA-Z0-9_+-]*)[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_weak: dict[str, bool] = {"allowed": False}


def extract_program(response: str) -> str:
    """The last complete ``` block outside of thoughts; without a block, everything outside of them."""
    tail = without_thoughts(response)
    blocks = _FENCE.findall(tail)
    return blocks[-1][1] if blocks else tail


def same(value, expected, tolerance: float = TOLERANCE) -> bool:
    """Whether a plain JSON value is the expected one. A bool is no number. An int may come as a float of the
    same value. Where a float is expected, the tolerance holds. Lists and dicts are compared item by item."""
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        return type(value) is type(expected) and value == expected
    if isinstance(expected, (int, float)):
        if type(value) not in (int, float):
            return False
        if isinstance(expected, int) or value == expected:
            return value == expected
        try:
            return math.isclose(value, expected, rel_tol=tolerance, abs_tol=0 if expected else tolerance)
        except OverflowError:         # an integer beyond the floats
            return False
    if isinstance(expected, list):
        return type(value) is list and len(value) == len(expected) and \
            all(same(each, wanted, tolerance) for each, wanted in zip(value, expected, strict=True))
    return type(value) is dict and value.keys() == expected.keys() and \
        all(same(value[key], wanted, tolerance) for key, wanted in expected.items())


def same_output(value, expected: str) -> bool:
    """Whether a program printed the expected text, blanks at the end of lines and of the text aside. A line ends
    with a line feed, or a carriage return and one; no other character ends it."""
    def lines(text: str) -> list[str]:
        return [line.rstrip(" \t") for line in text.replace("\r\n", "\n").rstrip(" \t\n").split("\n")]
    return isinstance(value, str) and lines(value) == lines(expected)


def check_task(gold: str) -> str | None:
    """None when a gold is a usable task, else the reason."""
    try:
        task = json.loads(gold, parse_int=integer)
    except (ValueError, RecursionError) as problem:
        return f"the tests are not JSON ({problem})"
    tests = task.get("tests") if isinstance(task, dict) else None
    if not isinstance(tests, list) or not tests:
        return 'the tests are missing: {"entry": "f", "tests": [{"args": [...], "expected": ...}]}'
    entry = task.get("entry")
    wanted, kind = ("args", list) if entry else ("stdin", str)
    if entry is not None and not (isinstance(entry, str) and entry.isidentifier()):
        return f"entry is {entry!r}, not the name of a function"
    for test in tests:
        if not (isinstance(test, dict) and isinstance(test.get(wanted), kind) and "expected" in test):
            return f"a test of this kind needs {wanted} and expected: {test!r:.100}"
        if not entry and not isinstance(test["expected"], str):
            return f"the expected output of a program is text: {test!r:.100}"
    for name in ("seconds", "tolerance"):
        value = task.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
            return f"{name} is {value!r:.50}, not a positive number below a million"
    return None


def share_passed(response: str, gold: str) -> float:
    """The share of the task's tests that the program in the response passes. Raises RuntimeError when the
    sandbox did not start, ValueError when the gold is no task."""
    source, task = extract_program(response), json.loads(read_gold({"answer": gold}))
    if not source.strip() or len(source) > LONGEST_SOURCE or "\0" in source:
        return 0.0
    entry, tests = task.get("entry"), task["tests"]
    name = "args" if entry else "stdin"
    given = [{name: test[name]} for test in tests]
    found = run_submission(find_sandbox(_weak["allowed"]), source.encode("utf-8", "replace").decode(), entry, given,
                           Limits(float(task.get("seconds", Limits.seconds))))
    tolerance = float(task.get("tolerance", TOLERANCE))

    def passes(result: dict, expected) -> bool:
        if "value" not in result:
            return False
        return same(result["value"], expected, tolerance) if entry else same_output(result["value"], expected)

    return sum(passes(each, test["expected"]) for each, test in zip(found, tests, strict=True)) / len(tests)


def read_gold(row: Mapping) -> str:
    """The answer column of a row as JSON. Raises ValueError when it is no usable task."""
    gold = plain_gold(row)
    reason = check_task(gold)
    if reason is not None:
        raise ValueError(reason)
    return gold


def prepare(allow_weak_sandbox: bool) -> None:
    """Find the sandbox of this machine. Raises InputError without one, unless a weak one is allowed."""
    _weak["allowed"] = allow_weak_sandbox
    find_sandbox(allow_weak_sandbox)


@register("code", read_gold=read_gold, prepare=prepare, starts_processes=True)
def code(prompt: str, response: str, gold: str) -> float:
    """1 when the program passes every test, else 0."""
    return float(share_passed(response, gold) == 1)


@register("code-share", read_gold=read_gold, prepare=prepare, starts_processes=True)
def code_share(prompt: str, response: str, gold: str) -> float:
    """The share of the tests that the program passes."""
    return share_passed(response, gold)
