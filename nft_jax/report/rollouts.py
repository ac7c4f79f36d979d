"""The sample of answers on the page. The numbers of an answer's tokens are packed into strings."""
import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nft_jax.config import Config, ObjectiveConfig, TermsConfig
from nft_jax.model.hf.tokenizer import pieces
from nft_jax.objectives.registry import resolve
from nft_jax.objectives.terms import answers_in_loss
from nft_jax.record.folder import RunFolder
from nft_jax.record.rollouts import SCHEMA, table_to_groups
from nft_jax.report.replay import packed_rows, row_losses
from nft_jax.train.batch import Example, examples_of, unpack
from nft_jax.types import OUTCOMES, InputError

LARGEST = 32767
GOLDEN = (5 ** 0.5 - 1) / 2
NATS = 0.001            # a packed log-prob or entropy counts units of so many nats


def sample_of(runs: Sequence[RunFolder], wanted: int) -> dict[str, Any]:
    """About `wanted` answers of the runs, in whole groups; or all if there are fewer.

    rows: see `row_of`, the answers of a group one after another. problems: [problem, gold], which rows name by
    index. total: number of answers in all runs. outcomes: names of the outcomes. notes: [run, sentence] on what could
    not be read. nats, deepest: of the colours, the unit of packed numbers and where they are full."""
    chosen, total = choose(runs, wanted)
    problems: dict[tuple, int] = {}
    rows, notes, entropies, surprises = [], [], [], []
    for index, run in enumerate(runs):
        of_run = {step: rows for (place, step), rows in chosen.items() if place == index}
        pushed: dict[tuple, tuple] = {}
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
            entropies.append(np.array(row["entropies"], np.float32))
            surprises.append(-np.array(row["logprobs"], np.float32))
            rows.append(row_of(row, index, step, name, *pushed.get(key, (None, None)), tokenizer))
    return {"total": total, "rows": rows, "problems": list(problems), "outcomes": OUTCOMES, "notes": notes,
            "nats": NATS, "deepest": {"entropy": deepest(entropies), "log-prob": deepest(surprises)}}


def deepest(values: Sequence[np.ndarray]) -> float:
    """Nats of the full colour: all but one token of a hundred are below. From 0.25 to 5."""
    found = np.concatenate([*values, np.empty(0)])
    found = found[np.isfinite(found)]
    return round(float(np.clip(np.quantile(found, 0.99), 0.25, 5)), 2) if len(found) else 5.0


def choose(runs: Sequence[RunFolder], wanted: int) -> tuple[dict[tuple[int, int], list[int]], int]:
    """(run, step) -> chosen rows of its table, ascending: whole groups, until there are `wanted` rows. And the number
    of rows in all tables. Always the same choice.

    Round robin: each round takes one more group, in shuffled order, from every step of every run. A round that is cut
    short takes steps that are spread evenly. Runs that asked the same questions in the same order show the same."""
    drawn, total = [], 0
    for index, run in enumerate(runs):
        for ordinal, (step, path) in enumerate(run.tables.items()):
            table = read_table(path, ("prompt_index",))
            if table is None or not table.num_columns:
                continue
            total += len(table)
            _, group, sizes = np.unique(table["prompt_index"].to_numpy(), return_inverse=True, return_counts=True)
            ends = np.cumsum(sizes)
            parts = np.split(np.argsort(group, kind="stable"), ends[:-1])
            # Multiples of the golden ratio, modulo 1: however many are taken, they are spread evenly.
            place = ordinal * GOLDEN % 1
            drawn += [(turn, place, (index, step), parts[which].tolist())
                      for turn, which in enumerate(np.random.default_rng(step).permutation(len(parts)))]
    chosen: dict[tuple[int, int], list[int]] = {}
    count = 0
    for _, _, key, rows in sorted(drawn):
        if count >= wanted:
            break
        chosen.setdefault(key, []).extend(rows)
        count += len(rows)
    return {key: sorted(rows) for key, rows in chosen.items()}, total


def read_answers(run: RunFolder, chosen: dict[int, list[int]],
                 loss: ObjectiveConfig | None) -> tuple[list[tuple[int, dict]], dict[tuple, Example]]:
    """The chosen rows as (step, row), and (step, prompt index, sample) -> example for the chosen answers that were in
    the loss; none without `loss`."""
    picked, examples = [], {}
    most = run.fields["rollout.max_new_tokens"]
    terms = TermsConfig(mask_truncated=bool(run.fields["terms.mask_truncated"]))
    for step, places in sorted(chosen.items()):
        table = read_table(run.tables[step], [field.name for field in SCHEMA if field.name != "prompt"])
        if table is None:
            continue
        rows = complete(table).take(pa.array(places))
        picked += [(step, row) for row in rows.to_pylist()]
        if loss is None:
            continue
        for group in table_to_groups(rows.filter(pc.fill_null(rows["kept"], False))):
            if group.old_logprobs is not None and group.judged:
                made = examples_of(group, loss, most, terms)
                keys = [(step, group.prompt.index, group.rollouts[i].sample) for i in answers_in_loss(group, terms)]
                examples |= dict(zip(keys, made, strict=True))
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


def row_of(row: dict, run: int, step: int, problem: int, pushed: np.ndarray | None, share: float | None,
           tokenizer) -> list:
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
            packed_coefficients(pushed) if known and pushed is not None and len(pushed) == count else None,
            share, row["prompt_index"]]


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
                           own=Config.own_settings(config))


def answer_coefficients(objective: str, loss: ObjectiveConfig,
                        examples: dict[tuple, Example]) -> dict[tuple, tuple[np.ndarray, float]]:
    """Of each answer, as at the first update on it, where the policy is still the one that sampled it, so R = 1:

    - the objective's coefficients [n], of `token_loss` alone, without `loss_agg` and added terms;
    - its share of its group's push, in [-1, 1]. The push of an answer is the sum of its coefficients, weighted as
      `loss_agg` says. The sizes of the shares of a group add up to 1.

    Raises InputError for an objective, or settings of one, that this version does not know."""
    values, loss = list(examples.values()), resolve(objective, loss)
    if not values:
        return {}
    # The prompt is nothing to the loss.
    answers = [replace(example, prompt=example.prompt[:0]) for example in values]
    rows, places = packed_rows(answers, max(len(example.response) for example in answers), loss)
    found = row_losses(rows, rows.old_logprobs, np.zeros_like(rows.weight), objective, loss)["coefficient"]
    coefficients = unpack(found, places)
    pushes = [float((c * w).sum()) for c, w in zip(coefficients, unpack(rows.weight, places), strict=True)]
    whole = Counter()
    for (step, prompt, _), push in zip(examples, pushes, strict=True):
        whole[step, prompt] += abs(push)
    shares = [push / (whole[step, prompt] or 1) for (step, prompt, _), push in zip(examples, pushes, strict=True)]
    return dict(zip(examples, zip(coefficients, (round(share, 5) for share in shares), strict=True), strict=True))
