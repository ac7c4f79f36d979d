"""Families of Hugging Face decoders as data: how config.json and the tensor names of each map to ours.

Axes are one letter each: D hidden, F feed-forward, H heads, K kv heads, E head dimension, V vocabulary. A tensor's
Hugging Face layout is written in the same letters, those merged into one axis side by side: our query "DHE" is
stored by `nn.Linear` as [out, in], "HE D".
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nft_jax.model.config import ModelConfig
from nft_jax.types import InputError


@dataclass(frozen=True)
class Tensor:
    """One parameter: where it stands in our tree, what Hugging Face calls it, and its axes here and there."""
    path: str
    name: str                          # {} stands for the number of the layer
    ours: str
    theirs: str

    @property
    def layered(self) -> bool:
        """Whether our array stacks one of these per layer on a leading axis."""
        return "{}" in self.name

    def shapes(self, config: ModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(our shape, Hugging Face shape) of one layer's array."""
        size = {"D": config.hidden_size, "F": config.intermediate_size, "H": config.num_heads,
                "K": config.num_kv_heads, "E": config.head_dim, "V": config.vocab_size}
        return (tuple(size[axis] for axis in self.ours),
                tuple(math.prod(size[axis] for axis in merged) for merged in self.theirs.split()))

    def from_hf(self, array: np.ndarray, config: ModelConfig) -> np.ndarray:
        """A view of the Hugging Face array in our layout."""
        size = dict(zip(self.ours, self.shapes(config)[0], strict=True))
        order = self.theirs.replace(" ", "")
        return array.reshape([size[axis] for axis in order]).transpose([order.index(axis) for axis in self.ours])

    def to_hf(self, array: np.ndarray, config: ModelConfig) -> np.ndarray:
        """Our array in the Hugging Face layout, contiguous (the safetensors writer ignores strides)."""
        order = self.theirs.replace(" ", "")
        moved = array.transpose([self.ours.index(axis) for axis in order])
        return np.ascontiguousarray(moved.reshape(self.shapes(config)[1]))


LAYER = "model.layers.{}."
COMMON = (
    Tensor("embed", "model.embed_tokens.weight", "VD", "V D"),
    Tensor("layers/attention_norm", LAYER + "input_layernorm.weight", "D", "D"),
    Tensor("layers/query", LAYER + "self_attn.q_proj.weight", "DHE", "HE D"),
    Tensor("layers/key", LAYER + "self_attn.k_proj.weight", "DKE", "KE D"),
    Tensor("layers/value", LAYER + "self_attn.v_proj.weight", "DKE", "KE D"),
    Tensor("layers/out", LAYER + "self_attn.o_proj.weight", "HED", "D HE"),
    Tensor("layers/mlp_norm", LAYER + "post_attention_layernorm.weight", "D", "D"),
    Tensor("layers/gate", LAYER + "mlp.gate_proj.weight", "DF", "F D"),
    Tensor("layers/up", LAYER + "mlp.up_proj.weight", "DF", "F D"),
    Tensor("layers/down", LAYER + "mlp.down_proj.weight", "FD", "D F"),
    Tensor("final_norm", "model.norm.weight", "D", "D"),
    Tensor("head", "lm_head.weight", "DV", "V D"),
)
QWEN2_ONLY = (
    Tensor("layers/query_bias", LAYER + "self_attn.q_proj.bias", "HE", "HE"),
    Tensor("layers/key_bias", LAYER + "self_attn.k_proj.bias", "KE", "KE"),
    Tensor("layers/value_bias", LAYER + "self_attn.v_proj.bias", "KE", "KE"),
)
QWEN3_ONLY = (
    Tensor("layers/query_norm", LAYER + "self_attn.q_norm.weight", "E", "E"),
    Tensor("layers/key_norm", LAYER + "self_attn.k_norm.weight", "E", "E"),
)


@dataclass(frozen=True)
class Family:
    """What one model_type means. `attention_bias` is the only value of that config field the family stands for."""
    model_type: str
    architecture: str
    tensors: tuple[Tensor, ...]
    qkv_bias: bool
    qk_norm: bool
    attention_bias: bool
    default_head_dim: bool             # an absent head_dim means hidden_size / num_attention_heads


FAMILIES = {family.model_type: family for family in (
    Family("qwen2", "Qwen2ForCausalLM", COMMON + QWEN2_ONLY, qkv_bias=True, qk_norm=False, attention_bias=True,
           default_head_dim=True),
    Family("qwen3", "Qwen3ForCausalLM", COMMON + QWEN3_ONLY, qkv_bias=False, qk_norm=True, attention_bias=False,
           default_head_dim=False),
)}


def tensors_of(config: ModelConfig) -> Iterator[Tensor]:
    """The parameters of a model of this config; a tied model has no head of its own."""
    return (tensor for tensor in FAMILIES[config.family].tensors
            if not (tensor.path == "head" and config.tie_embeddings))


# Fields of config.json that change nothing we compute. Any other field that is set and not read is refused: it may
# stand for a part of the model that is not here.
WITHOUT_EFFECT = frozenset("""
    architectures model_type dtype torch_dtype transformers_version use_cache bos_token_id eos_token_id pad_token_id
    _name_or_path name_or_path _attn_implementation _attn_implementation_autoset _commit_hash return_dict
    output_attentions output_hidden_states torchscript is_decoder id2label label2id chunk_size_feed_forward
    temperature top_k top_p typical_p repetition_penalty length_penalty num_beams num_beam_groups num_return_sequences
    max_length min_length diversity_penalty problem_type unsloth_fixed unsloth_version max_window_layers
    sliding_window use_sliding_window layer_types
""".split())   # noqa: SIM905
READ = frozenset("""
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    max_position_embeddings rms_norm_eps initializer_range tie_word_embeddings hidden_act attention_bias mlp_bias
    attention_dropout rope_theta rope_scaling rope_parameters partial_rotary_factor
""".split())   # noqa: SIM905


def config_from_hf(raw: dict) -> ModelConfig:
    """The contents of config.json, as written by transformers 4 or 5 -> ModelConfig.

    Raises InputError for a field that is missing, not a sensible number, or stands for a feature that is not here.
    """
    family = _family(raw)
    _refuse_other_features(raw, family)
    heads, kv_heads = _integer(raw, "num_attention_heads"), _integer(raw, "num_key_value_heads")
    hidden = _integer(raw, "hidden_size")
    _expect(heads % kv_heads == 0, "num_attention_heads", heads, f"it must be a multiple of {kv_heads} kv heads.")
    if raw.get("head_dim") is None and family.default_head_dim:
        _expect(hidden % heads == 0, "hidden_size", hidden, f"without head_dim it must be a multiple of {heads} heads.")
        head_dim = hidden // heads
    else:
        head_dim = _integer(raw, "head_dim")
    _expect(head_dim % 2 == 0, "head_dim", head_dim, "rotary positions need an even number.")
    return ModelConfig(
        family=family.model_type, vocab_size=_integer(raw, "vocab_size"), hidden_size=hidden,
        intermediate_size=_integer(raw, "intermediate_size"), num_layers=_integer(raw, "num_hidden_layers"),
        num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim,
        max_positions=_integer(raw, "max_position_embeddings"), rope_theta=_rope_theta(raw),
        norm_eps=_number(raw, "rms_norm_eps"), tie_embeddings=_tied(raw),
        qkv_bias=family.qkv_bias, qk_norm=family.qk_norm,
        initializer_range=_number(raw, "initializer_range") if "initializer_range" in raw else 0.02)


def config_to_hf(config: ModelConfig) -> dict:
    """ModelConfig -> the contents of a config.json that transformers 4 and 5 both read the same way.

    Raises InputError for a config that its family cannot express.
    """
    family = FAMILIES.get(config.family)
    _expect(family is not None, "family", config.family, f"known families: {', '.join(FAMILIES)}.")
    _expect((config.qkv_bias, config.qk_norm) == (family.qkv_bias, family.qk_norm), "(qkv_bias, qk_norm)",
            (config.qkv_bias, config.qk_norm), f"{config.family} stands for {(family.qkv_bias, family.qk_norm)}.")
    return {
        "architectures": [family.architecture], "model_type": family.model_type,
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim, "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta, "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": family.attention_bias, "attention_dropout": 0.0, "hidden_act": "silu",
        "initializer_range": config.initializer_range, "use_sliding_window": False, "use_cache": True,
    }


def _expect(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        raise InputError(f"config.json: {name} is {value!r}: {remedy}")


def _family(raw: dict) -> Family:
    known = ", ".join(family.architecture for family in FAMILIES.values())
    architectures = raw.get("architectures")
    by_name = {family.architecture: family for family in FAMILIES.values()}
    if architectures:
        _expect(isinstance(architectures, list) and architectures[0] in by_name, "architectures", architectures,
                f"use a model that is one of {known}.")
        family = by_name[architectures[0]]
        _expect(raw.get("model_type", family.model_type) == family.model_type, "model_type", raw.get("model_type"),
                f"{family.architecture} goes with {family.model_type!r}.")
        return family
    model_type = raw.get("model_type")
    _expect(model_type in FAMILIES, "model_type", model_type, f"use a model that is one of {known}.")
    return FAMILIES[model_type]


def _refuse_other_features(raw: dict, family: Family) -> None:
    _expect(raw.get("hidden_act", "silu") == "silu", "hidden_act", raw.get("hidden_act"), "only silu is implemented.")
    _expect(raw.get("attention_bias", family.attention_bias) == family.attention_bias, "attention_bias",
            raw.get("attention_bias"), f"only {family.attention_bias} is implemented for {family.model_type}.")
    _expect(not raw.get("mlp_bias"), "mlp_bias", raw.get("mlp_bias"), "only false is implemented.")
    _expect(not raw.get("attention_dropout"), "attention_dropout", raw.get("attention_dropout"),
            "dropout is not implemented; set it to 0.")
    layer_types = raw.get("layer_types")
    _expect(set(layer_types or ()) <= {"full_attention"}, "layer_types", layer_types,
            "only full_attention is implemented.")
    if raw.get("use_sliding_window") and not layer_types:
        full_layers, window = raw.get("max_window_layers"), raw.get("sliding_window")
        _expect(window is None or (full_layers is not None and full_layers >= _integer(raw, "num_hidden_layers")),
                "use_sliding_window", True, f"layers from {full_layers} on would attend to {window} tokens only, which "
                "is not implemented; set it to false if the model also works with full attention.")
    for name in sorted(raw.keys() - READ - WITHOUT_EFFECT):
        _expect(not raw[name], name, raw[name], "this field is not known here, and may stand for a part of the model "
                "that is not implemented; remove it from config.json if it changes nothing in the forward pass.")


def _rope_theta(raw: dict) -> float:
    found = {"rope_theta": _number(raw, "rope_theta")} if raw.get("rope_theta") is not None else {}
    for name in ("rope_parameters", "rope_scaling"):
        rope = raw.get(name) or {}
        _expect(isinstance(rope, dict), name, rope, "it must be an object or null.")
        kind = rope.get("rope_type", rope.get("type", "default"))
        _expect(kind == "default", f"{name}.rope_type", kind, "only the default rotary positions are implemented; "
                "remove the scaling if the sequences are no longer than the model was trained for.")
        unknown = {key: value for key, value in rope.items()
                   if value is not None and key not in ("rope_type", "type", "rope_theta", "partial_rotary_factor")}
        _expect(not unknown, name, unknown, "these settings of the rotary positions are not implemented.")
        if rope.get("rope_theta") is not None:
            found[f"{name}.rope_theta"] = _number(rope, "rope_theta")
    for rope in (raw, raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}):
        factor = rope.get("partial_rotary_factor")
        _expect(factor in (None, 1), "partial_rotary_factor", factor, "only 1 is implemented.")
    _expect(len(found) > 0, "rope_theta", None, "give it here or in rope_parameters.")
    _expect(len(set(found.values())) == 1, "rope_theta", found, "these must agree.")
    return next(iter(found.values()))


def _tied(raw: dict) -> bool:
    value = raw.get("tie_word_embeddings", False)
    _expect(isinstance(value, bool), "tie_word_embeddings", value, "true or false is needed.")
    return value


def _integer(raw: dict, name: str) -> int:
    value = raw.get(name)
    _expect(isinstance(value, int) and not isinstance(value, bool) and value > 0, name, value,
            "a positive integer is needed.")
    return value


def _number(raw: dict, name: str) -> float:
    value = raw.get(name)
    _expect(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf, name, value,
            "a positive number is needed.")
    return float(value)
