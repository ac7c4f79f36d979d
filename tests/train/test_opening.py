"""What is decided when a run is opened."""
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from nft_jax.config import CheckpointConfig, Config, DataConfig, EvaluationConfig, RolloutConfig
from nft_jax.record.claim import claimed, look
from nft_jax.train import loop, opening
from nft_jax.train.plan import make_plan, settle
from nft_jax.train.programs import truncations
from nft_jax.train.run import Run
from nft_jax.train.state import Progress
from refusal import refused


def test_an_open_run_is_told_in_three_lines(tiny_model, tmp_path):
    parts = SimpleNamespace(config=Config(name="mine", seed=5), plan=SimpleNamespace(model=tiny_model), folder=tmp_path,
                            sampler=SimpleNamespace(mesh=SimpleNamespace(size=8)))
    lines = Run.__repr__(parts).splitlines()
    assert len(lines) == 3 and str(tmp_path) in lines[0] and "mine, nft, seed 5" in lines[0]
    assert f"{Config().rollout.prompts_per_step} prompts" in lines[1] and "8 devices" in lines[2]


def test_automatic_slots_stay_what_they_were_when_the_run_began(small_run, tiny_model, tmp_path):
    """Whatever memory is free when it goes on; not after --fresh, and not where a number is asked for."""
    automatic = settle(small_run(tmp_path, data=DataConfig(max_prompt_tokens=24), rollout=RolloutConfig(
        prompts_per_step=64, max_new_tokens=32, slots=0)))

    def opened(config, fresh, free):
        slots = look(config, fresh=fresh).remembered("rollout.slots", 0)
        return slots, make_plan(config, tiny_model, jax.devices()[:1], slots=slots, free=free).config

    remembered, first = opened(automatic, False, 1 << 30)
    assert remembered == 0 and first.rollout.slots > 100
    with claimed(first, {}):
        pass
    assert opened(automatic, False, 1 << 20)[1].rollout.slots < 100        # no step was finished with them
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
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
    progress = Progress(best_metric="evaluation/accuracy/all")
    found = []
    for progress.step, value in enumerate([0.5, None, 0.25, 0.75, 0.75], start=1):
        found.append(progress.improves(value))
    assert found == [True, False, False, True, False] and (progress.best, progress.best_step) == (0.75, 4)
    assert Progress.of(progress.counters(), progress.groups()) == progress


def test_another_metric_to_be_best_by_starts_anew(small_run, tmp_path):
    class Stored:
        def resume(self, shapes):
            return "state", Progress(3, best_metric="evaluation/accuracy/all", best=0.5, best_step=2).counters(), {
                "carried": []}

    config = small_run(tmp_path)
    for metric, best in (("evaluation/accuracy/all", 0.5), ("evaluation/other", None)):
        plan = SimpleNamespace(config=replace(config, checkpoint=replace(config.checkpoint, best=metric)), state=None)
        _, progress = opening.restore_or_load(plan, Stored())
        assert (progress.step, progress.best, progress.best_metric) == (3, best, metric)


def test_a_metric_that_is_not_measured_cannot_be_the_best(small_run, tmp_path, monkeypatch):
    config = small_run(tmp_path, checkpoint=CheckpointConfig(best="evaluation/acuracy/all"))
    with refused("checkpoint.best", "evaluation/acuracy/all"):
        loop.evaluate(SimpleNamespace(config=config, held_out=[]), None, Progress())


def test_a_checkpoint_of_before_is_read_unless_it_holds_a_row(tmp_path):
    """Older versions kept the row of a step whose evaluation was given up, and groups sampled ahead."""
    old = Progress(step=3).counters() | {"unfinished": None}
    del old["evaluated"]
    assert Progress.of(old, {"carried": [], "kept": [], "seen": []}) == Progress(step=3, evaluated=3)
    with refused("checkpoint 3"):
        Progress.of(old | {"unfinished": {"loss/total": 1.0}}, {"carried": []})


def test_the_questions_follow_the_seed_of_the_run_unless_they_have_their_own(small_run, tmp_path):
    config = small_run(tmp_path, seed=5)
    assert settle(config).data.seed == 5
    assert settle(replace(config, data=replace(config.data, seed=0))).data.seed == 0


@pytest.mark.parametrize(("changes", "said"), [
    ({}, False), ({"top_p": 0.9}, True), ({"min_p": 0.1}, True), ({"top_k": 5}, True),
    ({"top_p": 0.9, "old_logprobs": "truncated"}, False)])
def test_truncated_sampling_of_what_is_trained_untruncated_is_said(changes, said):
    lines = opening.truncation_remark(Config(rollout=RolloutConfig(**changes)))
    assert bool(lines) == said and all("rollout.old_logprobs" in line for line in lines)
