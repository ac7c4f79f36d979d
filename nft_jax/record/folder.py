"""A run's folder: who may write it, and the one way to read it back.

1. `claimed` holds the folder while a run writes there, and keeps the configuration in config.json;
2. a later start with another configuration is refused there, with a table of the fields;
3. `read_run` reads what a run wrote, of this version or an older one, while it is alive or after its end."""
from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from nft_jax.config import Config, flat
from nft_jax.config.differences import MAY_CHANGE, MISSING, REMOVED, differences
from nft_jax.data.benchmarks import sets_of
from nft_jax.objectives.custom import FILE as OBJECTIVE
from nft_jax.objectives.custom import record_of, require_same_objective
from nft_jax.record.metrics import read_metrics
from nft_jax.runtime.files import held, remove, replaced
from nft_jax.types import InputError

if TYPE_CHECKING:
    from nft_jax.model.hf.tokenizer import Text

# Files and folders that a run writes. config.json goes last when a run is deleted: a kill on the way must not leave
# checkpoints to a run of another configuration.
WRITTEN = ("checkpoints", "rollouts", "tensorboard", "wandb", "model", "profile", "nonfinite", "evaluations",
           "metrics.jsonl", "curves.png", "summary.json", "skipped.json", "wandb.json", "trackio.json", "hang.txt",
           OBJECTIVE, "config.json")

# The embedded model, as older versions named it: by its place in the repository, from its root or absolute.
EMBEDDED = re.compile(r"(.*/)?(experiments|nft_jax)/assets/nano/?")


@dataclass(frozen=True)
class RunFolder:
    """What a run wrote, read when it is first asked for. `settings` is config.json in today's names, nested.
    Everything but config.json may be missing: the run may be alive, just begun, or copied in part."""
    folder: Path
    settings: dict[str, Any]

    @cached_property
    def config(self) -> Config:
        """The configuration. Raises InputError for settings that this version does not know, or refuses."""
        return _of_json(Config, self.settings, str(self.folder / "config.json"))

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Dotted name -> value. A field that the run did not know yet has today's default."""
        return flat(upgraded(_as_read(Config()))) | flat(self.settings)

    @cached_property
    def rows(self) -> list[dict]:
        """The metrics of each step, steps ascending."""
        path = self.folder / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        return sorted((row for row in rows if "step" in row), key=lambda row: row["step"])

    @cached_property
    def summary(self) -> dict | None:
        """summary.json; None until the run ends for the first time."""
        return _read_json(self.folder / "summary.json")

    @cached_property
    def tables(self) -> dict[int, Path]:
        """Step -> its table of answers, steps ascending."""
        return {int(path.stem.removeprefix("step_")): path
                for path in sorted((self.folder / "rollouts").glob("step_*[0-9].parquet"))}

    @cached_property
    def text(self) -> Text | None:
        """The run's tokenizer: of its model/, else of policy.path; None where neither can be read."""
        # transformers takes a second to import.
        from nft_jax.model.hf.hub import resolve_folder
        from nft_jax.model.hf.tokenizer import Text, load_tokenizer
        trained = self.folder / "model"
        try:
            path = str(self.fields["policy.path"])
            return Text(load_tokenizer(trained if trained.is_dir() else resolve_folder(path, weights=False)))
        except (InputError, OSError):
            return None


def is_run(folder: str | os.PathLike) -> bool:
    """Whether the folder has the config.json of a run. (Models have a config.json too.)"""
    settings = _read_json(Path(folder) / "config.json")
    return settings is not None and "objective" in settings


def read_run(folder: str | os.PathLike, field: str = "RUN",
             way_out: str = "give the folder of a run (its workdir, or runs/NAME), with its config.json") -> RunFolder:
    """The run in `folder`, finished or not. Raises InputError, which names `field`, for a folder
    that is no run's."""
    path = Path(folder) / "config.json"
    if not is_run(folder):
        what = "whose config.json is not a run's" if path.exists() else "which has no config.json"
        raise InputError(f"{field} is {str(folder)!r}, {what}: {way_out}.")
    return RunFolder(Path(folder), upgraded(_read_json(path)))


def upgraded(settings: dict) -> dict:
    """config.json of an older version in today's names and fields; nested, as it is. A field that is gone is left
    out if the run had the value that is all there is now. Another value stays, so that it is refused by name."""
    settings = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    for name, (value, _) in REMOVED.items():
        room, _, field = name.rpartition(".")
        if settings.get(room, {}).get(field, MISSING) == value:
            del settings[room][field]
    for room, field in (("policy", "path"), ("terms", "reference")):
        if EMBEDDED.fullmatch(str(settings.get(room, {}).get(field, ""))):
            settings[room][field] = "nano"
    if settings.get("rollout", {}).get("old_logprobs") == "auto":
        settings["rollout"]["old_logprobs"] = "trainer"
    return settings


def _read_json(path: Path) -> dict | None:
    """The object in the file; None where there is none, or a write was cut short."""
    try:
        # To open a named pipe would never end.
        value = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _of_json(kind: type, values: dict, where: str) -> Any:
    """A dataclass from the JSON of its `asdict`. Fields that are missing take their default."""
    hints, known = get_type_hints(kind), {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - known):
        told = ", ".join(f"{name} = {values[name]!r}" for name in unknown)
        raise InputError(f"{where} has the fields {told}, which this nft_jax does not know: use the version that the "
                         "run was made with.")
    return kind(**{name: _of_json(hints[name], value, where) if dataclasses.is_dataclass(hints[name])
                   else tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@contextmanager
def claimed(config: Config, fresh: bool) -> Iterator[str]:
    """Makes the run's folder, writes config.json, and holds the folder's `lock` while the block runs. Readers
    need no lock. Yields a remark for the user, or "". Of several processes only the first calls this.

    Raises InputError: an input lies in the folder, it is no run's, another process writes there, or
    it holds a run of another configuration. With `fresh` that run is deleted instead."""
    folder = Path(config.folder)
    _require_inputs_elsewhere(config, folder)
    objective = record_of(config.objective)
    _require_run_or_nothing(folder)
    try:
        (folder / "rollouts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"workdir is {str(folder)!r}, which cannot be made ({error.strerror}): choose a folder that "
                         "can be written.") from error
    with held(folder) as remark:
        if fresh:
            _remove_run(folder)
        require_same(folder, config)
        if objective:
            with replaced(folder / OBJECTIVE) as partial:
                partial.write_text(objective)
        (folder / "rollouts").mkdir(exist_ok=True)
        with replaced(folder / "config.json") as partial:
            partial.write_text(json.dumps(_as_read(config), indent=2) + "\n")
        yield remark


def require_same(folder: Path, config: Config) -> None:
    """Raises InputError, with a table of the fields, if the folder holds a run of another configuration."""
    run = _require_run_or_nothing(folder)
    if run is None:
        return
    rows = [(name, repr(before), repr(now)) for name, (before, now) in sorted(
        differences(run.fields, upgraded(_as_read(config)), ignore=MAY_CHANGE).items())]
    if rows:
        table = _columns([("field", "in the folder", "now"), *rows])
        gone = [f"{name} is gone: {REMOVED[name][1]}." for name, *_ in rows if name in REMOVED]
        raise InputError("\n  ".join([f"workdir {str(folder)!r} holds a run of another configuration:", *table, *gone])
                         + "\nSet these fields back to continue it, choose another workdir, or start over with "
                         f"--fresh, which deletes that run. (What may change: {', '.join(MAY_CHANGE)}.)")
    require_same_objective(folder, config.objective)


def _require_inputs_elsewhere(config: Config, folder: Path) -> None:
    inputs = [("policy.path", config.policy.path), ("data.source", config.data.source),
              ("terms.reference", config.terms.reference),
              *(("evaluation.source", one.data.source) for one in sets_of(config.evaluation, config.data))]
    for name, source in inputs:
        if source and Path(source).exists() and Path(source).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{name} is {source!r}, which lies in the run folder {str(folder)!r}: the run would "
                             "overwrite it. Choose another workdir.")


def _require_run_or_nothing(folder: Path) -> RunFolder | None:
    """The run in the folder, or None where there is no config.json. Raises InputError for the
    folder of anything else, which a run must not write into."""
    return read_run(folder, "workdir", "choose another workdir") if (folder / "config.json").exists() else None


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _as_read(config: Config) -> dict:
    # Tuples become lists, as they are read back.
    return json.loads(json.dumps(config.to_dict()))


def _remove_run(folder: Path) -> None:
    """Deletes what a run writes, and nothing else that may lie in the folder."""
    for name in WRITTEN:
        for path in (folder / name, folder / f"{name}.partial", folder / f"{name}.old"):
            remove(path)
