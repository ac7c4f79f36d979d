"""The operations and rates of a step, beside a count by hand."""
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from made import make_group
from nft_jax.config import (
    AdapterConfig,
    BatchConfig,
    Config,
    DataConfig,
    MeshConfig,
    PolicyConfig,
    RolloutConfig,
    TermsConfig,
)
from nft_jax.model.decoder import parameter_shapes
from nft_jax.runtime.devices import DEVICES, KINDS, published
from nft_jax.train.plan import make_plan
from nft_jax.train.work import speed_of, work_of

CONFIG = Config(name="work", policy=PolicyConfig(path="model"), mesh=MeshConfig(data=1),
                data=DataConfig(source="questions.jsonl", max_prompt_tokens=8),
                rollout=RolloutConfig(prompts_per_step=2, samples_per_prompt=3, max_new_tokens=8, slots=4),
                batch=BatchConfig(updates_per_step=2, row_length=16, rows_per_micro_batch=1))


def count(model, lengths, before=0):
    """Operations of a forward pass of sequences after `before` tokens: every matrix, and the pairs of attention."""
    matrices = sum(np.prod(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(parameter_shapes(model)))
    pairs = sum((before + t + 0.5) for length in lengths for t in range(length))
    return 2 * matrices * sum(lengths) + 4 * pairs * model.num_layers * model.num_heads * model.head_dim


def plan_of(model, **changes):
    return make_plan(replace(CONFIG, **changes), model, jax.devices()[:1])


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    return [make_group(0, [1, 0, 0], rng=rng), make_group(1, [0, 0, 0], rng=rng)]


def test_operations_by_hand(tiny_model, groups):
    mixed, _ = groups
    prompts = [len(group.prompt.tokens) for group in groups]
    lengths = [[len(r.tokens) for r in group.rollouts] for group in groups]
    rows = [prompts[0] + length for length in lengths[0]]
    sampled = sum(count(tiny_model, [prompt]) + count(tiny_model, answers, prompt)
                  for prompt, answers in zip(prompts, lengths, strict=True))
    found = work_of(plan_of(tiny_model), groups, [mixed])
    assert found["tokens/packed"] == sum(rows)
    assert found["flops/train"] == pytest.approx(3 * count(tiny_model, rows))
    # One pass for the old log-probs of the mixed group. The other one is not scored.
    assert found["flops/rollout"] == pytest.approx(sampled + count(tiny_model, rows))
    sampler = replace(CONFIG.rollout, old_logprobs="sampler")
    assert work_of(plan_of(tiny_model, rollout=sampler), groups, [])["flops/rollout"] == pytest.approx(sampled)
    with_reference = plan_of(tiny_model, terms=TermsConfig(kl_weight=0.1))
    assert work_of(with_reference, groups, [])["flops/rollout"] == pytest.approx(sampled + 2 * count(tiny_model, rows))


def test_frozen_weights_have_no_gradient_to_count(tiny_model, groups):
    plan = plan_of(tiny_model, adapter=AdapterConfig(rank=2))
    trained = sum(leaf.size for leaf in jax.tree.leaves(plan.state.params))
    found = work_of(plan, groups, groups[:1])
    full = work_of(plan_of(tiny_model), groups, groups[:1])["flops/train"]
    assert found["flops/train"] == pytest.approx(full * 2 / 3 + 6 * trained * found["tokens/packed"]) and trained


def test_rates_are_shares_of_the_published_peak():
    metrics = {"tokens/generated": 100, "tokens/kept": 60, "tokens/packed": 80,
               "flops/rollout": 4e12, "flops/train": 8e12}
    mesh = SimpleNamespace(size=2, devices=np.array([SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")] * 2))
    found, peak = speed_of(metrics, {"rollout": 4.0, "train": 2.0, "step": 8.0}, mesh), 2 * DEVICES["H100"].flops
    assert found == {"tokens_per_second/rollout": 25, "tokens_per_second/train": 30, "tokens_per_second/device": 5,
                     "mfu/rollout": 1e12 / peak, "mfu/train": 4e12 / peak, "mfu/step": 1.5e12 / peak}
    cpu = SimpleNamespace(size=2, devices=np.array([SimpleNamespace(device_kind="cpu")] * 2))
    assert not any(name.startswith("mfu/") for name in speed_of(metrics, {"rollout": 4.0, "step": 8.0}, cpu))
    assert speed_of({}, {"step": 1.0}, mesh) == {}


def test_every_name_is_in_the_table_and_a_part_of_a_gpu_is_not():
    assert {KINDS[kind] for kind in KINDS} == set(DEVICES)
    assert published("TPU v5 lite") is DEVICES["v5e"] and published("TPU v5") is DEVICES["v5p"]
    assert published("NVIDIA A100-SXM4-40GB") is DEVICES["A100-40"]
    assert published("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is None and published("cpu") is None
