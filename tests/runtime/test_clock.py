"""Seconds of phases: what the devices do while the host goes on is counted once."""
from concurrent.futures import Future

import jax.numpy as jnp
import numpy as np

from nft_jax.runtime import clock
from nft_jax.runtime.clock import Clock, Watcher
from nft_jax.train.row import Row
from nft_jax.train.tally import tally


def at(times, monkeypatch):
    times = iter(times)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))


def test_phases_add_up_and_waiting_is_subtracted(monkeypatch):
    at([0, 1, 4, 5, 7, 10], monkeypatch)
    shown = []
    clock = Clock(shown.append)
    for _ in range(2):
        with clock.phase("rollout"):
            pass
    assert clock.seconds == {"rollout": 5} and clock.first == {"rollout": 1} and shown == ["rollout"] * 2
    assert clock.total == 10
    clock.subtract("rollout", 2.5)               # the devices were at work on something else until then
    assert clock.seconds == {"rollout": 3.5}
    clock.subtract("rollout", 0.5)               # before the phase began
    clock.subtract("verify", 9)
    assert clock.seconds == {"rollout": 3.5}


def test_the_watcher_says_when_a_value_was_there():
    watcher = Watcher()
    before = clock.time.perf_counter()
    value = jnp.ones(3) + 1
    at = watcher.watch(value).result()
    assert before < at < clock.time.perf_counter()
    watcher.close()


def test_a_row_is_completed_by_what_the_devices_computed(monkeypatch):
    """Two optimizer steps: their tallies are added on the host, the time of training ends when the devices end."""
    def one(weight):
        values = np.full((1, 2), 0.5, np.float32)
        names = ("positive_loss", "negative_loss", "ratio", "clamped", "saturated", "clipped")
        metrics = dict.fromkeys(names, values)
        weights = np.full((1, 2), weight, np.float32)
        return tally(values, metrics, values, values, weights, np.ones((1, 2))) | {"count/nonfinite": jnp.float32(0)}

    at([0, 10, 30, 30, 31], monkeypatch)
    clock = Clock()
    with clock.phase("rollout"):
        pass
    with clock.phase("train"):
        pass
    clock.sampled = 100
    done = [Future(), Future()]
    for future, time in zip(done, (12.0, 40.0), strict=True):
        future.set_result(time)
    row = Row(3, clock, {"tokens/kept": 80}, [one(1.0), one(2.0)], [jnp.float32(1), jnp.float32(3)], done[1], done[0])
    metrics = row.complete()
    assert metrics["seconds/rollout"] == 18 and metrics["seconds/train"] == 10
    assert metrics["tokens_per_second/rollout"] == 100 / 18 and metrics["tokens_per_second/train"] == 8
    assert metrics["grad_norm/mean"] == 2 and metrics["grad_norm/max"] == 3
    assert metrics["loss/total"] == np.mean([0.5 * 2, 0.5 * 4])
