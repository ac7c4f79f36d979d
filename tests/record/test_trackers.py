"""What trackers are told, by modules that stand in for them: every step once, whenever a run was killed."""
import json
import sys
import threading
import time
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from nft_jax.config import Config
from nft_jax.record import trackers
from nft_jax.record.metrics import MetricsWriter
from nft_jax.record.trackers import PACKAGES, Mirror, require_writers
from nft_jax.train.opening import read_inputs
from refusal import refused


class FakeTracker(ModuleType):
    """Records what `init`, `log` and `finish` are called with."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, origin="made here")
        self.inits, self.rows, self.finished, self.broken = [], [], 0, None
        self.server = {}                                     # wandb's: the step after the last one of each id

    def init(self, **settings):
        if self.broken:
            raise self.broken
        self.inits.append(settings)
        self.step = self.server.get(settings.get("id"), 0)
        return self

    def log(self, metrics, step, **options):
        assert options == ({"commit": True} if self.__name__ == "wandb" else {})
        self.rows.append((step, metrics))
        self.server[self.inits[-1].get("id")] = step + 1

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    fake = FakeTracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return fake


def taken(mirror):
    """Returns when the tracker has taken every row."""
    until = time.monotonic() + 60
    while mirror.taken < mirror.given:
        assert time.monotonic() < until
        time.sleep(0.001)


def run(folder, config, last_step, steps):
    writer = MetricsWriter(folder, last_step, config)
    for step in steps:
        writer.write(step, {"accuracy/all": step / 10})
    for mirror in writer.mirrors:                                # trackers take their rows in threads
        taken(mirror)
    return writer


def test_a_continued_run_is_the_same_run_and_no_step_is_sent_twice(tracker, tmp_path, monkeypatch):
    config = Config(name="mine", writers=(tracker.__name__,))
    run(tmp_path, config, -1, range(6))               # killed: never closed; the checkpoint is that of step 3
    run(tmp_path, config, 3, range(4, 8)).close()
    assert [step for step, _ in tracker.rows] == list(range(8)) and tracker.finished == 1
    assert tracker.rows[5] == (5, {"accuracy/all": 0.5})
    first, second = tracker.inits
    assert first == second and first["project"] == "nft_jax" and first["resume"] == "allow"
    assert first["config"] == config.to_dict()
    if tracker.__name__ == "wandb":
        assert first["name"] == "mine" and first["dir"] == str(tmp_path) and len(first["id"]) == 8
    else:
        assert first["name"].startswith("mine-") and "id" not in first           # trackio has no ids: the name is it
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(8))
    (tmp_path / f"{tracker.__name__}.json").unlink()                             # as --fresh does
    monkeypatch.setenv(f"{tracker.__name__.upper()}_PROJECT", "theirs")
    run(tmp_path, config, -1, range(2))
    third = tracker.inits[2]
    assert third["project"] == "theirs" and [third.get(k) for k in ("id", "name")] != [
        first.get(k) for k in ("id", "name")]
    assert [step for step, _ in tracker.rows[8:]] == [0, 1]


def test_a_tracker_that_comes_later_gets_the_rows_before_it(tracker, tmp_path):
    writer = MetricsWriter(tmp_path, -1, Config(writers=()))
    writer.write(0, {"a": 1.0, "b": float("nan")})
    writer.write(1, {"a": 2.0})
    writer.close()
    assert not (tmp_path / "tensorboard").exists()
    run(tmp_path, Config(writers=(tracker.__name__,)), 1, [2]).close()
    assert tracker.rows == [(0, {"a": 1.0}), (1, {"a": 2.0}), (2, {"accuracy/all": 0.2})]


def test_wandb_offline_gets_every_row_again(tmp_path, monkeypatch):
    """What a killed process gave to wandb may never have reached its file, so that of the last start is whole."""
    fake = FakeTracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = Config(writers=("wandb",))
    run(tmp_path, config, -1, range(3))
    fake.server.clear()
    run(tmp_path, config, 1, range(2, 4))
    assert [step for step, _ in fake.rows] == [0, 1, 2, 0, 1, 2, 3]
    assert fake.inits[0]["id"] == fake.inits[1]["id"]


def test_a_tracker_that_does_not_start_says_what_to_do(tracker, tmp_path):
    tracker.broken = RuntimeError("no API key")
    with refused("writers", tracker.__name__, "no API key"):
        MetricsWriter(tmp_path, -1, Config(writers=(tracker.__name__,)))


def test_absent_packages_are_named_before_anything_is_read(monkeypatch, tmp_path):
    require_writers(("tensorboard",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = Config(writers=("tensorboard", "wandb"))
    with refused("writers", "wandb", "pip install wandb"):
        read_inputs(config)
    (tmp_path / "left_behind").mkdir()                       # wandb makes a folder of its name: that is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGES, "trackio", "left_behind")
    with refused("writers", "trackio", "left_behind"):
        require_writers(("trackio",))


class Tracker:
    """Fails while `broken`, hangs while `stuck` is not set."""

    def __init__(self):
        self.rows, self.broken, self.tries, self.closed = [], False, threading.Semaphore(0), False
        self.stuck = threading.Event()
        self.stuck.set()

    def write(self, step, metrics):
        assert self.stuck.wait(60)
        self.tries.release()
        if self.broken:
            raise ConnectionError("no route to host")
        self.rows.append((step, metrics))

    def close(self):
        self.closed = True


def test_a_tracker_gets_every_row_once_in_order_when_it_works_again():
    tracker, said = Tracker(), []
    mirror = Mirror(tracker, "wandb", said.append, pause=0.01)
    tracker.broken = True
    for step in range(5):
        mirror.write(step, {"a": step})
    for _ in range(3):
        assert tracker.tries.acquire(timeout=60)
    assert mirror.taken == 0
    tracker.broken = False
    taken(mirror)
    mirror.close()
    assert tracker.rows == [(step, {"a": step}) for step in range(5)] and tracker.closed
    assert len(said) == 2 and "does not take metrics (ConnectionError: no route to host)" in said[0]
    assert said[1] == "wandb: takes metrics again"


def test_a_tracker_that_never_works_or_hangs_does_not_keep_the_run(monkeypatch):
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(trackers, "MIRRORED_ROWS", 3)
    broken, stuck, said = Tracker(), Tracker(), []
    broken.broken = True
    stuck.stuck.clear()
    mirrors = [Mirror(broken, "wandb", said.append, pause=3600), Mirror(stuck, "trackio", said.append)]
    for step in range(5):
        for mirror in mirrors:
            mirror.write(step, {})
    assert broken.tries.acquire(timeout=60)
    for mirror in mirrors:
        mirror.close()
    stuck.stuck.set()
    assert any(line.startswith("wandb: 5 rows were not taken (ConnectionError") for line in said)
    assert any(line.startswith("trackio: 5 rows were not taken (it does not answer)") for line in said)
