"""The folder of a run: whose it is, which configuration it holds, and who may write there."""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nft_jax.config import Config, flat
from nft_jax.data.benchmarks import sets_of
from nft_jax.objectives.custom import FILE as OBJECTIVE
from nft_jax.objectives.custom import record_of, require_same_objective
from nft_jax.runtime.files import held, remove, replaced
from nft_jax.types import InputError

# Fields that may differ when a run folder is continued: they do not change what is computed, or only how far it goes.
MAY_CHANGE = ("name", "workdir", "steps", "writers", "mesh", "policy.attention", "checkpoint", "rollout.slots",
              "rollout.block_size", "batch.rows_per_micro_batch", "verifier.workers", "guard")

NOT_THERE = "(not known)"


@contextmanager
def claimed(config: Config, fresh: bool) -> Iterator[str]:
    """The run folder, made where it is missing, with its config.json: this process's alone while the block runs (its
    `lock` is held; readers need no lock). Yields a remark for the user, or "". Of the processes of a run only the first
    calls this.

    Raises InputError: an input lies in the folder, it is no run's, another process writes there, or it holds a run of
    another configuration (unless `fresh`, which deletes that run).
    """
    folder = Path(config.folder)
    evaluated = [("evaluation.source", one.data.source) for one in sets_of(config.evaluation, config.data)]
    reference = [("terms.reference", config.terms.reference)] * bool(config.terms.reference)
    for name, source in (("policy.path", config.policy.path), ("data.source", config.data.source), *reference,
                         *evaluated):
        if Path(source).exists() and Path(source).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{name} is {source!r}, which lies in the run folder {str(folder)!r}: the run would "
                             "overwrite it. Choose another workdir.")
    objective = record_of(config.objective)
    read_settings(folder)
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


def read_settings(folder: Path) -> dict | None:
    """config.json of a run folder; None where there is none. Raises InputError when it is not that of a run."""
    path = folder / "config.json"
    if not path.exists():
        return None
    try:
        settings = json.loads(path.read_text())
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or "objective" not in settings:
        raise InputError(f"workdir is {str(folder)!r}, whose config.json is not that of a run: choose another workdir.")
    return settings


def require_same(folder: Path, config: Config) -> None:
    """InputError, with a table of the fields, when the folder holds a run of another configuration. A field that the
    run did not know yet had what is now its default."""
    settings = read_settings(folder)
    if settings is None:
        return
    known = flat(_as_read(Config())) | flat(settings)
    wanted = flat(_as_read(config))
    rows = [(name, *(repr(values[name]) if name in values else NOT_THERE for values in (known, wanted)))
            for name in sorted(known.keys() | wanted.keys())
            if not name.startswith(MAY_CHANGE) and known.get(name, NOT_THERE) != wanted.get(name, NOT_THERE)]
    if rows:
        widths = [max(map(len, column)) for column in zip(*rows, ("field", "in the folder", "now"), strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                 for row in (("field", "in the folder", "now"), *rows)]
        raise InputError("\n  ".join([f"workdir {str(folder)!r} holds a run of another configuration:", *table]) + (
            "\nSet these fields back to continue it, choose another workdir, or start over with --fresh, which deletes "
            f"that run. (What may change: {', '.join(MAY_CHANGE)}.)"))
    require_same_objective(folder, config.objective)


def _as_read(config: Config) -> dict:
    return json.loads(json.dumps(config.to_dict()))          # tuples as lists, as they are read back


def _remove_run(folder: Path) -> None:
    """Delete what a run writes, and nothing else that may lie in the folder. config.json goes last: a kill on the way
    must not leave checkpoints to a run of another configuration."""
    for name in ("checkpoints", "rollouts", "tensorboard", "wandb", "model", "profile", "nonfinite", "evaluations",
                 "metrics.jsonl", "curves.png", "summary.json", "skipped.json", "wandb.json", "trackio.json",
                 "hang.txt", OBJECTIVE, "config.json"):
        for path in (folder / name, folder / f"{name}.partial", folder / f"{name}.old"):
            remove(path)
