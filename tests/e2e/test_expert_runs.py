"""A run of a model with experts: its metrics, its sampler beside its trainer, and an exact resume."""
import json
from dataclasses import replace

import numpy as np
import pytest

import nft_jax
from model_folders import NANO, save_random
from nft_jax.config import PolicyConfig, TermsConfig
from nft_jax.model import hf
from nft_jax.record.metrics import read_metrics
from nft_jax.train.loop import train
from refusal import refused
from runs import EVERY_OTHER, assert_same_run, straight_and_resumed


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model with four experts, and the embedded model's tokenizer."""
    model = replace(hf.read_config(NANO), family="qwen3_moe", hidden_size=32, num_layers=1, num_experts=4,
                    experts_per_token=2, expert_size=24, initializer_range=0.1, norm_topk_prob=True)
    return save_random(model, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, small_run, base, compiled_once):
    """Two steps, and the second of them again from the checkpoint of the first."""
    def run(folder):
        config = small_run(folder, policy=PolicyConfig(path=str(base)), terms=TermsConfig(balance_weight=0.01))
        train(replace(config, rollout=replace(config.rollout, compare_experts=True)), verifier=EVERY_OTHER, quiet=True)

    return straight_and_resumed(run, tmp_path_factory.mktemp("experts"))


def test_a_run_resumes_exactly_and_compiles_nothing_more(folders):
    assert_same_run(*folders)
    assert [row["compiles"] for row in read_metrics(folders[0] / "metrics.jsonl")[1:]] == [0, 0]


def test_the_row_says_how_the_experts_are_loaded(folders):
    for row in read_metrics(folders[0] / "metrics.jsonl")[1:]:
        assert 0 < row["router/entropy"] <= np.log(4)
        assert 1 / 4 <= row["router/fullest_share"] <= row["router/fullest_max"] <= 1 / 2      # two of four a token
        assert row["loss/balance"] == pytest.approx(0.01 * row["router/balance"], rel=0.01)
        assert row["mismatch/p95"] < 1e-5 and row["mismatch/outside_10_percent"] == 0
        # Of thousands of choices a tie may be broken otherwise.
        assert row["mismatch/experts"] <= row["mismatch/rerouted_tokens"] < 0.01


def test_the_trained_model_is_a_folder_of_its_family(folders, base):
    policy = nft_jax.load(folders[0] / "model")
    assert policy.config == hf.read_config(base)
    before = hf.load_params(base)["layers"]
    for name in ("router", "expert_gate", "expert_up", "expert_down"):
        assert np.abs(np.asarray(policy.params["layers"][name]) - before[name]).max() > 1e-6, name
    assert json.loads((folders[0] / "model" / "config.json").read_text())["num_experts"] == 4


def test_what_needs_experts_is_refused_without(small_run, tmp_path):
    with refused("terms.balance_weight", 0.01, "no experts"):
        train(small_run(tmp_path / "run", terms=TermsConfig(balance_weight=0.01)), quiet=True)
    config = small_run(tmp_path / "run")
    with refused("rollout.compare_experts", True, "no experts"):
        train(replace(config, rollout=replace(config.rollout, compare_experts=True)), quiet=True)
    for other in ({"tokens_per_step": 8}, {"answers": "answers.parquet"}):
        with refused("rollout.compare_experts", True, *other.values()):
            replace(config.rollout, compare_experts=True, **other)
