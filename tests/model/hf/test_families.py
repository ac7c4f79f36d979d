"""config.json of every family, in the spellings of transformers 4 and 5; what is not implemented is refused by name."""
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model_folders import CASES, FIXTURES
from nft_jax.model import decoder
from nft_jax.model.config import ProportionalRope, Stage
from nft_jax.model.hf import load_params, read_config, save_params
from nft_jax.model.hf.families import FAMILIES, tensors_of
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.model.hf.translate import config_from_hf, config_to_hf
from nft_jax.rollout.slots import position_lines, require_positions
from refusal import refused

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
SLIDING_LAST = {"layer_types": ["full_attention", "sliding_attention"]}


def raw_config(name="qwen2_untied", **changes):
    raw = json.loads((FIXTURES / name / "config.json").read_text())
    return {key: value for key, value in {**raw, **changes}.items() if value is not ...}


def test_both_spellings_mean_the_same():
    five = raw_config()
    assert "rope_parameters" in five and "rope_theta" not in five
    four = raw_config(rope_parameters=..., dtype=..., layer_types=..., rope_theta=five["rope_parameters"]["rope_theta"],
                      rope_scaling=None, torch_dtype="float32", use_sliding_window=False, sliding_window=4096,
                      max_window_layers=1, transformers_version="4.40.0")
    assert config_from_hf(four) == config_from_hf(five)
    assert config_from_hf(five).rope_theta == 1e6
    assert config_from_hf(five).head_dim == 6                                # hidden_size / heads
    assert config_from_hf(raw_config("qwen2_tied")).head_dim == 10
    assert config_from_hf({**four, "rope_scaling": {"type": "default"}}) == config_from_hf(five)


@pytest.mark.parametrize("name", CASES)
def test_config_round_trip(name):
    config = config_from_hf(raw_config(name))
    assert config_from_hf(config_to_hf(config)) == config


def test_a_window_that_no_layer_uses_is_no_obstacle():
    plain = config_from_hf(raw_config())
    for changes in ({"sliding_window": 8, "max_window_layers": 2}, {"sliding_window": None}):
        assert config_from_hf(raw_config(use_sliding_window=True, layer_types=..., **changes)) == plain
    last = config_from_hf(raw_config(use_sliding_window=True, sliding_window=8, max_window_layers=1, layer_types=...))
    assert (last.window, last.local_layers) == (8, (1,))


def test_mistral_has_one_window_for_all_layers_or_none():
    local = config_from_hf(raw_config("mistral_tied_local"))
    assert (local.window, local.local_layers) == (5, (0, 1))
    for window in (None, 128, 4096):                  # these hide nothing of 128 positions
        found = config_from_hf(raw_config("mistral_tied_local", sliding_window=window))
        assert found == replace(local, window=0, local_layers=())
    unsaid = config_from_hf(raw_config("mistral_tied_local", sliding_window=..., max_position_embeddings=8192))
    assert unsaid.window == 4096                      # the default of transformers


def test_smollm3_rotates_no_position_in_every_fourth_layer_or_where_it_says():
    four = {"num_hidden_layers": 9, "no_rope_layers": ..., "no_rope_layer_interval": ..., "layer_types": ...}
    assert config_from_hf(raw_config("smollm3_untied", **four)).unrotated_layers == (3, 7)
    assert config_from_hf(raw_config("smollm3_untied", **four | {"no_rope_layer_interval": 2})
                          ).unrotated_layers == (1, 3, 5, 7)
    said = config_from_hf(raw_config("smollm3_untied", no_rope_layers=[0, 1, 0]))
    assert said.unrotated_layers == (0, 2)
    # Without a list of kinds the local layers are those that have no rotary positions.
    local = config_from_hf(raw_config("smollm3_tied_local", layer_types=...))
    assert local == config_from_hf(raw_config("smollm3_tied_local")) and local.local_layers == (1, 3)
    published = config_from_hf(raw_config("smollm3_untied", pretraining_tp=2, max_window_layers=28))
    assert published == config_from_hf(raw_config("smollm3_untied"))


def test_olmo3_scales_the_positions_of_its_full_layers_alone():
    five = raw_config("olmo3_tied")
    config = config_from_hf(five)
    assert config.local_layers == (0, 1, 2, 4) and config.rope_theta == config.local_rope_theta == 700.0
    yarn = {name: value for name, value in five["rope_parameters"]["full_attention"].items() if name != "rope_theta"}
    four = raw_config("olmo3_tied", rope_parameters=..., layer_types=..., rope_theta=700.0, rope_scaling=yarn)
    assert config_from_hf(four) == config
    unsaid = config_from_hf(raw_config("olmo3_tied", layer_types=..., num_hidden_layers=9, num_key_value_heads=...))
    assert unsaid.local_layers == (0, 1, 2, 4, 5, 6, 8) and unsaid.num_kv_heads == 6


def test_the_longest_sequence_chooses_the_factors_of_a_longrope():
    five = raw_config("phi3_tied_longrope")
    config = config_from_hf(five)
    assert (config.max_positions, config.rotary_dim, config.head_dim) == (32, 6, 8)
    require_positions(config, 20, 12)
    with refused("data.max_prompt_tokens + rollout.max_new_tokens", 33, 32, "max_tokens=33"):
        require_positions(config, 20, 13)
    long = config.for_lengths(33)
    require_positions(long, 20, 108)
    with refused("data.max_prompt_tokens + rollout.max_new_tokens", 129, 128):
        require_positions(long, 20, 109)
    # A model once made for long sequences keeps its factors; folders do not tell which ones it had.
    assert (config.for_lengths(32), long.for_lengths(5)) == (config, long)
    assert config_to_hf(long) == config_to_hf(config)
    assert config.for_lengths(1000) == long
    other = read_config(FIXTURES / "smollm3_untied")
    assert other.for_lengths(1000) is other
    [short_line], [long_line] = position_lines(config), position_lines(long)
    assert "32" in short_line and "32" in long_line and short_line != long_line and position_lines(other) == []
    lists = {name: five["rope_parameters"][name] for name in ("short_factor", "long_factor")}
    for kind in ("su", "longrope"):
        four = raw_config("phi3_tied_longrope", rope_parameters=..., rope_theta=700.0, partial_rotary_factor=0.75,
                          rope_scaling={"type": kind, **lists}, auto_map={"AutoConfig": "configuration_phi3"})
        assert config_from_hf(four) == config
    assert config_from_hf(raw_config("phi3_tied_longrope", rope_parameters={**LONG, "factor": 4})) == config
    assert config_from_hf(raw_config("phi3_untied_sharded", num_key_value_heads=...)).num_kv_heads == 6


@pytest.mark.parametrize("name", ["smollm3_tied_local", "smollm3_untied"])
def test_yarn_is_read_in_both_spellings(name):
    five = raw_config(name)
    ropes = five["rope_parameters"]
    settings = {key: value for key, value in ropes.items() if key not in ("rope_theta", "rope_type")}
    four = raw_config(name, rope_parameters=..., rope_theta=ropes["rope_theta"],
                      rope_scaling={"type": "yarn", **settings})
    assert config_from_hf(four) == config_from_hf(five)


def test_qwen3_5_as_published_and_with_nothing_said():
    """transformers leaves the interval out of what it saves, and lists the layers."""
    listed = raw_config("qwen3_5_untied_interval")
    config = config_from_hf(listed)
    assert (config.delta_layers, config.attention_layers, config.stages) == ((0,), (1,), (Stage(0, 2, 2),))
    assert config_from_hf(raw_config("qwen3_5_untied_interval", layer_types=..., full_attention_interval=2)) == config
    assert config_from_hf({**listed, "full_attention_interval": 3}) == config          # the list goes before
    rope = {**listed["rope_parameters"], "mrope_interleaved": True, "mrope_section": [1, 1, 1]}
    del rope["partial_rotary_factor"]
    assert config_from_hf({**listed, "rope_parameters": rope}) == config and config.rotary_dim == 6
    bare = config_from_hf({"model_type": "qwen3_5_text"})
    assert (bare.num_layers, bare.delta_value_heads, bare.rotary_dim, bare.stages) == (32, 32, 64, (Stage(0, 32, 4),))
    assert bare.attention_layers == (3, 7, 11, 15, 19, 23, 27, 31)


def test_gemma4_in_both_spellings_and_with_nothing_said():
    """transformers 5.24 says the sizes of wide heads layer by layer. Versions before it said them once."""
    for name, sizes in (("gemma4_tied", {"global_head_dim": 14}),
                        ("gemma4_untied_sharded", {"global_head_dim": 10, "num_global_key_value_heads": 3}),
                        ("gemma4_unified_untied", {"global_head_dim": 6})):
        listed = raw_config(name)
        config = config_from_hf(listed)
        assert config_from_hf(raw_config(name, per_layer_config=..., **sizes)) == config
        assert config_from_hf({**listed, **sizes}) == config
        assert config_from_hf({**listed, "use_bidirectional_attention": "vision"}) == config
        # Without one matrix for both, the kv heads are those of the other layers.
        assert (config.wide_kv_heads == config.num_kv_heads) != config.keys_are_values
    bare = config_from_hf({"model_type": "gemma4_text", "rope_parameters": None})
    assert bare == config_from_hf({"model_type": "gemma4_text"})
    assert (bare.num_layers, bare.head_dim, bare.wide_head_dim, bare.window, bare.attention_scale) == (
        30, 256, 512, 512, 1)
    assert (bare.rope_theta, bare.local_rope_theta, bare.rope_scaling) == (1e6, 1e4, ProportionalRope(0.25))
    assert (bare.layer_input_size, bare.shared_layers, bare.stages) == (256, 0, (Stage(0, 30, 6),))
    # The last layer is never local, and layers are local also where the window hides nothing.
    short = config_from_hf({"model_type": "gemma4_text", "num_hidden_layers": 8, "max_position_embeddings": 512})
    assert short.local_layers == (0, 1, 2, 3, 4, 6)


@pytest.mark.parametrize("name", ["gemma3_untied", "olmo3_untied"])
def test_local_layers_keep_their_rotary_base_where_the_window_hides_nothing(name):
    config = config_from_hf(raw_config(name, sliding_window=128))
    assert config.local_layers == config_from_hf(raw_config(name)).local_layers and config.window == 128


def test_gemma3_in_both_spellings_and_with_nothing_said():
    five = raw_config("gemma3_tied_softcap")
    ropes = five["rope_parameters"]
    four = {**five, "rope_theta": ropes["full_attention"]["rope_theta"],
            "rope_scaling": {"type": "linear", "factor": 4}, "sliding_window_pattern": 3,
            "rope_local_base_freq": ropes["sliding_attention"]["rope_theta"]}
    del four["rope_parameters"], four["layer_types"]
    assert config_from_hf(four) == config_from_hf(five)
    assert config_from_hf(five).local_layers == (0, 1, 3, 4)
    bare = config_from_hf({"model_type": "gemma3_text"})
    assert (bare.num_layers, bare.head_dim, bare.window, bare.attention_scale) == (26, 256, 4096, 1 / 16)
    assert (bare.rope_theta, bare.local_rope_theta, bare.local_layers[4:7]) == (1e6, 1e4, (4, 6, 7))
    assert bare.tie_embeddings
    assert config_from_hf({**five, "num_hidden_layers": 1, "layer_types": ["full_attention"]}).window == 0


def gemma3(**sizes):
    return {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False,
            "attention_dropout": 0.0, "attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768, "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
            "sliding_window": 512, "vocab_size": 262144, "pad_token_id": 0, "use_cache": True, **sizes}


def llama3(**sizes):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "hidden_act": "silu",
            "attention_dropout": 0.0, "max_position_embeddings": 131072, "mlp_bias": False, "num_key_value_heads": 8,
            "num_attention_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": LLAMA3,
            "rope_theta": 500000.0, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 128256, **sizes}


def qwen(family, **sizes):
    return {"architectures": [f"{family}ForCausalLM"], "model_type": family.lower(), "hidden_act": "silu",
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "use_sliding_window": False, "vocab_size": 151936, "use_cache": True, **sizes}


# The sizes that config.json of each published model says, and the number of its parameters.
CONFIGS = {
    "Llama-3.2-1B": (1_235_814_400, llama3(
        head_dim=64, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, tie_word_embeddings=True)),
    "Llama-3.2-3B": (3_212_749_824, llama3(
        head_dim=128, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        tie_word_embeddings=True)),
    "Llama-3.1-8B": (8_030_261_248, llama3(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, rope_scaling={**LLAMA3, "factor": 8.0})),
    "gemma-3-270m": (268_098_176, gemma3(
        hidden_size=640, intermediate_size=2048, num_attention_heads=4, num_hidden_layers=18, num_key_value_heads=1,
        _sliding_window_pattern=6, use_bidirectional_attention=False,
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(18)])),
    "gemma-3-1b-it": (999_885_952, gemma3(
        hidden_size=1152, intermediate_size=6912, num_attention_heads=4, num_hidden_layers=26, num_key_value_heads=1,
        sliding_window_pattern=6, cache_implementation="hybrid", eos_token_id=[1, 106])),
    "Qwen2.5-0.5B": (494_032_768, qwen(
        "Qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_window_layers=24, sliding_window=32768, tie_word_embeddings=True)),
    "Qwen2.5-Math-7B": (7_615_616_512, qwen(
        "Qwen2", hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_window_layers=28, sliding_window=4096, tie_word_embeddings=False, vocab_size=152064,
        rope_theta=10000)),
    "Qwen3-0.6B": (596_049_920, qwen(
        "Qwen3", hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, attention_bias=False, max_window_layers=28, sliding_window=None,
        rope_scaling=None, tie_word_embeddings=True)),
    "Qwen3-8B": (8_190_735_360, qwen(
        "Qwen3", hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, attention_bias=False, max_window_layers=36, sliding_window=None,
        rope_scaling=None, tie_word_embeddings=False)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configs_have_the_published_number_of_parameters(name):
    parameters, raw = CONFIGS[name]
    config = config_from_hf(raw)
    assert decoder.count_parameters(config) == parameters
    assert config_from_hf(config_to_hf(config)) == config
    if config.family in ("llama", "gemma3_text"):
        assert config in PUBLISHED.values()
    if config.family == "gemma3_text":
        assert [i for i in range(config.num_layers) if i not in config.local_layers] == [
            5, 11, 17, 23][:config.num_layers // 6]
    else:
        assert config.local_layers == ()


# Parameters of the model that transformers makes of each config.json.
PARAMETERS = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768, "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304, "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688, "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-0.6B": 596_049_920, "Qwen/Qwen3-1.7B": 1_720_574_976, "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360, "Qwen/Qwen3-14B": 14_768_307_200, "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624, "Qwen/Qwen3-30B-A3B-Base": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen3.5-0.8B": 752_393_024, "Qwen/Qwen3.5-2B": 1_881_825_088, "Qwen/Qwen3.5-4B": 4_205_751_296,
    "Qwen/Qwen3.5-9B": 8_953_803_264, "Qwen/Qwen3.5-27B": 26_895_998_464,
    "google/gemma-3-270m": 268_098_176, "google/gemma-3-1b-it": 999_885_952,
    "meta-llama/Llama-3.2-1B": 1_235_814_400, "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "google/gemma-4-E2B": 4_628_569_379, "google/gemma-4-E4B": 7_463_013_418, "google/gemma-4-12B": 11_907_350_320,
    "google/gemma-4-31B": 30_697_345_340,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552, "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23_572_403_200, "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "microsoft/phi-4": 14_659_507_200, "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "allenai/OLMo-2-0425-1B": 1_484_916_736, "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/OLMo-2-1124-13B": 13_716_198_400, "allenai/OLMo-2-0325-32B": 32_234_279_936,
    "allenai/Olmo-3-1025-7B": 7_298_011_136, "allenai/Olmo-3-1125-32B": 32_233_522_176,
}


def test_shapes_to_plan_with_are_those_of_the_published_models():
    assert {name: decoder.count_parameters(config) for name, config in PUBLISHED.items()} == PARAMETERS
    assert {config.family for config in PUBLISHED.values()} == set(FAMILIES)
    for config in PUBLISHED.values():
        assert config_from_hf(config_to_hf(config)) == config
    # "30B-A3B": by the model's card 3.3 billion are active, of which 0.6 are the embedding and the head.
    assert decoder.count_active_parameters(PUBLISHED["Qwen/Qwen3-30B-A3B"]) == 3_353_032_704
    # The cards say 2.3 and 4.5 billion "effective" ones, and 5.1 and 8 with these tables and the encoders.
    assert decoder.count_active_parameters(PUBLISHED["google/gemma-4-E2B"]) == 2_279_759_139
    assert decoder.count_active_parameters(PUBLISHED["google/gemma-4-E4B"]) == 4_644_441_130
    assert decoder.count_active_parameters(PUBLISHED["Qwen/Qwen2.5-32B"]) == PARAMETERS["Qwen/Qwen2.5-32B"]


def test_the_number_of_experts_in_the_spellings_of_transformers_4_and_5():
    five = raw_config("qwen3_moe_untied")
    four = {**five, "num_experts": five["num_local_experts"]}
    assert config_from_hf(four) == config_from_hf(five)
    del four["num_local_experts"]
    assert config_from_hf(four) == config_from_hf(five) and config_from_hf(five).num_experts == 5
    with refused("num_local_experts", 5, "num_experts", 6):
        config_from_hf({**five, "num_experts": 6})
    bare = config_from_hf(raw_config("qwen3_moe_untied", norm_topk_prob=..., mlp_only_layers=None, head_dim=...,
                                     hidden_size=36, use_sliding_window=..., sliding_window=4096))
    assert (bare.norm_topk_prob, bare.head_dim, bare.window) == (False, 6, 0)


def test_a_family_is_data(tmp_path, monkeypatch):
    """The worked example of families.py: a Llama that names its tensors and one field in its own way."""
    def renamed(name):
        return name.replace("model.layers", "transformer.h").replace("lm_head", "output").replace("gate_proj", "w1")

    llama = FAMILIES["llama"]
    monkeypatch.setitem(FAMILIES, "sheep", replace(
        llama, model_type="sheep", architecture="SheepForCausalLM", traits={"activation": "gelu_tanh"},
        only={"ffn_activation": "gelu_new", "clip_qkv": None},
        tensors=tuple(replace(tensor, name=renamed(tensor.name)) for tensor in llama.tensors)))
    source = FIXTURES / "llama_untied_linear"
    raw = raw_config(source.name, architectures=["SheepForCausalLM"], model_type="sheep", ffn_activation="gelu_new",
                     attention_bias=..., hidden_act=..., pretraining_tp=...)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    arrays = load_file(source / "model.safetensors")
    save_file({renamed(name): array for name, array in arrays.items()}, tmp_path / "model.safetensors")
    config, params = read_config(tmp_path), load_params(tmp_path)
    expected = replace(read_config(source), family="sheep", activation="gelu_tanh")
    assert config == expected
    jax.tree.map(np.testing.assert_array_equal, params, load_params(source))
    out = load_file(save_params(params, config, tmp_path / "out") / "model.safetensors")
    assert {name: array.tobytes() for name, array in out.items()} == {
        renamed(name): array.tobytes() for name, array in arrays.items()}
    assert read_config(tmp_path / "out") == config
    with refused("clip_qkv", 8):
        config_from_hf({**raw, "clip_qkv": 8})


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "rope_theta": 700.0, "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.5, 2.25], "long_factor": [1.25, 4.0, 9.5]}
# A field of config.json and its value, each refused by both.
ALONE = {
    "gemma3_untied": [("hidden_activation", "gelu"), ("attn_logit_softcapping", 50.0), ("attention_bias", True),
                      ("use_bidirectional_attention", True), ("sliding_window", None), ("max_window_layers", 3),
                      ("final_logit_softcapping", -1.0), ("query_pre_attn_scalar", "256")],
    "llama_tied": [("attention_bias", True), ("mlp_bias", True), ("pretraining_tp", 2), ("sliding_window", 4096),
                   ("layer_types", ["full_attention", "sliding_attention"]), ("query_pre_attn_scalar", 256)],
    "qwen2_untied": [
        ("architectures", ["MambaForCausalLM"]), ("architectures", ["Qwen2ForSequenceClassification"]),
        ("hidden_act", "gelu"), ("attention_bias", False), ("mlp_bias", True), ("attention_dropout", 0.1),
        ("layer_types", ["full_attention", "chunked_attention"]), ("layer_types", ["full_attention"]),
        ("partial_rotary_factor", 0.5), ("quantization_config", {"bits": 4}), ("num_local_experts", 8),
        ("tie_word_embeddings", "false"), ("vocab_size", 0), ("hidden_size", True), ("rms_norm_eps", None),
        ("head_dim", 7), ("hidden_size", 37)],
    "qwen3_tied": [("attention_bias", True)],
    "qwen3_moe_untied": [("mlp_only_layers", [1]), ("decoder_sparse_step", 2),
                         ("num_experts_per_tok", 6), ("moe_intermediate_size", None), ("norm_topk_prob", "yes"),
                         ("shared_expert_intermediate_size", 8), ("layer_types", ["full_attention"] * 3)],
    "mistral_tied_local": [("sliding_window", 0), ("layer_types", ["full_attention", "sliding_attention"]),
                           ("hidden_act", "gelu"), ("llama_4_scaling_beta", 0.1)],
    "phi3_tied_longrope": [("embd_pdrop", 0.1), ("resid_pdrop", 0.1), ("lm_head_bias", True), ("attention_bias", True),
                           ("partial_rotary_factor", 0.5), ("partial_rotary_factor", 1.5), ("head_dim", 10),
                           ("original_max_position_embeddings", 64), ("max_position_embeddings", "128")],
    "phi3_untied_sharded": [("partial_rotary_factor", 0.5)],
    "olmo2_tied": [("attention_bias", True), ("clip_qkv", 8.0), ("hidden_act", "gelu")],
    "olmo3_tied": [("attention_bias", True), ("sliding_window", None), ("rope_theta", 5.0),
                   ("rope_parameters", {"rope_type": "default", "rope_theta": 700.0})],
    "qwen3_5_tied": [("attention_bias", True), ("attn_output_gate", False), ("mlp_only_layers", [1]),
                     ("layer_types", ["linear_attention"] * 6), ("layer_types", ["sliding_attention"] * 6),
                     ("layer_types", ["full_attention"]), ("linear_num_value_heads", 5), ("linear_num_key_heads", 0),
                     ("linear_conv_kernel_dim", "4"), ("num_experts", 8), ("sliding_window", 4)],
    "gemma4_tied": [("attention_bias", True), ("enable_moe_block", True), ("use_bidirectional_attention", "all"),
                    ("vocab_size_per_layer_input", 262_144), ("num_kv_shared_layers", 8), ("num_kv_shared_layers", 7),
                    ("num_kv_shared_layers", -1), ("layer_types", ["sliding_attention"] * 8),
                    ("per_layer_config", {"1": {"head_dim": 14}}), ("per_layer_config", {"1": {"window": 4}}),
                    ("global_head_dim", 12), ("num_global_key_value_heads", 1), ("hidden_size_per_layer_input", -1),
                    ("sliding_window_pattern", 2), ("rope_local_base_freq", 5.0)],
    "gemma4_unified_untied": [("hidden_size_per_layer_input", 8), ("num_experts", 8)],
    "smollm3_untied": [("attention_bias", True), ("mlp_bias", True), ("no_rope_layers", [1, 0]),
                       ("no_rope_layers", [1, 0, 2]), ("no_rope_layers", "1,0,1")],
}


@pytest.mark.parametrize(("name", "changes", "said"), [
    *((name, {field: value}, (field, repr(value))) for name, alone in ALONE.items() for field, value in alone),
    ("gemma3_untied", {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
     ("rope_parameters", "full_attention", "sliding_attention")),
    ("gemma3_untied", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
     ("rope_parameters.sliding_attention", "linear")),
    ("phi3_untied_sharded", {"rope_parameters": YARN}, ("rope_parameters.rope_type", "'yarn'", "longrope")),
    ("phi3_tied_longrope", {"rope_parameters": {**LONG, "factor": 2.0}}, ("rope_parameters.factor", "2.0", "4")),
    ("phi3_tied_longrope", {"rope_parameters": {**LONG, "short_factor": [1.0, 2.0]}}, ("short_factor", "2", "3")),
    ("phi3_tied_longrope", {"rope_parameters": {**LONG, "short_factor": None}}, ("short_factor", "None")),
    ("phi3_tied_longrope", {"rope_parameters": {**LONG, "long_factor": [1.0, "2", 3.0]}}, ("long_factor", "'2'")),
    ("gemma3_untied", {"rope_parameters": {"full_attention": {**YARN, "truncate": False}}},
     ("rope_parameters.full_attention.truncate", "False")),
    ("gemma3_untied", {"rope_local_base_freq": 5.0}, ("rope_theta", "5.0", "20.0")),
    ("gemma4_untied_sharded", {"per_layer_config": ..., "global_head_dim": 7}, ("global_head_dim", 7)),
    ("gemma4_untied_sharded", {"per_layer_config": ..., "num_global_key_value_heads": 4},
     ("num_attention_heads", 6, 4)),
    ("gemma4_tied", {"rope_parameters": {"full_attention": {"rope_type": "proportional", "rope_theta": 5.0,
                                                            "partial_rotary_factor": 1.5}}},
     ("rope_parameters.full_attention.partial_rotary_factor", 1.5)),
    ("llama_tied", {"rope_parameters": {**LLAMA3, "factor": None}}, ("rope_parameters.factor", "None")),
    ("qwen3_tied", {"head_dim": ...}, ("head_dim", None)),
    ("qwen3_5_tied", {"rope_scaling": YARN}, ("rope_scaling.rope_type", "'yarn'")),
    ("qwen3_moe_untied", {"num_local_experts": 0}, ("num_experts", 0)),
    *(("qwen2_untied", changes, said) for changes, said in (
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, ("architectures", "text_config", "Gemma3ForCausalLM")),
        ({"architectures": ["Mistral3ForConditionalGeneration"]}, ("text_config", "MistralForCausalLM")),
        ({"architectures": ["Qwen3_5ForConditionalGeneration"]}, ("text_config", "Qwen3_5ForCausalLM")),
        ({"architectures": ["Gemma4ForConditionalGeneration"]}, ("text_config", "Gemma4ForCausalLM")),
        ({"architectures": ["Gemma4ForConditionalGeneration"], "text_config": {"enable_moe_block": True}},
         ("architectures", "enable_moe_block")),
        ({"architectures": ["Gemma4UnifiedForConditionalGeneration"]}, ("text_config", "Gemma4UnifiedForCausalLM")),
        ({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {"model_type": "ministral3"}},
         ("architectures", "'ministral3'")),
        ({"architectures": ["Qwen3ForCausalLM"]}, ("model_type", "'qwen2'")),
        ({"architectures": None, "model_type": "mamba"}, ("model_type", "'mamba'")),
        (SLIDING_LAST, ("use_sliding_window", "False")),
        ({**SLIDING_LAST, "use_sliding_window": True, "sliding_window": None}, ("sliding_window", "None")),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": -1, "layer_types": ...},
         ("max_window_layers", -1)),
        ({"rope_parameters": {**YARN, "original_max_position_embeddings": None}},
         ("rope_parameters.original_max_position_embeddings", "None")),
        ({"rope_parameters": {**YARN, "beta_slow": 40.0}}, ("rope_parameters.beta_slow", "40.0")),
        ({"rope_parameters": {**YARN, "truncate": 0}}, ("rope_parameters.truncate", "0")),
        ({"rope_parameters": {**YARN, "rope_type": "longrope"}}, ("rope_parameters.rope_type", "'longrope'")),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ("rope_scaling.rope_type", "'dynamic'")),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, ("rope_scaling", "2.0", "default")),
        ({"rope_scaling": {"type": "linear"}}, ("rope_scaling.factor", "None")),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, ("low_freq_factor", "4.0")),
        ({"rope_scaling": {**LLAMA3, "beta_fast": 32}}, ("rope_scaling", "beta_fast")),
        ({"rope_scaling": {"mrope_section": [1, 2]}}, ("rope_scaling", "mrope_section")),
        ({"rope_theta": 5.0}, ("rope_theta", "5.0", "1000000.0")),
        ({"rope_parameters": ...}, ("rope_theta", "None")),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}}, ("rope_theta", "'1e6'")),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e308}}, ("rope_theta", "1e+308", "float32")),
        ({"rms_norm_eps": float("nan")}, ("rms_norm_eps", "nan")),
        ({"num_hidden_layers": ...}, ("num_hidden_layers", "None")),
        ({"num_key_value_heads": 4}, ("num_attention_heads", "6"))))])
def test_what_is_not_implemented_is_refused_by_name(name, changes, said):
    with refused(*said):
        config_from_hf(raw_config(name, **changes))


def test_config_to_hf_refuses_what_a_family_cannot_express():
    config = config_from_hf(raw_config())
    with refused("qwen2", "qkv_bias", False):
        config_to_hf(replace(config, qkv_bias=False))
    with refused("family", "'mamba'"):
        config_to_hf(replace(config, family="mamba"))
    for name, value in {"local_rope_theta": 5.0, "final_softcap": 30.0, "norm_offset": 1.0}.items():
        with refused(name, value):
            config_to_hf(replace(config, **{name: value}))
    with refused("llama", "local_layers", (0,)):
        config_to_hf(replace(config_from_hf(raw_config("llama_tied")), window=4, local_layers=(0,)))


def test_read_config_names_the_folder(tmp_path):
    with refused(tmp_path / "config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with refused(tmp_path / "config.json", "JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw_config(hidden_act="relu")))
    with refused(tmp_path, "hidden_act", "'relu'"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_a_saved_config(name, tmp_path):
    from transformers import CONFIG_MAPPING, AutoConfig
    config = read_config(FIXTURES / name)
    if config.family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {config.family}")
    theirs = AutoConfig.from_pretrained(save_params(load_params(FIXTURES / name), config, tmp_path / "out"))
    original = AutoConfig.from_pretrained(FIXTURES / name)
    assert type(theirs) is type(original)
    # A config of heads of two sizes has no attribute for either.
    theirs, original = theirs.to_dict(), original.to_dict()
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings", "hidden_act",
                  "layer_types", "use_sliding_window", "architectures", "hidden_activation",
                  "query_pre_attn_scalar", "final_logit_softcapping", "no_rope_layers", "num_experts",
                  "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step",
                  "original_max_position_embeddings", "linear_num_key_heads", "linear_num_value_heads",
                  "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "num_kv_shared_layers",
                  "attention_k_eq_v", "use_double_wide_mlp", "hidden_size_per_layer_input", "per_layer_config"):
        assert theirs.get(field) == original.get(field), field
    # transformers 4 reads the old name "type".
    theirs["rope_parameters"].pop("type", None)
    assert theirs["rope_parameters"] == original["rope_parameters"]
    assert theirs["head_dim"] == config.head_dim
    if config.local_layers:
        assert theirs["sliding_window"] == config.window
    assert config_from_hf(theirs) == config


@pytest.mark.parametrize("name", CASES)
def test_each_family_names_every_parameter_once(name):
    config = replace(read_config(FIXTURES / name), tie_embeddings=False)
    ours = {"/".join(key.key for key in path) for path, _ in
            jax.tree.leaves_with_path(decoder.parameter_shapes(config))}
    assert sorted(tensor.path for tensor in tensors_of(config)) == sorted(ours)
