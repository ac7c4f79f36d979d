"""Shape of a decoder. Families differ in data, not in code (`nft_jax.model.families` maps config.json)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nft_jax.config import Remat

if TYPE_CHECKING:
    from jax.sharding import Mesh


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


@dataclass(frozen=True)
class Compute:
    """How a forward or backward pass is computed, whatever the model. None of it changes what is computed, beyond
    rounding; all of it is static under jit."""
    dtype: Literal["float32", "bfloat16"] = "float32"     # activations and matrix products
    remat: Remat = "none"                                 # what the backward pass computes again (`hidden_states`)
    attention: Literal["xla"] = "xla"                     # kernel for whole sequences
    mesh: Mesh | None = None                              # where the arrays lie; None: one device, or left to XLA


FLOAT32 = Compute()
