"""Writes tests/model/fixtures: tiny random folders of every family with the logits transformers computes for them.

    pip install torch transformers safetensors && python tests/model/make_fixtures.py [NAME ...]

Run by hand, all or those named; the tests need neither torch nor this script. The shapes are awkward on purpose:
head_dim is not hidden_size / heads, three queries share a kv head, windows are shorter than the rows, and norms and
biases are away from their initial values.
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "fixtures"
COMMON = {"hidden_size": 20, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 26,
          "max_position_embeddings": 128, "attention_dropout": 0.0}
NO_IDS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}        # their defaults have no rows here
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}      # of five frequencies it keeps one, blends one, divides three


def default(theta: float) -> dict:
    return {"rope_type": "default", "rope_theta": theta}


def linear(theta: float, factor: float) -> dict:
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def yarn(theta: float, **settings) -> dict:
    return {"rope_type": "yarn", "rope_theta": theta, **settings}


def proportional(theta: float, share: float) -> dict:
    return {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": share}


def pattern(layers: int, every: int) -> list[str]:
    return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]


CASES = {       # name: (family, settings, largest file)
    "qwen2_tied": ("Qwen2", {"vocab_size": 61, "num_hidden_layers": 3, "head_dim": 10, "tie_word_embeddings": True,
                             "rms_norm_eps": 3e-3, "rope_parameters": default(777.0)}, "1MB"),
    "qwen2_untied": ("Qwen2", {"vocab_size": 53, "num_hidden_layers": 2, "hidden_size": 36,
                               "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
                               "rope_parameters": default(1e6)}, "1MB"),
    "qwen3_tied": ("Qwen3", {"vocab_size": 61, "num_hidden_layers": 2, "head_dim": 14, "tie_word_embeddings": True,
                             "rms_norm_eps": 1e-5, "rope_parameters": default(5e5)}, "1MB"),
    "qwen3_untied_sharded": ("Qwen3", {"vocab_size": 67, "num_hidden_layers": 3, "head_dim": 6,
                                       "tie_word_embeddings": False, "rms_norm_eps": 2e-2,
                                       "rope_parameters": default(10.0)}, "20KB"),
    "llama_tied": ("Llama", {"vocab_size": 59, "num_hidden_layers": 2, "head_dim": 10, "hidden_size": 18,
                             "tie_word_embeddings": True, "rms_norm_eps": 1e-3, "rope_parameters": LLAMA3}, "1MB"),
    "llama_untied_linear": ("Llama", {"vocab_size": 47, "num_hidden_layers": 3, "hidden_size": 36,
                                      "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
                                      "rope_parameters": linear(300.0, 2.5)}, "1MB"),
    "gemma3_tied_softcap": ("Gemma3", {
        "vocab_size": 59, "num_hidden_layers": 5, "head_dim": 10, "rms_norm_eps": 1e-3, "query_pre_attn_scalar": 7,
        "sliding_window": 5, "layer_types": pattern(5, 3), "final_logit_softcapping": 6.0, "hidden_size": 18,
        "rope_parameters": {"full_attention": linear(3000.0, 4.0), "sliding_attention": default(50.0)}}, "1MB"),
    "gemma3_untied": ("Gemma3", {
        "vocab_size": 47, "num_hidden_layers": 3, "head_dim": 6, "rms_norm_eps": 1e-5, "query_pre_attn_scalar": 30,
        "sliding_window": 4, "layer_types": pattern(3, 2), "tie_word_embeddings": False, "hidden_size": 24,
        "rope_parameters": {"full_attention": default(900.0), "sliding_attention": default(20.0)}}, "1MB"),
    "qwen2_last_layers_local": ("Qwen2", {
        "vocab_size": 41, "num_hidden_layers": 3, "head_dim": 6, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1,
        "rope_parameters": default(100.0)}, "1MB"),
    "qwen3_all_local": ("Qwen3", {
        "vocab_size": 43, "num_hidden_layers": 2, "head_dim": 6, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0,
        "rope_parameters": default(100.0)}, "1MB"),
    "mistral_tied_local": ("Mistral", {
        "vocab_size": 59, "num_hidden_layers": 2, "head_dim": 10, "hidden_size": 18, "tie_word_embeddings": True,
        "rms_norm_eps": 1e-3, "sliding_window": 5, "rope_parameters": default(300.0)}, "1MB"),
    "mistral_untied": ("Mistral", {
        "vocab_size": 47, "num_hidden_layers": 2, "hidden_size": 36, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5, "sliding_window": None, "rope_parameters": default(1e4)}, "1MB"),
    "smollm3_tied_local": ("SmolLM3", {
        **NO_IDS, "vocab_size": 61, "num_hidden_layers": 4, "head_dim": 14, "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5, "no_rope_layers": [1, 0, 1, 0], "use_sliding_window": True, "sliding_window": 4,
        "rope_parameters": yarn(600.0, factor=4.0, original_max_position_embeddings=32, beta_fast=3.0, beta_slow=0.5,
                                attention_factor=0.9, truncate=False)}, "1MB"),
    "smollm3_untied": ("SmolLM3", {
        **NO_IDS, "vocab_size": 53, "num_hidden_layers": 3, "hidden_size": 36, "tie_word_embeddings": False,
        "rms_norm_eps": 3e-3, "no_rope_layer_interval": 3,
        "rope_parameters": yarn(100.0, factor=3.0, original_max_position_embeddings=40)}, "1MB"),
    "phi3_tied_longrope": ("Phi3", {
        **NO_IDS, "vocab_size": 47, "num_hidden_layers": 3, "hidden_size": 48, "tie_word_embeddings": True,
        "rms_norm_eps": 1e-3, "sliding_window": 5, "original_max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 700.0, "partial_rotary_factor": 0.75,
                            "short_factor": [1.0, 1.5, 2.25], "long_factor": [1.25, 4.0, 9.5]}}, "1MB"),
    "phi3_untied_sharded": ("Phi3", {
        **NO_IDS, "vocab_size": 53, "num_hidden_layers": 2, "head_dim": 10, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5, "sliding_window": None, "rope_parameters": default(50.0)}, "20KB"),
    "qwen3_moe_untied": ("Qwen3Moe", {
        "vocab_size": 53, "num_hidden_layers": 3, "head_dim": 6, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 9, "norm_topk_prob": True,
        "rope_parameters": default(500.0)}, "20KB"),
    "qwen3_moe_tied_local": ("Qwen3Moe", {
        "vocab_size": 59, "num_hidden_layers": 2, "head_dim": 10, "tie_word_embeddings": True, "rms_norm_eps": 1e-3,
        "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 5, "norm_topk_prob": False,
        "use_sliding_window": True, "sliding_window": 5, "rope_parameters": default(50.0)}, "1MB"),
    "olmo2_tied": ("Olmo2", {
        **NO_IDS, "vocab_size": 59, "num_hidden_layers": 2, "head_dim": 10, "hidden_size": 18,
        "tie_word_embeddings": True, "rms_norm_eps": 1e-3, "rope_parameters": default(300.0)}, "1MB"),
    "olmo2_untied": ("Olmo2", {
        **NO_IDS, "vocab_size": 47, "num_hidden_layers": 3, "hidden_size": 36, "num_key_value_heads": None,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_parameters": linear(80.0, 2.0)}, "20KB"),
    "olmo3_tied": ("Olmo3", {
        **NO_IDS, "vocab_size": 61, "num_hidden_layers": 5, "head_dim": 14, "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5, "sliding_window": 4, "rope_parameters": {
            "full_attention": yarn(700.0, factor=8.0, original_max_position_embeddings=16, beta_fast=4.0,
                                   attention_factor=1.2079441541679836),
            "sliding_attention": default(700.0)}}, "1MB"),
    "olmo3_untied": ("Olmo3", {
        **NO_IDS, "vocab_size": 53, "num_hidden_layers": 3, "hidden_size": 36, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-3, "sliding_window": 6, "layer_types": pattern(3, 2), "rope_parameters": {
            "full_attention": yarn(90.0, factor=4.0, original_max_position_embeddings=32, mscale=0.7,
                                   mscale_all_dim=0.3),
            "sliding_attention": default(90.0)}}, "1MB"),
    "qwen3_5_tied": ("Qwen3_5", {
        **NO_IDS, "vocab_size": 61, "num_hidden_layers": 6, "head_dim": 14, "tie_word_embeddings": True,
        "rms_norm_eps": 3e-2, "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
        "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 5, "linear_value_head_dim": 7,
        "linear_conv_kernel_dim": 3, "rope_parameters": {**default(300.0), "partial_rotary_factor": 0.43}}, "1MB"),
    "qwen3_5_untied_sharded": ("Qwen3_5", {
        **NO_IDS, "vocab_size": 53, "num_hidden_layers": 3, "head_dim": 10, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 3, "linear_num_value_heads": 3, "linear_key_head_dim": 8, "linear_value_head_dim": 6,
        "rope_parameters": {**default(50.0), "partial_rotary_factor": 0.6}}, "20KB"),
    "qwen3_5_untied_interval": ("Qwen3_5", {
        **NO_IDS, "vocab_size": 47, "num_hidden_layers": 2, "head_dim": 24, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6, "full_attention_interval": 2, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
        "linear_key_head_dim": 6, "linear_value_head_dim": 6, "linear_conv_kernel_dim": 5,
        "rope_parameters": default(1e4)}, "1MB"),
    "gemma4_tied": ("Gemma4", {
        **NO_IDS, "vocab_size": 61, "vocab_size_per_layer_input": 61, "num_hidden_layers": 8, "head_dim": 10,
        "global_head_dim": 14, "num_key_value_heads": 2, "num_kv_shared_layers": 4, "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 5, "layer_types": pattern(8, 2), "sliding_window": 5,
        "rms_norm_eps": 1e-3, "final_logit_softcapping": 6.0, "rope_parameters": {
            "full_attention": {**proportional(700.0, 0.3), "factor": 1.5}, "sliding_attention": default(50.0)}}, "1MB"),
    "gemma4_untied_sharded": ("Gemma4", {
        **NO_IDS, "vocab_size": 53, "num_hidden_layers": 6, "head_dim": 6, "global_head_dim": 10,
        "num_global_key_value_heads": 3, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0,
        "layer_types": pattern(6, 3), "sliding_window": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_parameters": {"full_attention": proportional(90.0, 0.5), "sliding_attention": default(20.0)}}, "20KB"),
    "gemma4_tied_shared": ("Gemma4", {
        **NO_IDS, "vocab_size": 47, "vocab_size_per_layer_input": 47, "num_hidden_layers": 5, "head_dim": 14,
        "global_head_dim": 10, "num_key_value_heads": 3, "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 3,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                        "full_attention"], "sliding_window": 6, "rms_norm_eps": 1e-4,
        "rope_parameters": {"full_attention": default(300.0), "sliding_attention": default(80.0)}}, "1MB"),
    "gemma4_unified_tied": ("Gemma4Unified", {
        **NO_IDS, "vocab_size": 59, "num_hidden_layers": 4, "head_dim": 10, "global_head_dim": 18,
        "num_global_key_value_heads": 1, "attention_k_eq_v": True, "layer_types": pattern(4, 2), "sliding_window": 5,
        "rms_norm_eps": 1e-3, "final_logit_softcapping": 9.0}, "1MB"),
    "gemma4_unified_untied": ("Gemma4Unified", {
        **NO_IDS, "vocab_size": 43, "num_hidden_layers": 3, "head_dim": 6, "global_head_dim": 6,
        "num_kv_shared_layers": 1, "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "sliding_window": 3, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}, "1MB"),
}
LENGTHS = (17, 1, 9, 16)
BEYOND = 8         # fewer tokens than the longest row


def make(name: str, family: str, settings: dict, largest_file: str, seed: int) -> None:
    """Write one folder: config.json, weights, and reference.npz (tokens, lengths, logits; rows padded on the right;
    with experts also the load-balancing loss over all tokens but padding; with LongRoPE also the logits where the
    original context is BEYOND tokens)."""
    torch.manual_seed(seed)
    text = f"{family}TextConfig" if family in ("Gemma3", "Gemma4", "Gemma4Unified", "Qwen3_5") else f"{family}Config"
    make_config = getattr(transformers, text)
    config = make_config(**{**COMMON, **settings}, attn_implementation="eager")
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    if "Moe" in family:
        model.set_experts_implementation("eager")      # torch's grouped products refuse odd sizes
    # Gemma 4 keeps the numbers that scale its layers as buffers.
    numbers = [(name, buffer) for name, buffer in model.named_buffers() if name.endswith("layer_scalar")]
    with torch.no_grad():
        for parameter_name, parameter in (*model.named_parameters(), *numbers):
            # Norms of Gemma and Qwen3.5 multiply by 1 + weight, but not those of delta nets.
            offset = family in ("Gemma3", "Qwen3_5") and "linear_attn" not in parameter_name
            middle = 0.0 if offset else 1.0
            if family.startswith("Gemma4") and parameter_name.endswith(("q_norm.weight", "k_norm.weight")):
                # Its scores are not divided by anything, and large ones multiply rounding errors.
                middle = 0.6
            if "norm" in parameter_name or parameter_name.endswith("layer_scalar"):
                parameter.uniform_(middle - 0.5, middle + 0.5)
            elif parameter_name.endswith("A_log"):
                parameter.uniform_(-4.0, 1.0)
            else:
                parameter.normal_(0.0, 0.5 if parameter_name.endswith("bias") else 0.3)
    lengths = torch.tensor(LENGTHS)
    mask = (torch.arange(max(LENGTHS))[None] < lengths[:, None]).long()
    tokens = torch.randint(0, config.vocab_size, mask.shape)
    more = {}
    if config.rope_parameters.get("rope_type") == "longrope":
        # The same weights where the longest row is beyond the original context.
        less = make_config(**{**COMMON, **settings, "original_max_position_embeddings": BEYOND},
                           attn_implementation="eager")
        other = getattr(transformers, f"{family}ForCausalLM")(less).float().eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            more["long_logits"] = other(tokens, attention_mask=mask).logits.numpy()
    with torch.no_grad():
        logits = model(tokens, attention_mask=mask).logits
        if "Moe" in family:
            more["balance_loss"] = model(tokens, attention_mask=mask, output_router_logits=True).aux_loss.numpy()
    model.save_pretrained(FOLDER / name, max_shard_size=largest_file)
    (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(FOLDER / name / "reference.npz", tokens=tokens.numpy().astype(np.int32),
                        lengths=lengths.numpy(), logits=logits.numpy(), **more)


if __name__ == "__main__":
    for seed, (case, arguments) in enumerate(CASES.items()):
        if case in (sys.argv[1:] or CASES):
            make(case, *arguments, seed=seed)
