"""A run whose answers are sampled by an average of its parameters (rollout.ema), and whose questions come again by
their accuracy (data.order). Groups of wrong answers are trained on too (loss.all_wrong)."""
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from nft_jax.config import DataConfig, ObjectiveConfig, OptimizerConfig
from nft_jax.record.metrics import read_metrics
from nft_jax.record.rollouts import table_to_groups
from nft_jax.train import loop
from refusal import refused
from runs import Judge, assert_same_run

EMA, STEPS = 0.75, 4
# Of three questions one is always right, one never, and one now and then.
JUDGE = Judge(lambda i, text, gold: (1.0, 0.0, float(i % 2))[int(gold) % 3])


@pytest.fixture(scope="module")
def config(small_run, compiled_once):
    def make(workdir, **changes):
        run = small_run(workdir, steps=STEPS, data=DataConfig(source="arithmetic", max_prompt_tokens=24, limit=12,
                                                          order="accuracy"),
                        loss=ObjectiveConfig(all_wrong=0.25), **changes)
        return replace(run, rollout=replace(run.rollout, prompts_per_step=6, ema=EMA),
                       evaluation=replace(run.evaluation, every=0))
    return make


def copied(params):
    """On the host, in memory of its own: the devices' is donated."""
    return jax.tree.map(np.array, params)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run, and of each step the parameters that sampled, those that were trained before it, and the
    groups that it sampled."""
    folder, sampled, trained, seen = tmp_path_factory.mktemp("whole"), [], [], []
    collect, update = loop.collect, loop.update

    def spy_on_collect(run, params, progress):
        sampled.append(copied(params))
        rollouts = collect(run, params, progress)
        seen.append(rollouts.seen)
        return rollouts

    def spy_on_update(run, state, groups, progress):
        trained.append(copied(state.params))
        return update(run, state, groups, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "collect", spy_on_collect)
        patch.setattr(loop, "update", spy_on_update)
        loop.train(config(folder), verifier=JUDGE, quiet=True)
    return folder, sampled, trained, seen


def test_the_average_samples_and_is_the_old_policy(whole, config):
    folder, sampled, trained, seen = whole
    average = trained[0]
    for step in range(STEPS):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), sampled[step], average)
        if step < STEPS - 1:
            average = jax.tree.map(lambda old, new: EMA * old + (1 - EMA) * new, average, trained[step + 1])
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (sampled[-1], trained[-1])), strict=True))
    assert moved > 1e-5
    # Groups may wait a step: the last step that sampled anything says which parameters that was.
    step, group = next((step, group) for step, groups in reversed([*enumerate(seen)]) for group in groups
                       if group.has_signal and step)
    policy = replace(nft_jax.load("nano"), params=sampled[step])
    for found, old in zip(nft_jax.logprobs(policy, group.rollouts), group.old_logprobs, strict=True):
        np.testing.assert_allclose(found, old, atol=1e-5)
    for row in read_metrics(folder / "metrics.jsonl")[1:]:
        assert row["compiles"] == 0 and row["mismatch/mean"] < 1e-5


def test_questions_rest_by_their_accuracy(whole):
    rows = read_metrics(whole[0] / "metrics.jsonl")[1:]
    kinds = [int(group.prompt.gold) % 3 for groups in whole[3] for group in groups]
    # The first epoch asks all questions. Later the third with right and wrong answers is most of what is asked.
    assert set(kinds[:12]) == {0, 1, 2}
    later = kinds[24:]
    assert len(later) >= 8 and later.count(2) > len(later) / 2
    assert rows[0]["prompts/new_share"] > 0 == rows[-1]["prompts/new_share"]
    assert rows[-1]["prompts/resting_share"] > 0 and max(row.get("prompts/age", 0) for row in rows) > 1


def test_groups_of_wrong_answers_are_trained_beside_the_others(whole):
    """At most as many, with the log-probs of the policy that sampled; a replay weighs them as the run did."""
    rows = read_metrics(whole[0] / "metrics.jsonl")[1:]
    assert any(row["groups/all_wrong"] for row in rows)
    for step, row in enumerate(rows, 1):
        table = pq.read_table(whole[0] / "rollouts" / f"step_{step:06d}.parquet")
        kept = table_to_groups(table.filter(table["kept"]))
        wrong = [group for group in kept if group.all_wrong]
        assert len(kept) == row["groups/kept"] and len(wrong) == row["groups/all_wrong"] <= len(kept) / 2
        assert all(group.old_logprobs is not None for group in kept)
    step = next(step for step, row in enumerate(rows, 1) if row["groups/all_wrong"])
    found = nft_jax.replay(whole[0] / "rollouts" / f"step_{step:06d}.parquet")
    wrong = [answer for answer in found.answers if answer.reward == 0 and answer.group_accuracy not in (0.25, 0.5)]
    assert wrong and all(0 < answer.group_accuracy <= 0.5 and (answer.coefficient < 0).all() for answer in wrong)
    assert found.metrics["loss/negative"] == pytest.approx(0, abs=1e-6)


def test_a_killed_run_ends_like_a_whole_one_and_both_parameters_are_loaded(whole, config, tmp_path, monkeypatch):
    record = loop.record

    def kill(run, state, progress, metrics):
        record(run, state, progress, metrics)
        if progress.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "record", kill)
        loop.train(config(tmp_path), verifier=JUDGE, quiet=True)
    loop.train(config(tmp_path), verifier=JUDGE, quiet=True)
    assert_same_run(tmp_path, whole[0])
    params, average = (nft_jax.load(tmp_path, ema=ema).params for ema in (False, True))
    exported = nft_jax.load(tmp_path / "model").params
    jax.tree.map(np.testing.assert_array_equal, params, exported)
    expected = jax.tree.map(lambda old, new: EMA * old + (1 - EMA) * new, whole[1][-1], params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), average, expected)


def test_an_average_is_asked_of_runs_that_keep_one(whole, config, small_run, tmp_path):
    with refused("ema", "nano", "rollout.ema"):
        nft_jax.load("nano", ema=True)
    forked = small_run(tmp_path / "fork", steps=STEPS + 1)
    with refused("rollout.ema", 0.0, EMA):
        loop.train(forked, fork=str(whole[0]), quiet=True)
    forked = replace(forked, rollout=replace(forked.rollout, ema=0.5), optimizer=OptimizerConfig(name="muon"))
    with refused("optimizer.name", "muon", "adamw"):
        loop.train(forked, fork=str(whole[0]), quiet=True)
