"""The golds of MATH-500, Minerva, AMC, AIME and GSM8K in other words: named, in text, with ± written out."""
import json
import re

import pytest

pytest.importorskip("math_verify")

from corpus import box
from nft_jax.config import VerifierConfig
from nft_jax.verify import Verifier

SETS = ("math500", "minerva", "amc", "aime24", "gsm8k_test")
RELATION = re.compile(r"[=<>|]|\\(?:le|ge|leq|geq|in|approx|equiv)(?![a-zA-Z])|^\[|[a-zA-Z]{3}")


@pytest.fixture(scope="module")
def golds(data_folder) -> list[str]:
    rows = [json.loads(line) for name in SETS for line in (data_folder / "data" / f"{name}.jsonl").open()]
    return sorted({row["answer"].rpartition("####")[2].strip() for row in rows})


def named(gold: str) -> str | None:
    """The gold with a name in front; None where it is a sentence, a relation, names only or a list of forms."""
    if re.fullmatch(r"[A-Za-z](?:_\{?\w\}?)?(?:, ?[A-Za-z](?:_\{?\w\}?)?)*", gold):
        return None
    bare = re.sub(r"\\(?:text|mbox|mathrm)\{[^{}]*\}(?:\^\{?[0-9]\}?)?|\\[a-zA-Z]+", " ", gold)
    if gold.startswith(r"\text{") or RELATION.search(gold.replace(r"\left", "")) or RELATION.search(bare):
        return None
    if re.search(r"\\infty|\\cup|[(\[][^()\[\]]*\]|\[[^()\[\]]*\)", gold):
        return rf"t \in {gold}"
    free = next(name for name in "xynkN" if name not in bare)
    if (found := re.fullmatch(r"(?:\\left)?\s*\(([^()]*),([^()]*)\)", gold)) is not None:
        return f"({', '.join('xyzwuv'[:2 + found[1].count(',')])}) = {gold}"
    return f"{free} = {gold}"


def in_text(gold: str) -> str | None:
    """The gold's words in another command, or in one where they were bare; None without words."""
    if r"\text{" in gold and not gold.startswith("["):
        return gold.replace(r"\text{", r"\mathrm{")
    return rf"\text{{{gold}}}" if re.fullmatch(r"[A-Za-z][A-Za-z ]*", gold) else None


def written_out(gold: str) -> str | None:
    """Both values of the gold's one ±; None without it."""
    if gold.count(r"\pm") != 1 or "," in gold:
        return None
    return ", ".join(gold.replace(r"\pm", sign) for sign in "+-")


@pytest.mark.parametrize("other_words", [lambda gold: gold, named, in_text, written_out],
                         ids=["itself", "named", "in text", "written out"])
def test_a_real_gold_in_other_words_is_right(other_words, golds):
    pairs = [(gold, answer) for gold in golds if (answer := other_words(gold)) is not None]
    assert pairs
    with Verifier(VerifierConfig(workers=2)) as verifier:
        verdicts = verifier.judge([box(answer) for _, answer in pairs], [gold for gold, _ in pairs])
    assert [pair for pair, found in zip(pairs, verdicts, strict=True) if found.outcome != "right"] == []
