"""Shapes of published models: of every model that a preset names, and of each family.

With them a run can be planned (`--dry-run`, preflight) where the hub cannot be reached. They are
copied from each model's config.json on the Hugging Face hub. Weights are never assumed.
"""
from __future__ import annotations

from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.families import config_from_hf


def _qwen2_5(hidden, intermediate, layers, heads, kv_heads, *, vocab=151_936, positions=32_768, theta=1e6, eps=1e-6,
             tied=False) -> ModelConfig:
    return ModelConfig("qwen2", vocab, hidden, intermediate, layers, heads, kv_heads, hidden // heads, positions,
                       rope_theta=theta, norm_eps=eps, tie_embeddings=tied, qkv_bias=True)


def _qwen3(hidden, intermediate, layers, heads, *, tied=False) -> ModelConfig:
    return ModelConfig("qwen3", 151_936, hidden, intermediate, layers, heads, 8, 128, 40_960, rope_theta=1e6,
                       tie_embeddings=tied, qk_norm=True)


def _mistral(hidden, intermediate, layers, *, vocab, positions, theta) -> ModelConfig:
    return config_from_hf({
        "model_type": "mistral", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-5, "rope_theta": theta, "sliding_window": None,
        "tie_word_embeddings": False})


def _qwen3_moe(hidden, layers, heads, expert, *, intermediate, positions=40_960) -> ModelConfig:
    return config_from_hf({
        "model_type": "qwen3_moe", "vocab_size": 151_936, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": 4, "head_dim": 128,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": expert, "norm_topk_prob": True, "tie_word_embeddings": False,
        "use_sliding_window": False, "max_window_layers": layers})


PUBLISHED: dict[str, ModelConfig] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen2_5(896, 4864, 24, 14, 2, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen2_5(1536, 8960, 28, 12, 2, tied=True),
    "Qwen/Qwen2.5-3B-Instruct": _qwen2_5(2048, 11_008, 36, 16, 2, tied=True),
    "Qwen/Qwen2.5-Math-1.5B": _qwen2_5(1536, 8960, 28, 12, 2, positions=4096, theta=1e4, tied=True),
    "Qwen/Qwen2.5-Math-7B": _qwen2_5(3584, 18_944, 28, 28, 4, vocab=152_064, positions=4096, theta=1e4),
    "Qwen/Qwen2.5-32B": _qwen2_5(5120, 27_648, 64, 40, 8, vocab=152_064, positions=131_072, eps=1e-5),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12_288, 36, 32),
    "Qwen/Qwen3-14B": _qwen3(5120, 17_408, 40, 40),
    "Qwen/Qwen3-32B": _qwen3(5120, 25_600, 64, 64),
    "Qwen/Qwen3-30B-A3B": _qwen3_moe(2048, 48, 32, 768, intermediate=6144),
    "Qwen/Qwen3-30B-A3B-Base": _qwen3_moe(2048, 48, 32, 768, intermediate=6144, positions=32_768),
    "Qwen/Qwen3-235B-A22B": _qwen3_moe(4096, 94, 64, 1536, intermediate=12_288),
    "mistralai/Mistral-7B-Instruct-v0.3": _mistral(4096, 14_336, 32, vocab=32_768, positions=32_768, theta=1e6),
    "mistralai/Mistral-Nemo-Instruct-2407": _mistral(5120, 14_336, 40, vocab=131_072, positions=131_072, theta=1e6),
    "mistralai/Mistral-Small-24B-Instruct-2501": _mistral(5120, 32_768, 40, vocab=131_072, positions=32_768, theta=1e8),
    "HuggingFaceTB/SmolLM3-3B": config_from_hf({
        "model_type": "smollm3", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 11_008,
        "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4,
        "max_position_embeddings": 65_536, "rope_theta": 5e6, "no_rope_layer_interval": 4}),
}
