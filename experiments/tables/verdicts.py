"""Right spellings and hostile answers, and how many of them each grader accepts: the table of the verifier's page.

    python -m experiments.tables.verdicts        ten minutes; TRL's column needs `pip install trl`

Corpora: `CORPUS` and `cases` of tests/support/corpus.py, and the labelled rows of $NFT_TEST_DATA/cases where it is
set. Plain math-verify and TRL's `accuracy_reward` get the whole response and the gold between dollar signs.
"""
from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from nft_jax.config import VerifierConfig
from nft_jax.verify import MODES, Verifier

ROOT = Path(__file__).parents[2]
SHARED = ("verifier.jsonl", "attacks/right_answers.jsonl", "attacks/hostile_answers.jsonl")


class Labelled(NamedTuple):
    gold: str
    response: str
    right: bool


Grader = Callable[[list[Labelled]], list[bool]]


def corpora() -> dict[str, list[Labelled]]:
    """Rows by the corpus's name."""
    support = runpy.run_path(str(ROOT / "tests" / "support" / "corpus.py"))
    found = {"corpus": [Labelled(gold, support["box"](answer), right)
                        for rows in support["CORPUS"].values() for gold, answer, right in rows],
             "cases": [Labelled(case.gold, case.response, name == "right")
                       for name in ("right", "hostile") for case in support["cases"](name)]}
    if folder := os.environ.get("NFT_TEST_DATA"):
        rows = [json.loads(line) for name in SHARED for line in (Path(folder) / "cases" / name).open()]
        found["shared cases"] = [Labelled(row["gold"], row["response"], row["expected"]) for row in rows]
    return found


def ours(mode: str) -> Grader:
    def grade(rows: list[Labelled]) -> list[bool]:
        with Verifier(VerifierConfig(mode=mode)) as verifier:
            verdicts = verifier.judge([row.response for row in rows], [row.gold for row in rows])
        return [found.outcome == "right" for found in verdicts]
    return grade


def math_verify(rows: list[Labelled]) -> list[bool]:
    from math_verify import parse, verify
    return [verify(parse(f"${row.gold}$"), parse(row.response)) for row in rows]


def trl(rows: list[Labelled]) -> list[bool]:
    from trl.rewards.accuracy_rewards import accuracy_reward
    rewards = accuracy_reward([[{"content": row.response}] for row in rows], [f"${row.gold}$" for row in rows])
    return [reward == 1 for reward in rewards]


def graders() -> dict[str, Grader]:
    found = {f"ours, {mode}": ours(mode) for mode in MODES} | {"math-verify": math_verify}
    try:
        from trl.rewards import accuracy_rewards  # noqa: F401
    except ImportError as problem:
        print(f"without TRL: {problem}")
        return found
    return found | {"TRL `accuracy_reward`": trl}


def share(accepted: Iterable[bool]) -> str:
    accepted = list(accepted)
    return f"{sum(accepted)} of {len(accepted)} ({sum(accepted) / len(accepted):.1%})"


def main() -> None:
    from nft_jax.runtime.terminal import markdown
    tried, lines = corpora(), []
    for name, grade in graders().items():
        cells = []
        for rows in tried.values():
            accepted = grade(rows)
            cells += [share(one for one, row in zip(accepted, rows, strict=True) if row.right == right)
                      for right in (True, False)]
        lines.append([name, *cells])
    print(markdown(["", *(f"{name}: {kind}" for name in tried for kind in ("right ones", "hostile ones"))], lines))


if __name__ == "__main__":
    main()
