"""Judge the answers in a file: `python -m nft_jax.verify --mode equivalent FILE`.

FILE is .jsonl or .parquet with a column of responses (response, text, completion or output) and one of golds
(gold, answer, ground_truth or solution). The tables that a run writes to rollouts/ fit. With a column of questions
(problem, question or prompt), answers that repeat them are found. Prints the counts of the outcomes, and writes a
parquet table of response, extracted, gold, verdict, reward and reason beside FILE.
"""
from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from nft_jax.config import VerifierConfig
from nft_jax.runtime.tables import KINDS, listed, read_table
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import OUTCOMES, InputError, Verdict
from nft_jax.verify import Verifier
from nft_jax.verify.maths.extract import with_open_thought

RESPONSES = ("response", "text", "completion", "output")
GOLDS = ("gold", "answer", "ground_truth", "solution")
QUESTIONS = ("problem", "question", "prompt")


class Answers(NamedTuple):
    """The rows of a file with their numbers (in a .jsonl file, the lines), and the names of all its columns."""
    rows: list[tuple[int, dict]]
    columns: Collection[str]


def read(path: Path) -> Answers:
    """The rows of a .jsonl or .parquet file. Raises InputError for another file, and for a row that cannot be read."""
    said = f"FILE is {str(path)!r}"
    if path.suffix not in KINDS:
        raise InputError(f"{said}: give a .jsonl or .parquet file.")
    table = read_table(path, said, {*RESPONSES, *GOLDS, *QUESTIONS}.__contains__)
    rows = list(table.rows)
    bad = [(number, row) for number, row in rows if isinstance(row, str)]
    if bad:
        raise InputError(f"{said}: {len(bad)} of its {len(rows)} rows cannot be read. The first: row {bad[0][0]}, "
                         f"{bad[0][1]}. Mend these rows, or leave them out.")
    return Answers(rows, table.columns)


def column(answers: Answers, names: tuple[str, ...], what: str, optional: bool = False) -> list[str]:
    """The first of these columns that has a value in every row, as text. Without one, raises InputError, or
    gives "" for every row when the column is `optional`."""
    rows = answers.rows

    def missing(name: str) -> list[int]:
        # nan, the only value that differs from itself, is what pandas writes for none.
        return [number for number, row in rows if row.get(name) is None or row[name] != row[name]]

    lacks = {name: missing(name) for name in names if name in answers.columns}
    name = min(lacks, key=lambda name: len(lacks[name]), default=None)
    if optional and (name is None or lacks[name]):
        return [""] * len(rows)
    if not rows:
        raise InputError("FILE has no rows: give one with answers.")
    if name is None:
        raise InputError(f"FILE has no column of {what}: name it one of {', '.join(names)} (found: "
                         f"{listed(answers.columns)}).")
    if lacks[name]:
        raise InputError(f"FILE has no value of {name} in {len(lacks[name])} of its {len(rows)} rows: the first is row "
                         f"{lacks[name][0]}. Give every row one (an empty text where there is none), or leave these "
                         "rows out.")
    if names is RESPONSES and (nested := [number for number, row in rows if isinstance(row[name], (list, dict))]):
        raise InputError(f"FILE has no text in {name} of row {nested[0]}, but a list or an object: give every answer a "
                         "row of its own.")
    return [_text(row[name]) for _, row in rows]


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value)
    except TypeError:                 # of a .parquet file: a decimal, a date
        return str(value)


def write(path: Path, responses: list[str], golds: list[str], verdicts: list[Verdict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def text(values):
        return pa.array([None if v is None else v.encode("utf-8", "replace").decode() for v in values], pa.string())

    pq.write_table(pa.table({
        "response": text(responses), "extracted": text(v.extracted for v in verdicts), "gold": text(golds),
        "verdict": text(v.outcome for v in verdicts), "reward": pa.array([v.reward for v in verdicts], pa.float32()),
        "reason": text(v.reason for v in verdicts)}), path, compression="zstd")


def summary(verdicts: list[Verdict], path: Path) -> str:
    """Counts and shares of the outcomes, the mean reward, and the path of the table."""
    counts, total = Counter(verdict.outcome for verdict in verdicts), max(len(verdicts), 1)
    rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
    lines = [f"{outcome:10} {counts[outcome]:8,} {counts[outcome] / total:7.1%}" for outcome in OUTCOMES]
    lines.append(f"{'all':10} {len(verdicts):8,}  mean reward {sum(rewards) / max(len(rewards), 1):.4f}")
    return "\n".join([*lines, f"table: {path}"])


def judge_file(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")],
    config: Annotated[VerifierConfig, tyro.conf.arg(name="")] = VerifierConfig(),  # noqa: B008 (frozen)
    output: Annotated[Path | None, tyro.conf.arg(help="The table; default: FILE with .verdicts.parquet.")] = None,
) -> str:
    """Judge the file, write the table, return the summary. Raises InputError."""
    answers = read(file)
    responses, golds = column(answers, RESPONSES, "responses"), column(answers, GOLDS, "golds")
    questions = column(answers, QUESTIONS, "questions", optional=True)
    # The tables of a run have the rendered prompt beside the question.
    rendered = column(answers, QUESTIONS[::-1], "questions", optional=True)
    output = output or file.with_suffix(".verdicts.parquet")
    if output.is_dir() or not os.access(output.parent, os.W_OK) or output.resolve() == file.resolve():
        raise InputError(f"--output is {str(output)!r}: name a file in a folder that exists and can be written, other "
                         "than FILE.")
    with Verifier(config) as verifier:
        verdicts = verifier.judge(list(map(with_open_thought, rendered, responses)), golds, questions)
    try:
        write(output, responses, golds, verdicts)
    except OSError as error:
        raise InputError(f"--output is {str(output)!r}: it cannot be written ({error}). Name another file.") from error
    return summary(verdicts, output)


def main(arguments: list[str] | None = None, prog: str = "python -m nft_jax.verify") -> None:
    with one_paragraph_errors():
        print(tyro.cli(judge_file, prog=prog, description=__doc__, args=arguments,
                       config=(tyro.conf.FlagCreatePairsOff,)))


if __name__ == "__main__":
    main()
