"""Families of Hugging Face decoders as data: what their config.json and their tensor names mean here.

To add a family:

1. Open modeling_NAME.py of transformers beside `nft_jax.model.decoder`. Each part that the decoder
   lacks becomes a field of `ModelConfig` that is off by default. Each array it lacks becomes a row
   of `nft_jax.model.parameters.ARRAYS`. Gemma 3 brought `norms_after` and two arrays this way. Qwen3.5
   brought layers of another kind: a file (`nft_jax.model.delta`) and arrays with a `mixer`.
2. Compare the tensor names with `NAMES`. Where they differ, give the family a table of its own, as Phi-3 has.
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

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from nft_jax.model.config import LongRope, ModelConfig
from nft_jax.model.hf.config_json import (
    FULL,
    LINEAR,
    SLIDING,
    SWITCHED,
    boolean,
    delta_layers,
    expect,
    integer,
    local_layers,
    number,
    partial_rotary_factor,
    rope_to_json,
    ropes,
    unrotated_layers,
    without_grids,
)
from nft_jax.model.parameters import ARRAYS, sizes_of
from nft_jax.types import InputError

ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class Tensor:
    """One array of ours as a tensor of Hugging Face. Where several arrays of a family have one name, their rows stand
    in this tensor one after the other, in the order of the table (Phi-3).

    layout: the tensor's axes, in the letters of `nft_jax.model.parameters`; letters side by side form one merged
        axis. `nn.Linear` stores our query [D, H, E] as [out, in], which is "HE D". "1" is an axis of size 1 that our
        array lacks (of convolutions).

    Our arrays stack the tensors of all layers that have them, and of all experts, on leading axes."""
    array: str                         # key of `nft_jax.model.parameters.ARRAYS`
    name: str                          # {} stands for the number of the layer, {expert} for the number of the expert
    layout: str

    @property
    def layered(self) -> bool:
        return "{}" in self.name

    @property
    def path(self) -> str:             # in the parameter dict
        return f"layers/{self.array}" if self.layered else self.array

    @property
    def ours(self) -> str:             # axes of our array, without the stacked ones
        axes = ARRAYS[self.array].axes
        return axes.removeprefix("X") if "{expert}" in self.name else axes

    def stacked(self, config: ModelConfig) -> tuple[int, ...]:
        """Sizes of the axes on which our array stacks tensors: of the layers, and of the experts."""
        layers = (len(self.layers(config)),) if self.layered else ()
        return layers + (config.num_experts,) * ("{expert}" in self.name)

    def layers(self, config: ModelConfig) -> tuple[int, ...]:
        """The numbers of the layers that have it, in the order in which our array stacks them."""
        return ARRAYS[self.array].layers(config)

    def named(self, config: ModelConfig, *place: int) -> str:
        """The name of the tensor at this place of the stacked axes."""
        layer = [self.layers(config)[index] for index in place[:1]]
        return self.name.format(*layer, expert=place[1:] and place[1])

    def names(self, config: ModelConfig) -> list[str]:
        """Of the tensors at all places of the stacked axes."""
        return [self.named(config, *place) for place in np.ndindex(self.stacked(config))]

    def shapes(self, config: ModelConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(our shape, shape in Hugging Face's layout) of one tensor, or of the array's rows in it."""
        return sizes_of(self.ours, config), tuple(math.prod(sizes_of(axes.replace("1", ""), config))
                                                  for axes in self.layout.split())

    def to_hf(self, array: np.ndarray, config: ModelConfig) -> np.ndarray:
        """Our array, at one place of the stacked axes, in the Hugging Face layout."""
        order = self.layout.replace(" ", "").replace("1", "")
        moved = array.transpose([self.ours.index(axis) for axis in order])
        # The safetensors writer ignores strides, so the result must be contiguous.
        return np.ascontiguousarray(moved.reshape(self.shapes(config)[1]))


LAYER = "model.layers.{}."
# The usual names. A family takes the names of the arrays that its models have.
NAMES = (
    Tensor("embed", "model.embed_tokens.weight", "V D"),
    Tensor("attention_norm", LAYER + "input_layernorm.weight", "D"),
    Tensor("query", LAYER + "self_attn.q_proj.weight", "HQ D"),
    Tensor("key", LAYER + "self_attn.k_proj.weight", "KE D"),
    Tensor("value", LAYER + "self_attn.v_proj.weight", "KE D"),
    Tensor("out", LAYER + "self_attn.o_proj.weight", "D HE"),
    Tensor("mlp_norm", LAYER + "post_attention_layernorm.weight", "D"),
    Tensor("gate", LAYER + "mlp.gate_proj.weight", "F D"),
    Tensor("up", LAYER + "mlp.up_proj.weight", "F D"),
    Tensor("down", LAYER + "mlp.down_proj.weight", "D F"),
    Tensor("router", LAYER + "mlp.gate.weight", "X D"),
    Tensor("expert_gate", LAYER + "mlp.experts.{expert}.gate_proj.weight", "M D"),
    Tensor("expert_up", LAYER + "mlp.experts.{expert}.up_proj.weight", "M D"),
    Tensor("expert_down", LAYER + "mlp.experts.{expert}.down_proj.weight", "D M"),
    Tensor("final_norm", "model.norm.weight", "D"),
    Tensor("head", "lm_head.weight", "V D"),
    Tensor("query_bias", LAYER + "self_attn.q_proj.bias", "HE"),
    Tensor("key_bias", LAYER + "self_attn.k_proj.bias", "KE"),
    Tensor("value_bias", LAYER + "self_attn.v_proj.bias", "KE"),
    Tensor("query_norm", LAYER + "self_attn.q_norm.weight", "E"),
    Tensor("key_norm", LAYER + "self_attn.k_norm.weight", "E"),
    Tensor("query_heads_norm", LAYER + "self_attn.q_norm.weight", "HE"),
    Tensor("key_heads_norm", LAYER + "self_attn.k_norm.weight", "KE"),
)
# A delta net has the rows of its queries, keys and values in one tensor, and in one convolution.
DELTA_NAMES = (
    *NAMES,
    *(Tensor(f"delta_{part}", LAYER + "linear_attn.in_proj_qkv.weight", f"{rows} D")
      for part, rows in (("query", "NI"), ("key", "NI"), ("value", "UO"))),
    *(Tensor(f"delta_{part}_convolution", LAYER + "linear_attn.conv1d.weight", f"{rows} 1 W")
      for part, rows in (("query", "NI"), ("key", "NI"), ("value", "UO"))),
    Tensor("delta_gate", LAYER + "linear_attn.in_proj_z.weight", "UO D"),
    Tensor("delta_write", LAYER + "linear_attn.in_proj_b.weight", "U D"),
    Tensor("delta_forget", LAYER + "linear_attn.in_proj_a.weight", "U D"),
    Tensor("delta_log_decay", LAYER + "linear_attn.A_log", "U"),
    Tensor("delta_forget_bias", LAYER + "linear_attn.dt_bias", "U"),
    Tensor("delta_norm", LAYER + "linear_attn.norm.weight", "O"),
    Tensor("delta_out", LAYER + "linear_attn.out_proj.weight", "D UO"),
)
# Phi-3 has the rows of several arrays in one tensor.
PHI3_NAMES = tuple(
    replace(tensor, name=LAYER + "self_attn.qkv_proj.weight") if tensor.array in ("query", "key", "value") else
    replace(tensor, name=LAYER + "mlp.gate_up_proj.weight") if tensor.array in ("gate", "up") else tensor
    for tensor in NAMES)
# Gemma 3 and OLMo call the norm after attention what the other families call the norm before the MLP.
NORMS_AFTER_NAMES = (
    *(tensor for tensor in NAMES if tensor.array != "mlp_norm"),
    Tensor("post_attention_norm", LAYER + "post_attention_layernorm.weight", "D"),
    Tensor("mlp_norm", LAYER + "pre_feedforward_layernorm.weight", "D"),
    Tensor("post_mlp_norm", LAYER + "post_feedforward_layernorm.weight", "D"),
)


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
    windows: Literal["", "last", "unrotated", "pattern", "if_set", "if_used"] = ""      # see `config_json.local_layers`
    ropes: tuple[str, ...] = ("default", "linear", "llama3", "yarn")         # rope_types
    rope_kind: Literal["rope_type", "type"] = "rope_type"          # its name in rope_scaling of transformers 4
    partial_rotary: float = 0.0        # partial_rotary_factor where config.json has none; 0: the family has none
    delta: bool = False                # some layers have a delta net: see `config_json.delta_layers`
    grids: bool = False                # rotary settings of images (mrope) may be there; text does not need them
    all_kv_heads: bool = False         # an absent num_key_value_heads means num_attention_heads
    unrotated: bool = False            # some layers have no rotary positions: see `config_json.unrotated_layers`
    ignored: tuple[str, ...] = ()      # fields that its code in transformers does not read, though others do
    rope_theta: float | None = None                    # where config.json has none; None: it must have one
    # The field at the top of config.json with the rotary base of the local layers, which are never scaled; "": local
    # layers rotate like the others.
    local_rope: str = ""
    local_rope_theta: float | None = None              # where config.json has none
    split_head_dim: bool = True        # an absent head_dim means hidden_size / num_attention_heads
    tensors: tuple[Tensor, ...] = NAMES


LLAMA_ONLY = {"hidden_act": "silu", "attention_bias": False}
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
           only={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "attn_logit_softcapping": None,
                 "use_bidirectional_attention": False},
           defaults={"vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
                     "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                     "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
                     "query_pre_attn_scalar": 256, "sliding_window": 4096},
           integers={"query_pre_attn_scalar": "query_pre_attn_scalar"},
           numbers={"final_logit_softcapping": "final_softcap"},
           windows="pattern", rope_theta=1e6, local_rope="rope_local_base_freq", local_rope_theta=1e4),
    Family("olmo2", "Olmo2ForCausalLM", tensors=NORMS_AFTER_NAMES, traits=OLMO, only=LLAMA_ONLY,
           defaults={"rms_norm_eps": 1e-5}, rope_theta=10_000.0, rope_kind="type", all_kv_heads=True),
    Family("olmo3", "Olmo3ForCausalLM", tensors=NORMS_AFTER_NAMES, traits=OLMO, only=LLAMA_ONLY,
           defaults={"rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
           windows="pattern", local_rope="rope_theta", all_kv_heads=True),
)}


def tensors_of(config: ModelConfig) -> Iterator[Tensor]:
    """The arrays of a model of this config as tensors; a tied model has no head of its own."""
    return (tensor for tensor in FAMILIES[config.family].tensors if ARRAYS[tensor.array].present(config))


def joined_tensors(config: ModelConfig) -> list[tuple[Tensor, ...]]:
    """`tensors_of`, with those of one name together: most often one."""
    found: dict[str, tuple[Tensor, ...]] = {}
    for tensor in tensors_of(config):
        found[tensor.name] = (*found.get(tensor.name, ()), tensor)
    return list(found.values())


def joined_shape(tensors: Sequence[Tensor], config: ModelConfig) -> tuple[int, ...]:
    """The shape of the tensor of Hugging Face that holds these."""
    shapes = [tensor.shapes(config)[1] for tensor in tensors]
    return sum(shape[0] for shape in shapes), *shapes[0][1:]


INTEGERS = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
            "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
            "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim", "max_position_embeddings": "max_positions"}
NUMBERS = {"rms_norm_eps": "norm_eps", "initializer_range": "initializer_range"}
READ = frozenset([*INTEGERS, *NUMBERS, "tie_word_embeddings", "layer_types", "attention_dropout", "mlp_bias",
                  "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"])
READ_FOR_WINDOWS = {"": (), "last": ("use_sliding_window", "sliding_window", "max_window_layers"),
                    "unrotated": ("use_sliding_window", "sliding_window"),
                    "pattern": ("sliding_window", "sliding_window_pattern"), "if_set": ("sliding_window",),
                    "if_used": ("use_sliding_window", "sliding_window")}
# Fields of config.json that change nothing we compute. Any other field that is set and not read is
# refused, because it may stand for a part that the decoder lacks. (Routers are balanced by `terms.balance_weight`.)
WITHOUT_EFFECT = frozenset("""
    architectures model_type dtype torch_dtype transformers_version use_cache bos_token_id eos_token_id pad_token_id
    unk_token_id _name_or_path name_or_path _attn_implementation _attn_implementation_autoset _commit_hash return_dict
    output_attentions output_hidden_states torchscript is_decoder id2label label2id chunk_size_feed_forward
    temperature top_k top_p typical_p repetition_penalty length_penalty num_beams num_beam_groups num_return_sequences
    max_length min_length diversity_penalty problem_type unsloth_fixed unsloth_version cache_implementation
    _sliding_window_pattern output_router_logits router_aux_loss_coef
""".split())   # noqa: SIM905
# Checkpoints with an image encoder, and the model_type of the text model inside, where that is a family here.
WITH_IMAGES = {"Gemma3ForConditionalGeneration": "gemma3_text", "Mistral3ForConditionalGeneration": "mistral",
               "Qwen3_5ForConditionalGeneration": "qwen3_5_text"}


def config_from_hf(raw: dict) -> ModelConfig:
    """The contents of config.json, as written by transformers 4 or 5 -> ModelConfig. Raises InputError for a field
    that is missing, is not a sensible number, or needs a part that the decoder lacks."""
    family = _family(raw)
    _refuse_other_features(raw, family)
    for other, name in family.spellings.items():
        expect(other not in raw or raw.get(name, raw[other]) == raw[other], other, raw.get(other),
               f"it is the same as {name}, which is {raw.get(name)!r}; these must agree.")
    raw = {"initializer_range": 0.02, **family.defaults,
           **{name: raw[other] for other, name in family.spellings.items() if other in raw}, **raw}
    if raw.get("head_dim") is None and family.split_head_dim:
        hidden, heads = integer(raw, "hidden_size"), integer(raw, "num_attention_heads")
        expect(hidden % heads == 0, "hidden_size", hidden, f"without head_dim it must be a multiple of {heads} heads.")
        raw["head_dim"] = hidden // heads
    if raw.get("num_key_value_heads") is None and family.all_kv_heads:
        raw["num_key_value_heads"] = raw.get("num_attention_heads")
    delta = delta_layers(raw) if family.delta else ()
    window, local = local_layers(raw if not family.delta else {**raw, "layer_types": None}, family.windows)
    rope = ropes(raw if not family.grids else without_grids(raw), family.ropes, family.rope_theta, family.local_rope,
                 family.local_rope_theta)
    config = ModelConfig(
        family=family.model_type, **{ours: integer(raw, name) for name, ours in (INTEGERS | family.integers).items()},
        **{ours: number(raw, name) for name, ours in NUMBERS.items()},
        **{ours: number(raw, name) for name, ours in family.numbers.items() if raw.get(name) is not None},
        **{ours: boolean(raw, name) for name, ours in family.booleans.items()},
        tie_embeddings=boolean(raw, "tie_word_embeddings"), window=window, local_layers=local,
        unrotated_layers=unrotated_layers(raw) if family.unrotated else (), delta_layers=delta,
        partial_rotary_factor=partial_rotary_factor(raw, family.partial_rotary), **rope, **family.traits)
    expect(config.num_heads % config.num_kv_heads == 0, "num_attention_heads", config.num_heads,
           f"it must be a multiple of {config.num_kv_heads} kv heads.")
    expect(not delta or config.delta_value_heads % config.delta_key_heads == 0, "linear_num_value_heads",
           config.delta_value_heads, f"it must be a multiple of {config.delta_key_heads} key heads.")
    expect(config.experts_per_token <= config.num_experts, "num_experts_per_tok", config.experts_per_token,
           f"it must be at most num_experts, {config.num_experts}.")
    expect(config.rotary_dim % 2 == 0 and config.rotary_dim > 0, "head_dim", config.head_dim,
           f"rotary positions need an even number, and with partial_rotary_factor {config.partial_rotary_factor:g} "
           f"there are {config.rotary_dim} to rotate.")
    if isinstance(scaling := config.rope_scaling, LongRope):
        frequencies = config.rotary_dim // 2
        for name in ("short_factor", "long_factor"):
            count = len(getattr(scaling, name))
            expect(count == frequencies, name, f"a list of {count}",
                   f"{frequencies} numbers are needed, one for each frequency.")
        config = replace(config, max_positions=min(config.max_positions, scaling.original_max_position_embeddings))
    return config


def config_to_hf(config: ModelConfig) -> dict:
    """ModelConfig -> the contents of a config.json that transformers 4 and 5 read alike. Raises InputError for a
    config that its family cannot express."""
    family = FAMILIES.get(config.family)
    expect(family is not None, "family", config.family, f"known families: {', '.join(FAMILIES)}.")
    rope = rope_to_json(config.rope_theta, config.rope_scaling)
    scaling = {family.rope_kind: rope["rope_type"],
               **{name: value for name, value in rope.items() if name not in ("rope_theta", "rope_type")}}
    raw = {
        "architectures": [family.architecture], "model_type": family.model_type,
        **{name: getattr(config, ours) for name, ours in (INTEGERS | NUMBERS | family.integers).items()},
        **{name: getattr(config, ours) or None for name, ours in family.numbers.items()},
        **{name: getattr(config, ours) for name, ours in family.booleans.items()},
        "tie_word_embeddings": config.tie_embeddings, "rope_theta": config.rope_theta, "rope_parameters": rope,
        "rope_scaling": scaling if config.rope_scaling else None, "attention_dropout": 0.0, "use_cache": True,
        **family.only,
    }
    if family.windows:
        raw["sliding_window"] = config.window or None
    if family.windows not in ("", "if_set", "if_used"):
        raw["layer_types"] = [SLIDING if kind.local else FULL for kind in config.kinds]
    if family.windows in SWITCHED:
        raw["use_sliding_window"] = bool(config.local_layers)
    if family.delta:
        raw["layer_types"] = [LINEAR if kind.delta else FULL for kind in config.kinds]
    if family.partial_rotary:
        raw["partial_rotary_factor"] = config.partial_rotary_factor
    if isinstance(config.rope_scaling, LongRope):
        # transformers 4 allows the kind and the two lists here, and nothing else.
        del raw["rope_scaling"][ORIGINAL]
        raw[ORIGINAL] = config.rope_scaling.original_max_position_embeddings
        raw["max_position_embeddings"] = config.rope_scaling.max_position_embeddings
    if family.unrotated:
        raw["no_rope_layers"] = [int(kind.rotated) for kind in config.kinds]
    if family.local_rope:
        raw[family.local_rope] = config.local_rope_theta
        raw["rope_parameters"] = {FULL: rope, SLIDING: rope_to_json(config.local_rope_theta, None)}
    read = config_from_hf(raw)
    lost = {f.name: getattr(config, f.name) for f in fields(config)
            if getattr(read, f.name) != getattr(config, f.name)}
    if lost:
        raise InputError(f"{config.family} models cannot have {', '.join(f'{k} {v!r}' for k, v in lost.items())}: "
                         "choose another family, or leave these fields as the family has them.")
    return raw


def _family(raw: dict) -> Family:
    known = ", ".join(family.architecture for family in FAMILIES.values())
    architectures = raw.get("architectures")
    by_name = {family.architecture: family for family in FAMILIES.values()}
    if architectures:
        name = str(architectures[0]) if isinstance(architectures, list) else ""
        expect(name in by_name, "architectures", architectures,
               _text_part(name, raw) if name in WITH_IMAGES else f"use a model that is one of {known}.")
        family = by_name[name]
        expect(raw.get("model_type", family.model_type) == family.model_type, "model_type", raw.get("model_type"),
               f"{family.architecture} goes with {family.model_type!r}.")
        return family
    model_type = raw.get("model_type")
    expect(model_type in FAMILIES, "model_type", model_type, f"use a model that is one of {known}.")
    return FAMILIES[model_type]


def _text_part(architecture: str, raw: dict) -> str:
    """The way out of a checkpoint with an image encoder."""
    family = FAMILIES[WITH_IMAGES[architecture]]
    inside = (raw.get("text_config") or {}).get("model_type", family.model_type)
    if inside != family.model_type:
        return f"its text model is a {inside!r}, which is not implemented: use another model."
    return (f"it has an image encoder, and the text model alone is needed. Load this folder with transformers: full = "
            f"{architecture}.from_pretrained(folder); text = {family.architecture}(full.config.text_config); "
            "text.model.load_state_dict(full.model.language_model.state_dict()); "
            "text.lm_head.load_state_dict(full.lm_head.state_dict()); text.save_pretrained(another folder).")


def _refuse_other_features(raw: dict, family: Family) -> None:
    for name, value in {"mlp_bias": False, "attention_dropout": 0.0, **family.only}.items():
        found = raw.get(name, value)
        expect(found == value or not (found or value), name, found,
               f"only {value!r} is implemented for {family.model_type}.")
    read = READ | set(READ_FOR_WINDOWS[family.windows]) | family.only.keys() | family.integers.keys() \
        | family.numbers.keys() | family.booleans.keys() | family.spellings.keys() | {*family.ignored}
    if "longrope" in family.ropes:
        read |= {ORIGINAL}
    if family.unrotated:
        read |= {"no_rope_layers", "no_rope_layer_interval"}
    if family.delta:
        read |= {"full_attention_interval"}
    if family.local_rope:
        read |= {family.local_rope}
    for name in sorted(raw.keys() - read - WITHOUT_EFFECT):
        expect(not raw[name], name, raw[name], "this field is not known here, and may stand for a part of the model "
               "that is not implemented; remove it from config.json if it changes nothing in the forward pass.")
