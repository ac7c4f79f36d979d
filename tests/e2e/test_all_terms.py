"""A run with every term on: its metrics, its tables, and an exact resume."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from nft_jax.config import TermsConfig
from nft_jax.record.glossary import MEANINGS, meaning
from nft_jax.record.metrics import read_metrics
from nft_jax.record.rollouts import table_to_groups
from runs import assert_same_run, straight_and_resumed

ALL = TermsConfig(kl_weight=0.1, kl_estimator="k3", kl_ratio=True, entropy_weight=0.01, mismatch="token",
                  mismatch_cap=1.0, mask_truncated=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, small_run):
    """Two steps, and the second of them again from the checkpoint of the first."""
    return straight_and_resumed(lambda folder: nft_jax.train(small_run(folder, terms=ALL), quiet=True),
                                tmp_path_factory.mktemp("terms"))


def test_a_run_with_every_term_resumes_exactly(folders):
    assert_same_run(*folders)
    assert read_metrics(folders[0] / "metrics.jsonl")[1]["groups/carried"] > 0, "some must go through the checkpoint"


def test_metrics_of_the_terms(folders):
    first, second = read_metrics(folders[0] / "metrics.jsonl")[1:]
    assert [key for key in second if key != "step" and meaning(key) is None] == []
    named = {name for name, term in MEANINGS.items() if term.when.startswith("terms.")}
    assert named - {"kl/mean_k1", "kl/mean_k2", "loss/balance"} <= set(first)
    for row in (first, second):
        assert row["loss/entropy_bonus"] < 0 < row["loss/kl"]
        assert row["loss/total"] == pytest.approx(sum(row[f"loss/{name}"] for name in (
            "positive", "negative", "kl", "entropy_bonus")), abs=1e-5)
        assert 0 < row["mismatch/capped"] < 1 and 0.9 < row["mismatch/weight"] < 1
    assert 0 < first["share/masked"] < 1
    assert 0 < first["kl/mean"] < second["kl/mean"]


def test_the_reference_is_the_model_that_the_run_started_from(folders):
    """The first step's answers were sampled by it, so its log-probs are the old ones; later they are not. Groups
    without signal were not scored."""
    first, second = (table_to_groups(pq.read_table(folders[0] / f"rollouts/step_00000{step}.parquet"))
                     for step in (1, 2))
    scored = [group for group in first if group.has_signal]
    assert scored and all((group.reference_logprobs is not None) == group.has_signal for group in first)
    for group in scored:
        for old, reference in zip(group.old_logprobs, group.reference_logprobs, strict=True):
            np.testing.assert_array_equal(old, reference)
    moved = [np.abs(old - reference).max() for group in second if group.has_signal
             for old, reference in zip(group.old_logprobs, group.reference_logprobs, strict=True)]
    assert max(moved) > 1e-4
