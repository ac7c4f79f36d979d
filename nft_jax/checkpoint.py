"""Checkpoints of a run: asynchronous, atomic (a step's folder appears under its name when it is complete), keep-N."""
from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from nft_jax.config import CheckpointConfig
from nft_jax.rollout.table import from_bytes, to_bytes
from nft_jax.train.state import TrainState
from nft_jax.types import Group, InputError


class Checkpoints:
    """The folder `checkpoints/` of a run. A checkpoint holds the train state, the host's counters (prompt cursor,
    totals) and the groups that later steps train on, so that a run goes on exactly where it was."""

    def __init__(self, folder: Path, config: CheckpointConfig):
        policies = ocp.training
        self.asked: int | None = None      # step of the last `save`
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

    def save(self, step: int, state: TrainState, host: dict, groups: Mapping[str, Sequence[Group]]) -> None:
        """Starts writing and returns: the arrays are copied first, so the caller may donate them at once."""
        self.asked = step
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "host": host, "groups": {k: to_bytes(v) for k, v in groups.items()}}, force=True)

    def restore(self, step: int, shapes: TrainState) -> tuple[TrainState, dict, dict[str, list[Group]]]:
        """The checkpoint of `step`, laid out like `shapes` (ShapeDtypeStructs with shardings)."""
        place = f"the checkpoint of step {step} in {self._checkpointer.directory}"
        try:
            stored = self._checkpointer.checkpointables_metadata(step).metadata["state"]["params"]
        except (ValueError, KeyError, OSError) as error:
            raise _unreadable(place, error) from error
        found, wanted = ({jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(t)}
                         for t in (stored, shapes.params))
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise InputError(f"{place} does not fit the model of policy.path: the parameter {name} is of shape "
                                 f"{found.get(name)} there and {wanted.get(name)} in the model. Set policy.path back, "
                                 "use another workdir, or --fresh to start over.")
        try:
            loaded = self._checkpointer.load_checkpointables(step, {"state": shapes})
            host = self._checkpointer.load_checkpointables(step, {"host": None, "groups": None})
        except (ValueError, KeyError, OSError) as error:
            raise _unreadable(place, error) from error
        return loaded["state"], host["host"], {k: from_bytes(v) for k, v in host["groups"].items()}

    def close(self) -> None:
        """Waits until what was saved is on disk."""
        self._checkpointer.close()


def _unreadable(place: str, error: Exception) -> InputError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
    return InputError(f"{place} cannot be read ({reason}): remove that folder to go on from the one before it, or "
                      "start over with --fresh.")


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
