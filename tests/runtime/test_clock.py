"""Seconds of the phases of a step."""
from nft_jax.runtime import clock
from nft_jax.runtime.clock import Clock


def test_phases_add_up_from_lap_to_lap(monkeypatch):
    times = iter([0, 1, 4, 5, 7, 9, 10, 20, 21, 22, 30, 31])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    shown = []
    measured = Clock(shown.append)
    for _ in range(2):
        with measured.phase("rollout"):
            pass
    assert measured.seconds == {"rollout": 5} and shown == ["rollout"] * 2
    # From the first beginning of the phase, whatever came between.
    measured.span("rollout")
    assert measured.lap() == {"rollout": 8, "step": 10}
    with measured.phase("checkpoint"):
        pass
    assert measured.lap() == {"checkpoint": 1, "step": 10}
