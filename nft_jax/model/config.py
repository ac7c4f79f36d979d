"""The shape of a decoder, and how its passes are computed. Families differ in data: see `model.hf.families`."""
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jax.sharding import Mesh

from nft_jax.config import Remat

Attention = Literal["xla", "cudnn", "splash"]


# How rotary positions are stretched beyond the lengths of pretraining. Fields are named as in config.json.


@dataclass(frozen=True)
class LinearRope:
    """Divides every frequency by `factor` (Chen et al., arXiv 2306.15595)."""
    factor: float


@dataclass(frozen=True)
class Llama3Rope:
    """Divides the frequencies that turn less than `low_freq_factor` times in the original context by `factor`, keeps
    those that turn more than `high_freq_factor` times, and blends in between (Llama 3.1; `ROPE_INIT_FUNCTIONS` of
    transformers)."""
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class YarnRope:
    """YaRN (Peng et al., arXiv 2309.00071; `ROPE_INIT_FUNCTIONS` of transformers): keeps the frequencies that turn more
    than `beta_fast` times in the original context, divides by `factor` those that turn less than `beta_slow` times,
    and blends in between, linearly in the frequency's number. Queries and keys grow by `attention_factor`."""
    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None      # None: follows from `factor`, and from both mscale where they are set
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True                      # the ends of the blend are whole numbers of frequencies


@dataclass(frozen=True)
class LongRope:
    """LongRoPE (Ding et al., arXiv 2402.13753) of sequences within the original context: each frequency is divided by
    its own number, and queries and keys grow by `attention_factor`. The numbers of longer sequences are not
    implemented: transformers changes to them for a whole batch, by its longest row."""
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]             # of longer sequences; kept for the files alone
    original_max_position_embeddings: int
    max_position_embeddings: int               # with the long factors
    attention_factor: float | None = None      # None: follows from both lengths


RopeScaling = LinearRope | Llama3Rope | YarnRope | LongRope


class LayerKind(NamedTuple):
    """What sets a layer apart from the others. `local` and `rotated` are bools, or [] bool in a scan over layers that
    differ in them."""
    local: bool            # it sees a window
    rotated: bool          # its queries and keys have rotary positions
    delta: bool = False    # it has a delta net in place of attention, and so other arrays: always a bool


@dataclass(frozen=True)
class ModelConfig:
    """A decoder with RMSNorm, rotary positions, grouped-query attention and a gated MLP; defaults as Llama."""
    family: str                        # a key of `families.FAMILIES`
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
    qk_norm: bool = False              # a norm of each head's query and key (Qwen3, Gemma 3)
    qk_norm_all_heads: bool = False    # one norm over the queries of all heads, and one over all keys (OLMo 2)
    initializer_range: float = 0.02
    rope_scaling: RopeScaling | None = None
    partial_rotary_factor: float = 1.0         # share of a head's numbers that rotate, the first ones (Phi-4-mini)
    fused_projections: bool = False    # query, key, value are one matrix in the files, gate and up another (Phi-3)
    local_layers: tuple[int, ...] = ()     # a token of these layers sees itself and the `window` - 1 tokens before it
    window: int = 0                        # 0 when no layer is local
    unrotated_layers: tuple[int, ...] = () # without rotary positions (SmolLM3)
    local_rope_theta: float | None = None  # of the local layers, unscaled; None: they rotate like the others
    activation: Literal["silu", "gelu_tanh"] = "silu"
    norm_offset: float = 0.0           # added to every norm's weight; 1 for Gemma
    norms_before: bool = True          # a norm before attention, and one before the MLP; not in OLMo 2
    norms_after: bool = False          # a norm after attention and one after the MLP, before the sum (Gemma 3, OLMo 2)
    scale_embeddings: bool = False     # times sqrt(hidden_size) (Gemma 3)
    query_pre_attn_scalar: int | None = None       # scores are divided by its root; None: head_dim
    final_softcap: float = 0.0         # logits become cap * tanh(logits / cap); 0 is off
    num_experts: int = 0               # MLPs of every layer, of which a token passes a few; 0: one MLP for all tokens
    experts_per_token: int = 0
    expert_size: int = 0               # feed-forward size of one expert; `intermediate_size` is then not used
    norm_topk_prob: bool = False       # the probabilities of a token's experts are divided by their sum
    output_gate: bool = False          # a sigmoid of the token scales the output of attention (Qwen3.5)
    delta_layers: tuple[int, ...] = () # with a delta net (`model.delta`) in place of attention (Qwen3.5)
    delta_key_heads: int = 0           # of their queries and keys
    delta_value_heads: int = 0         # a multiple of them
    delta_key_dim: int = 0
    delta_value_dim: int = 0
    delta_conv: int = 0                # tokens that their convolutions see, the token itself included

    @property
    def queries_per_kv(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """Of each layer."""
        delta = set(self.delta_layers)
        return tuple(LayerKind(layer in self.local_layers, layer not in self.unrotated_layers, layer in delta)
                     for layer in range(self.num_layers))

    @property
    def attention_layers(self) -> tuple[int, ...]:
        return tuple(layer for layer, kind in enumerate(self.kinds) if not kind.delta)

    @property
    def period(self) -> int:
        """After so many layers, delta nets and attention stand in the same order again; 1 where all layers are
        alike in this."""
        order = [kind.delta for kind in self.kinds]
        return next(size for size in range(1, self.num_layers + 1)
                    if self.num_layers % size == 0 and order == order[:size] * (self.num_layers // size))

    @property
    def query_size(self) -> int:
        """Numbers that the query's matrix makes for a head: its query, and the gate of its output."""
        return self.head_dim * (2 if self.output_gate else 1)

    @property
    def rotary_dim(self) -> int:
        """Numbers of a head that rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def attention_scale(self) -> float:
        return (self.head_dim if self.query_pre_attn_scalar is None else self.query_pre_attn_scalar) ** -0.5


@dataclass(frozen=True)
class Compute:
    """How a pass is computed, whatever the model: static under jit, and without effect beyond rounding."""
    dtype: Literal["float32", "bfloat16"] = "float32"     # activations and matrix products
    remat: Remat = "none"                                 # what is kept for the backward pass: see `decoder.KEPT`
    attention: Attention = "xla"                          # of whole sequences: see `kernels.choose_attention`
    mesh: Mesh | None = None                              # places of the arrays; None: one device, or left to XLA


FLOAT32 = Compute()
