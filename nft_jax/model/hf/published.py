"""Shapes of the published models that our presets name.

With them a run can be planned (`--dry-run`, preflight) where the hub cannot be reached. They are
copied from each model's config.json on the Hugging Face hub. Weights are never assumed.
"""
from __future__ import annotations

from nft_jax.model.config import ModelConfig


def _qwen2_5(hidden, intermediate, layers, heads, kv_heads, *, vocab=151_936, positions=32_768, theta=1e6, eps=1e-6,
             tied=False) -> ModelConfig:
    return ModelConfig("qwen2", vocab, hidden, intermediate, layers, heads, kv_heads, hidden // heads, positions,
                       rope_theta=theta, norm_eps=eps, tie_embeddings=tied, qkv_bias=True)


PUBLISHED: dict[str, ModelConfig] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen2_5(896, 4864, 24, 14, 2, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen2_5(1536, 8960, 28, 12, 2, tied=True),
    "Qwen/Qwen2.5-Math-1.5B": _qwen2_5(1536, 8960, 28, 12, 2, positions=4096, theta=1e4, tied=True),
    "Qwen/Qwen2.5-Math-7B": _qwen2_5(3584, 18_944, 28, 28, 4, vocab=152_064, positions=4096, theta=1e4),
    "Qwen/Qwen2.5-32B": _qwen2_5(5120, 27_648, 64, 40, 8, vocab=152_064, positions=131_072, eps=1e-5),
}
