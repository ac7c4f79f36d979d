"""Judged groups as a table with one row per answer: the format of rollouts/*.parquet, and of a checkpoint's groups.

Nothing is rounded, so a group is read back as it was written."""
import io
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nft_jax.types import Group, Prompt, Rollout, Verdict

SCHEMA = pa.schema([
    ("prompt_index", pa.int64()), ("sample", pa.int32()), ("problem", pa.string()), ("prompt", pa.string()),
    ("text", pa.string()), ("gold", pa.string()), ("extracted", pa.string()), ("outcome", pa.string()),
    ("reward", pa.float64()), ("reason", pa.string()), ("group_accuracy", pa.float64()), ("kept", pa.bool_()),
    ("finish_reason", pa.string()), ("prompt_tokens", pa.list_(pa.int32())), ("tokens", pa.list_(pa.int32())),
    ("logprobs", pa.list_(pa.float32())), ("truncated_logprobs", pa.list_(pa.float32())),
    ("entropies", pa.list_(pa.float32())), ("old_logprobs", pa.list_(pa.float32())),
    ("reference_logprobs", pa.list_(pa.float32())),
])
# Columns of tables in which an answer has them.
OPTIONAL = {"mask": pa.field("mask", pa.list_(pa.bool_())), "steps": pa.field("steps", pa.list_(pa.int32()))}
MASKED = SCHEMA.append(OPTIONAL["mask"])
# Columns that an answer has only once it is judged, or scored.
SCORED = ("old_logprobs", "reference_logprobs")
JUDGED = ("extracted", "outcome", "reward", "reason", "group_accuracy", "kept", *SCORED)
ANSWERS = pa.schema([field for field in SCHEMA if field.name not in JUDGED])
NO_VERDICT = Verdict(None, None)      # of an answer whose group is open


def _text(value: str | None) -> str | None:
    # parquet takes valid Unicode only.
    return None if value is None else value.encode("utf-8", "replace").decode("utf-8")


def _row(rollout: Rollout) -> dict:
    prompt = rollout.prompt
    return {"prompt_index": prompt.index, "sample": rollout.sample, "problem": _text(prompt.problem),
            "prompt": _text(prompt.text), "text": _text(rollout.text), "gold": _text(prompt.gold),
            "finish_reason": rollout.finish_reason, "prompt_tokens": prompt.tokens, "tokens": rollout.tokens,
            "logprobs": rollout.logprobs, "truncated_logprobs": rollout.truncated_logprobs,
            "entropies": rollout.entropies, **{name: getattr(rollout, name) for name in OPTIONAL}}


def answers_to_table(groups: Iterable[Sequence[Rollout]]) -> pa.Table:
    """Answers without verdicts, one row each. An element of `groups` is the answers to one prompt."""
    return pa.Table.from_pylist([_row(rollout) for rollouts in groups for rollout in rollouts], schema=ANSWERS)


def groups_to_table(groups: Sequence[Group], kept: frozenset[int] = frozenset(), masks: bool = False) -> pa.Table:
    """Judged answers, one row each. `kept` has the prompt indices of the groups that were trained on. The table has
    masks where an answer has one, or by `masks`, and steps where an answer has them. Answers of open groups have no
    verdict."""
    schema = SCHEMA
    for name, field in OPTIONAL.items():
        if (masks and name == "mask") or any(getattr(r, name) is not None for group in groups for r in group.rollouts):
            schema = schema.append(field)
    return pa.Table.from_pylist([
        _row(rollout) | {
            "extracted": _text(verdict.extracted), "outcome": verdict.outcome, "reward": verdict.reward,
            "reason": _text(verdict.reason), "group_accuracy": group.accuracy, "kept": group.prompt.index in kept,
            **{name: None if getattr(group, name) is None else getattr(group, name)[i] for name in SCORED}}
        for group in groups
        for i, (rollout, verdict) in enumerate(zip(
            group.rollouts, group.verdicts or (NO_VERDICT,) * len(group.rollouts), strict=True))], schema=schema)


def table_to_groups(table: pa.Table) -> list[Group]:
    """The inverse of `groups_to_table`, but for `kept` and `Verdict.strict`, which is for metrics only."""
    groups = []
    for _, rows in groupby(table.to_pylist(), key=lambda row: row["prompt_index"]):
        rows = list(rows)
        first, prompt = rows[0], _prompt(rows[0])
        # Stored answers of one group may have prompts that differ.
        rollouts = tuple(
            Rollout(prompt if row["prompt_tokens"] == first["prompt_tokens"] else _prompt(row), row["sample"],
                    row["text"], np.array(row["tokens"], np.int32),
                    *(np.array(row[name], np.float32) for name in ("logprobs", "truncated_logprobs", "entropies")),
                    finish_reason=row["finish_reason"],
                    mask=None if row.get("mask") is None else np.array(row["mask"], bool),
                    steps=None if row.get("steps") is None else np.array(row["steps"], np.int32))
            for row in rows)
        verdicts = () if first["outcome"] is None else tuple(
            Verdict(row["outcome"], row["reward"], row["extracted"], row["reason"]) for row in rows)
        # Tables of older versions have no reference_logprobs.
        scored = (None if first.get(name) is None else tuple(np.array(row[name], np.float32) for row in rows)
                  for name in SCORED)
        groups.append(Group(prompt, rollouts, verdicts, *scored))
    return groups


def _prompt(row: dict) -> Prompt:
    return Prompt(row["prompt_index"], row["problem"], row["gold"], row["prompt"],
                  np.array(row["prompt_tokens"], np.int32))


def to_bytes(groups: Sequence[Group]) -> np.ndarray:
    """Groups as a parquet file in an array of bytes [n] uint8, for a checkpoint."""
    buffer = io.BytesIO()
    pq.write_table(groups_to_table(groups), buffer, compression="zstd")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def from_bytes(data: np.ndarray) -> list[Group]:
    """The inverse of `to_bytes`, as `table_to_groups`."""
    return table_to_groups(pq.read_table(io.BytesIO(np.asarray(data).tobytes())))
