"""Checkpoints of a run: asynchronous, atomic (a step's folder appears under its name when it is complete), keep-N."""
from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from nft_jax.config import CheckpointConfig
from nft_jax.rollout.table import from_bytes, to_bytes
from nft_jax.train.state import TrainState
from nft_jax.types import Group, InputError


class Checkpoints:
    """The folder `checkpoints/` of a run. A checkpoint holds the train state, the host's counters (prompt cursor,
    totals) and the groups carried into the next step, so that a run goes on exactly where it was."""

    def __init__(self, folder: Path, config: CheckpointConfig):
        policies = ocp.training
        self._checkpointer = ocp.training.Checkpointer(
            folder.resolve(),
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.preservation_policies.LatestN(config.keep),
            cleanup_tmp_directories=True)

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: TrainState, host: dict, carried: Sequence[Group]) -> None:
        """Starts writing and returns: the arrays are copied first, so the caller may donate them at once."""
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "host": host, "carried": {"groups": to_bytes(carried)}}, force=True)

    def restore(self, step: int, shapes: TrainState) -> tuple[TrainState, dict, list[Group]]:
        """The checkpoint of `step`, laid out like `shapes` (ShapeDtypeStructs with shardings)."""
        try:
            loaded = self._checkpointer.load_checkpointables(step, {"state": shapes})
            host = self._checkpointer.load_checkpointables(step, {"host": None, "carried": None})
        except (ValueError, KeyError) as error:
            raise InputError(
                f"the checkpoint of step {step} in {self._checkpointer.directory} does not fit the model of this "
                f"configuration ({str(error).splitlines()[0][:300]}): use another workdir, or --fresh to start over."
            ) from error
        return loaded["state"], host["host"], from_bytes(host["carried"]["groups"])

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self._checkpointer.close()


def check_room(folder: Path, shapes: TrainState, keep: int) -> None:
    """InputError when the disk of `folder` has no room for the checkpoints that the run will keep, and the one being
    written."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    free = shutil.disk_usage(folder).free
    if free < (keep + 1) * size:
        raise InputError(
            f"workdir {str(folder)!r} has {free / 1e9:.1f} GB free, and {keep + 1} checkpoints (checkpoint.keep = "
            f"{keep}, and the one being written) need {(keep + 1) * size / 1e9:.1f} GB: free some space, lower "
            "checkpoint.keep, or choose another workdir.")
