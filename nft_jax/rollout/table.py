"""Judged groups as a table, one row per answer: the format of `rollouts/*.parquet`, and of the groups that a
checkpoint carries over. Nothing is rounded, so a group read back is the group written."""
from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nft_jax.types import Group, Prompt, Rollout, Verdict

SCHEMA = pa.schema([
    ("prompt_index", pa.int64()), ("sample", pa.int32()), ("problem", pa.string()), ("prompt", pa.string()),
    ("text", pa.string()), ("gold", pa.string()), ("extracted", pa.string()), ("outcome", pa.string()),
    ("reward", pa.float32()), ("reason", pa.string()), ("group_accuracy", pa.float64()), ("kept", pa.bool_()),
    ("finish_reason", pa.string()), ("prompt_tokens", pa.list_(pa.int32())), ("tokens", pa.list_(pa.int32())),
    ("logprobs", pa.list_(pa.float32())), ("truncated_logprobs", pa.list_(pa.float32())),
    ("entropies", pa.list_(pa.float32())), ("old_logprobs", pa.list_(pa.float32())),
])


def groups_to_table(groups: Sequence[Group], kept: frozenset[int] = frozenset()) -> pa.Table:
    """`kept`: prompt indices of the groups that were trained on. Text that is not valid Unicode is made so."""
    def text(value):
        return None if value is None else value.encode("utf-8", "replace").decode("utf-8")

    def rows():
        for group in groups:
            for i, (rollout, verdict) in enumerate(zip(group.rollouts, group.verdicts, strict=True)):
                prompt = group.prompt
                yield (prompt.index, rollout.sample, text(prompt.problem), text(prompt.text), text(rollout.text),
                       text(prompt.gold), text(verdict.extracted), verdict.outcome, verdict.reward,
                       text(verdict.reason), group.accuracy, prompt.index in kept, rollout.finish_reason,
                       prompt.tokens, rollout.tokens, rollout.logprobs, rollout.truncated_logprobs, rollout.entropies,
                       None if group.old_logprobs is None else group.old_logprobs[i])

    columns = list(zip(*rows(), strict=True)) or [[]] * len(SCHEMA)
    return pa.table([pa.array(list(column), field.type) for column, field in zip(columns, SCHEMA, strict=True)],
                    schema=SCHEMA)


def table_to_groups(table: pa.Table) -> list[Group]:
    """The inverse of `groups_to_table` (`kept` aside)."""
    groups = []
    for _, rows in groupby(table.to_pylist(), key=lambda row: row["prompt_index"]):
        rows = list(rows)
        first = rows[0]
        prompt = Prompt(first["prompt_index"], first["problem"], first["gold"], first["prompt"],
                        np.array(first["prompt_tokens"], np.int32))
        rollouts = tuple(
            Rollout(prompt, row["sample"], row["text"], np.array(row["tokens"], np.int32),
                    *(np.array(row[name], np.float32) for name in ("logprobs", "truncated_logprobs", "entropies")),
                    finish_reason=row["finish_reason"])
            for row in rows)
        verdicts = tuple(Verdict(row["outcome"], row["reward"], row["extracted"], row["reason"]) for row in rows)
        old = None if first["old_logprobs"] is None else tuple(np.array(r["old_logprobs"], np.float32) for r in rows)
        groups.append(Group(prompt, rollouts, verdicts, old))
    return groups


def to_bytes(groups: Sequence[Group]) -> np.ndarray:
    """The groups as parquet in a uint8 array, for a checkpoint."""
    buffer = io.BytesIO()
    pq.write_table(groups_to_table(groups), buffer, compression="zstd")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def from_bytes(data: np.ndarray) -> list[Group]:
    """The inverse of `to_bytes`."""
    return table_to_groups(pq.read_table(io.BytesIO(np.asarray(data).tobytes())))
