"""From a row of a data set to a question and its gold answer.

A row that cannot be used raises `Unusable`; the loader (`nft_jax.data.prompts`) counts it and goes on.
"""
from __future__ import annotations

import math
import re
from collections.abc import Callable

from nft_jax.data.sources import ANSWER_COLUMNS, QUESTION_COLUMNS
from nft_jax.runtime.tables import listed
from nft_jax.verify.maths.extract import extract
from nft_jax.verify.maths.judge import alternatives, check_gold
from nft_jax.verify.rewards.registry import lookup

REASONS = ("unreadable", "no_question", "no_answer", "placeholder", "bad_gold", "bad_chat", "too_long")
PLACEHOLDERS = frozenset(("proof", "notfound", "not found", "n/a", "nan", "null", "<na>"))
"""Values, in any case, that stand for a missing gold. So does None, but not none: that may be the answer."""
LONGEST_ANSWER = 200
"""Characters of a text without a box that can pass for an answer."""
_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Unusable(Exception):
    """Why a row cannot be used: (one of REASONS, detail)."""


def half_pair(text: str) -> str | None:
    """Where a text has half of a surrogate pair, which no tokenizer and no parquet file takes; None if nowhere."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(error.start - 20, 0):error.start + 20]
        return f"half of a surrogate pair, {text[error.start]!r}, in {around!r}"
    return None


def read_question(row: dict) -> str | list[dict]:
    """The question of a row: a string, or chat messages that end with the user's. Raises Unusable."""
    name = next((name for name in QUESTION_COLUMNS if row.get(name)), None)
    if name is None:
        raise Unusable("no_question", f"no value in {', '.join(QUESTION_COLUMNS)} (columns: {listed(row)})")
    value = row[name]
    if isinstance(value, str):
        if not value.strip():
            raise Unusable("no_question", f"{name} is blank")
        return value
    messages = list(value) if isinstance(value, (list, tuple)) else []
    if not messages or not all(isinstance(message, dict) and isinstance(message.get("role"), str)
                               and isinstance(message.get("content"), str) for message in messages):
        raise Unusable("no_question", f"{name} is neither text nor a list of messages with role and content")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise Unusable("no_question", f"the last message of {name} must be the user's, and not blank")
    return messages


def gold_reader(reward: str, required: bool = True) -> Callable[[dict], str]:
    """How a reward reads the gold of a row: by the rules of maths (`read_gold`), or its own. The function
    returned raises Unusable, or gives "" if it is not `required`. Raises InputError for an unknown reward."""
    read = read_gold if reward == "math" else lookup(reward).read_gold

    def read_row(row: dict) -> str:
        try:
            gold = read(row)
            if broken := half_pair(gold):
                raise ValueError(broken)
            return gold
        # TypeError: a value that JSON has not, such as a date. RecursionError: JSON within text, nested too deep.
        except (Unusable, ValueError, TypeError, RecursionError) as problem:
            if not required:
                return ""
            if isinstance(problem, Unusable):
                raise
            raise Unusable("bad_gold", str(problem)) from problem
    return read_row


def read_gold(row: dict) -> str:
    """The gold answer of a row of maths, from the first column that has a value. Raises Unusable.

    In its text, or between its last <answer> tags, what follows the last #### is the gold (GSM8K), else the content
    of the last box, else the whole text. A whole number is written without a point (142.0 is 142). OlympiadBench has
    a list of all answers. A placeholder is no gold, whatever the other columns have.
    """
    for name in ANSWER_COLUMNS:
        value = row.get(name)
        if name == "reward_model" and isinstance(value, dict):
            name, value = "reward_model.ground_truth", value.get("ground_truth")
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        elif name == "final_answer" and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            value = ", ".join(value)
        # Null, nan (the only value that differs from itself) or blank: the next column may have more.
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise Unusable("bad_gold", f"{name} is of type {type(value).__name__}, not text or a number")
        # Infinity, or a number beyond the floats, such as 1e999.
        if isinstance(value, float) and math.isinf(value):
            raise Unusable("bad_gold", f"{name} is no finite number")
        return _final_answer(name, str(int(value) if isinstance(value, float) and value.is_integer() else value))
    raise Unusable("no_answer", "no value in answer, final_answer, solution or reward_model.ground_truth")


def _final_answer(name: str, text: str) -> str:
    text = (_TAGS.findall(text) or [text])[-1]
    if text.strip() == "None" or text.strip().casefold() in PLACEHOLDERS:
        raise Unusable("placeholder", f"{name} is {text.strip()!r}, which stands for a missing answer (where it is the "
                       "answer, write it as \\text{...})")
    if "####" in text:
        gold = text.rpartition("####")[2].strip()
    elif "\\boxed" in text:
        gold = extract(text) or ""
        if not gold:
            raise Unusable("bad_gold", f"the last box in {name} is empty, not complete or without braces")
    else:
        gold = text.strip()
        if max(map(len, alternatives(gold))) > LONGEST_ANSWER or "\n" in gold:
            raise Unusable("bad_gold", f"{name} is a long text without #### and without box")
    reason = check_gold(gold)
    if reason is not None:
        raise Unusable("bad_gold", f"{name}: {reason}")
    return gold
