"""The shape of a decoder, and how its passes are computed. Families differ in data: see `model.hf.families`."""
from dataclasses import dataclass, replace
from functools import cached_property
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
    """LongRoPE (Ding et al., arXiv 2402.13753): each frequency is divided by its own number, and queries and keys grow
    by `attention_factor`. `ModelConfig.for_lengths` chooses between the two lists of numbers."""
    short_factor: tuple[float, ...]            # of models for sequences within the original context
    long_factor: tuple[float, ...]             # of models for longer ones
    original_max_position_embeddings: int
    max_position_embeddings: int               # with the long factors
    attention_factor: float | None = None      # None: follows from both lengths


@dataclass(frozen=True)
class ProportionalRope:
    """Rotates the pairs of a head with the largest frequencies, a share `partial_rotary_factor` of them, and leaves the
    others as they are. Divides every frequency by `factor` (Gemma 4; `ROPE_INIT_FUNCTIONS` of transformers)."""
    partial_rotary_factor: float = 1.0
    factor: float = 1.0


RopeScaling = LinearRope | Llama3Rope | YarnRope | LongRope | ProportionalRope


class LayerKind(NamedTuple):
    """What sets a layer apart from the others. `local` and `rotated` are bools, or [] bool in a scan over layers that
    differ in them. Layers that differ in the other fields, which are always bools, have arrays of their own."""
    local: bool            # it sees a window
    rotated: bool          # its queries and keys have rotary positions
    delta: bool = False    # it has a delta net in place of attention
    wide: bool = False     # its heads have the sizes `wide_head_dim` and `wide_kv_heads`
    shared: bool = False   # it attends to the keys and values of an earlier layer

    @property
    def form(self) -> "LayerKind":
        """Of all layers with the same arrays."""
        return self._replace(local=False, rotated=True)


class Stage(NamedTuple):
    """Layers that follow each other and stack their arrays together."""
    first: int
    count: int
    period: int            # after so many layers their forms come in the same order again


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
    max_positions: int                 # tokens of the longest sequence; of LongRope see `for_lengths`
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
    # The rest is Gemma 4's.
    value_norm: bool = False           # every head's value is divided by its root mean square
    wide_head_dim: int = 0             # of the layers that are not local; 0: all heads have one size
    wide_kv_heads: int = 0             # of the same layers
    keys_are_values: bool = False      # in the same layers, one matrix makes both
    shared_layers: int = 0             # the last layers attend to the keys and values of the last layer before them
                                       # that is local, or is not, as they are
    double_shared_mlp: bool = False    # the MLP of these layers has twice the feed-forward size
    layer_input_size: int = 0          # numbers that every layer has for each token of the vocabulary; 0: none
    layer_scale: bool = False          # a number that is not trained scales the output of each layer

    def for_lengths(self, longest: int) -> "ModelConfig":
        """The model for sequences of up to `longest` tokens: with LongRope, and more of them than its original context,
        another function of every sequence. All other models stay as they are.

        The longest sequence allowed decides, as in vLLM. transformers decides in every pass, by the longest row of the
        batch: a long answer's first tokens would then have been sampled by another function than it is trained on."""
        scaling = self.rope_scaling
        if isinstance(scaling, LongRope) and longest > scaling.original_max_position_embeddings:
            return replace(self, max_positions=scaling.max_position_embeddings)
        return self

    @property
    def stretches(self) -> bool:
        """Whether LongRope's long factors hold."""
        scaling = self.rope_scaling
        return isinstance(scaling, LongRope) and self.max_positions > scaling.original_max_position_embeddings

    @property
    def queries_per_kv(self) -> int:
        return self.num_heads // self.num_kv_heads

    @cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        """Of each layer."""
        delta, local = set(self.delta_layers), set(self.local_layers)
        return tuple(LayerKind(layer in local, layer not in self.unrotated_layers, layer in delta,
                               self.wide_head_dim > 0 and layer not in local,
                               layer >= self.num_layers - self.shared_layers)
                     for layer in range(self.num_layers))

    @property
    def attention_layers(self) -> tuple[int, ...]:
        return tuple(layer for layer, kind in enumerate(self.kinds) if not kind.delta)

    @property
    def cached_layers(self) -> tuple[int, ...]:
        """The layers with attention that have keys and values of their own."""
        return tuple(layer for layer in self.attention_layers if layer < self.num_layers - self.shared_layers)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All layers, and of a model with `shared_layers` first the others and then these."""
        forms, found = [kind.form for kind in self.kinds], []
        for first, count in ((0, self.num_layers - self.shared_layers),
                             (self.num_layers - self.shared_layers, self.shared_layers)):
            order = forms[first:first + count]
            found += [Stage(first, count, size) for size in range(1, count + 1)
                      if count % size == 0 and order == order[:size] * (count // size)][:1]
        return tuple(found)

    def heads_of(self, kind: LayerKind) -> tuple[int, int]:
        """(kv heads, head size) of a layer with attention."""
        return (self.wide_kv_heads, self.wide_head_dim) if kind.wide else (self.num_kv_heads, self.head_dim)

    @property
    def shared_feed_size(self) -> int:
        """Feed-forward size of the layers that share keys and values."""
        return self.intermediate_size * (2 if self.double_shared_mlp else 1)

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
    attention: Attention = "xla"                          # kernels: see `kernels.choose_attention`
    mesh: Mesh | None = None                              # places of the arrays; None: one device, or left to XLA


FLOAT32 = Compute()
