"""What may mirror a run's metrics beside `metrics.jsonl`: TensorBoard, Weights & Biases, trackio (`config.writers`).

A writer is an `nft_jax.runtime.writing.Writer`. Its package is imported when the writer is opened, not before.
"""
from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nft_jax.config import Config
from nft_jax.runtime.files import replaced
from nft_jax.runtime.writing import Writer, append
from nft_jax.types import InputError

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


def require_writers(names: Iterable[str]) -> None:
    """Raises InputError for a writer whose package is not installed. Imports none of them."""
    for name in names:
        spec = find_spec(PACKAGES[name])
        if spec is None or spec.origin is None:            # a folder of that name (wandb makes one) is no package
            raise InputError(f"writers has {name!r}, but the package {PACKAGES[name]} is not installed: run `pip "
                             f"install {PACKAGES[name]}`, or leave it out (metrics.jsonl is always written).")


def open_writers(folder: Path, last_step: int, rows: Sequence[dict], config: Config) -> list[Writer]:
    """The writers of `config` for the run in `folder`, which goes on after `last_step`; its metrics.jsonl holds `rows`
    so far."""
    return [TensorBoard(folder, last_step) if name == "tensorboard" else OPEN[name](folder, rows, config)
            for name in config.writers]


class TensorBoard:
    """Events in the run's folder tensorboard/. Those after `last_step` are hidden: they are about to come again. (Not
    by tensorboardX's SummaryWriter, whose thread dies where the disk is full, and then blocks who writes.)"""

    def __init__(self, folder: Path, last_step: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        started = time.time()
        (folder / "tensorboard").mkdir(exist_ok=True)
        name = f"events.out.tfevents.{started:.6f}.{socket.gethostname()}"
        self._path, self._event = folder / "tensorboard" / name, Event
        self._append(Event(wall_time=started, file_version="brain.Event:2"))
        self._append(Event(wall_time=started, step=last_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary
        values = [Summary.Value(tag=key, simple_value=value) for key, value in metrics.items()]
        self._append(self._event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, event: Any) -> None:
        """One TFRecord: length, data, and a checksum of each."""
        from tensorboardX.record_writer import masked_crc32c
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        append(self._path, length + next(sums) + data + next(sums))

    def close(self) -> None:
        """Every event is on disk already."""


class WeightsAndBiases:
    """A run of wandb, under an id that the run folder keeps (`wandb.json`; `--fresh` removes it): a continued run goes
    on there. Steps that the server has are not sent again (their numbers would be those of the first time), and `rows`
    that it lacks are sent at the start; offline, where no server is asked, the newest of wandb's files has every row.

    wandb obeys its own variables (WANDB_MODE, WANDB_ENTITY, ...); WANDB_PROJECT is nft_jax where unset. Raises
    InputError when it does not start.
    """

    def __init__(self, folder: Path, rows: Sequence[dict], config: Config):
        known = _remembered(folder / "wandb.json")
        self._run = _start("wandb", config, name=config.name, id=known["id"], dir=str(folder), allow_val_change=True)
        self._next = self._run.step
        _send(self, rows)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        if step >= self._next:
            self._run.log(metrics, step=step, commit=True)         # or it keeps the row back until the next one

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, which knows runs by their names: that of the configuration with an id behind it, which the run
    folder keeps with the last step that was sent (`trackio.json`; `--fresh` removes it). So a continued run goes on
    there, no step is sent twice, and `rows` that are not there yet are sent at the start. (trackio stores rows every
    half second: a kill in between loses the last.)

    trackio obeys its own variables (TRACKIO_DIR, TRACKIO_SPACE_ID, ...); the project is TRACKIO_PROJECT, or nft_jax.
    Raises InputError when it does not start.
    """

    def __init__(self, folder: Path, rows: Sequence[dict], config: Config):
        self._path = folder / "trackio.json"
        self._known = _remembered(self._path, sent=-1)
        self._run = _start("trackio", config, name=f"{config.name}-{self._known['id']}")
        _send(self, rows)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        if step > self._known["sent"]:
            self._run.log(metrics, step=step)
            self._known["sent"] = step
            _remember(self._path, self._known)

    def close(self) -> None:
        self._run.finish()


OPEN = {"wandb": WeightsAndBiases, "trackio": Trackio}


def _remembered(path: Path, **fields) -> dict:
    """What the file says of the tracker's run; a new id, and `fields`, where there is none."""
    if not path.exists():
        _remember(path, {"id": secrets.token_hex(4)} | fields)
    return json.loads(path.read_text())


def _remember(path: Path, value: dict) -> None:
    with replaced(path) as partial:
        partial.write_text(json.dumps(value) + "\n")


def _send(writer: Writer, rows: Sequence[dict]) -> None:
    for row in rows:
        writer.write(row["step"], {key: value for key, value in row.items() if key != "step" and value is not None})


def _start(package: str, config: Config, **settings) -> Any:
    project = os.environ.get(f"{package.upper()}_PROJECT", "nft_jax")
    try:
        return import_module(package).init(project=project, config=config.to_dict(), resume="allow", **settings)
    except Exception as error:
        remedy = "log in (`wandb login`), set WANDB_MODE=offline," if package == "wandb" else "mend what it says,"
        raise InputError(f"writers has {package!r}, which does not start ({type(error).__name__}: {error}): {remedy} "
                         "or leave it out of writers.") from error
