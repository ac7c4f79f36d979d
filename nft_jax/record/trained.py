"""What a run has learned, from its folder: its configuration, and the parameters of one of its checkpoints."""
from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import jax
from orbax.checkpoint import v1 as ocp

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.hf import read_config, resolve_folder
from nft_jax.model.parameters import parameter_shardings
from nft_jax.record.checkpoint import Checkpoints
from nft_jax.runtime.compilation import with_shardings
from nft_jax.train.state import TrainState, init_state, make_optimizer
from nft_jax.types import InputError

LATEST, BEST = "latest", "best"


def run_config(folder: str | os.PathLike) -> Config | None:
    """The configuration of the run in `folder`; None when its config.json is not that of a run (a model has one too),
    or there is none. Raises InputError for one that another version wrote, with fields that are not known here."""
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or "objective" not in values or "rollout" not in values:
        return None
    return _of_json(Config, values, str(path))


def _of_json(kind: type, values: dict, where: str) -> Any:
    """A dataclass from the JSON of its `asdict`; fields that are missing take their default."""
    hints, known = get_type_hints(kind), {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise InputError(f"{where} has the fields {', '.join(unknown)}, which this nft_jax does not know: use "
                         "the version that the run was made with.")
    return kind(**{name: _of_json(hints[name], value, where) if dataclasses.is_dataclass(hints[name])
                   else tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@contextmanager
def _checkpoints(folder: Path, config: Config) -> Iterator[Checkpoints]:
    """Those of a run, which may be alive."""
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{str(folder)!r} is a run without a checkpoint: its first one is written after "
                         f"checkpoint.every = {config.checkpoint.every} steps.")
    found = Checkpoints(folder / "checkpoints", config.checkpoint, read_only=True)
    try:
        yield found
    finally:
        found.close()


def checkpoint_step(folder: Path, config: Config, step: int | str = LATEST) -> int:
    """The step of the checkpoint that `step` means: "latest", "best" (by the metric checkpoint.best) or a number.
    Raises InputError where there is none."""
    with _checkpoints(folder, config) as found:
        steps, best = found.steps, found.best
    listed = f"the run {str(folder)!r} has checkpoints of the steps {', '.join(map(str, sorted(steps))) or '(none)'}"
    if step == BEST and best is None:
        raise InputError(f"step is 'best', but {listed}, none of them with a score: set checkpoint.best in the run, or "
                         "name one of the steps.")
    number = {LATEST: max(steps, default=None), BEST: best}.get(step, step)
    if not str(number).isdecimal() or int(number) not in steps:
        raise InputError(f"step is {step!r}, and {listed}: choose one of them, latest or best.")
    return int(number)


def load_checkpoint(folder: Path, config: Config, step: int, mesh=None) -> dict:
    """The parameters (float32) of the checkpoint of `step`, split over `mesh` when there is one. Nothing else of it is
    put on a device. Raises InputError for a checkpoint that is damaged."""
    shapes = decoder.parameter_shapes(read_config(resolve_folder(config.policy.path, weights=False)))
    rest = jax.eval_shape(lambda params: init_state(params, make_optimizer(config.optimizer)), shapes)
    place = parameter_shardings(shapes, mesh) if mesh is not None else jax.tree.map(
        lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    nothing = jax.tree.map(lambda _: ocp.PLACEHOLDER, TrainState(None, rest.opt_state, rest.updates))
    with _checkpoints(folder, config) as found:
        state, *_ = found.restore(step, nothing._replace(params=with_shardings(shapes, place)))
    return state.params
