"""What preflight says of published shapes by arithmetic: operations beside a trace of the decoder, Gemma 4's sizes by
hand. Nothing is compiled."""
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from experiments.presets import PRESETS
from nft_jax.config import AdapterConfig, MeshConfig
from nft_jax.model import decoder
from nft_jax.model.flops import forward_flops
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.preflight.devices import Topology
from nft_jax.preflight.dry_run import describe
from nft_jax.preflight.report import estimate_of
from nft_jax.runtime.devices import GiB
from nft_jax.train.batch import SCORE_COST, token_cost
from nft_jax.train.plan import settle

ROWS, LENGTH = 2, 64


def products(jaxpr) -> int:
    """Operations of all products of a traced program: of a scan in every turn, of a choice in its largest branch."""
    found = 0
    for each in jaxpr.eqns:
        name, inputs = each.primitive.name, [one.aval.shape for one in each.invars if hasattr(one.aval, "shape")]
        if name == "dot_general":
            (summed, _), _ = each.params["dimension_numbers"]
            found += 2 * each.outvars[0].aval.size * math.prod(inputs[0][axis] for axis in summed)
        elif name.startswith("ragged_dot"):
            found += 2 * each.outvars[0].aval.size * inputs[0][-1]
        elif name == "cond":
            found += max(products(branch.jaxpr) for branch in each.params["branches"])
        else:
            inner = [one for one in each.params.values() if hasattr(one, "eqns") or hasattr(one, "jaxpr")]
            turns = each.params["length"] if name == "scan" else 1
            found += turns * sum(products(getattr(one, "jaxpr", one)) for one in inner)
    return found


def traced(model) -> int:
    """Operations of a forward pass of `ROWS` rows in which every token meets every other."""
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)

    def forward(params, tokens):
        return decoder.logits(params, model, decoder.hidden_states(params, model, tokens, tokens, tokens))

    return products(jax.make_jaxpr(forward)(decoder.parameter_shapes(model), tokens).jaxpr)


@pytest.mark.parametrize("name", PUBLISHED)
def test_operations_are_those_of_the_traced_decoder(name):
    model = PUBLISHED[name]
    tokens, found = ROWS * LENGTH, traced(model)
    # Norms and biases are counted, and are no products. Those of a delta net's chunks are counted in another order.
    assert forward_flops(model, tokens, LENGTH) == pytest.approx(found, rel=5e-3 if model.delta_layers else 3e-4)
    pair = 4 * sum(model.num_heads * model.heads_of(model.kinds[layer])[1] for layer in model.attention_layers)
    cost = (found / tokens - pair * LENGTH) / (pair * (1 + SCORE_COST))
    assert token_cost(model) == pytest.approx(cost, rel=5e-3 if model.delta_layers else 1e-5)


# Numbers of a token's keys and values, by the layers of config.json that have their own; and the parameters that PEFT's
# all-linear trains at rank 16, of a model that transformers makes of each config.json.
GEMMA4 = {
    # 12 local and 3 wide layers with one kv head of 256 and of 512.
    "E2B": (2 * (12 * 256 + 3 * 512), 26_333_184),
    # 20 and 4, with two.
    "E4B": (2 * 2 * (20 * 256 + 4 * 512), 38_879_232),
    # 40 local layers with 8, and 8 wide ones with one.
    "12B": (2 * (40 * 8 * 256 + 8 * 512), 65_568_768),
    # 50 with 16, and 10 with 4.
    "31B": (2 * (50 * 16 * 256 + 10 * 4 * 512), 122_429_440),
}


def on_gsm8k(name: str, **changes):
    preset = PRESETS["gsm8k"]
    return settle(replace(preset, policy=replace(preset.policy, path=f"google/gemma-4-{name}"), **changes))


@pytest.mark.parametrize("name", GEMMA4)
def test_memory_of_gemma_4_is_what_its_layers_add_up_to(name):
    numbers, _ = GEMMA4[name]
    model = PUBLISHED[f"google/gemma-4-{name}"]
    parameters = decoder.count_parameters(model)
    config = on_gsm8k(name, mesh=MeshConfig(data=1, fsdp=8))
    sketch = estimate_of(config, model, Topology.parse("gpu:8xH100"))
    # Norms and what scales a layer are whole on every device.
    assert sketch.memory.parameters == pytest.approx(4 * parameters / 8, rel=1e-3)
    assert sketch.memory.moments == pytest.approx(2 * sketch.memory.parameters, abs=8)
    assert sketch.memory.weights == pytest.approx(2 * parameters, rel=1e-3)
    assert sketch.memory.cache == 2 * numbers * sketch.sampler.buckets[-1] * config.rollout.slots / 8
    assert 0 < sketch.estimate.step < math.inf
    # By the whole preflight, with its compiler: peaks of 17, 28 and 51 GiB, and 128.
    assert (sketch.fullest < sketch.usable) == (name != "31B")
    assert sketch.fullest / GiB == pytest.approx({"E2B": 17, "E4B": 28, "12B": 51, "31B": 128}[name], rel=0.1)


@pytest.mark.parametrize("name", GEMMA4)
def test_the_dry_run_of_gemma_4_and_of_its_adapters(name):
    model = PUBLISHED[f"google/gemma-4-{name}"]
    parameters = decoder.count_parameters(model)
    told = describe(on_gsm8k(name), model)
    assert f"{parameters:,} parameters" in told and f"{4 * parameters / 2**20:,.1f} MiB" in told
    assert (f"{decoder.count_active_parameters(model):,}" in told) and ("meets" in told) == (model.layer_input_size > 0)
    told = describe(on_gsm8k(name, adapter=AdapterConfig(rank=16)), model)
    assert f"{GEMMA4[name][1]:,} trained parameters" in told
    assert ("layer_projection" in told) == (model.layer_input_size > 0)


@pytest.mark.parametrize("name", [
    "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3.5-4B", "mistralai/Mistral-7B-Instruct-v0.3", "HuggingFaceTB/SmolLM3-3B",
    "microsoft/Phi-4-mini-instruct", "allenai/OLMo-2-1124-7B", "allenai/Olmo-3-1025-7B"])
def test_the_dry_run_of_a_published_shape(name):
    """Of LongRoPE (Phi-4-mini) it says which factors hold."""
    model, preset = PUBLISHED[name], PRESETS["gsm8k"]
    config = settle(replace(preset, policy=replace(preset.policy, path=name)))
    parameters = decoder.count_parameters(model)
    told = describe(config, model)
    assert f"{parameters:,} parameters" in told and f"{4 * parameters / 2**20:,.1f} MiB" in told
    if name == "microsoft/Phi-4-mini-instruct":
        longer = replace(config, rollout=replace(config.rollout, max_new_tokens=8192),
                         batch=replace(config.batch, row_length=0))
        assert "the short factors" in told and "the long factors" in describe(longer, model)
