"""Who may write a run's folder, and what that folder is bound to.

1. `look` says what a workdir holds, and refuses a place that is not for this run. It changes nothing.
2. `claimed` holds the folder while a run writes there. It writes the marker, run.json: the names that belong to the
   run, and what the run reads, as digests. Then it writes config.json.
3. A later start with another configuration or other inputs is refused with a table. Before its first step a run
   binds nothing: such a start takes its place."""
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nft_jax.config import AdapterConfig, Config
from nft_jax.config.checks import on_this_machine
from nft_jax.config.differences import MAY_CHANGE, REMOVED, differences
from nft_jax.data.benchmarks import sets_of
from nft_jax.objectives.source import FILE as OBJECTIVE
from nft_jax.objectives.source import record_of
from nft_jax.record.folder import MARKER, RunFolder, as_read, is_run, read_marker, read_run, saved_steps, upgraded
from nft_jax.runtime.files import LOCK, damage, held, is_lock, places, remove, replaced
from nft_jax.types import InputError

# Names that a run writes. The order is that of their removal: a kill on the way must not leave checkpoints or rows to
# a run of another configuration.
STORED = "answers.parquet"      # stored answers, judged and scored (`nft_jax.train.stored_groups`)
NAMES = ("checkpoints", "rollouts", "tensorboard", "wandb", "model", "profile", "nonfinite", "evaluations",
         "metrics.jsonl", "curves.png", "summary.json", "skipped.json", "wandb.json", "trackio.json", "hang.txt",
         STORED, OBJECTIVE, "config.json")
START_OVER = "choose another workdir, or start over with --fresh, which deletes that run"


@dataclass(frozen=True)
class Standing:
    """What a workdir holds, and what a run does there.

    names: of the run there: to be removed where `run` is None, and still its own where it goes on
    run: the run that goes on there; None where one begins
    step: the newest checkpoint of `run`, or of the run that it is forked from; 0 without one
    source: the run whose checkpoint is taken over (--fork)
    summary: of a run that has nothing left to do
    lines: all this, for the user"""
    names: tuple[str, ...] = ()
    run: RunFolder | None = None
    step: int = 0
    source: RunFolder | None = None
    summary: dict | None = None
    lines: tuple[str, ...] = ()

    def remembered(self, field: str, default: Any) -> Any:
        """The value of a field that was decided when the run began, or the run that it is forked from."""
        began = self.run or self.source
        return default if began is None else began.fields[field]


# ---- looking ------------------------------------------------------------------------------------------------------


def look(config: Config, inputs: Mapping[str, str] | None = None, *, fresh: bool = False, fork: str = "") -> Standing:
    """What the workdir holds. `inputs`: what a run reads, name -> digest, as far as it is known.

    Raises InputError, naming the field: a place where no run can be, files of somebody else under the names of a run,
    an input of the run in its folder, a run of another configuration or other inputs, a step that is past."""
    folder = Path(config.folder)
    _require_place(config.workdir, folder)
    _require_inputs_elsewhere(config, folder, fork)
    names = _owned(folder)
    run = read_run(folder) if is_run(folder) else None
    if fresh or not begun(folder):
        # Names of a run that has not finished a step stay, unless this start differs from it.
        leftovers = names if fresh or run is None or _different(run, config, inputs or {}) else ()
        return _beginning(config, folder, leftovers, fork)
    if run is None:
        raise InputError(f"workdir is {str(folder)!r}, a run whose config.json is missing or damaged: put it back to "
                         f"continue the run, {START_OVER}.")
    _require_same(run, config, inputs or {})
    return _going_on(config, run, names, fork)


def begun(folder: Path) -> bool:
    """Whether the run in `folder` has finished a step."""
    return bool(saved_steps(folder)) or any(row["step"] > 0 for row in RunFolder(folder, {}).rows)


def _beginning(config: Config, folder: Path, leftovers: tuple[str, ...], fork: str) -> Standing:
    removed = [name for name in leftovers if os.path.lexists(folder / name)]
    lines = [f"workdir {folder}: a new run" + (f"; removes of the run there: {', '.join(removed)}" if removed else "")]
    if not fork:
        return Standing(leftovers, lines=tuple(lines))
    source = read_run(Path(fork).expanduser(), "--fork", "give the folder of a run")
    step = max(saved_steps(source.folder), default=0)
    if not step:
        raise InputError(f"--fork is {fork!r}, a run without a checkpoint: there is nothing to start from.")
    if config.steps <= step:
        raise InputError(f"steps is {config.steps}, and --fork starts at step {step} of {fork!r}: give more steps.")
    _require_same_adapters(config, source, fork)
    _require_same_state(config, source, fork)
    lines.append(f"forked from step {step} of {source.folder}")
    return Standing(leftovers, step=step, source=source, lines=tuple(lines))


def _require_same_adapters(config: Config, source: RunFolder, fork: str) -> None:
    """Raises InputError unless the checkpoint of `source` is of the parameters that `config` trains."""
    there = AdapterConfig(**{each.name: tuple(value) if isinstance(value, list) else value for each in
                             fields(AdapterConfig) for value in [source.fields[f"adapter.{each.name}"]]})
    for name in config.adapter.differs(there):
        flags = there.flags if there.rank else "no --adapter.rank"
        raise InputError(f"adapter.{name} is {getattr(config.adapter, name)!r}, and in the run that --fork {fork!r} "
                         f"takes its checkpoint from it is {getattr(there, name)!r}: give {flags}, or begin a run "
                         f"from its model with --policy.path {fork}.")


def _require_same_state(config: Config, source: RunFolder, fork: str) -> None:
    """Raises InputError unless the runs have one optimizer, and both or neither an average of the parameters."""
    for name, here, same in (("optimizer.name", config.optimizer.name, str), ("rollout.ema", config.rollout.ema, bool)):
        there = source.fields[name]
        if same(here) != same(there):
            raise InputError(f"{name} is {here!r}, and in the run that --fork {fork!r} takes its checkpoint from it is "
                             f"{there!r}: the checkpoint has another state than this run needs. Give --{name} {there}, "
                             f"or begin a run from its model with --policy.path {fork}.")


def _going_on(config: Config, run: RunFolder, names: tuple[str, ...], fork: str) -> Standing:
    folder, step = run.folder, max(saved_steps(run.folder), default=0)
    origin = (read_marker(folder) or {}).get("fork", {}).get("run", "")
    if fork and origin != _absolute(fork):
        raise InputError(f"--fork is {fork!r}, and the run in workdir {str(folder)!r} "
                         f"{f'is forked from {origin!r}' if origin else 'began from a model'}: leave --fork out to "
                         f"continue it, {START_OVER}.")
    summary = run.summary or {}
    ended = summary.get("finished") and summary.get("steps") == step and (folder / "model").is_dir()
    if ended and config.steps <= step:
        line = f"workdir {folder}: finished at step {step}, and nothing is changed; more --steps than that go on"
        return Standing(names, run, step, summary=summary, lines=(line,))
    if config.steps < step:
        raise InputError(f"steps is {config.steps}, and the run in workdir {str(folder)!r} is at step {step}: "
                         f"{step} steps end it there, more go on.")
    line = f"continues from step {step}" if step else "continues, from its first step, as it has no checkpoint yet"
    return Standing(names, run, step, lines=(f"workdir {folder}: {line}",))


def _require_place(workdir: str, folder: Path) -> None:
    """Raises InputError for a workdir that is no folder and cannot become one."""
    def refuse(what: str, way_out: str = "choose another folder") -> None:
        raise InputError(f"workdir is {str(workdir or folder)!r}, {what}: {way_out}.")

    if not on_this_machine(workdir):
        refuse("an address, and a run writes to a folder", "mount the bucket, and name a folder there")
    if os.path.dirname(os.path.realpath(folder)) == os.path.realpath(folder):
        refuse("the root of the file system")
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        refuse(f"where {existing} is {'a link to nothing' if existing.is_symlink() else 'a file'}")
    if not _may_be(existing, os.W_OK | os.X_OK):
        refuse(f"where {existing} cannot be written")
    for path in (folder / name for name in (*NAMES, MARKER, LOCK)):
        if path.is_symlink() and not path.exists():
            refuse(f"where {path} is a link to nothing ({os.readlink(path)})", "make its target, or remove the link")


def _may_be(path: Path, access: int) -> bool:
    """Whether this process may use the path so: by its effective user, where the system can tell."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def _require_inputs_elsewhere(config: Config, folder: Path, fork: str) -> None:
    inputs = [("policy.path", config.policy.path), ("adapter.path", config.adapter.path),
              ("data.source", config.data.source), ("rollout.answers", config.rollout.answers),
              ("data.chat_template", config.data.chat_template),
              ("terms.reference", config.terms.reference), ("--fork", fork),
              *(("evaluation.source", one.data.source) for one in sets_of(config.evaluation, config.data))]
    for name, source in inputs:
        if source and Path(source).exists() and Path(source).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{name} is {source!r}, which lies in the run folder {str(folder)!r}: the run would "
                             "overwrite it. Choose another workdir.")


def _owned(folder: Path) -> tuple[str, ...]:
    """The names that belong to the run in `folder`. Raises InputError for anything else under the name of a run."""
    marker = read_marker(folder)
    # Runs of older versions have no marker. All names were theirs.
    names = tuple(marker["names"]) if marker is not None else NAMES if is_run(folder) else ()
    foreign = [path.name for name in NAMES if name not in names for path in places(folder / name) if _occupied(path)]
    if marker is None and os.path.lexists(folder / MARKER):
        foreign.append(MARKER)
    if os.path.lexists(folder / LOCK) and not is_lock(folder / LOCK):
        foreign.append(LOCK)
    if foreign:
        raise InputError(f"workdir is {str(folder)!r}, where {', '.join(foreign)} "
                         f"{'is' if len(foreign) == 1 else 'are'} not of a run: a run would overwrite what is there. "
                         "Choose another workdir, or move it away.")
    return names


def _occupied(path: Path) -> bool:
    """Whether anything would be lost: an empty folder, or a link to one, is a place that somebody prepared."""
    return any(path.iterdir()) if path.is_dir() else os.path.lexists(path)


# ---- comparing ----------------------------------------------------------------------------------------------------


def _different(run: RunFolder, config: Config, inputs: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(what, in the run, now) of each field and each input that differs, and may not."""
    # Empty now: as it was then. Empty then: a run of an older version wrote the date of each start.
    free = MAY_CHANGE if run.fields["data.date"] and config.data.date else (*MAY_CHANGE, "data.date")
    fields = differences(run.fields, upgraded(as_read(config)), ignore=free)
    kept = run.inputs
    return [(name, repr(before), repr(now)) for name, (before, now) in sorted(fields.items())] + [
        (name, kept[name], value) for name, value in inputs.items() if kept.get(name, value) != value]


def _require_same(run: RunFolder, config: Config, inputs: Mapping[str, str]) -> None:
    """Raises InputError, with a table, if the run has another configuration or read other inputs."""
    rows = _different(run, config, inputs)
    if not rows:
        return
    gone = [f"{name} is gone: {REMOVED[name][1]}." for name, *_ in rows if name in REMOVED]
    head = f"workdir {str(run.folder)!r} holds a run that differs from this one:"
    raise InputError("\n  ".join([head, *_columns([("what", "in the folder", "now"), *rows]), *gone])
                     + f"\nPut this back (files, or versions of packages) to continue it, {START_OVER}. (What may "
                     f"change: {', '.join(MAY_CHANGE)}. --fork takes a run's newest checkpoint into another workdir, "
                     "with any other field.)")


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# ---- writing ------------------------------------------------------------------------------------------------------


@contextmanager
def claimed(config: Config, inputs: Mapping[str, str], *, fresh: bool = False, fork: str = "") -> Iterator[Standing]:
    """Makes the run's folder, binds it, and holds its lock while the block runs. Readers need no lock. Yields what
    was found there. Of several processes only the first calls this.

    Raises InputError as `look`, and where another process writes there or the system refuses to write."""
    folder, given, objective = Path(config.folder), {"fresh": fresh, "fork": fork}, record_of(config.objective)
    # Before anything is made there.
    look(config, inputs, **given)
    with ExitStack() as holding:
        with refusals_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remark = holding.enter_context(held(folder))
            # Again: another process may have written since.
            standing = look(config, inputs, **given)
            if standing.summary is None:
                _require_writable(folder)
                standing = _bound(config, inputs, objective, standing)
        yield replace(standing, lines=(*standing.lines, *([remark] if remark else [])))


@contextmanager
def refusals_named(folder: Path) -> Iterator[None]:
    """In the block, a write that the system refuses is an InputError that names workdir, file and reason."""
    try:
        yield
    except OSError as error:
        raise InputError(f"workdir is {str(folder)!r}, where {error.filename or 'a file'} cannot be written "
                         f"({error.strerror or error}): mend that, or choose another workdir.") from error


def _require_writable(folder: Path) -> None:
    """Raises OSError where a folder takes no new file, or a file no change: at its end a run would find out."""
    for path in (folder, *(folder / name for name in (*NAMES, MARKER))):
        if path.is_dir():
            tempfile.TemporaryFile(dir=path).close()
        elif path.exists() and not _may_be(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only", str(path))


def _bound(config: Config, inputs: Mapping[str, str], objective: str, standing: Standing) -> Standing:
    """Binds the folder, after removing what an earlier run left, and takes over the checkpoint of a fork."""
    folder = Path(config.folder)
    marker = {"names": list(NAMES), "inputs": dict(inputs)}
    if standing.run is None:
        for name in standing.names:
            for path in places(folder / name):
                remove(path)
    else:
        known = read_marker(folder) or {}
        # A newer version may write under names, and know of inputs, that the run's own version had not.
        names = [*NAMES, *(name for name in standing.names if name not in NAMES)]
        marker = known | {"names": names, "inputs": marker["inputs"] | standing.run.inputs}
    if standing.source is not None:
        rows = _different(standing.source, config, inputs)
        marker["fork"] = {"run": _absolute(standing.source.folder), "step": standing.step,
                          "differs": {name: [before, now] for name, before, now in rows}}
        lines = ["  " + line for line in _columns([("what", "there", "here"), *rows])] if rows else []
        standing = replace(standing, lines=(*standing.lines, *lines))
    _write(folder / MARKER, marker)
    if objective:
        with replaced(folder / OBJECTIVE) as partial:
            partial.write_text(objective)
    _write(folder / "config.json", as_read(config))
    for name in ("rollouts", "checkpoints"):
        (folder / name).mkdir(exist_ok=True)
    if standing.source is not None:
        _take_over(standing.source.folder, folder, standing.step)
        # Of the same answers, the parameters that pi_old is of are the source's first ones.
        if config.rollout.answers and (standing.source.folder / STORED).exists():
            with replaced(folder / STORED) as partial:
                shutil.copy(standing.source.folder / STORED, partial)
    return standing


def _take_over(source: Path, folder: Path, step: int) -> None:
    """Copies the checkpoint of `step`. Raises InputError if it is damaged, or the run there deletes it meanwhile."""
    with replaced(folder / "checkpoints" / str(step)) as partial:
        try:
            shutil.copytree(source / "checkpoints" / str(step), partial)
        except (FileNotFoundError, shutil.Error) as error:
            raise InputError(f"--fork is {str(source)!r}, whose checkpoint of step {step} went away while it was "
                             "copied: start again, from its next one.") from error
        if fault := damage(partial):
            raise InputError(f"--fork is {str(source)!r}, whose checkpoint of step {step} is damaged: {fault}. Remove "
                             "it there to start from the one before.")


def _write(path: Path, value: dict) -> None:
    with replaced(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def _absolute(path: str | Path) -> str:
    return str(Path(path).expanduser().resolve())
