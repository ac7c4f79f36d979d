"""Shapes of published models: of every model that a preset names, and of each family.

With them a run can be planned (`--dry-run`, preflight) where the hub cannot be reached. They are
copied from each model's config.json on the Hugging Face hub. Weights are never assumed.
"""
from __future__ import annotations

from nft_jax.model.config import ModelConfig
from nft_jax.model.hf.translate import config_from_hf


def _qwen2_5(hidden, intermediate, layers, heads, kv_heads, *, vocab=151_936, positions=32_768, theta=1e6, eps=1e-6,
             tied=False) -> ModelConfig:
    return ModelConfig("qwen2", vocab, hidden, intermediate, layers, heads, kv_heads, hidden // heads, positions,
                       rope_theta=theta, norm_eps=eps, tie_embeddings=tied, qkv_bias=True)


def _qwen3(hidden, intermediate, layers, heads, *, tied=False) -> ModelConfig:
    return ModelConfig("qwen3", 151_936, hidden, intermediate, layers, heads, 8, 128, 40_960, rope_theta=1e6,
                       tie_embeddings=tied, qk_norm=True)


# https://huggingface.co/meta-llama
def _llama3(hidden, intermediate, layers, heads, *, head_dim=128, factor=32.0, tied=True) -> ModelConfig:
    return config_from_hf({
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": head_dim,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": tied,
        "rope_scaling": {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192}})


# https://huggingface.co/google. Models of 4B and more also have an image encoder.
def _gemma3(hidden, intermediate, layers) -> ModelConfig:
    return config_from_hf({
        "model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 32_768, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "rope_local_base_freq": 1e4, "sliding_window": 512, "sliding_window_pattern": 6})


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


# https://huggingface.co/Qwen. The text part: the checkpoints also have an image encoder and a head for two tokens.
def _qwen3_5(hidden, intermediate, layers, heads, kv_heads, value_heads, *, tied) -> ModelConfig:
    return config_from_hf({
        "model_type": "qwen3_5_text", "vocab_size": 248_320, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 256,
        "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6, "tie_word_embeddings": tied, "hidden_act": "silu",
        "attn_output_gate": True, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads, "mamba_ssm_dtype": "float32", "mlp_only_layers": [],
        "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "rope_parameters": {
            "mrope_interleaved": True, "mrope_section": [11, 11, 10], "rope_type": "default", "rope_theta": 1e7,
            "partial_rotary_factor": 0.25}})


# https://huggingface.co/google. The text part: the checkpoints also have encoders of images, and of sounds.
def _gemma4(hidden, layers, heads, kv_heads, *, every=6, shared=0, double=False, inputs=0, far_kv_heads=None,
            positions=131_072, window=512, family="gemma4_text") -> ModelConfig:
    return config_from_hf({
        "model_type": family, "vocab_size": 262_144, "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 256,
        "global_head_dim": 512, "num_global_key_value_heads": far_kv_heads,
        "attention_k_eq_v": far_kv_heads is not None, "max_position_embeddings": positions, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True, "num_kv_shared_layers": shared, "use_double_wide_mlp": double,
        "hidden_size_per_layer_input": inputs, "vocab_size_per_layer_input": 262_144, "final_logit_softcapping": 30.0,
        "sliding_window": window, "use_bidirectional_attention": "vision" if positions > 131_072 else None,
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)]})


# https://huggingface.co/allenai. Olmo 3 extends 8,192 tokens to 65,536 in its full layers.
def _olmo2(hidden, intermediate, layers, heads, kv_heads=None) -> ModelConfig:
    return config_from_hf({
        "model_type": "olmo2", "vocab_size": 100_352, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 500_000.0})


def _olmo3(hidden, intermediate, layers, heads, kv_heads=None) -> ModelConfig:
    return config_from_hf({
        "model_type": "olmo3", "vocab_size": 100_278, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 65_536, "rms_norm_eps": 1e-6, "sliding_window": 4096, "rope_theta": 500_000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192,
                         "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2079441541679836}})


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
    "Qwen/Qwen3.5-0.8B": _qwen3_5(1024, 3584, 24, 8, 2, 16, tied=True),
    "Qwen/Qwen3.5-2B": _qwen3_5(2048, 6144, 24, 8, 2, 16, tied=True),
    "Qwen/Qwen3.5-4B": _qwen3_5(2560, 9216, 32, 16, 4, 32, tied=True),
    "Qwen/Qwen3.5-9B": _qwen3_5(4096, 12_288, 32, 16, 4, 32, tied=False),
    "Qwen/Qwen3.5-27B": _qwen3_5(5120, 17_408, 64, 24, 4, 48, tied=False),
    "google/gemma-3-270m": _gemma3(640, 2048, 18),
    "google/gemma-3-1b-it": _gemma3(1152, 6912, 26),
    "google/gemma-4-E2B": _gemma4(1536, 35, 8, 1, every=5, shared=20, double=True, inputs=256),
    "google/gemma-4-E4B": _gemma4(2560, 42, 8, 2, shared=18, inputs=256),
    "google/gemma-4-12B": _gemma4(3840, 48, 16, 8, far_kv_heads=1, positions=262_144, window=1024,
                                  family="gemma4_unified_text"),
    "google/gemma-4-31B": _gemma4(5376, 60, 32, 16, far_kv_heads=4, positions=262_144, window=1024),
    "meta-llama/Llama-3.2-1B": _llama3(2048, 8192, 16, 32, head_dim=64),
    "meta-llama/Llama-3.2-3B": _llama3(3072, 8192, 28, 24),
    "meta-llama/Llama-3.1-8B": _llama3(4096, 14_336, 32, 32, factor=8.0, tied=False),
    "mistralai/Mistral-7B-Instruct-v0.3": _mistral(4096, 14_336, 32, vocab=32_768, positions=32_768, theta=1e6),
    "mistralai/Mistral-Nemo-Instruct-2407": _mistral(5120, 14_336, 40, vocab=131_072, positions=131_072, theta=1e6),
    "mistralai/Mistral-Small-24B-Instruct-2501": _mistral(5120, 32_768, 40, vocab=131_072, positions=32_768, theta=1e8),
    "HuggingFaceTB/SmolLM3-3B": config_from_hf({
        "model_type": "smollm3", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 11_008,
        "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4,
        "max_position_embeddings": 65_536, "rope_theta": 5e6, "no_rope_layer_interval": 4}),
    "allenai/OLMo-2-0425-1B": _olmo2(2048, 8192, 16, 16),
    "allenai/OLMo-2-1124-7B": _olmo2(4096, 11_008, 32, 32),
    "allenai/OLMo-2-1124-13B": _olmo2(5120, 13_824, 40, 40),
    "allenai/OLMo-2-0325-32B": _olmo2(5120, 27_648, 64, 40, 8),
    "allenai/Olmo-3-1025-7B": _olmo3(4096, 11_008, 32, 32),
    "allenai/Olmo-3-1125-32B": _olmo3(5120, 27_648, 64, 40, 8),
    "microsoft/phi-4": config_from_hf({
        "model_type": "phi3", "vocab_size": 100_352, "hidden_size": 5120, "intermediate_size": 17_920,
        "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 10,
        "max_position_embeddings": 16_384, "rope_theta": 250_000.0}),
    "microsoft/Phi-4-mini-instruct": config_from_hf({
        "model_type": "phi3", "vocab_size": 200_064, "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8, "tie_word_embeddings": True,
        "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "sliding_window": 262_144,
        "partial_rotary_factor": 0.75, "rope_theta": 10_000.0, "rope_scaling": {
            "type": "longrope", "short_factor": [1.0] * 48, "long_factor": [
                1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649,
                2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533,
                5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651,
                14.64173252, 16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03,
                32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16,
                47.77]}}),
}
