"""Judge the answers in a file: `python -m nft_jax.verify --mode equivalent FILE`.

FILE is .jsonl or .parquet with a column of responses (response, text, completion or output) and one of golds
(gold, answer, ground_truth or solution). The tables that a run writes to rollouts/ fit. Prints the counts of
the outcomes, and writes a parquet table of response, extracted, gold, verdict, reward and reason beside FILE.
"""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import tyro

from nft_jax.config import VerifierConfig
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import OUTCOMES, InputError, Verdict
from nft_jax.verify import Verifier
from nft_jax.verify.maths.extract import with_open_thought

RESPONSES = ("response", "text", "completion", "output")
GOLDS = ("gold", "answer", "ground_truth", "solution")
QUESTIONS = ("problem", "question", "prompt")


def read(path: Path) -> list[dict]:
    """The rows of a .jsonl or .parquet file. Raises InputError for anything else."""
    if path.suffix not in (".jsonl", ".parquet") or not path.is_file():
        raise InputError(f"FILE is {str(path)!r}: give a .jsonl or .parquet file that exists.")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq
        names = [name for name in pq.read_schema(path).names if name in (*RESPONSES, *GOLDS, *QUESTIONS)]
        return pq.read_table(path, columns=names).to_pylist()
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as problem:
            raise InputError(f"FILE is {str(path)!r}: line {number} is not JSON ({problem}).") from problem
    return rows


def column(rows: list[dict], names: tuple[str, ...], what: str, optional: bool = False) -> list[str]:
    """The first of these columns that has a value in every row, as text. Without one, raises InputError, or
    gives "" for every row when the column is `optional`."""
    def is_whole(name: str) -> bool:
        return bool(rows) and all(isinstance(row, dict) and row.get(name) is not None for row in rows)

    name = next((name for name in names if is_whole(name)), None)
    if name is None and optional:
        return [""] * len(rows)
    if name is None:
        raise InputError(f"FILE has no column of {what} with a value in every row: name it one of {', '.join(names)}.")
    return [row[name] if isinstance(row[name], str) else json.dumps(row[name]) for row in rows]


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
    rows = read(file)
    responses, golds = column(rows, RESPONSES, "responses"), column(rows, GOLDS, "golds")
    questions = column(rows, QUESTIONS, "questions", optional=True)
    # The tables of a run have the rendered prompt beside the question.
    rendered = column(rows, QUESTIONS[::-1], "questions", optional=True)
    with Verifier(config) as verifier:
        verdicts = verifier.judge(list(map(with_open_thought, rendered, responses)), golds, questions)
    output = output or file.with_suffix(".verdicts.parquet")
    write(output, responses, golds, verdicts)
    return summary(verdicts, output)


def main(arguments: list[str] | None = None) -> None:
    with one_paragraph_errors():
        print(tyro.cli(judge_file, prog="python -m nft_jax.verify", description=__doc__, args=arguments,
                       config=(tyro.conf.FlagCreatePairsOff,)))


if __name__ == "__main__":
    main()
