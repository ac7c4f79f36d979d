"""Learning, in a fixed small number of updates."""
import dataclasses

import pytest

from experiments.presets import QUICKSTART
from nft_jax.config import EvaluationConfig
from nft_jax.record.metrics import read_metrics
from nft_jax.train.loop import train


@pytest.mark.slow
def test_nft_lifts_the_embedded_model(tmp_path):
    """16 updates of the quickstart's settings lift the held-out accuracy by at least 8 points, and nothing is compiled
    after the first step."""
    run = dataclasses.replace(
        QUICKSTART, workdir=str(tmp_path), steps=4,
        evaluation=EvaluationConfig(questions=128, samples=8, every=0))
    summary = train(run, quiet=True)
    assert summary["final_accuracy"] >= summary["base_accuracy"] + 0.08
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["compiles"] for row in rows[2:]] == [0, 0, 0]
    assert rows[1]["learning_rate"] < rows[4]["learning_rate"]
