"""Where the final answer stands in a response: the content of the complete \\boxed{...} that starts last.

\\fbox{...} is a box too, and \\boxed 42 one of a number or a letter. LaTeX comments are no text. Boxes in a row, as
in \\boxed{1} and \\boxed{-2}, are one list where the gold is a list.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

Mode = Literal["equivalent", "strict", "lenient"]
MODES: tuple[Mode, ...] = ("equivalent", "strict", "lenient")

SCANNED_CHARACTERS = 1 << 20
"""Only this many characters at a response's end are searched for the answer."""
STRICT_TAIL = 100
"""Characters at a response's end in which mode strict looks (the official NFT training reward)."""

_TOKENS = re.compile(r"\\{1,4}(?:boxed|fbox)\s*\{|\\{1,4}boxed\s+(-?[0-9][0-9.,/]*|[A-Za-z](?![A-Za-z]))"
                     r"|\\.|[{}%]", re.DOTALL)
# What may stand between the boxes of one list.
_BETWEEN = re.compile(r"(?:[\s$,;&]|\\[,;\s()]|\\q?quad|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b"
                      r"|\b[A-Za-z](?:_\{?[A-Za-z0-9]\}?)?\s*=)+")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")


def extract(response: str, mode: Mode = "equivalent", several: bool = False) -> str | None:
    """The final answer of a response, or None when there is none. An empty box is none. `several`: the boxes in a row
    at the end are one answer, joined by commas.

    Thoughts are not searched. Mode lenient falls back to the last number in the text. Mode strict reads the last
    100 characters only, thoughts included, and takes an empty box as the answer "".
    """
    if mode == "strict":
        return _strict_box(response)
    tail = without_thoughts(response)[-SCANNED_CHARACTERS:]
    found = _joined(tail) if several else last_box(tail)
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


def tail_of(response: str) -> str:
    """The end of a response that is searched, with the <think> that is open where it begins."""
    head, tail = response[:-SCANNED_CHARACTERS], response[-SCANNED_CHARACTERS:]
    return "<think>" + tail if head.rfind("<think>") > head.rfind("</think>") else tail


def last_box(text: str) -> str | None:
    """Content of the complete box that starts last; None without one."""
    best = max(_boxes(text), default=None)
    return None if best is None else text[best[0]:best[1]]


def _joined(text: str) -> str | None:
    """Contents of the last boxes of the text that only separators keep apart, as one list."""
    boxes = sorted(_boxes(text))
    if not boxes:
        return None
    first = len(boxes) - 1
    while first and _BETWEEN.fullmatch(text, boxes[first - 1][3], boxes[first][2]):
        first -= 1
    return ", ".join(text[start:end] for start, end, _, _ in boxes[first:])


def _boxes(text: str) -> Iterator[tuple[int, int, int, int]]:
    """Start and end of the content of every complete box, and of the whole box. One pass with a stack, linear in the
    text. Escaped braces are not braces; what stands behind % on a line is a comment."""
    # Where a box's content and the box start, or -1 for any other brace.
    stack: list[tuple[int, int]] = []
    skipped, closed = 0, -1
    for match in _TOKENS.finditer(text):
        token, at = match.group(), match.start()
        if at < skipped:
            continue
        if token == "%":
            if _is_comment(text, at, closed):
                skipped = text.find("\n", at) + 1 or len(text)
        elif token == "{":
            stack.append((-1, at))
        elif token == "}":
            start, opened = stack.pop() if stack else (-1, at)
            if start >= 0:
                closed = at + 1
                yield start, at, opened, closed
        elif match.group(1) is not None:
            end = match.end() - (token[-1] in ".,/")
            yield match.start(1), end, at, end
        elif token.endswith("{") and "box" in token:
            stack.append((match.end(), at))


def _is_comment(text: str, at: int, closed: int) -> bool:
    """Whether a % begins a comment: not behind a number or an expression, where it is a percent sign."""
    before = at
    while before and text[before - 1] in " \t":
        before -= 1
    # "}%" ends an expression, unless the brace closes a box.
    behind = text[before - 1] if before else "\n"
    return before == closed or not (behind.isdigit() or behind in "$)" or (behind == "}" and before == at))


def _strict_box(response: str) -> str | None:
    """The last box within the last 100 characters, counting escaped braces as braces (math_dapo in verl)."""
    tail = response[-STRICT_TAIL:]
    start = tail.rfind(r"\boxed{")
    end = start if start >= 0 else len(tail)
    while (end := tail.find("}", end + 1)) >= 0:
        if tail.count("{", start, end) == tail.count("}", start, end + 1):
            return tail[start + len(r"\boxed{"):end]
    return None
