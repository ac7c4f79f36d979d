import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from nft_jax.model import decoder
from nft_jax.model.families import FAMILIES, config_from_hf, config_to_hf
from nft_jax.model.hf import load_params, read_config, save_params
from nft_jax.types import InputError

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(folder.name for folder in FIXTURES.iterdir())


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


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}


@pytest.mark.parametrize(("changes", "said"), [
    ({"architectures": ["LlamaForCausalLM"]}, "architectures is .*LlamaForCausalLM"),
    ({"architectures": ["Qwen2ForSequenceClassification"]}, "architectures"),
    ({"architectures": ["Qwen3ForCausalLM"]}, "model_type is 'qwen2'"),
    ({"architectures": None, "model_type": "mamba"}, "model_type is 'mamba'"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"attention_bias": False}, "attention_bias is False"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": ...}, "use_sliding_win"),
    ({"rope_parameters": YARN}, "rope_parameters.rope_type is 'yarn'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.rope_type is 'linear'"),
    ({"rope_scaling": {"mrope_section": [1, 2]}}, "rope_scaling is .*mrope_section"),
    ({"rope_theta": 5.0}, "rope_theta is .*these must agree"),
    ({"rope_parameters": ...}, "rope_theta is None"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}}, "rope_theta is '1e6'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is"),
    ({"num_local_experts": 8}, "num_local_experts is 8"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    ({"num_hidden_layers": ...}, "num_hidden_layers is None"),
    ({"vocab_size": 0}, "vocab_size is 0"),
    ({"hidden_size": True}, "hidden_size is True"),
    ({"rms_norm_eps": None}, "rms_norm_eps is None"),
    ({"num_key_value_heads": 4}, "num_attention_heads is 6"),
    ({"head_dim": 7}, "head_dim is 7"),
    ({"hidden_size": 37}, "hidden_size is 37"),
])
def test_what_is_not_implemented_is_refused_by_name(changes, said):
    with pytest.raises(InputError, match=said):
        config_from_hf(raw_config(**changes))


def test_qwen3_has_no_attention_bias_and_always_a_head_dim():
    with pytest.raises(InputError, match="attention_bias is True"):
        config_from_hf(raw_config("qwen3_tied", attention_bias=True))
    with pytest.raises(InputError, match="head_dim is None"):
        config_from_hf(raw_config("qwen3_tied", head_dim=...))


def test_config_to_hf_refuses_what_a_family_cannot_express():
    config = config_from_hf(raw_config())
    with pytest.raises(InputError, match="qkv_bias"):
        config_to_hf(replace(config, qkv_bias=False))
    with pytest.raises(InputError, match="family is 'llama'"):
        config_to_hf(replace(config, family="llama"))


def test_read_config_names_the_folder(tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw_config(hidden_act="relu")))
    with pytest.raises(InputError, match=rf"{tmp_path}.*hidden_act"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_a_saved_config(name, tmp_path):
    from transformers import AutoConfig
    config = read_config(FIXTURES / name)
    theirs = AutoConfig.from_pretrained(save_params(load_params(FIXTURES / name), config, tmp_path / "out"))
    original = AutoConfig.from_pretrained(FIXTURES / name)
    assert type(theirs) is type(original)
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings", "hidden_act",
                  "layer_types", "use_sliding_window", "architectures"):
        assert getattr(theirs, field) == getattr(original, field), field
    assert theirs.head_dim == config.head_dim
    rope = getattr(theirs, "rope_parameters", None) or {"rope_theta": theirs.rope_theta}
    assert rope["rope_theta"] == config.rope_theta
    assert config_from_hf(theirs.to_dict()) == config


def test_each_family_names_every_parameter_once():
    for name in CASES:
        config = read_config(FIXTURES / name)
        paths = [tensor.path for tensor in FAMILIES[config.family].tensors]
        assert len(set(paths)) == len(paths)
        ours = {"/".join(key.key for key in path) for path, _ in
                jax.tree.leaves_with_path(decoder.parameter_shapes(replace(config, tie_embeddings=False)))}
        assert set(paths) == ours
