"""Sets of questions to evaluate on, each with its prompt and its number of answers.

The suite "math" is the paper's (H. Chen et al., arXiv 2505.18116, section 5: avg@32 on AIME 2024, AIME 2025
and AMC 2023, avg@1 on the others) and GSM8K. Every set is read from the hub, or from a local file with the same
columns (`SETS`).

The official code reads files of its own, which contain the prompts. One of them is
`aime24=ChenDRAG/VeRL_math_validation:aime-2024-boxed_w_answer.parquet` with split train; its repeats are
dropped.
"""
from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from nft_jax.config import DataConfig, EvaluationConfig
from nft_jax.data.templates import BOXED, DAPO
from nft_jax.types import InputError


@dataclass(frozen=True)
class EvaluationSet:
    """A set by name: source, template, and how many answers to each the paper averages over."""
    name: str
    source: str
    split: str
    template: str
    samples: int
    questions: int
    integers: bool = False     # all answers are whole numbers, perhaps with leading zeros


# Columns: problem or question, and answer. OlympiadBench has final_answer, a list; GSM8K's answer ends in #### and
# the number.
SETS: dict[str, EvaluationSet] = {one.name: one for one in (
    EvaluationSet("aime24", "HuggingFaceH4/aime_2024", "train", DAPO, 32, 30, integers=True),
    EvaluationSet("aime25", "math-ai/aime25", "test", DAPO, 32, 30, integers=True),
    EvaluationSet("amc23", "math-ai/amc23", "test", DAPO, 32, 40, integers=True),
    EvaluationSet("math500", "HuggingFaceH4/MATH-500", "test", BOXED, 1, 500),
    EvaluationSet("olympiadbench", "math-ai/olympiadbench", "test", BOXED, 1, 675),
    EvaluationSet("minerva", "math-ai/minervamath", "test", BOXED, 1, 272),
    EvaluationSet("gsm8k", "openai/gsm8k:main", "test", BOXED, 1, 1319),
)}
PAPER = ("aime24", "math500", "aime25", "amc23", "olympiadbench", "minerva")
"""The six sets whose average the paper gives."""
SUITES: dict[str, tuple[str, ...]] = {"math": tuple(SETS), "paper": PAPER}
_NAMED = re.compile(r"([A-Za-z0-9_-]+)=(.+)")


class Asked(NamedTuple):
    """A set as it will be read and sampled. The name is "" for a single source without one."""
    name: str
    data: DataConfig
    samples: int               # answers to each question
    size: int                  # questions at most
    integers: bool = False     # as in EvaluationSet

    @property
    def stream(self) -> int:
        """The rollout index of the set's answers: its random numbers do not depend on the sets beside it."""
        return zlib.crc32(self.name.encode()) % 2**31


def names_of(source: str, field: str = "evaluation.source") -> list[tuple[str, str | None]]:
    """(name, own source or None) of every set in "math", "aime24,math500" or "mine=FILE"; [] where `source` is
    one source without a name. Raises InputError, naming `field`: an unknown name in a list, a name that is
    twice there."""
    if Path(source).exists():
        return []
    if source in SUITES:
        return [(name, None) for name in SUITES[source]]
    parts = [part.strip() for part in source.split(",")]
    found = [(match[1], match[2]) if (match := _NAMED.fullmatch(part)) else (part, None) for part in parts]
    if len(parts) == 1 and found[0][1] is None and found[0][0] not in SETS:
        return []
    for name, own in found:
        if own is None and name not in SETS:
            raise InputError(f"{field} is {source!r}: there is no set {name!r} (known: {', '.join(SETS)}; "
                             f"suites: {', '.join(SUITES)}). For questions of your own write NAME=SOURCE.")
    if len({name for name, _ in found}) < len(found):
        raise InputError(f"{field} is {source!r}: a set is named twice. Name each once.")
    return found


def ask(name: str, own: str | None, evaluation: EvaluationConfig, data: DataConfig) -> Asked:
    """The set of that name, from its home or from the source `own`; `evaluation` and `data` say what it leaves
    open. Raises InputError for evaluation.samples 0 with a set that gives no number of answers."""
    known = SETS.get(name)
    if known is None and not evaluation.samples:
        raise InputError(f"evaluation.samples is 0, so the set gives the number of answers, but {name or own!r} is "
                         f"none of {', '.join(SETS)}: use 1 or more.")
    data = replace(data, source=own or known.source, limit=evaluation.questions, split=evaluation.split,
                   columns=evaluation.columns if own else "")
    if known is None:
        return Asked(name, data, evaluation.samples, evaluation.questions)
    return Asked(name, replace(data, template=known.template, split=data.split if own else known.split),
                 evaluation.samples or known.samples, min(evaluation.questions, known.questions), known.integers)


def sets_of(evaluation: EvaluationConfig, data: DataConfig) -> tuple[Asked, ...]:
    """The sets that a run evaluates on. Raises InputError as `names_of` and `ask`."""
    if not evaluation.source:
        return ()
    named = names_of(evaluation.source) or [("", evaluation.source)]
    return tuple(ask(name, own, evaluation, data) for name, own in named)


def answers_of(evaluation: EvaluationConfig) -> int:
    """The largest number of answers that one evaluation samples."""
    return sum(one.size * one.samples for one in sets_of(evaluation, DataConfig()))
