"""Runs of a model whose last layers share keys and values (Gemma 4): its sampler beside its trainer, exact resumes."""
from dataclasses import replace

import numpy as np
import pytest

import nft_jax
from model_folders import NANO, save_random
from nft_jax.config import AdapterConfig, PolicyConfig
from nft_jax.model import hf
from nft_jax.model.adapter import unwrap
from nft_jax.model.config import ProportionalRope
from nft_jax.model.parameters import ARRAYS, by_name
from nft_jax.record.metrics import read_metrics
from nft_jax.train.loop import train
from runs import EVERY_OTHER, assert_same_run, straight_and_resumed


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model with a local and a wide layer, two that share theirs, and inputs of the layers."""
    model = replace(hf.read_config(NANO), family="gemma4_text", hidden_size=32, intermediate_size=48, num_layers=4,
                    initializer_range=0.1, qk_norm=True, qkv_bias=False, local_layers=(0, 2), window=5,
                    local_rope_theta=50.0, rope_scaling=ProportionalRope(0.5), activation="gelu_tanh",
                    norms_after=True, scale_embeddings=True, final_softcap=9.0, query_pre_attn_scalar=1,
                    value_norm=True, wide_head_dim=12, shared_layers=2, double_shared_mlp=True, layer_input_size=4,
                    layer_scale=True, tie_embeddings=True)
    model = replace(model, wide_kv_heads=model.num_kv_heads)
    return save_random(model, tmp_path_factory.mktemp("base") / "model")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_resumes_exactly_compiles_nothing_more_and_samples_what_it_trains(
        tmp_path, base, small_run, compiled_once, rank):
    """With all parameters, and with adapters of all projections. What is trained moves, and nothing else."""
    def run(folder):
        train(small_run(folder, policy=PolicyConfig(path=str(base)), adapter=AdapterConfig(rank=rank)),
              verifier=EVERY_OTHER, quiet=True)

    straight, resumed = straight_and_resumed(run, tmp_path)
    assert_same_run(straight, resumed)
    for row in read_metrics(straight / "metrics.jsonl")[1:]:
        assert row["compiles"] == 0 and row["mismatch/p95"] < 2e-5 and row["mismatch/outside_10_percent"] == 0
    policy = nft_jax.load(straight / "model")
    assert policy.config == hf.read_config(base)
    if rank:
        adapters = by_name(unwrap(policy.params))
        assert {"layer_projection", "shared_wide_query", "shared_input_gate"} < adapters.keys()
        for name, parts in adapters.items():
            assert np.abs(parts["lora_b"]).max() > 1e-6, name
        return
    for name, before in by_name(hf.load_params(base)).items():
        moved = np.abs(np.asarray(by_name(policy.params)[name]) - before).max()
        assert (moved > 1e-6) == (ARRAYS[name].kind != "constant"), name
