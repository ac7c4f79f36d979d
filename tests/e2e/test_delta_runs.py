"""A run of a model with delta nets: its sampler beside its trainer, and an exact resume."""
from dataclasses import replace

import numpy as np
import pytest

import nft_jax
from model_folders import NANO, save_random
from nft_jax.config import PolicyConfig
from nft_jax.model import hf
from nft_jax.record.metrics import read_metrics
from nft_jax.train.loop import train
from runs import EVERY_OTHER, assert_same_run, straight_and_resumed


@pytest.mark.slow
def test_a_run_resumes_exactly_compiles_nothing_more_and_samples_what_it_trains(tmp_path, small_run, compiled_once):
    model = replace(hf.read_config(NANO), family="qwen3_5_text", hidden_size=32, num_layers=2, initializer_range=0.1,
                    norm_offset=1.0, output_gate=True, partial_rotary_factor=0.5, delta_layers=(0,), delta_key_heads=2,
                    delta_value_heads=4, delta_key_dim=6, delta_value_dim=5, delta_conv=4)
    base = save_random(model, tmp_path / "base")

    def run(folder):
        train(small_run(folder, policy=PolicyConfig(path=str(base))), verifier=EVERY_OTHER, quiet=True)

    straight, resumed = straight_and_resumed(run, tmp_path)
    assert_same_run(straight, resumed)
    for row in read_metrics(straight / "metrics.jsonl")[1:]:
        assert row["compiles"] == 0 and row["mismatch/p95"] < 2e-5 and row["mismatch/outside_10_percent"] == 0
    policy, before = nft_jax.load(straight / "model"), hf.load_params(base)["layers"]
    assert policy.config == model
    for name in before:
        assert np.abs(np.asarray(policy.params["layers"][name]) - before[name]).max() > 1e-6, name
