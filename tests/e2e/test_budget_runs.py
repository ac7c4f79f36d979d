"""A run whose answers take several steps (rollout.tokens_per_step): open groups, their log-probs, and exact resume."""
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from nft_jax.config import BatchConfig, CheckpointConfig, DataConfig
from nft_jax.record.metrics import read_metrics
from nft_jax.record.rollouts import table_to_groups
from nft_jax.train import loop
from refusal import refused
from runs import Judge, assert_same_run

BUDGET, STEPS, KILLED = 5, 5, 3
# A third of the questions teaches nothing.
JUDGE = Judge(lambda i, text, gold: float(i % 2 and int(gold) % 3 > 0))


@pytest.fixture(scope="module")
def config(small_run, compiled_once):
    def make(workdir, updates=1, steps=STEPS, **changes):
        run = small_run(workdir, steps=steps, checkpoint=CheckpointConfig(every=1),
                        data=DataConfig(source="arithmetic", max_prompt_tokens=24, limit=30, order="accuracy"),
                        batch=BatchConfig(updates_per_step=updates, row_length=64, rows_per_micro_batch=8))
        return replace(run, rollout=replace(run.rollout, prompts_per_step=4, **{"tokens_per_step": BUDGET} | changes),
                       evaluation=replace(run.evaluation, every=0))
    return make


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run whose only update a step computes old log-probs; those of every answer that a step sampled
    under its parameters, by step, prompt and sample; and the open groups after each step."""
    folder, expected, left = tmp_path_factory.mktemp("whole"), {}, []
    collect = loop.collect

    def spy(run, params, progress):
        rollouts = collect(run, params, progress)
        groups = [replace(group, old_logprobs=None) for group in [*rollouts.seen, *progress.open]]
        for group in loop.score_open(run, params, groups):
            expected.update({(progress.step, group.prompt.index, r.sample): old
                             for r, old in zip(group.rollouts, group.old_logprobs, strict=True)})
        left.append(list(progress.open))
        return rollouts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "collect", spy)
        loop.train(config(folder), verifier=JUDGE, quiet=True)
    return folder, expected, left


def groups_of(folder, step, kept=None):
    table = pq.read_table(folder / "rollouts" / f"step_{step:06d}.parquet")
    return table_to_groups(table if kept is None else table.filter(table["kept"]))


def test_tokens_keep_the_log_probs_of_the_policies_that_sampled_them(whole):
    folder, expected, _ = whole
    policies = set()
    for step in range(1, STEPS + 1):
        for group in groups_of(folder, step, kept=True):
            for rollout, old in zip(group.rollouts, group.old_logprobs, strict=True):
                for sampled in np.unique(rollout.steps):
                    here = rollout.steps == sampled
                    scored = expected[sampled, group.prompt.index, rollout.sample]
                    np.testing.assert_allclose(old[here], scored[here[:len(scored)]], atol=1e-5)
                    np.testing.assert_allclose(rollout.logprobs[here], scored[here[:len(scored)]], atol=1e-4)
                policies.add(len(np.unique(rollout.steps)))
    assert max(policies) >= 2
    # The policies differ by more than the tolerance.
    same = [np.abs(a[:len(b)] - b[:len(a)]).max() for key, a in expected.items()
            if (b := expected.get((key[0] + 1, *key[1:]))) is not None]
    assert max(same) > 1e-4


def test_a_group_waits_for_all_its_answers_and_no_longer(whole):
    """An answer takes BUDGET tokens of each batch until it ends, from the step that asked its prompt."""
    folder, _, left = whole
    longest, told = 0, 0
    for step, groups in enumerate(left):
        for group in groups:
            assert group.verdicts == () and group.is_open and group.old_logprobs is not None
            for rollout, old in zip(group.rollouts, group.old_logprobs, strict=True):
                assert len(old) == len(rollout.tokens) == len(rollout.steps)
                assert (rollout.finish_reason == "budget") == (rollout.steps[-1] == step and len(rollout.tokens)
                                                               % BUDGET == 0 and rollout.finish_reason != "stop")
    for step, row in enumerate(read_metrics(folder / "metrics.jsonl")[1:]):
        groups = groups_of(folder, step + 1)
        for rollout in (r for group in groups for r in group.rollouts):
            assert rollout.finish_reason in ("stop", "length") and (np.diff(rollout.steps) >= 0).all()
        for row_of in pq.read_table(folder / "rollouts" / f"step_{step + 1:06d}.parquet").to_pylist():
            assert row_of["old_logprobs"] is None or len(row_of["old_logprobs"]) == len(row_of["tokens"])
            assert len(row_of["steps"]) == len(row_of["tokens"])
            longest = max(longest, len(rollout.tokens))
        told += row["tokens/generated"]
        ages = np.concatenate([step - r.steps for group in groups_of(folder, step + 1, kept=True)
                               for r in group.rollouts])
        assert row["compiles"] == 0 and row["groups/open"] == len(left[step])
        assert row["rollout/age_max"] == ages.max() and row["rollout/age_mean"] == pytest.approx(ages.mean())
        assert row["mismatch/mean"] < 1e-5
    assert longest > 2 * BUDGET and row["rollout/age_max"] >= 1 and row["rollout/continued_share"] > 0
    # Every token was sampled once.
    ended = {(group.prompt.index, r.sample): len(r.tokens) for step in range(1, STEPS + 1)
             for group in groups_of(folder, step) for r in group.rollouts}
    assert told == sum(ended.values()) + sum(len(r.tokens) for group in left[-1] for r in group.rollouts)


def test_a_killed_run_goes_on_with_its_open_groups(whole, config, tmp_path, monkeypatch):
    folder, _, left = whole
    assert any(r.finish_reason == "budget" for group in left[KILLED - 1] for r in group.rollouts)
    record = loop.record

    def kill(run, state, progress, metrics):
        record(run, state, progress, metrics)
        if progress.step == KILLED:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "record", kill)
        loop.train(config(tmp_path), verifier=JUDGE, quiet=True)
    loop.train(config(tmp_path), verifier=JUDGE, quiet=True)
    assert_same_run(tmp_path, folder)
    for name, value in (("tokens_per_step", 0), ("max_new_tokens", 5), ("samples_per_prompt", 6)):
        with refused(f"rollout.{name}", value):
            loop.train(config(tmp_path / name, steps=STEPS + 1, **{name: value}), fork=str(folder), quiet=True)


@pytest.mark.parametrize("choice", ["trainer", "sampler"])
def test_with_several_updates_old_log_probs_are_scored_or_the_samplers(whole, config, tmp_path, choice):
    loop.train(config(tmp_path, updates=2, steps=3, old_logprobs=choice), verifier=JUDGE, quiet=True)
    groups = groups_of(tmp_path, 3, kept=True)
    assert any(len(np.unique(r.steps)) > 1 for group in groups for r in group.rollouts)
    for group in groups:
        for rollout, old in zip(group.rollouts, group.old_logprobs, strict=True):
            np.testing.assert_allclose(old, rollout.logprobs, atol=0 if choice == "sampler" else 1e-4)


def test_a_budget_as_long_as_the_answers_changes_nothing(config, tmp_path):
    longest = config(tmp_path).rollout.max_new_tokens
    for name, budget in (("off", 0), ("long", longest)):
        loop.train(config(tmp_path / name, steps=2, tokens_per_step=budget), verifier=JUDGE, quiet=True)
    assert_same_run(tmp_path / "long", tmp_path / "off")
