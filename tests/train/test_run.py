"""What is decided when a run is opened."""
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest
from refusal import refused

from nft_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, RolloutConfig
from nft_jax.record.folder import claimed
from nft_jax.train import loop, opening, run
from nft_jax.train.plan import make_plan
from nft_jax.train.programs import truncations


def test_automatic_slots_stay_what_they_were_when_the_run_began(small_run, tiny_model, tmp_path):
    """Whatever memory is free when it goes on; not after --fresh, and not where a number is asked for."""
    automatic = small_run(tmp_path, data=DataConfig(max_prompt_tokens=24), rollout=RolloutConfig(
        prompts_per_step=64, max_new_tokens=32, slots=0))

    def opened(config, fresh, free):
        slots = opening.remembered_slots(config, fresh)
        return slots, make_plan(config, tiny_model, jax.devices()[:1], slots=slots, free=free).config

    remembered, first = opened(automatic, False, 1 << 30)
    assert remembered == 0 and first.rollout.slots > 100
    with claimed(first, fresh=False):
        pass
    assert opened(automatic, False, 1 << 20) == (first.rollout.slots, first)
    assert opened(automatic, True, 1 << 20)[1].rollout.slots < 100
    asked = replace(automatic, rollout=replace(automatic.rollout, slots=8))
    assert opened(asked, False, 1 << 20)[1].rollout.slots == 8


@pytest.mark.parametrize(("changes", "expected"), [({}, [False]), ({"top_p": 0.9}, [False, True]),
                                                   ({"min_p": 0.1}, [False, True])])
def test_evaluation_compiles_the_sampling_that_it_asks_for(small_run, tmp_path, changes, expected):
    config = small_run(tmp_path, evaluation=EvaluationConfig(source="arithmetic", **{"top_p": 1.0, **changes}))
    assert truncations(config) == expected


def test_the_best_step_is_that_of_the_first_largest_value():
    progress = run.Progress(best_metric="evaluation/accuracy/all")
    found = []
    for progress.step, value in enumerate([0.5, None, 0.25, 0.75, 0.75], start=1):
        found.append(progress.improves(value))
    assert found == [True, False, False, True, False] and (progress.best, progress.best_step) == (0.75, 4)
    assert run.Progress.of(progress.counters(), progress.groups()) == progress


def test_another_metric_to_be_best_by_starts_anew(small_run, tmp_path):
    class Stored:
        def resume(self, shapes):
            return "state", run.Progress(3, best_metric="evaluation/accuracy/all", best=0.5, best_step=2).counters(), {
                "carried": [], "kept": [], "seen": []}

    config = small_run(tmp_path)
    for metric, best in (("evaluation/accuracy/all", 0.5), ("evaluation/other", None)):
        plan = SimpleNamespace(config=replace(config, checkpoint=replace(config.checkpoint, best=metric)), state=None)
        _, progress = opening.restore_or_load(plan, Stored())
        assert (progress.step, progress.best, progress.best_metric) == (3, best, metric)


def test_a_metric_that_is_not_measured_cannot_be_the_best(small_run, tmp_path, monkeypatch):
    config = small_run(tmp_path, checkpoint=CheckpointConfig(best="evaluation/acuracy/all"))
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"evaluation/accuracy/all": 0.5})
    with refused("checkpoint.best", "evaluation/acuracy/all", "evaluation/accuracy/all"):
        loop.begin(SimpleNamespace(config=config), SimpleNamespace(params=None), run.Progress())
