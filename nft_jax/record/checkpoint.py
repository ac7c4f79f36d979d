"""Checkpoints of a run: asynchronous, atomic (a step's folder appears under its name when it is complete), checked
when they are read, and deleted by rule.

A save goes: the arrays are copied; orbax writes them to a folder beside; when they are there, and before that folder
gets the step's name, a manifest of all files with their checksums is added; only then are old checkpoints deleted.
"""
from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from nft_jax.config import CheckpointConfig
from nft_jax.record.rollouts import from_bytes, to_bytes
from nft_jax.runtime.distributed import gather, is_first, process_count
from nft_jax.runtime.files import MANIFEST, damage, read_manifest, write_manifest, write_notes
from nft_jax.train.state import TrainState
from nft_jax.types import Group, InputError

WRITTEN_LAST = ("_CHECKPOINT_METADATA", "commit_success.txt")     # by orbax, after the manifest
UNFINISHED = ".orbax-checkpoint-tmp"

Restored = tuple[TrainState, dict, dict[str, list[Group]]]


class Damaged(InputError):
    """A checkpoint that cannot be used; another one may be."""


class Checkpoints:
    """The folder `checkpoints/` of a run. A checkpoint holds the train state, the host's counters (prompt cursor,
    totals) and the groups that later steps train on, so that a run goes on exactly where it was.

    Kept are the newest `config.keep`, the steps that `config.keep_every` divides, and the best by the metric
    `config.best`. All processes of a run call the same methods. A reader of a run that may be alive gives `read_only`:
    nothing is cleaned up or set aside."""

    def __init__(self, folder: Path, config: CheckpointConfig, *, read_only: bool = False):
        self.asked: int | None = None      # step of the last `save`
        self.set_aside: list[str] = []     # what `resume` found damaged, in words
        self._config, self._read_only, self._folder = config, read_only, folder.resolve()
        self._scores, self._failed = {}, False
        training, kept = ocp.training, ocp.training.preservation_policies
        rules = [kept.LatestN(config.keep), _Best(self)]
        if config.keep_every:
            rules.append(kept.EveryNSteps(config.keep_every))
        context = ocp.Context()
        # A function, since orbax copies a bound method deeply, its object included.
        context.asynchronous.post_finalization_callback = lambda: self._seal()
        self._checkpointer = training.Checkpointer(
            self._folder, context=context,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=kept.AnyPreservationPolicy(rules),
            cleanup_tmp_directories=not read_only)
        for step in self.steps:
            self._scores |= _score(step, read_manifest(self._folder / str(step)), config.best)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, whole or not."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the largest value of the metric `config.best` (any that was recorded, where that
        is empty); of equal ones the first."""
        return max(self._scores, key=lambda step: (self._scores[step], -step), default=None)

    def save(self, step: int, state: TrainState, host: dict, groups: Mapping[str, Sequence[Group]],
             score: float | None = None) -> None:
        """Starts writing and returns: the arrays are copied first, so the caller may donate them at once. `score`: the
        metric `config.best` of this step. Raises what went wrong in writing this one or the one before; what was not
        complete is removed then, and everything older is still there.

        A step that is there already was saved as its evaluation was given up: it stays, since nothing may be deleted
        before what replaces it is complete, and learns its score."""
        self.wait()
        there = step in self.steps
        self.asked, self._failed = step, False
        if score is not None:
            self._scores[step] = score
        if there:
            self._together(lambda: write_notes(self._folder / str(step), self._notes(step)) if is_first() else None)
            return
        self._together(lambda: self._checkpointer.save_checkpointables_async(
            step, {"state": state, "host": host, "groups": {k: to_bytes(v) for k, v in groups.items()}}, force=True))

    def wait(self) -> None:
        """Until what was saved is on disk. Raises what went wrong, as `save`."""
        self._together(self._checkpointer.wait)

    def _together(self, write: Callable[[], object]) -> None:
        """Where it fails in one process it has failed in all: none goes on to what the others do not do."""
        error = None
        try:
            write()
        except Exception as raised:
            error = raised
        said = gather(f"{type(error).__name__}: {error}" if error else "")
        if any(said):
            self._clean_up()
            raise error or OSError(f"in process {next(i for i, text in enumerate(said) if text)}: "
                                   f"{next(filter(None, said))}")

    def _clean_up(self) -> None:
        """After a save that failed: it is not there, and what it would have replaced is."""
        failed, self.asked, self._failed = self.asked, None, True
        self._scores.pop(failed, None)
        if is_first():
            shutil.rmtree(self._folder / f"{failed}{UNFINISHED}", ignore_errors=True)
        self._checkpointer.reload()

    def _seal(self) -> None:
        """Called by orbax, in the first process, when all files of the checkpoint are written; it is not under its name
        before this returns."""
        place = self._folder / f"{self.asked}{UNFINISHED}"
        write_manifest(place if place.exists() else self._folder / str(self.asked), self._notes(self.asked),
                       WRITTEN_LAST)

    def _notes(self, step: int) -> dict:
        return {"metric": self._config.best, "score": self._scores[step]} if step in self._scores else {}

    def resume(self, shapes: TrainState) -> Restored | None:
        """The newest checkpoint that is whole, laid out like `shapes`; None when there is none at all. Damaged ones
        that are newer get the name STEP.damaged, and a line in `set_aside`. Raises InputError when all are damaged."""
        faults = {}
        for step in gather(sorted(self.steps, reverse=True))[0]:
            try:
                restored = self.restore(step, shapes)
            except Damaged as error:
                faults[step] = str(error)
                continue
            self._rename_damaged(faults, step)
            return restored
        if faults:
            raise InputError(
                f"no checkpoint in {self._folder} is whole, and nothing was changed there: {' '.join(faults.values())} "
                "Put a whole one there (a folder whose name is its step), or start over with --fresh.")
        return None

    def _rename_damaged(self, faults: Mapping[int, str], used: int) -> None:
        for step, fault in faults.items():
            number, aside = 1, self._folder / f"{step}.damaged"
            while aside.exists():
                number, aside = number + 1, self._folder / f"{step}.damaged.{number}"
            if is_first():
                (self._folder / str(step)).rename(aside)
            self._scores.pop(step, None)
            self.set_aside.append(f"{fault} It was renamed {aside.name}, and the run goes on from step {used}.")
        if faults:
            gather(None)                             # until they are renamed
            self._checkpointer.reload()

    def restore(self, step: int, shapes: TrainState) -> Restored:
        """The checkpoint of `step`, laid out like `shapes` (ShapeDtypeStructs with shardings). All its files are
        compared with their checksums first. Raises Damaged, an InputError, or InputError where the model is another."""
        place = f"the checkpoint of step {step} in {self._folder}"
        if fault := gather(damage(self._folder / str(step)) if is_first() else "")[0]:
            older = " (an older version of nft_jax wrote none)" if fault == f"{MANIFEST} is missing" else ""
            raise Damaged(f"{place} is damaged: {fault}{older}.")
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
            groups = {name: from_bytes(value) for name, value in host["groups"].items()}
        except (ValueError, KeyError, OSError) as error:
            raise _unreadable(place, error) from error
        return loaded["state"], host["host"], groups

    def close(self) -> None:
        """Waits until what was saved is on disk. What `save` or `wait` raised is not raised again."""
        try:
            self._checkpointer.close()
        except Exception:
            if not self._failed:
                raise


class _Best:
    """orbax's preservation policy, of the best checkpoint. (Its own, BestN, has orbax read a file of every checkpoint
    when a run is opened, and fails where one is damaged.)"""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [checkpoint.step == self._checkpoints.best for checkpoint in checkpoints]


def _score(step: int, manifest: dict | None, metric: str) -> dict[int, float]:
    notes = manifest["notes"] if manifest else {}
    return {step: notes["score"]} if notes and metric in ("", notes["metric"]) else {}


def _unreadable(place: str, error: Exception) -> InputError:
    """Of several processes none knows whether the others can read it, so that they cannot try an older one together."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
    return (Damaged if process_count() == 1 else InputError)(f"{place} cannot be read ({reason}).")


def most_kept(config: CheckpointConfig, steps: int) -> int:
    """How many checkpoints of a run of `steps` steps can be on disk at the same time, with the one being written."""
    saved = [*range(config.every, steps, config.every), steps]
    kept = {step for step in saved if config.keep_every and step % config.keep_every == 0}
    return len(kept | set(saved[-config.keep - 1:])) + bool(config.best)


def check_room(folder: Path, shapes: TrainState, config: CheckpointConfig, steps: int) -> None:
    """InputError when the disk of `folder` has no room for the checkpoints that the run will keep, and the one being
    written. Those that it has already are not counted twice."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    there = sum(path.name.isdigit() for path in (folder / "checkpoints").glob("*"))
    number, free = max(most_kept(config, steps) - there, 1), shutil.disk_usage(folder).free
    if free < number * size:
        rules = f"keep = {config.keep}" + (f", keep_every = {config.keep_every}" if config.keep_every else "") + (
            f", best = {config.best!r}" if config.best else "")
        raise InputError(
            f"workdir {str(folder)!r} has {free / 1e9:.1f} GB free, and the {number} checkpoints to come (checkpoint: "
            f"{rules}; and the one being written) need {number * size / 1e9:.1f} GB: free some space, keep fewer, or "
            "choose another workdir.")
