"""Families of Hugging Face decoders as data: what their config.json and their tensor names mean here.

To add a family:

1. Open modeling_NAME.py of transformers beside `nft_jax.model.decoder`. Each part that the decoder
   lacks becomes a field of `ModelConfig` that is off by default. Each array it lacks becomes a row
   of `nft_jax.model.parameters.ARRAYS`. Gemma 3 brought `norms_after` and two arrays this way. Qwen3.5
   brought layers of another kind: a file (`nft_jax.model.delta`) and arrays with a `mixer`. Gemma 4
   brought layers whose arrays have other sizes: fields of `LayerKind` and rows that are made of other rows.
2. Compare the tensor names with `tensors.NAMES`. Where they differ, give the family a table of its own, as Phi-3
   has.
3. Go through configuration_NAME.py field by field and write one `Family` into `FAMILIES`. Llama's says it all:

       Family("llama", "LlamaForCausalLM",                  model_type and architecture of config.json
              traits={},                                    ModelConfig's defaults are what a Llama is
              only={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
              defaults={"rms_norm_eps": 1e-6},              fields that config.json may leave out
              rope_theta=10_000.0)                          the same for the rotary base, which has two spellings

   `only` lists the fields that stand for a part the decoder lacks (biases), with the value under which the part
   is not needed. Any other value is refused by name, and so is every field that nothing here reads. Sizes,
   `head_dim`, tying, and rotary positions with their scalings are read for all families alike.
4. Add two cases, tied and untied, to tests/model/make_fixtures.py and run it. Every test of
   tests/model then covers the family, and loading, saving, sampling and training know it.
5. Check a published model: `python -m nft_jax.model.hf --check FOLDER`.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.tensors import DELTA_NAMES, GEMMA4_NAMES, NAMES, NORMS_AFTER_NAMES, PHI3_NAMES, Tensor
from nft_jax.model.parameters import ARRAYS


@dataclass(frozen=True)
class Family:
    """What one model_type of config.json means."""
    model_type: str
    architecture: str
    traits: Mapping[str, Any]          # fields of ModelConfig that all its models share
    only: Mapping[str, Any]            # fields of config.json with the one value implemented; they may be absent
    defaults: Mapping[str, Any] = field(default_factory=dict)      # fields of config.json that may be absent
    integers: Mapping[str, str] = field(default_factory=dict)      # fields of its own -> fields of ModelConfig
    numbers: Mapping[str, str] = field(default_factory=dict)       # the same; null stands for 0, which is off
    booleans: Mapping[str, str] = field(default_factory=dict)      # the same; false where they are absent
    spellings: Mapping[str, str] = field(default_factory=dict)     # another name of a field -> its name here
    # See `config_json.local_layers`.
    windows: Literal["", "last", "unrotated", "pattern", "last_full", "if_set", "if_used"] = ""
    ropes: tuple[str, ...] = ("default", "linear", "llama3", "yarn")         # rope_types
    rope_kind: Literal["rope_type", "type"] = "rope_type"          # its name in rope_scaling of transformers 4
    partial_rotary: float = 0.0        # partial_rotary_factor where config.json has none; 0: the family has none
    delta: bool = False                # some layers have a delta net: see `config_json.delta_layers`
    wide: bool = False                 # heads of two sizes, layers that share keys and values: see `config_json.wide`
    grids: bool = False                # rotary settings of images (mrope) may be there; text does not need them
    all_kv_heads: bool = False         # an absent num_key_value_heads means num_attention_heads
    unrotated: bool = False            # some layers have no rotary positions: see `config_json.unrotated_layers`
    ignored: tuple[str, ...] = ()      # fields that its code in transformers does not read, though others do
    rope_theta: float | None = None                    # where config.json has none; None: it must have one
    # The field at the top of config.json with the rotary base of the local layers, which are never scaled.
    # "rope_parameters": it stands there alone, and so does the other base. "": local layers rotate like the others.
    local_rope: str = ""
    local_rope_theta: float | None = None              # where config.json has none
    split_head_dim: bool = True        # an absent head_dim means hidden_size / num_attention_heads
    tensors: tuple[Tensor, ...] = NAMES


LLAMA_ONLY = {"hidden_act": "silu", "attention_bias": False}
GEMMA_ONLY = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False}
GEMMA4 = {"qk_norm": True, "value_norm": True, "norms_after": True, "activation": "gelu_tanh", "scale_embeddings": True,
          "query_pre_attn_scalar": 1, "layer_scale": True}
GEMMA4_ROPES = {
    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
OLMO = {"norms_before": False, "norms_after": True, "qk_norm_all_heads": True}
FAMILIES = {family.model_type: family for family in (
    Family("qwen2", "Qwen2ForCausalLM", traits={"qkv_bias": True},
           only={"hidden_act": "silu", "attention_bias": True}, windows="last"),
    Family("qwen3", "Qwen3ForCausalLM", traits={"qk_norm": True}, only=LLAMA_ONLY, windows="last",
           split_head_dim=False),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", traits={"qk_norm": True},
           only={**LLAMA_ONLY, "decoder_sparse_step": 1, "mlp_only_layers": []},
           integers={"num_experts": "num_experts", "num_experts_per_tok": "experts_per_token",
                     "moe_intermediate_size": "expert_size"},
           booleans={"norm_topk_prob": "norm_topk_prob"}, spellings={"num_local_experts": "num_experts"},
           windows="if_used", ignored=("max_window_layers",)),
    Family("qwen3_5_text", "Qwen3_5ForCausalLM", tensors=DELTA_NAMES,
           traits={"qk_norm": True, "output_gate": True, "norm_offset": 1.0},
           only={**LLAMA_ONLY, "attn_output_gate": True, "mlp_only_layers": []},
           integers={"linear_num_key_heads": "delta_key_heads", "linear_num_value_heads": "delta_value_heads",
                     "linear_key_head_dim": "delta_key_dim", "linear_value_head_dim": "delta_value_dim",
                     "linear_conv_kernel_dim": "delta_conv"},
           defaults={"vocab_size": 248_320, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 32,
                     "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
                     "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "linear_conv_kernel_dim": 4,
                     "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
                     "linear_num_value_heads": 32},
           ignored=("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype"),
           ropes=("default",), partial_rotary=0.25, delta=True, grids=True, rope_theta=10_000.0),
    Family("llama", "LlamaForCausalLM", traits={}, only={**LLAMA_ONLY, "mlp_bias": False, "pretraining_tp": 1},
           defaults={"rms_norm_eps": 1e-6}, rope_theta=10_000.0, all_kv_heads=True),
    Family("mistral", "MistralForCausalLM", traits={}, only=LLAMA_ONLY,
           defaults={"rms_norm_eps": 1e-6, "sliding_window": 4096}, windows="if_set", rope_theta=10_000.0),
    Family("smollm3", "SmolLM3ForCausalLM", traits={}, only={**LLAMA_ONLY, "mlp_bias": False},
           defaults={"rms_norm_eps": 1e-6, "tie_word_embeddings": True}, windows="unrotated", unrotated=True,
           ignored=("pretraining_tp", "max_window_layers"), rope_theta=2_000_000.0),
    Family("phi3", "Phi3ForCausalLM", tensors=PHI3_NAMES, traits={"fused_projections": True},
           only={**LLAMA_ONLY, "mlp_bias": False, "lm_head_bias": False, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
           defaults={"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
           windows="if_set", ropes=("default", "longrope"), rope_kind="type", partial_rotary=1.0, all_kv_heads=True,
           ignored=("auto_map", "full_attn_mod", "interpolate_factor"), rope_theta=10_000.0),
    Family("gemma3_text", "Gemma3ForCausalLM", tensors=NORMS_AFTER_NAMES,
           traits={"qk_norm": True, "norms_after": True, "norm_offset": 1.0, "activation": "gelu_tanh",
                   "scale_embeddings": True},
           only={**GEMMA_ONLY, "attn_logit_softcapping": None, "use_bidirectional_attention": False},
           defaults={"vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
                     "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                     "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
                     "query_pre_attn_scalar": 256, "sliding_window": 4096},
           integers={"query_pre_attn_scalar": "query_pre_attn_scalar"},
           numbers={"final_logit_softcapping": "final_softcap"},
           windows="pattern", rope_theta=1e6, local_rope="rope_local_base_freq", local_rope_theta=1e4),
    *(Family(f"{name}_text", architecture, tensors=GEMMA4_NAMES, traits=GEMMA4,
             only={**GEMMA_ONLY, **only},
             defaults={"vocab_size": 262_144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
                       "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
                       "tie_word_embeddings": True, "rope_parameters": GEMMA4_ROPES, **defaults},
             numbers={"final_logit_softcapping": "final_softcap"}, windows="last_full", wide=True,
             ropes=("default", "proportional"), local_rope="rope_parameters")
      for name, architecture, only, defaults in (
          ("gemma4", "Gemma4ForCausalLM", {"enable_moe_block": False},
           {"max_position_embeddings": 131_072, "sliding_window": 512, "hidden_size_per_layer_input": 256}),
          ("gemma4_unified", "Gemma4UnifiedForCausalLM", {"hidden_size_per_layer_input": None},
           {"max_position_embeddings": 262_144, "sliding_window": 1024}))),
    Family("olmo2", "Olmo2ForCausalLM", tensors=NORMS_AFTER_NAMES, traits=OLMO, only=LLAMA_ONLY,
           defaults={"rms_norm_eps": 1e-5}, rope_theta=10_000.0, rope_kind="type", all_kv_heads=True),
    Family("olmo3", "Olmo3ForCausalLM", tensors=NORMS_AFTER_NAMES, traits=OLMO, only=LLAMA_ONLY,
           defaults={"rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
           windows="pattern", local_rope="rope_theta", all_kv_heads=True),
)}


def tensors_of(config: ModelConfig) -> Iterator[Tensor]:
    """The arrays of a model of this config as tensors; a tied model has no head of its own."""
    return (tensor for tensor in FAMILIES[config.family].tensors if ARRAYS[tensor.array].present(config))


def unread_tensors(config: ModelConfig) -> set[str]:
    """Names of tensors that files may hold and no pass reads: keys and values of the layers that share others'."""
    names = [tensor.name for tensor in FAMILIES[config.family].tensors if tensor.array in ("key", "value", "key_norm")]
    return {name.format(layer) for layer, kind in enumerate(config.kinds) if kind.shared for name in names}


def joined_tensors(config: ModelConfig) -> list[tuple[Tensor, ...]]:
    """`tensors_of`, with those of one name and the same layers together: most often one."""
    found: dict[tuple, tuple[Tensor, ...]] = {}
    for tensor in tensors_of(config):
        place = tensor.name, ARRAYS[tensor.array].wide, ARRAYS[tensor.array].shared
        found[place] = (*found.get(place, ()), tensor)
    return list(found.values())


def joined_shape(tensors: Sequence[Tensor], config: ModelConfig) -> tuple[int, ...]:
    """The shape of the tensor of Hugging Face that holds these."""
    shapes = [tensor.shapes(config)[1] for tensor in tensors]
    return sum(shape[0] for shape in shapes), *shapes[0][1:]
