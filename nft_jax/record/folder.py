"""A run's folder, read back: what a run of this version or an older one wrote, alive or after its end.

`nft_jax.record.claim` says who may write it."""
from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from nft_jax.config import Config, ObjectiveConfig, flat
from nft_jax.config.differences import MISSING, REMOVED
from nft_jax.objectives.source import FILE as OBJECTIVE
from nft_jax.objectives.source import digest_of
from nft_jax.record.metrics import read_metrics
from nft_jax.types import InputError

if TYPE_CHECKING:
    from nft_jax.model.hf.tokenizer import Text

MARKER = "run.json"
ACCURACY = "evaluation/accuracy/all"
OBJECTIVE_SOURCE = "source of the objective"        # its name among a run's inputs
# What config.json of every version has.
ROOMS = ("policy", "data", "rollout", "optimizer")

# The embedded model, as older versions named it: by its place in the repository, from its root or absolute.
EMBEDDED = re.compile(r"(.*/)?(experiments|nft_jax)/assets/nano/?")


@dataclass(frozen=True, repr=False)
class RunFolder:
    """What a run wrote, read when it is first asked for. `settings` is config.json in today's names, nested.
    Everything but config.json may be missing: the run may be alive, just begun, or copied in part."""
    folder: Path
    settings: dict[str, Any]

    def __repr__(self) -> str:
        measured = [row[ACCURACY] for row in self.rows if row.get(ACCURACY) is not None]
        accuracy = f"held-out {measured[0]:.1%} -> {measured[-1]:.1%}" if measured else "not evaluated"
        saved = ", ".join(map(str, saved_steps(self.folder))) or "none"
        return (f"RunFolder {str(self.folder)!r}: {self.fields['name']}, {self.fields['objective']}, seed "
                f"{self.fields['seed']}\n"
                f"  step {self.step} of {self.fields['steps']}, {self.state}; {accuracy}\n"
                f"  answers of {len(self.tables)} steps, checkpoints: {saved}"
                f"{', trained model in model/' if (self.folder / 'model').exists() else ''}")

    @property
    def step(self) -> int:
        """The newest step with metrics; 0 without any."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def state(self) -> str:
        """"finished", "stopped", or "running, or killed": the folder alone cannot tell these two apart."""
        if self.summary is None or self.summary.get("steps", 0) < self.step:
            return "running, or killed"
        return "finished" if self.summary.get("finished") else "stopped"

    @cached_property
    def config(self) -> Config:
        """The configuration. Raises InputError for settings that this version does not know, or refuses."""
        own, settings = Config.own_settings(self.settings), dict(self.settings)
        for name in own:
            del settings[f"objective.{name}"]
        config = _of_json(Config, settings, str(self.folder / "config.json"))
        return dataclasses.replace(config, loss=dataclasses.replace(config.loss, own=own)) if own else config

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Dotted name -> value. A field that the run did not know yet has today's default."""
        return flat(upgraded(as_read(Config()))) | flat(self.settings)

    @cached_property
    def told(self) -> dict[str, Any]:
        """`fields` that decide what the run computes, to compare it with others: without the settings of the loss that
        its objective does not read. Of an objective of one's own, with the digest of its source."""
        from nft_jax.objectives.registry import settings_read
        objective = str(self.fields["objective"])
        read = settings_read(objective, self.source)
        unread = {f"loss.{field.name}" for field in dataclasses.fields(ObjectiveConfig) if field.name not in read}
        if self.fields.get("loss.loss_agg") not in (None, "constant"):
            unread.add("loss.constant_length")
        return {name: value for name, value in self.fields.items() if name not in unread} | (
            {OBJECTIVE_SOURCE: self.inputs.get(OBJECTIVE_SOURCE)} if ":" in objective else {})

    @property
    def source(self) -> str:
        """The source of an objective of one's own, as the run keeps it; "" without one."""
        kept = self.folder / OBJECTIVE
        own = ":" in str(self.fields["objective"]) and kept.is_file()
        return kept.read_text(errors="replace") if own else ""

    @cached_property
    def inputs(self) -> dict[str, str]:
        """What the run reads: name -> digest. Of a run of an older version, the source of its own objective alone."""
        marker = read_marker(self.folder)
        if marker is not None:
            return marker["inputs"]
        kept = self.folder / OBJECTIVE
        if ":" not in self.settings["objective"]:
            return {}
        return {OBJECTIVE_SOURCE: digest_of(kept.read_text())[:16] if kept.exists() else "(not kept)"}

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
            # An adapter's folder has no config.json; the tokenizer is its base's.
            whole = (trained / "config.json").is_file()
            return Text(load_tokenizer(trained if whole else resolve_folder(path, weights=False)))
        except (InputError, OSError):
            return None


def is_run(folder: str | os.PathLike) -> bool:
    """Whether the folder has the config.json of a run, and the run's marker. A run of an older version has no marker:
    its rows of metrics, if there are any, have the form of a run's. (Models have a config.json too.)"""
    folder = Path(folder)
    settings = _read_json(folder / "config.json")
    if settings is None or "objective" not in settings or not all(isinstance(settings.get(r), dict) for r in ROOMS):
        return False
    rows = folder / "metrics.jsonl"
    return read_marker(folder) is not None or not rows.exists() or rows.read_bytes()[:8] in (b"", b'{"step":')


def saved_steps(folder: Path) -> list[int]:
    """Steps of the run's checkpoints, whole or damaged, ascending."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal())


def read_marker(folder: Path) -> dict | None:
    """`names` and `inputs` of run.json, and `fork` of a run that began from another's checkpoint; None without one.
    `nft_jax.record.claim` writes it."""
    found = _read_json(folder / MARKER) or {}
    names, inputs = found.get("names"), found.get("inputs")
    # Names alone, no paths: --fresh removes them from the folder.
    whole = isinstance(names, list) and isinstance(inputs, dict) and all(
        isinstance(name, str) and name == os.path.basename(name) not in ("", ".", "..") for name in names)
    return found if whole else None


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


def as_read(config: Config) -> dict:
    """The configuration as config.json gives it back: tuples are lists."""
    return json.loads(json.dumps(config.to_dict()))
