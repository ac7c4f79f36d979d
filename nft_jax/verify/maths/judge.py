"""From an extracted answer to a verdict: cheap comparisons first, sympy last.

0. `copied_verdict` finds answers that repeat the question: they earn nothing, whatever their value.
1. `quick_verdict` runs in the calling process. It compares spelling, exact rationals and structure.
2. What it leaves open has passed `too_large`, which keeps bombs away from the parser and from sympy.
3. `judge` runs in a worker process: the same, with `algebra.FullLeaf` where `quick_verdict` could not tell.

`check_gold` says beforehand whether a gold answer can be used at all.
"""
from __future__ import annotations

import ast
import re
from functools import lru_cache

from nft_jax.types import InputError, Outcome, Verdict
from nft_jax.verify.maths.answer import Items, Text, Value
from nft_jax.verify.maths.compare import Leaf, Truth, compare, either
from nft_jax.verify.maths.copied import copies
from nft_jax.verify.maths.expression import OPEN_FORM, plain_integer
from nft_jax.verify.maths.extract import STRICT_TAIL, Mode, extract
from nft_jax.verify.maths.normalise import key, nesting, normalise
from nft_jax.verify.maths.read import GOLD, hint_of, read
from nft_jax.verify.maths.words import same_words

READABLE_CHARACTERS = 20_000
"""Longer answers are only compared as strings and as integers."""
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_GROUPED = re.compile(r"[0-9],[0-9]{3}(?![0-9])")
SECOND_OPINION = "equal by math-verify"
"""The reason of verdicts that only math-verify gave."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\ud800-\udfff]")
"""Control characters and halves of surrogate pairs."""


def verdict(outcome: Outcome, extracted: str | None, reason: str, reward: float | None = None) -> Verdict:
    """The verdict of an outcome: right earns 1, error no reward at all, everything else 0. Where a function
    gave a `reward`, it decides: exactly 1 is right, and everything else is wrong."""
    if reward is None:
        return Verdict(outcome, {"right": 1.0, "error": None}.get(outcome, 0.0), extracted, reason)
    return Verdict("right" if reward == 1 else "wrong", reward, extracted, reason)


def answer_of(response: str, gold: str, mode: Mode = "equivalent") -> str | None:
    """The final answer of a response, which may stand in several boxes where the gold has several members."""
    return extract(response, mode, mode != "strict" and response.count("box") > 1 and _is_list(gold))


@lru_cache(maxsize=4096)
def _is_list(gold: str) -> bool:
    found = [read(normalise(form.strip())) for form in alternatives(gold)]
    return any(isinstance(each, Items) and each.kind in ("list", "set", "named") for each in found)


def strictly_right(response: str, gold: str) -> bool:
    """Whether mode strict (the official NFT training reward) calls a response right."""
    return extract(response, "strict") == gold


def copied_verdict(question: str, gold: str, answer: str | None, mode: Mode = "equivalent") -> Verdict | None:
    """The verdict on an answer that only repeats an expression of its question, whatever its value; else None. Mode
    strict does not ask."""
    if answer is None or mode == "strict" or not copies(question, alternatives(gold), answer):
        return None
    return verdict("copied", answer, "repeats an expression of the question")


def quick_verdict(gold: str, answer: str | None, mode: Mode = "equivalent") -> Verdict | None:
    """The verdict where it can be had without sympy; None sends the answer to a worker."""
    if answer is None:
        where = f"in the last {STRICT_TAIL} characters" if mode == "strict" else "in the response"
        return verdict("no_answer", None, f"no complete box {where}")
    if mode == "strict":
        return verdict("right" if answer == gold else "wrong", answer, "compared as strings")
    if gold.strip() == answer.strip():
        return verdict("right", answer, "same string")
    found = [_quick_verdict(form.strip(), answer) for form in alternatives(gold)]
    right = [each for each in found if each is not None and each.outcome == "right"]
    if right:
        return right[0]
    return None if None in found or _open_form(gold, answer) else found[0]


def _quick_verdict(gold_text: str, answer: str) -> Verdict | None:
    """`quick_verdict` against one form of the gold."""
    text = answer.strip()
    if _INTEGER.fullmatch(gold_text) and _INTEGER.fullmatch(text):
        return verdict("right" if int(gold_text) == int(text) else "wrong", answer, "integers")
    if len(text) > READABLE_CHARACTERS:
        long = f"{len(text)} characters, more than {READABLE_CHARACTERS}"
        return _large_verdict(gold_text, text, answer, long)
    g, a = normalise(gold_text), normalise(text)
    if not a:
        return verdict("no_answer", None, "the box is empty")
    if key(g) == key(a):
        return verdict("right", answer, "same spelling")
    # Reading is bounded by the size of the text; what comes after is not.
    if large := too_large(g, a, ()):
        return _large_verdict(g, a, answer, large)
    try:
        truth = _same(g, a, Leaf())
    except Exception:
        # A fault of ours. The worker meets it too, and reports it as an error of this one answer.
        return None
    if truth is not True and (large := too_large(g, a)):
        return verdict("too_large", answer, large)
    if truth is None:
        return None
    return verdict("right" if truth else "wrong", answer, "same value" if truth else "differs from the gold")


def _same(g: str, a: str, leaf: Leaf) -> Truth:
    """Equality of two normalised answers. Where both read 1,234 as one number or as two, either reading serves."""
    if same_words(g, a):
        return True
    gold = read(g)
    answer = read(a, hint_of(gold, g))
    told = compare(gold, answer, leaf)
    if told is not True and r"\log" in g and r"\ln" in a and r"\log" not in a:
        # A gold's \log may be natural.
        told = either([told, compare(read(g, GOLD._replace(natural=True)), answer, leaf)])
    if told is True or not (_GROUPED.search(g) or _GROUPED.search(a)):
        return told
    gold = read(g, GOLD, False)
    if isinstance(gold, Text | Value):
        return told
    return either([told, compare(gold, read(a, hint_of(gold, g), False), leaf)])


def _large_verdict(gold: str, text: str, answer: str, reason: str) -> Verdict:
    """The verdict on what is too large to read: it may still be a plain integer."""
    integers = plain_integer(gold), plain_integer(text)
    if None in integers:
        return verdict("too_large", answer, reason)
    return verdict("right" if integers[0] == integers[1] else "wrong", answer, "integers")


def judge(gold: str, answer: str) -> tuple[Outcome, str]:
    """Outcome and reason where `quick_verdict` gave None. For workers: may take long or die."""
    from nft_jax.verify.maths.algebra import FullLeaf, equal_in_closed_form

    text = answer.strip()
    a = normalise(text)
    for form in map(str.strip, alternatives(gold)):
        g, leaf = normalise(form), FullLeaf()
        if _same(g, a, leaf):
            return "right", SECOND_OPINION if leaf.asked else "proved equal"
        if _open_form(form, text) and equal_in_closed_form(g, a):
            return "right", SECOND_OPINION
    return "wrong", "not equal to the gold"


# What is too large for the parser and for sympy.

_TOWER = re.compile(r"\^\s*\{?[^{}+=,]{0,40}\^|\^\s*\{[^{}]*\{[^{}]*\}[^{}]*\^|\^\s*\{?\s*[-+(]*\s*[0-9]{5,}"
                    r"|\^\s*\{?\s*\(?\s*10\s*\^|[0-9]!\s*\)?\s*\}?\s*\^|\^\s*\{?\s*\(?\s*[0-9]+!")
_CLASSES: tuple[tuple[str, re.Pattern], ...] = (
    ("a run of 300 digits", re.compile(r"[0-9]{300}")),
    ("a tower of powers or a large exponent", _TOWER),
    ("a large factorial", re.compile(r"[0-9]{3,}\s*!|!\s*[!)}]*\s*!|[0-9]\s*\}+\s*\)*\s*!|\([^()a-zA-Z]*\)\s*!")),
    ("a large binomial", re.compile(r"\\binom\s*\{[^{}]*[0-9]{4}|\\binom\s*\{[^{}]*\\|\\binom\s*\{[^{}]*\^")),
    ("a sum, product, integral or limit", OPEN_FORM),
    ("code", re.compile(r"__|\bimport\b|\blambda\b(?<!\\lambda)|\beval\b|\bexec\b")),
    ("a control character", _CONTROL),
)
"""(name, pattern) of constructs that an answer may contain only where its gold does."""
_LIMITS = (("characters", len, 600), ("levels of brackets", nesting, 12), ("vertical bars", lambda s: s.count("|"), 12),
           ("fractions", lambda s: s.count(r"\frac"), 25), ("powers", lambda s: s.count("^"), 40),
           ("parts", lambda s: len(re.findall("[,;&]", s)), 60))
"""(name, size of a text, most of it in an answer)."""


def _open_form(gold: str, answer: str) -> bool:
    """Whether the gold has a sum, an integral or a limit, which only math-verify reads, and the answer is no bomb."""
    g = normalise(gold)
    # A long answer is not normalised for a gold without one.
    return bool(OPEN_FORM.search(g)) and too_large(g, normalise(answer)) is None


def too_large(gold: str, answer: str, classes: tuple = _CLASSES) -> str | None:
    """Why an answer is kept from the parser and from sympy, or None. An answer may contain every construct that
    its gold contains. Where the gold exceeds a limit, the answer may be twice the gold's size."""
    for name, size, limit in _LIMITS:
        allowed = max(limit, 2 * size(gold)) if size(gold) > limit else limit
        if size(answer) > allowed:
            return f"{size(answer)} {name}, more than {allowed}"
    for name, pattern in classes:
        if pattern.search(answer) and not pattern.search(gold):
            return f"it contains {name}"
    return None


# Golds.

def alternatives(gold: str) -> tuple[str, ...]:
    """The forms of a gold that is a Python list of strings, as Minerva's: any of them is right. Every other
    gold is its own only form."""
    if not re.match(r"\[\s*['\"]", gold.strip()):
        return (gold,)
    try:
        forms = ast.literal_eval(gold.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return (gold,)
    return tuple(forms) if forms and all(isinstance(form, str) for form in forms) else (gold,)


def check_gold(gold: str) -> str | None:
    """None when a gold answer is usable, else the reason. A usable gold comes back whole from a box. Cheap (no
    sympy). Raises InputError when the gold is not a string."""
    if not isinstance(gold, str):
        raise InputError(f"gold is {gold!r} ({type(gold).__name__}): a gold answer is a string; write str(answer).")
    if not gold.strip():
        return "the gold is empty"
    found = extract(f"\\boxed{{{gold}}}")
    if found != gold.strip():
        return f"boxed, the gold reads {found!r}: its braces do not balance, or it contains a box of its own"
    if len(gold) > READABLE_CHARACTERS:
        return f"the gold has {len(gold)} characters, more than {READABLE_CHARACTERS}"
    if _CONTROL.search(gold):
        return "the gold contains a control character or half of a surrogate pair"
    if not normalise(gold.strip()):
        return "the gold is punctuation only"
    return None
