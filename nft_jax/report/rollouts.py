"""The sample of answers on the page. The numbers of an answer's tokens are packed into strings."""
import base64
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nft_jax.config import Config, ObjectiveConfig, Own
from nft_jax.model.hf.tokenizer import pieces
from nft_jax.objectives.registry import OBJECTIVES, resolve
from nft_jax.record.folder import RunFolder
from nft_jax.record.rollouts import SCHEMA, table_to_groups
from nft_jax.report.replay import packed_rows, row_losses
from nft_jax.train.batch import Example, examples_of, unpack
from nft_jax.types import OUTCOMES, InputError

LARGEST = 32767
NATS = 0.001            # a packed log-prob or entropy counts units of so many nats


def sample_of(runs: Sequence[RunFolder], wanted: int) -> dict[str, Any]:
    """`wanted` answers of the runs, or all if there are fewer.

    rows: see `row_of`. problems: [problem, gold], which rows name by index. total: number of answers in all runs.
    outcomes: names of the outcomes. notes: [run, sentence] on what could not be read."""
    chosen, total = choose(runs, wanted)
    problems: dict[tuple, int] = {}
    rows, notes = [], []
    for index, run in enumerate(runs):
        of_run = {step: rows for (place, step), rows in chosen.items() if place == index}
        pushed: dict[tuple, np.ndarray] = {}
        try:
            loss = loss_of(run.settings)
            picked, examples = read_answers(run, of_run, loss)
            pushed = answer_coefficients(run.settings["objective"], loss, examples)
        except InputError as error:
            # Another version's objective, or its settings.
            picked, _ = read_answers(run, of_run, None)
            if picked:
                notes.append([index, f"no coefficients: {error}"])
        tokenizer = run.text if picked else None
        if wanted and not picked:
            notes.append([index, "no answers are in its folder"])
        if picked and tokenizer is None:
            notes.append([index, "its tokenizer is not in its folder model/, nor could policy.path be read, so its "
                                 "answers have no colours"])
        for step, row in picked:
            name = problems.setdefault((row["problem"], row["gold"]), len(problems))
            key = step, row["prompt_index"], row["sample"]
            rows.append(row_of(row, index, step, name, pushed.get(key), tokenizer))
    return {"total": total, "rows": rows, "problems": list(problems), "outcomes": OUTCOMES, "notes": notes,
            "nats": NATS}


def choose(runs: Sequence[RunFolder], wanted: int) -> tuple[dict[tuple[int, int], list[int]], int]:
    """(run, step) -> chosen rows of its table, ascending; and the number of rows in all tables.
    Always the same choice.

    Round robin: each round takes one more row, in shuffled order, from every step of every run. If the
    last round is cut short, the steps that it takes from are drawn at random."""
    sizes = {}
    for index, run in enumerate(runs):
        for step, path in run.tables.items():
            try:
                sizes[index, step] = pq.read_metadata(path).num_rows
            except (OSError, pa.ArrowException):
                continue
    turns = 0
    while sum(min(size, turns) for size in sizes.values()) < min(wanted, sum(sizes.values())):
        turns += 1
    drawn = []
    for key, size in sizes.items():
        rng = np.random.default_rng(key)
        tie = rng.random()
        drawn += [(turn, tie, key, int(row)) for turn, row in enumerate(rng.permutation(size)[:turns])]
    chosen: dict[tuple[int, int], list[int]] = {}
    for _, _, key, row in sorted(drawn)[:wanted]:
        chosen.setdefault(key, []).append(row)
    return {key: sorted(rows) for key, rows in chosen.items()}, sum(sizes.values())


def read_answers(run: RunFolder, chosen: dict[int, list[int]],
                 loss: ObjectiveConfig | None) -> tuple[list[tuple[int, dict]], dict[tuple, Example]]:
    """The chosen rows as (step, row), and (step, prompt index, sample) -> example for the chosen
    answers that were trained on. If the objective looks at whole groups, the examples are of their
    whole groups. None without `loss`."""
    picked, examples, objective = [], {}, OBJECTIVES.get(run.settings["objective"])
    whole = objective is not None and objective.whole_groups
    most = run.fields["rollout.max_new_tokens"]
    for step, places in sorted(chosen.items()):
        table = read_table(run.tables[step], [field.name for field in SCHEMA if field.name != "prompt"])
        if table is None:
            continue
        table = complete(table)
        rows = table.take(pa.array(places))
        picked += [(step, row) for row in rows.to_pylist()]
        if loss is None:
            continue
        wanted = set(zip(rows["prompt_index"].to_pylist(), rows["sample"].to_pylist(), strict=True))
        trained = pc.unique(rows.filter(pc.fill_null(rows["kept"], False))["prompt_index"])
        for group in table_to_groups(table.filter(pc.is_in(table["prompt_index"], trained))):
            if group.old_logprobs is not None and group.judged:
                made = examples_of(group, loss, most)
                keys = [(group.prompt.index, group.rollouts[i].sample) for i in group.judged]
                examples |= {(step, *key): example for key, example in zip(keys, made, strict=True)
                             if whole or key in wanted}
    return picked, examples


def read_table(path: Path, columns: Sequence[str]) -> pa.Table | None:
    """Those of the columns that the table has. None for a file that cannot be read: a full disk, a
    copy cut short."""
    try:
        present = set(pq.read_schema(path).names)
        return pq.read_table(path, columns=[name for name in columns if name in present])
    except (OSError, pa.ArrowException):
        return None


def complete(table: pa.Table) -> pa.Table:
    """The table with the columns that older versions did not write: nulls, or empty lists for
    columns that every answer has."""
    for field in SCHEMA:
        if field.name not in table.column_names:
            empty = field.name in ("prompt_tokens", "tokens", "logprobs", "truncated_logprobs", "entropies")
            values = pa.array([[]] * len(table), field.type) if empty else pa.nulls(len(table), field.type)
            table = table.append_column(field, values)
    return table


def row_of(row: dict, run: int, step: int, problem: int, pushed: np.ndarray | None, tokenizer) -> list:
    """All that the page has of an answer, in the order in which page.js reads it."""
    count = len(row["tokens"])
    text, lengths = row["text"] or "", None
    if tokenizer is not None and count:
        parts = pieces(row["tokens"], tokenizer)
        text, lengths = "".join(parts), packed(np.array([utf16(part) for part in parts]))
    known = lengths is not None
    return [run, step, problem, row["sample"], row["outcome"], row["reward"], row["extracted"], row["reason"] or "",
            row["group_accuracy"], row["kept"], row["finish_reason"] == "length", count, text, lengths,
            packed(-np.array(row["logprobs"]), NATS) if known and len(row["logprobs"]) == count else None,
            packed(np.array(row["entropies"]), NATS) if known and len(row["entropies"]) == count else None,
            packed_coefficients(pushed) if known and pushed is not None and len(pushed) == count else None]


def utf16(text: str) -> int:
    """Length as JavaScript counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def packed(values: np.ndarray, unit: float = 1) -> str:
    """Base64 of 16-bit integers: round(value / unit), from -LARGEST to LARGEST."""
    levels = np.clip(np.rint(np.nan_to_num(values, posinf=np.inf) / unit), -LARGEST, LARGEST)
    return base64.b64encode(levels.astype("<i2").tobytes()).decode()


def packed_coefficients(values: np.ndarray) -> list:
    """[number] if all values are equal, otherwise [unit, packed]."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return [round(low, 6)]
    unit = max(abs(low), abs(high)) / LARGEST
    return [unit, packed(values, unit)]


def loss_of(config: dict) -> ObjectiveConfig:
    """The settings of a run's objective. Fields that the run did not know are at their defaults."""
    known = {field.name for field in fields(ObjectiveConfig)}
    return ObjectiveConfig(**{key: value for key, value in config.get("loss", {}).items() if key in known},
                           own=Own(Config.own_settings(config)))


def answer_coefficients(objective: str, loss: ObjectiveConfig,
                        examples: dict[tuple, Example]) -> dict[tuple, np.ndarray]:
    """The objective's coefficients [n] of each answer, as at the first update on it: the policy is still the one
    that sampled it, so R = 1. They are of `token_loss` alone, without `loss_agg` and added terms.

    Raises InputError for an objective, or settings of one, that this version does not know."""
    values, loss = list(examples.values()), resolve(objective, loss)
    if not values:
        return {}
    # The prompt is nothing to the loss.
    answers = [replace(example, prompt=example.prompt[:0]) for example in values]
    rows, places = packed_rows(answers, max(len(example.response) for example in answers), loss)
    pushed = row_losses(rows, rows.old_logprobs, np.zeros_like(rows.weight), objective, loss)["coefficient"]
    return dict(zip(examples, unpack(pushed, places), strict=True))
