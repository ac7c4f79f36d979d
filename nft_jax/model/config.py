"""Shape of a decoder. Families differ in data, not in code (`nft_jax.model.families` maps config.json)."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of the Qwen kind: RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU."""
    family: str                        # "qwen2" or "qwen3"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int                 # tokens of the longest sequence the model was made for
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    qkv_bias: bool = False             # Qwen2
    qk_norm: bool = False              # Qwen3
    initializer_range: float = 0.02

    @property
    def queries_per_kv(self) -> int:
        return self.num_heads // self.num_kv_heads
