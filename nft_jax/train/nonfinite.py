"""Optimizer steps whose loss or gradient was not finite. The compiled step leaves the state as it was (`train_step`);
the host, which learns of it with the row of the step, counts them, writes their batches down, and says when to end."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from nft_jax.runtime.files import replaced
from nft_jax.runtime.writing import Writing
from nft_jax.train.row import Row
from nft_jax.types import Group, TrainBatch

MOST_FILES = 20      # of a run: the first are those to look at


def count_skipped(row: Row, in_a_row: int) -> tuple[int, int]:
    """Skipped optimizer steps in a row when those of `row` (complete) are over, with `in_a_row` before them; and the
    most there were at any time."""
    most = in_a_row
    for number in range(len(row.batches)):
        in_a_row = in_a_row + 1 if number in row.skipped else 0
        most = max(most, in_a_row)
    return in_a_row, most


def write_batches(row: Row, folder: Path, writing: Writing) -> list[Path]:
    """`step_NNNNNN_update_MM.npz` for every skipped optimizer step of `row` (updates count from 1): the fields of its
    TrainBatch as far as they are in use, and the indices of its prompts. MOST_FILES at most in the folder."""
    paths = []
    for number in row.skipped:
        path = folder / f"step_{row.step:06d}_update_{number + 1:02d}.npz"
        if len(list(folder.glob("*.npz"))) + len(paths) < MOST_FILES or path.exists():
            batch, prompts = row.batches[number]
            writing("nonfinite", path.name, lambda path=path, batch=batch, prompts=prompts: _save(
                path, batch, prompts), most=MOST_FILES)
            paths.append(path)
    return paths


def _save(path: Path, batch: TrainBatch, prompts: list[int]) -> None:
    used = int(batch.num_micro)
    arrays = {name: value[:used] if np.ndim(value) else value
              for name, value in batch._asdict().items() if value is not None}
    path.parent.mkdir(exist_ok=True)
    with replaced(path) as partial, partial.open("wb") as file:
        np.savez(file, prompt_index=np.array(prompts), **arrays)


def nonfinite_logprobs(groups: list[Group]) -> int:
    """Tokens whose old log-prob is not finite. An optimizer step that gets a NaN is skipped; objectives with a bounded
    ratio train on an infinite one."""
    return sum(int((~np.isfinite(old)).sum()) for group in groups for old in group.old_logprobs or ())
