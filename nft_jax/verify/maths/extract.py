"""Where the final answer stands in a response: the content of the complete \\boxed{...} that starts last."""
from __future__ import annotations

import re
from typing import Literal

Mode = Literal["equivalent", "strict", "lenient"]
MODES: tuple[Mode, ...] = ("equivalent", "strict", "lenient")

SCANNED_CHARACTERS = 1 << 20
"""Only this many characters at a response's end are searched for the answer."""
STRICT_TAIL = 100
"""Characters at a response's end in which mode strict looks (the official NFT training reward)."""

_BRACES = re.compile(r"\\{1,4}boxed\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")


def extract(response: str, mode: Mode = "equivalent") -> str | None:
    """The final answer of a response, or None when there is none. An empty box is none.

    Thoughts are not searched. Mode lenient falls back to the last number in the text. Mode strict reads the last
    100 characters only, thoughts included, and takes an empty box as the answer "".
    """
    if mode == "strict":
        return _strict_box(response)
    tail = without_thoughts(response)[-SCANNED_CHARACTERS:]
    found = last_box(tail)
    if found is None and mode == "lenient":
        numbers = _NUMBER.findall(tail)
        found = numbers[-1] if numbers else None
    return found.strip() if found is not None and found.strip() else None


def without_thoughts(response: str) -> str:
    """The text after the last </think>, up to a <think> that stays open."""
    return response.rpartition("</think>")[2].partition("<think>")[0]


def with_open_thought(prompt: str, response: str) -> str:
    """The response, behind the <think> with which its prompt may end."""
    # A prompt that only speaks of <think> opens no thought.
    opened = prompt.rstrip().endswith("<think>") and not response.startswith("<think>")
    return "<think>" + response if opened else response


def last_box(text: str) -> str | None:
    """Content of the complete \\boxed{...} that starts last; None without one. One pass with a stack, linear in
    the text. Escaped braces are not braces; of nested boxes the inner one counts."""
    # Where a box's content starts, or -1 for any other brace.
    stack: list[int] = []
    best: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            stack.append(-1)
        elif token == "}":
            start = stack.pop() if stack else -1
            if start >= 0 and (best is None or start > best[0]):
                best = start, match.start()
        elif token.endswith("boxed{"):
            stack.append(match.end())
    return None if best is None else text[best[0]:best[1]]


def _strict_box(response: str) -> str | None:
    """The last box within the last 100 characters, counting escaped braces as braces (math_dapo in verl)."""
    tail = response[-STRICT_TAIL:]
    start = tail.rfind(r"\boxed{")
    end = start if start >= 0 else len(tail)
    while (end := tail.find("}", end + 1)) >= 0:
        if tail.count("{", start, end) == tail.count("}", start, end + 1):
            return tail[start + len(r"\boxed{"):end]
    return None
