"""From judged groups to packed optimizer batches.

Groups are dealt whole to the optimizer steps of a rollout (1), their judged answers become sequences with the group's
statistics (2), sequences are packed into rows (3), and every token gets the weight that makes the loss one global
reduction (4): the loss is sum(weight * token loss), whatever the micro-batches, rows or devices.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nft_jax.config import Config, ObjectiveConfig
from nft_jax.train.objectives import overlong_penalty, token_weights
from nft_jax.types import Group, TrainBatch


@dataclass(frozen=True)
class BatchShape:
    """Static sizes of a batch; `micro_batches` is the worst case, one sequence per row."""
    micro_batches: int
    rows: int
    row_length: int

    @classmethod
    def of(cls, config: Config, data_parallel: int = 1) -> BatchShape:
        """Sizes of an optimizer step of `config`, its rows rounded up to a multiple of `data_parallel` devices."""
        rows = -(-config.batch.rows_per_micro_batch // data_parallel) * data_parallel
        return cls.for_sequences(config.groups_per_update * config.rollout.samples_per_prompt, rows, config.row_length)

    @classmethod
    def for_sequences(cls, sequences: int, rows: int, row_length: int) -> BatchShape:
        return cls(-(-sequences // rows), rows, row_length)


@dataclass(frozen=True)
class Example:
    """One answer as it is trained on."""
    prompt: np.ndarray                 # [p] int32
    response: np.ndarray               # [n] int32
    reward: float = 0.0
    group_accuracy: float = 0.5
    group_std: float = 1.0
    old_logprobs: np.ndarray | None = None    # [n] float32


def deal(groups: Sequence[Group], updates: int, seed: Sequence[int]) -> list[list[Group]]:
    """Whole groups, shuffled by `seed`, in at most `updates` parts of nearly equal size (fewer when there are fewer
    groups)."""
    order = np.random.default_rng(seed).permutation(len(groups))
    return [[groups[i] for i in part] for part in np.array_split(order, updates) if len(part)]


def examples_of(group: Group, loss: ObjectiveConfig, max_new_tokens: int) -> list[Example]:
    """The judged answers of a group. The mean and standard deviation are those of the full group's rewards, with
    DAPO's overlong penalty in them where `loss.overlong_buffer` asks for it."""
    rollouts = [group.rollouts[i] for i in group.judged]
    rewards = group.rewards.astype(np.float64)
    if loss.overlong_buffer:
        lengths = np.array([len(rollout.tokens) for rollout in rollouts])
        rewards = rewards + overlong_penalty(lengths, max_new_tokens, loss.overlong_buffer)
    mean, std = rewards.mean(), rewards.std(ddof=loss.std_ddof)
    old = group.old_logprobs or (None,) * len(group.rollouts)
    return [Example(group.prompt.tokens, rollout.tokens, reward, mean, std, old[i])
            for i, rollout, reward in zip(group.judged, rollouts, rewards, strict=True)]


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Rows of indices whose lengths add up to at most `row_length`: best-fit decreasing, the same for the same input.
    A length over `row_length` is a ValueError."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []           # (tokens left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = int(lengths[index])
        if need > row_length:
            raise ValueError(f"a sequence of {need} tokens does not fit in a row of {row_length}")
        place = bisect_left(room, (need, -1))
        left, row = room.pop(place) if place < len(room) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(room, (left - need, row))
    return rows


def make_batch(examples: Sequence[Example], shape: BatchShape, loss_agg: str = "token_mean",
               constant_length: float = 1.0) -> tuple[TrainBatch, list[tuple[int, slice]]]:
    """Pack examples into a TrainBatch of numpy arrays. Also returns where each example's response went: the row,
    counted over micro-batches, and the slice of the row (for `unpack`)."""
    sizes = [len(e.prompt) + len(e.response) for e in examples]
    rows = pack(sizes, shape.row_length)
    total = shape.micro_batches * shape.rows
    if len(rows) > total:
        raise ValueError(f"{len(examples)} sequences fill {len(rows)} rows, more than the batch's {total}")
    ints = {name: np.zeros((total, shape.row_length), np.int32) for name in ("tokens", "segment_ids", "positions")}
    floats = {name: np.zeros((total, shape.row_length), np.float32)
              for name in ("weight", "rewards", "group_accuracy", "group_std", "old_logprobs")}
    weights = token_weights(loss_agg, np.array([len(e.response) for e in examples]), constant_length)
    places: list[tuple[int, slice]] = [(0, slice(0))] * len(examples)
    for row, members in enumerate(rows):
        start = 0
        for segment, index in enumerate(members, 1):
            e, end = examples[index], start + sizes[index]
            answer = slice(start + len(e.prompt), end)
            ints["tokens"][row, start:end] = np.concatenate([e.prompt, e.response])
            ints["segment_ids"][row, start:end] = segment
            ints["positions"][row, start:end] = np.arange(end - start)
            for name, value in (("weight", weights[index]), ("rewards", e.reward),
                                ("group_accuracy", e.group_accuracy), ("group_std", e.group_std),
                                ("old_logprobs", 0.0 if e.old_logprobs is None else e.old_logprobs)):
                floats[name][row, answer] = value
            places[index] = row, answer
            start = end
    arrays = {name: a.reshape(shape.micro_batches, shape.rows, -1) for name, a in (ints | floats).items()}
    return TrainBatch(**arrays, num_micro=np.int32(-(-len(rows) // shape.rows))), places


def unpack(values: np.ndarray, places: Sequence[tuple[int, slice]]) -> list[np.ndarray]:
    """[M, R, T] per-token values -> the response's values of each example."""
    rows = values.reshape(-1, values.shape[-1])
    return [rows[row, answer].copy() for row, answer in places]
