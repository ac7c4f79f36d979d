"""From a response to a verdict: the boxed answer, the exact ladder, the guard, and the symbolic judge behind them.

1. `extract` takes the final answer out of the response (the complete \\boxed{} that starts last).
2. `quick_verdict` decides spelling, exact rationals and structure in the calling process; nothing there is expensive.
3. What it leaves open passes the guard (`too_large`), which keeps bombs away from the parser and from sympy.
4. `judge` runs in a worker process: the same comparison with `symbolic.equal` at the leaves.
"""
from __future__ import annotations

import ast
import re
from typing import Literal

from nft_jax.types import InputError, Outcome, Verdict
from nft_jax.verify.maths.compare import compare, exactly
from nft_jax.verify.maths.exact import plain_integer
from nft_jax.verify.maths.normalise import key, nesting, normalise
from nft_jax.verify.maths.structure import unknown

Mode = Literal["equivalent", "strict", "lenient"]
MODES: tuple[Mode, ...] = ("equivalent", "strict", "lenient")

SCANNED_CHARACTERS = 1 << 20
"""Only this much of a response's end is searched for the answer."""
READABLE_CHARACTERS = 20_000
"""Longer answers are compared as strings only."""
STRICT_TAIL = 100
"""Characters at the end of the response in which strict mode looks (the official NFT training reward)."""

_BRACES = re.compile(r"\\{1,4}boxed\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def last_box(text: str) -> str | None:
    """Content of the complete \\boxed{...} that starts last; None without one.

    One pass with a stack, linear in the text. Escaped braces are not braces; of nested boxes the inner one counts.
    """
    stack: list[int] = []                  # where a box's content starts, or -1 for any other brace
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
    """The last box within the last 100 characters, braces counted without regard to escapes (math_dapo in verl)."""
    tail = response[-STRICT_TAIL:]
    start = tail.rfind(r"\boxed{")
    depth = 0
    for i in range(start, len(tail) if start >= 0 else start):
        depth += (tail[i] == "{") - (tail[i] == "}")
        if tail[i] == "}" and depth == 0:
            return tail[start + len(r"\boxed{"):i]
    return None


def extract(response: str, mode: Mode = "equivalent") -> str | None:
    """The final answer of a response, or None when there is none (an empty box is none).

    A response with a closing </think> is searched after the last one. Mode lenient falls back to the last number in
    the text; mode strict reads the last 100 characters only.
    """
    if mode == "strict":
        return _strict_box(response)
    tail = response[-SCANNED_CHARACTERS:]
    tail = tail.rpartition("</think>")[2]
    found = last_box(tail)
    if found is None and mode == "lenient":
        numbers = _NUMBER.findall(tail)
        found = numbers[-1] if numbers else None
    return found.strip() if found is not None and found.strip() else None


_TOWER = re.compile(r"\^\s*\{?[^{}+=,]{0,40}\^|\^\s*\{[^{}]*\{[^{}]*\}[^{}]*\^|\^\s*\{?\s*[-+(]*\s*[0-9]{5,}"
                    r"|\^\s*\{?\s*\(?\s*10\s*\^|[0-9]!\s*\)?\s*\}?\s*\^|\^\s*\{?\s*\(?\s*[0-9]+!")
_CLASSES: tuple[tuple[str, re.Pattern], ...] = (
    ("a run of 300 digits", re.compile(r"[0-9]{300}")),
    ("a tower of powers or a large exponent", _TOWER),
    ("a large factorial", re.compile(r"[0-9]{3,}\s*!|!\s*[!)}]*\s*!|[0-9]\s*\}+\s*\)*\s*!|\([^()a-zA-Z]*\)\s*!")),
    ("a large binomial", re.compile(r"\\binom\s*\{[^{}]*[0-9]{4}|\\binom\s*\{[^{}]*\\|\\binom\s*\{[^{}]*\^")),
    ("a sum, product, integral or limit", re.compile(r"\\(?:i*int|oint|sum|prod|lim|limsup|liminf|Gamma|bigcup|bigcap"
                                                     r"|det|gcd|lcm|zeta|mod|bmod|pmod)(?![a-zA-Z])")),
    ("code", re.compile(r"__|\bimport\b|\blambda\b(?<!\\lambda)|\beval\b|\bexec\b")),
    ("a control character", re.compile(r"[\x00-\x08\x0e-\x1f\ud800-\udfff]")),
)
_LIMITS = (("characters", len, 600), ("levels of brackets", nesting, 12), ("vertical bars", lambda s: s.count("|"), 12),
           ("fractions", lambda s: s.count(r"\frac"), 25), ("powers", lambda s: s.count("^"), 40),
           ("parts", lambda s: len(re.findall("[,;&]", s)), 60))


def too_large(gold: str, answer: str) -> str | None:
    """Why an answer is kept from the parser and from sympy, or None. A construct that the gold itself contains is
    allowed to its answers, and a limit that the gold exceeds is twice the gold's own size."""
    for name, size, limit in _LIMITS:
        allowed = max(limit, 2 * size(gold)) if size(gold) > limit else limit
        if size(answer) > allowed:
            return f"{size(answer)} {name}, more than {allowed}"
    for name, pattern in _CLASSES:
        if pattern.search(answer) and not pattern.search(gold):
            return f"it contains {name}"
    return None


def verdict(outcome: Outcome, extracted: str | None, reason: str) -> Verdict:
    """right is 1, error is no reward at all, everything else is 0."""
    return Verdict(outcome, {"right": 1.0, "error": None}.get(outcome, 0.0), extracted, reason)


def quick_verdict(gold: str, answer: str | None, mode: Mode = "equivalent") -> Verdict | None:
    """The verdict where it can be had without sympy; None sends the answer to a worker."""
    if answer is None:
        where = f"in the last {STRICT_TAIL} characters" if mode == "strict" else "in the response"
        return verdict("no_answer", None, f"no complete box {where}")
    if mode == "strict":
        return verdict("right" if answer == gold else "wrong", answer, "compared as strings")
    if gold.strip() == answer.strip():
        return verdict("right", answer, "same string")
    found = [_quick_verdict(form.strip(), answer.strip(), answer) for form in alternatives(gold)]
    right = [each for each in found if each is not None and each.outcome == "right"]
    return right[0] if right else None if None in found else found[0]


def alternatives(gold: str) -> tuple[str, ...]:
    """The forms of a gold that is written as a Python list of strings, as in Minerva's files: any of them is right.
    Every other gold is its own only form."""
    if not re.match(r"\[\s*['\"]", gold.strip()):
        return (gold,)
    try:
        forms = ast.literal_eval(gold.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return (gold,)
    return tuple(forms) if forms and all(isinstance(form, str) for form in forms) else (gold,)


def _quick_verdict(gold_text: str, text: str, answer: str) -> Verdict | None:
    if _INTEGER.fullmatch(gold_text) and _INTEGER.fullmatch(text):
        return verdict("right" if int(gold_text) == int(text) else "wrong", answer, "integers")
    if len(text) > READABLE_CHARACTERS:
        return _long_verdict(gold_text, text, answer)
    g, a = normalise(gold_text), normalise(text)
    if not a:
        return verdict("no_answer", None, "the box is empty")
    if key(g) == key(a):
        return verdict("right", answer, "same spelling")
    exact = exactly(g, a)
    if exact is True:
        return verdict("right", answer, "equal numbers")
    large = too_large(g, a)
    if large and exact is None:
        return verdict("too_large", answer, large)
    truth = compare(g, a, unknown)
    if truth is None:
        return None
    return verdict("right" if truth else "wrong", answer, "same structure" if truth else "differs from the gold")


def _long_verdict(gold: str, text: str, answer: str) -> Verdict:
    integers = plain_integer(gold), plain_integer(text)
    if None not in integers:
        return verdict("right" if integers[0] == integers[1] else "wrong", answer, "integers")
    return verdict("too_large", answer, f"{len(text)} characters, more than {READABLE_CHARACTERS}")


def judge(gold: str, answer: str) -> tuple[Outcome, str]:
    """A worker's word on an answer that `quick_verdict` left open: outcome and reason. It may take long or die; the
    pool sees to that."""
    from nft_jax.verify.maths.symbolic import equal

    forms = [normalise(form.strip()) for form in alternatives(gold)]
    truth = any(compare(form, normalise(answer.strip()), equal) for form in forms)
    return ("right", "equal expressions") if truth else ("wrong", "not equal to the gold")


def check_gold(gold: str) -> str | None:
    """None when a gold answer is usable, else the reason: boxed, it must come back whole and be judged right.

    Cheap (no sympy). Raises InputError when the gold is not a string.
    """
    if not isinstance(gold, str):
        raise InputError(f"gold is {gold!r} ({type(gold).__name__}): a gold answer is a string; write str(answer).")
    if not gold.strip():
        return "the gold is empty"
    found = extract(f"\\boxed{{{gold}}}")
    if found != gold.strip():
        return f"boxed, the gold reads {found!r}: its braces do not balance, or it contains a box of its own"
    if len(gold) > READABLE_CHARACTERS:
        return f"the gold has {len(gold)} characters, more than {READABLE_CHARACTERS}"
    if re.search(r"[\x00-\x08\x0e-\x1f\ud800-\udfff]", gold):
        return "the gold contains a control character or half of a surrogate pair"
    if not normalise(gold.strip()):
        return "the gold is punctuation only"
    return None
