"""config.json -> ModelConfig, and back, by the table of families. A field that nothing reads is refused by name."""
from __future__ import annotations

from dataclasses import fields, replace

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
    wide,
    without_grids,
)
from nft_jax.model.hf.families import FAMILIES, Family
from nft_jax.types import InputError

ORIGINAL = "original_max_position_embeddings"
INTEGERS = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
            "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
            "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim", "max_position_embeddings": "max_positions"}
NUMBERS = {"rms_norm_eps": "norm_eps", "initializer_range": "initializer_range"}
READ = frozenset([*INTEGERS, *NUMBERS, "tie_word_embeddings", "layer_types", "attention_dropout", "mlp_bias",
                  "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"])
WIDE = frozenset("""
    global_head_dim num_global_key_value_heads per_layer_config attention_k_eq_v num_kv_shared_layers
    use_double_wide_mlp hidden_size_per_layer_input vocab_size_per_layer_input use_bidirectional_attention
""".split())    # noqa: SIM905
READ_FOR_WINDOWS = {"": (), "last": ("use_sliding_window", "sliding_window", "max_window_layers"),
                    "unrotated": ("use_sliding_window", "sliding_window"),
                    "pattern": ("sliding_window", "sliding_window_pattern"), "last_full": ("sliding_window",),
                    "if_set": ("sliding_window",),
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
               "Qwen3_5ForConditionalGeneration": "qwen3_5_text", "Gemma4ForConditionalGeneration": "gemma4_text",
               "Gemma4UnifiedForConditionalGeneration": "gemma4_unified_text"}


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
    if raw.get("rope_parameters") is None:
        raw["rope_parameters"] = family.defaults.get("rope_parameters")
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
        partial_rotary_factor=partial_rotary_factor(raw, family.partial_rotary), **rope, **family.traits,
        **(wide(raw, local) if family.wide else {}))
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
    # Folders do not say which factors of a LongRope hold: the lengths of a run do.
    if isinstance(scaling := config.rope_scaling, LongRope):
        config = replace(config, max_positions=min(config.max_positions, scaling.original_max_position_embeddings))
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
    if family.local_rope == "rope_parameters":
        del raw["rope_theta"], raw["rope_scaling"]
    if family.wide:
        raw |= {"global_head_dim": config.wide_head_dim, "attention_k_eq_v": config.keys_are_values,
                "num_global_key_value_heads": config.wide_kv_heads if config.keys_are_values else None,
                "num_kv_shared_layers": config.shared_layers, "use_double_wide_mlp": config.double_shared_mlp}
    if "hidden_size_per_layer_input" in family.defaults:
        raw |= {"hidden_size_per_layer_input": config.layer_input_size, "vocab_size_per_layer_input": config.vocab_size}
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
    text = raw.get("text_config") or {}
    if (inside := text.get("model_type", family.model_type)) != family.model_type:
        return f"its text model is a {inside!r}, which is not implemented: use another model."
    if text.get("enable_moe_block"):
        return f"its text model has experts (enable_moe_block), which are not implemented for {inside}: use a dense " \
            "model of this family, or Qwen3-MoE."
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
    if family.wide:
        read |= WIDE
    for name in sorted(raw.keys() - read - WITHOUT_EFFECT):
        expect(not raw[name], name, raw[name], "this field is not known here, and may stand for a part of the model "
               "that is not implemented; remove it from config.json if it changes nothing in the forward pass.")
