"""A run whose only update a step computes the old log-probs (`Config.on_policy`)."""
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from nft_jax.config import BatchConfig, CheckpointConfig, ObjectiveConfig, TermsConfig
from nft_jax.record.metrics import read_metrics
from nft_jax.train import loop
from runs import Judge, assert_same_run

# A third of the questions teaches nothing, and now and then the verifier fails on an answer.
FAILING = Judge(lambda i, text, gold: None if i == 2 and int(gold) % 5 == 1 else float(i % 2 and int(gold) % 3 > 0))


def test_a_run_records_the_log_probs_of_the_parameters_that_sampled(small_run, compiled_once, tmp_path, monkeypatch):
    """Also of groups that waited a step, and of answers outside the loss; and a killed run ends like a whole one."""
    def config(name):
        run = small_run(tmp_path / name, steps=3, checkpoint=CheckpointConfig(every=1),
                        loss=ObjectiveConfig(all_wrong=0.5), terms=TermsConfig(mask_truncated=True),
                        batch=BatchConfig(updates_per_step=1, row_length=64, rows_per_micro_batch=8))
        return replace(run, rollout=replace(run.rollout, prompts_per_step=5),
                       evaluation=replace(run.evaluation, every=0))

    collect, record, expected, carried = loop.collect, loop.record, {}, []

    def spy(run, params, progress):
        rollouts = collect(run, params, progress)
        carried.append(len(progress.carried))
        seen = (replace(group, old_logprobs=None) for group in rollouts.seen)
        expected.update({group.prompt.index: group.old_logprobs for group in loop.score(run, params, seen)})
        return rollouts

    def kill(run, state, progress, metrics):
        record(run, state, progress, metrics)
        if progress.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "collect", spy)
        loop.train(config("whole"), verifier=FAILING, quiet=True)
    rows = [row for path in sorted((tmp_path / "whole" / "rollouts").iterdir())
            for row in pq.read_table(path).to_pylist() if row["kept"]]
    assert any(carried[:-1]) and {row["outcome"] for row in rows} >= {"error", "right"}
    for row in rows:
        np.testing.assert_allclose(row["old_logprobs"], expected[row["prompt_index"]][row["sample"]], atol=1e-5)
    for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")[1:]:
        assert row["compiles"] == 0 and 0 < row["mismatch/mean"] < 1e-5

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "record", kill)
        loop.train(config("killed"), verifier=FAILING, quiet=True)
    loop.train(config("killed"), verifier=FAILING, quiet=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
