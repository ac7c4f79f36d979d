"""Checkpoints of a run: asynchronous, atomic, checked when they are read, and deleted by rule.

1. `save` copies the arrays and returns; orbax writes them into a temporary folder beside the checkpoints;
2. a manifest with the checksum of every file is added there;
3. the folder gets the step's name, and only then are old checkpoints deleted.

The state is a NamedTuple that has `.params`. Its fields that are None are not stored."""
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from nft_jax.config import CheckpointConfig
from nft_jax.record.folder import saved_steps
from nft_jax.record.rollouts import from_bytes, to_bytes
from nft_jax.runtime.distributed import gather, is_first, process_count
from nft_jax.runtime.files import MANIFEST, damage, read_manifest, write_manifest, write_notes
from nft_jax.types import Group, InputError

LATEST, BEST = "latest", "best"
# orbax writes these after the manifest, and nothing in them is needed.
WRITTEN_LAST = ("_CHECKPOINT_METADATA", "commit_success.txt")
UNFINISHED = ".orbax-checkpoint-tmp"

Restored = tuple[Any, dict, dict[str, list[Group]]]          # state, counters of the host, groups


def _present(state: Any) -> dict[str, Any]:
    """The fields of the state that are there: orbax refuses a tree with more of them than are stored."""
    return {name: value for name, value in state._asdict().items() if value is not None}


class Damaged(InputError):
    """A checkpoint that cannot be used. An older one may be whole."""


class Checkpoints:
    """The folder `checkpoints/` of a run. A checkpoint holds all that the run needs to go on exactly where it
    was: the train state, the host's counters (prompt cursor, totals), and the groups that later steps train on.

    Kept are the newest `config.keep` checkpoints, the steps that `config.keep_every` divides, and
    the best one by the metric `config.best`. All processes of a run call the same methods. With
    `read_only`, nothing is cleaned up or renamed: the run may be alive."""

    def __init__(self, folder: Path, config: CheckpointConfig, *, read_only: bool = False):
        self.asked: int | None = None      # step of the last `save`
        self.set_aside: list[str] = []     # sentences on the checkpoints that `resume` found damaged
        self._config, self._read_only, self._folder = config, read_only, folder.resolve()
        self._scores, self._failed = {}, False
        training, kept = ocp.training, ocp.training.preservation_policies
        # Not orbax's BestN: it reads a file of every checkpoint when a run is opened, and fails if one is damaged.
        best = SimpleNamespace(should_preserve=lambda found, *, context: [each.step == self.best for each in found])
        rules = [kept.LatestN(config.keep), best]
        if config.keep_every:
            rules.append(kept.EveryNSteps(config.keep_every))
        context = ocp.Context()
        # A lambda, because orbax deep-copies a bound method together with its object.
        context.asynchronous.post_finalization_callback = lambda: self._seal()
        self._checkpointer = training.Checkpointer(
            self._folder, context=context,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=kept.AnyPreservationPolicy(rules),
            cleanup_tmp_directories=not read_only)
        for step in self.steps:
            notes = (read_manifest(self._folder / str(step)) or {}).get("notes")
            if notes and config.best in ("", notes["metric"]):
                self._scores[step] = notes["score"]

    @property
    def steps(self) -> list[int]:
        """Steps of the existing checkpoints, whole or damaged."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the largest value of the metric `config.best`; of equal ones
        the first. An empty `config.best` means whichever metric was recorded."""
        return max(self._scores, key=lambda step: (self._scores[step], -step), default=None)

    def save(self, step: int, state: Any, host: dict, groups: Mapping[str, Sequence[Group]],
             score: float | None = None) -> None:
        """Starts an asynchronous save. The arrays are copied first, so the caller may donate them at once.

        `score` is the value of the metric `config.best` at this step. Raises the error of this save or of the
        previous one. The incomplete checkpoint is removed then, and all older ones are kept.

        A step may exist already: it was saved when its evaluation was interrupted. It is kept, because nothing
        may be deleted before its replacement is complete; only its score is written."""
        self.wait()
        exists = step in self.steps
        self.asked, self._failed = step, False
        if score is not None:
            self._scores[step] = score
        if exists:
            self._together(lambda: write_notes(self._folder / str(step), self._notes(step)) if is_first() else None)
            return
        content = {"state": _present(state), "host": host, "groups": {k: to_bytes(v) for k, v in groups.items()}}
        self._together(lambda: self._checkpointer.save_checkpointables_async(step, content, force=True))

    def wait(self) -> None:
        """Waits until the last save is on disk. Raises its error, as `save` does."""
        self._together(self._checkpointer.wait)

    def _together(self, write: Callable[[], object]) -> None:
        """Calls `write` in every process. An error in one process is raised in all of them, so that
        no process goes on alone."""
        error = None
        try:
            write()
        except Exception as raised:          # raised again below, after the others know of it
            error = raised
        said = gather(f"{type(error).__name__}: {error}" if error else "")
        if any(said):
            self._clean_up()
            raise error or OSError(f"in process {next(i for i, text in enumerate(said) if text)}: "
                                   f"{next(filter(None, said))}")

    def _clean_up(self) -> None:
        """After a failed save: removes its incomplete checkpoint and its score."""
        failed, self.asked, self._failed = self.asked, None, True
        self._scores.pop(failed, None)
        if is_first():
            shutil.rmtree(self._folder / f"{failed}{UNFINISHED}", ignore_errors=True)
        self._checkpointer.reload()

    def _seal(self) -> None:
        """Writes the manifest. orbax calls this in the first process when all files of the
        checkpoint are written, and gives the folder the step's name only after this returns."""
        place = self._folder / f"{self.asked}{UNFINISHED}"
        write_manifest(place if place.exists() else self._folder / str(self.asked), self._notes(self.asked),
                       WRITTEN_LAST)

    def _notes(self, step: int) -> dict:
        return {"metric": self._config.best, "score": self._scores[step]} if step in self._scores else {}

    def resume(self, shapes: Any) -> Restored | None:
        """The newest whole checkpoint, laid out like `shapes`; None when there is none at all. Newer ones that are
        damaged are renamed STEP.damaged and get a line in `set_aside`. Raises InputError when all are damaged."""
        faults = {}
        for step in gather(sorted(self.steps, reverse=True))[0]:
            try:
                restored = self.restore(step, shapes)
            except Damaged as error:
                faults[step] = str(error)
            else:
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
            gather(None)                             # all processes wait until the first has renamed them
            self._checkpointer.reload()

    def restore(self, step: int, shapes: Any) -> Restored:
        """The checkpoint of `step`, laid out like `shapes`: ShapeDtypeStructs with shardings.

        Raises Damaged, an InputError, if a file differs from its checksum or cannot be read, and
        InputError if the parameters belong to another model."""
        self._stored(step, shapes.params)
        with self._reading(step):
            loaded = self._checkpointer.load_checkpointables(step, {"state": _present(shapes)})
            host = self._checkpointer.load_checkpointables(step, {"host": None, "groups": None})
            groups = {name: from_bytes(value) for name, value in host["groups"].items()}
            return shapes._replace(**loaded["state"]), host["host"], groups

    def restore_params(self, step: int, shapes: Any, part: str = "params") -> Any:
        """The parameters alone of the checkpoint of `step`, or their "average", laid out like `shapes`. Raises as
        `restore`."""
        # A placeholder is not read, so the optimizer's state takes neither time nor memory.
        wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, self._stored(step, shapes)) | {part: shapes}
        with self._reading(step):
            return self._checkpointer.load_checkpointables(step, {"state": wanted})["state"][part]

    def restore_counters(self, step: int) -> dict:
        """The host's counters alone of the checkpoint of `step`. Raises Damaged where they cannot be read."""
        with self._reading(step):
            return self._checkpointer.load_checkpointables(step, {"host": None})["host"]

    def _stored(self, step: int, shapes: Any) -> dict:
        """The tree of the stored state, with metadata as leaves, once its files are compared with
        their checksums and its parameters with `shapes`."""
        place = self._place(step)
        if fault := gather(damage(self._folder / str(step)) if is_first() else "")[0]:
            older = " (an older version of nft_jax wrote none)" if fault == f"{MANIFEST} is missing" else ""
            raise Damaged(f"{place} is damaged: {fault}{older}.")
        with self._reading(step):
            stored = self._checkpointer.checkpointables_metadata(step).metadata["state"]
            params = stored["params"]
        found, wanted = ({jax.tree_util.keystr(path): tuple(leaf.shape)
                          for path, leaf in jax.tree.leaves_with_path(tree)} for tree in (params, shapes))
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise InputError(f"{place} does not fit the model of policy.path: the parameter {name} is of shape "
                                 f"{found.get(name)} there and {wanted.get(name)} in the model. Set policy.path back, "
                                 "use another workdir, or --fresh to start over.")
        return stored

    def _place(self, step: int) -> str:
        return f"the checkpoint of step {step} in {self._folder}"

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, OSError) as error:
            # Several processes cannot try an older checkpoint: none knows whether the others failed too.
            kind = Damaged if process_count() == 1 else InputError
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise kind(f"{self._place(step)} cannot be read ({reason}).") from error

    def close(self) -> None:
        """Waits until the last save is on disk. An error that `save` or `wait` has raised is not raised again."""
        try:
            self._checkpointer.close()
        except Exception:
            if not self._failed:
                raise


# ---- how much room they take -----------------------------------------------------------------------------------


def most_kept(config: CheckpointConfig, steps: int) -> int:
    """The largest number of checkpoints that a run of `steps` steps has on disk at a time, with the
    one that is being written."""
    saved = [*range(config.every, steps, config.every), steps]
    kept = {step for step in saved if config.keep_every and step % config.keep_every == 0}
    return len(kept | set(saved[-config.keep - 1:])) + bool(config.best)


def check_room(folder: Path, shapes: Any, config: CheckpointConfig, steps: int) -> None:
    """Raises InputError if the disk of `folder` lacks room for the checkpoints that the run will
    keep. Existing checkpoints are not counted twice."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    number = max(most_kept(config, steps) - len(saved_steps(folder)), 1)
    free = shutil.disk_usage(folder / "checkpoints").free
    if free < number * size:
        rules = ", ".join(f"{name} = {value!r}" for name in ("keep", "keep_every", "best")
                          if (value := getattr(config, name)))
        raise InputError(
            f"workdir {str(folder)!r} has {free / 1e9:.1f} GB free, and the {number} checkpoints to come (checkpoint: "
            f"{rules}; and the one being written) need {number * size / 1e9:.1f} GB: free some space, keep fewer, or "
            "choose another workdir.")


# ---- for readers of a run --------------------------------------------------------------------------------------


def checkpoint_step(folder: Path, config: CheckpointConfig, step: int | str = LATEST) -> int:
    """The step of the run's checkpoint that `step` means: "latest", "best" (by the metric
    checkpoint.best), or a number. Raises InputError if there is none."""
    with reading(folder, config) as found:
        steps, best = found.steps, found.best
    listed = f"the run {str(folder)!r} has checkpoints of the steps {', '.join(map(str, sorted(steps))) or '(none)'}"
    if step == BEST and best is None:
        raise InputError(f"step is 'best', but {listed}, none of them with a score: set checkpoint.best in the run, or "
                         "name one of the steps.")
    number = {LATEST: max(steps, default=None), BEST: best}.get(step, step)
    if not str(number).isdecimal() or int(number) not in steps:
        raise InputError(f"step is {step!r}, and {listed}: choose one of them, latest or best.")
    return int(number)


@contextmanager
def reading(folder: Path, config: CheckpointConfig) -> Iterator[Checkpoints]:
    """The checkpoints of the run in `folder`, to be read. Raises InputError where there are none."""
    if not saved_steps(folder):
        raise InputError(f"{str(folder)!r} is a run without a checkpoint: its first one is written after "
                         f"checkpoint.every = {config.every} steps.")
    found = Checkpoints(folder / "checkpoints", config, read_only=True)
    try:
        yield found
    finally:
        found.close()
