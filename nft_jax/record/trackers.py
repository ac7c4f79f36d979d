"""Copies of a run's metrics beside `metrics.jsonl`: TensorBoard, Weights & Biases, trackio (`config.writers`).

A tracker's server may be away without costing the run anything: see `Mirror`."""
import json
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from nft_jax.config import Config
from nft_jax.runtime.files import replaced
from nft_jax.runtime.writing import append, reason
from nft_jax.types import InputError

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
MIRRORED_ROWS = 10_000      # rows that wait for a tracker at most
CLOSE_SECONDS = 30.0        # the end of a run waits so long for a tracker


def require_writers(names: Iterable[str]) -> None:
    """Raises InputError for a writer whose package is not installed. Imports none of them."""
    for name in names:
        spec = find_spec(PACKAGES[name])
        # A folder of that name is found too, as a namespace package: wandb leaves such a folder behind.
        if spec is None or spec.origin is None:
            raise InputError(f"writers has {name!r}, but the package {PACKAGES[name]} is not installed: run `pip "
                             f"install {PACKAGES[name]}`, or leave it out (metrics.jsonl is always written).")


def open_writers(folder: Path, last_step: int, rows: Sequence[dict], config: Config) -> list:
    """The writers that `config` names (each with `write` and `close`), for the run in `folder`. Its next step is
    `last_step` + 1. `rows` are the rows of its metrics.jsonl so far."""
    return [TensorBoard(folder, last_step) if name == "tensorboard" else Tracker(name, folder, rows, config)
            for name in config.writers]


class Mirror:
    """A writer that never fails and never waits: a thread hands the rows to `writer`, by its `write` and `close`.

    Rows that `writer` refuses are tried again every `pause` seconds. At most MIRRORED_ROWS rows wait; the oldest of
    more are dropped. `say` gets a line when the writer begins to fail, when it recovers, and at the end how many
    rows it never took: `given` less `taken`."""

    def __init__(self, writer: Any, name: str, say: Callable[[str], None], pause: float = 10.0):
        self._writer, self._name, self._say, self._pause = writer, name, say, pause
        self._rows: SimpleQueue[tuple[int, dict] | None] = SimpleQueue()         # None: the run has ended
        self.given, self.taken, self._failing = 0, 0, ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"nft-{name}", daemon=True)
        self._thread.start()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.given += 1
        if self._rows.qsize() >= MIRRORED_ROWS:
            with suppress(Empty):
                self._rows.get_nowait()
        self._rows.put((step, metrics))

    def _work(self) -> None:
        while (row := self._rows.get()) is not None and self._succeeds(self._writer.write, *row):
            self.taken += 1
        self._succeeds(self._writer.close)

    def _succeeds(self, call: Callable, *arguments) -> bool:
        """Calls again and again until that succeeds. False if it fails while the run ends."""
        while True:
            try:
                call(*arguments)
            # A tracker's package raises whatever its server, its network and its own mistakes bring.
            except Exception as error:
                if not self._failing:
                    self._say(f"{self._name}: does not take metrics ({reason(error)}). They are kept and tried again; "
                              "the run goes on, and metrics.jsonl has them")
                self._failing = reason(error)
                if self._closing.wait(self._pause):
                    return False
            else:
                # At the end, the writer's own close may succeed after rows that did not.
                if self._failing and not self._closing.is_set():
                    self._say(f"{self._name}: takes metrics again")
                    self._failing = ""
                return True

    def close(self) -> None:
        """Waits at most CLOSE_SECONDS for the waiting rows, and reports how many were not taken."""
        self._closing.set()
        self._rows.put(None)
        self._thread.join(CLOSE_SECONDS)
        left = self.given - self.taken
        if left or self._thread.is_alive():
            self._say(f"{self._name}: {left} rows were not taken ({self._failing or 'it does not answer'}); "
                      "metrics.jsonl has them")


class TensorBoard:
    """Event files in the run's folder tensorboard/. TensorBoard hides events after `last_step`:
    they come again."""

    # tensorboardX's SummaryWriter has a thread that dies when the disk is full; writing then blocks forever. Its
    # RecordWriter may leave half a record in the file then, and TensorBoard stops reading there.

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
        """Appends one TFRecord: length and data, each followed by its checksum."""
        from tensorboardX.record_writer import masked_crc32c
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        append(self._path, length + next(sums) + data + next(sums))

    def close(self) -> None:
        """Does nothing: every event is on disk already."""


class Tracker:
    """A run of wandb or trackio. PACKAGE.json in the run folder has its id, so a continued run continues it there.

    No step is sent twice: wandb would keep the numbers of the first time. wandb's server knows the steps that it
    has. Offline there is no server to ask, so the newest of wandb's files has every row. trackio knows a run by its
    name alone, so the id is a part of it, and PACKAGE.json has the last step sent too. trackio stores rows every
    half second: a kill in between loses the last ones. Steps of `rows` that the tracker lacks are sent at the start.
    `--fresh` removes the file."""

    def __init__(self, package: str, folder: Path, rows: Sequence[dict], config: Config):
        self._path = folder / f"{package}.json"
        known = json.loads(self._path.read_text()) if self._path.exists() else {"id": secrets.token_hex(4), "sent": -1}
        self._id, self._sent = known["id"], known.get("sent", -1)
        self._remember()
        if package == "wandb":
            self._run = _start("wandb", config, name=config.name, id=self._id, dir=str(folder), allow_val_change=True)
            # Without commit a row waits for the next one.
            self._sent, self._log = self._run.step - 1, partial(self._run.log, commit=True)
        else:
            self._run = _start(package, config, name=f"{config.name}-{self._id}")
            self._log = self._run.log
        for row in rows:
            self.write(row["step"], {key: value for key, value in row.items() if key != "step" and value is not None})

    def write(self, step: int, metrics: dict[str, float]) -> None:
        if step > self._sent:
            self._log(metrics, step=step)
            self._sent = step
            self._remember()

    def _remember(self) -> None:
        with replaced(self._path) as temporary:
            temporary.write_text(json.dumps({"id": self._id, "sent": self._sent}) + "\n")

    def close(self) -> None:
        self._run.finish()


def _start(package: str, config: Config, **settings) -> Any:
    """The tracker's run. Packages obey their own variables (WANDB_MODE, TRACKIO_SPACE_ID, ...); WANDB_PROJECT and
    TRACKIO_PROJECT default to nft_jax. Raises InputError when the package cannot start a run."""
    project = os.environ.get(f"{package.upper()}_PROJECT", "nft_jax")
    try:
        return import_module(package).init(project=project, config=config.to_dict(), resume="allow", **settings)
    except Exception as error:
        remedy = "log in (`wandb login`), set WANDB_MODE=offline," if package == "wandb" else "mend what it says,"
        raise InputError(f"writers has {package!r}, which does not start ({type(error).__name__}: {error}): {remedy} "
                         "or leave it out of writers.") from error
