"""Settings of the updates: the model, the loss and its terms, batches, the optimizer, the device mesh."""
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from nft_jax.config.checks import Checked, require

PromptWeight = Literal["1", "1-r", "sqrt", "maxrl"]
Ratio = Literal["token", "sequence", "sequence_mean"]
LossAgg = Literal["token_mean", "seq_mean_token_mean", "constant"]
Remat = Literal["none", "attention", "block", "offload"]
# Names for several projections, for adapter.targets.
TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("query", "key", "value", "out"),
    "mlp": ("gate", "up", "down"),
    "all": ("query", "key", "value", "out", "gate", "up", "down"),
    "delta": ("delta_query", "delta_key", "delta_value", "delta_gate", "delta_write", "delta_forget", "delta_out"),
    "inputs": ("layer_projection", "input_gate", "input_projection"),
}
PROJECTIONS = TARGETS["all"] + TARGETS["delta"] + TARGETS["inputs"]


@dataclass(frozen=True)
class PolicyConfig:
    """The model to train."""
    path: str = "nano"
    """Folder in Hugging Face layout (config.json, *.safetensors, tokenizer files), the name of a hub
    model, or nano: the model that comes with the package. (A folder of that name is ./nano.) Empty: to be
    given."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products. Parameters, logits, log-probs and reductions are float32."""
    remat: Remat = "none"
    """What the backward pass recomputes, from most memory to least. none: only the cheap work between
    the products with weights. attention: every decoder block, except for the results of its attention.
    block: every block (a third more compute). offload: as block, with the inputs of the blocks kept in
    the host's memory."""
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """Attention of whole sequences: splash (a TPU kernel), cudnn (an NVIDIA kernel, bfloat16), or xla
    (runs anywhere, and keeps the scores of a layer in memory). With splash, kernels also write and read
    the keys and values of a decode step. auto: the kernel of the platform, where it can run; the choice
    is printed."""


@dataclass(frozen=True)
class AdapterConfig(Checked, prefix="adapter."):
    """LoRA (Hu et al., arXiv 2106.09685): the model stays as it is, and small matrices beside it are trained.

    A projection W becomes W + scale * A B; A is random at the start, and B is zero."""
    rank: int = 0
    """Columns of A and rows of B; 0 = off, all parameters are trained."""
    alpha: float = 32.0
    """The scale is alpha / rank."""
    targets: tuple[str, ...] = ("all",)
    """Projections with an adapter: attention, mlp, delta (of delta nets), inputs (of Gemma 4's layers), all, or any of
    query, key, value, out, gate, up, down, delta_query, delta_key, delta_value, delta_gate, delta_write, delta_forget,
    delta_out, layer_projection, input_gate, input_projection."""
    rslora: bool = False
    """The scale is alpha / sqrt(rank) instead, which suits large ranks (rsLoRA, arXiv 2312.03732)."""
    path: str = ""
    """Folder of an adapter to go on from (of PEFT, or a run's model/), with its rank, alpha and targets. Its folder as
    policy.path sets it, and the model that it names as policy.path."""
    base_dtype: Literal["compute", "int8"] = "compute"
    """How the frozen projections are kept: in policy.compute_dtype, or in int8 with a scale for each output
    (half the memory of bfloat16, as in QLoRA; the answers are those of the rounded model)."""

    def __post_init__(self):
        self.require_least(0, "rank")
        self.require(0 < self.alpha < math.inf, "alpha", "use a positive number.")
        self.require(len(self.targets) > 0 and set(self.targets) <= {*TARGETS, *PROJECTIONS}, "targets",
                     f"no projection has such a name; use any of {', '.join([*TARGETS, *PROJECTIONS])}.")
        # The folder of `path` has the rank, alpha and targets.
        free = ("path", "base_dtype") if self.path else ()
        for each in fields(self):
            self.require(self.rank > 0 or each.name in free or getattr(self, each.name) == each.default, each.name,
                         "there is no adapter with adapter.rank 0; set adapter.rank (8 to 64 is usual), or leave "
                         f"it at {each.default!r}.")

    @property
    def projections(self) -> tuple[str, ...]:
        """The projections that `targets` names, in the order of the layer. In a model with delta nets or inputs of the
        layers, "all" means theirs too (`model.adapter.projections_of`)."""
        meant = {name for target in self.targets for name in TARGETS.get(target, (target,))}
        return tuple(name for name in PROJECTIONS if name in meant)

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def flags(self) -> str:
        """The flags that ask for an adapter with these arrays."""
        parts = [f"--adapter.rank {self.rank} --adapter.alpha {self.alpha:g}",
                 f"--adapter.targets {' '.join(self.targets)}"]
        return " ".join([*parts, "--adapter.rslora"] if self.rslora else parts)

    def differs(self, other: "AdapterConfig") -> list[str]:
        """The fields in which the two say another adapter: other arrays, or another meaning of theirs."""
        pairs = {"rank": (self.rank, other.rank), "targets": (self.projections, other.projections),
                 "alpha": (self.alpha, other.alpha), "rslora": (self.rslora, other.rslora)}
        return [name for name, (mine, theirs) in pairs.items() if mine != theirs]


Setting = bool | int | float | str


class Own(Mapping):
    """Settings of an objective of one's own: name -> value, never changed. As flags they are `--objective.NAME`."""

    # Without annotations, tyro makes no flags of it.
    def __init__(self, settings=()):
        self._settings = dict(settings)

    def __getitem__(self, name: str) -> Setting:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __hash__(self) -> int:
        return hash(frozenset(self._settings.items()))

    def __repr__(self) -> str:
        return repr(self._settings)


@dataclass(frozen=True)
class ObjectiveConfig(Checked, prefix="loss."):
    """Parameters of the token loss. None = the objective's own default (see `nft_jax.objectives.registry`)."""
    epsilon: float = 1.0
    """NFT: lower clamp of the implicit negative policy's ratio (paper Eq. 10)."""
    prompt_weight: PromptWeight | None = None
    """omega(q), from the group accuracy r: 1, 1-r, sqrt((1-r)/r) or (1-r)/r ("maxrl")."""
    pos_weight: float = 1.0
    """Weight of right answers; 0 trains on negatives only."""
    neg_weight: float | None = None
    """Weight of wrong answers; 0 is rejection-sampling fine-tuning."""
    ratio: Ratio = "token"
    """NFT, RFT: importance ratio of each token, of the whole answer, or (sequence_mean, as in GSPO) the
    geometric mean of an answer's token ratios."""
    clip_low: float | None = None
    """Policy gradients, nft_clip: the ratio is clipped below 1 - clip_low."""
    clip_high: float | None = None
    """Policy gradients, nft_clip: the ratio is clipped above 1 + clip_high."""
    std_ddof: Literal[0, 1] = 0
    """GRPO, DAPO, CISPO, GSPO, SAPO: degrees of freedom of the group's standard deviation (1 as in verl
    and TRL)."""
    beta: float = 0.1
    """DPO: scale of the implicit reward beta * log(pi / pi_old) of an answer."""
    nll_weight: float = 0.0
    """DPO: weight of the log-likelihood of right answers beside the preference loss."""
    tau_positive: float = 1.0
    """SAPO: steepness of the gate on the ratio where the advantage is positive."""
    tau_negative: float = 1.05
    """SAPO: the same where it is negative; larger fades faster away from ratio 1."""
    psr_weight: float = 0.1
    """w_reinforce: weight of right answers beside wrong ones."""
    all_wrong: float = 0.0
    """Weight of the groups in which every answer is wrong, trained beside the others, at most as many. Each answer is
    weighed by its confidence (LENS, arXiv 2510.08696, whose weight is 0.25 / rollout.samples_per_prompt here). 0 =
    left out, as in the paper."""
    overlong_buffer: int = 0
    """DAPO's soft penalty: the reward falls by up to 1 over the last tokens before max_new_tokens. 0 = off."""
    loss_agg: LossAgg | None = None
    """Reduction: mean over tokens, mean over sequences of their token means, or sum / constant_length."""
    constant_length: float = 1000.0
    """Denominator of loss_agg "constant": 1000 in Dr. GRPO. The official NFT code divides by 1000 and averages over
    its data-parallel ranks, which is 1000 times their number here."""
    own: Own = Own()  # noqa: RUF009 (never changed)
    """Settings of an objective of your own, a mapping. As flags: --objective.NAME VALUE."""

    def __post_init__(self):
        object.__setattr__(self, "own", Own(self.own))
        self.require(0 < self.epsilon < math.inf, "epsilon",
                     "the clamp of the negative ratio must be positive; the paper uses 1 and tries 0.1 to 4.")
        for name in ("beta", "tau_positive", "tau_negative", "constant_length"):
            self.require(0 < getattr(self, name) < math.inf, name, "use a positive number.")
        for name in ("pos_weight", "neg_weight", "nll_weight", "psr_weight", "all_wrong"):
            self.require(getattr(self, name) is None or 0 <= getattr(self, name) < math.inf, name, "use 0 or more.")
        # An infinite bound is no bound.
        for name in ("clip_low", "clip_high"):
            self.require(getattr(self, name) is None or getattr(self, name) >= 0, name, "use 0 or more.")
        self.require_least(0, "overlong_buffer")


@dataclass(frozen=True)
class TermsConfig(Checked, prefix="terms."):
    """Terms for any objective, off by default (formulas: `nft_jax.objectives.terms`). Like the token loss, they
    are reduced over the tokens as loss.loss_agg says."""
    kl_weight: float = 0.0
    """Adds this times an estimate of KL(policy || reference) to the loss; 0 = off, no reference is loaded."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k2"
    """The estimate of a token's KL divergence that is the loss. k2 has the gradient of KL(policy ||
    reference). k3, GRPO's, has the gradient of KL(reference || policy). The gradient of k1 is noise of
    mean zero (for comparison)."""
    kl_ratio: bool = False
    """Multiplies the estimate by the token's ratio pi / pi_old, as TRL's use_bias_correction_kl does. With k3, the
    gradient is then of KL(policy || reference), for tokens of an older policy too."""
    reference: str = ""
    """Folder or hub name of the reference, a model of the policy's architecture and vocabulary; empty =
    policy.path, the model that the run started from."""
    entropy_weight: float = 0.0
    """Subtracts this times the entropy (nats) of the policy at every trained token from the loss; 0 = off."""
    balance_weight: float = 0.0
    """Adds this times the load-balancing loss of the experts to the loss of an update, whatever loss.loss_agg; 0 =
    off. It counts all tokens of the update, prompts included, which costs a forward pass more. Qwen3-MoE was
    pretrained with 0.001."""
    mismatch: Literal["off", "token", "sequence"] = "off"
    """Multiplies the loss of every token by min(trainer's probability / sampler's probability,
    mismatch_cap), of the token or of its whole answer. This corrects for a sampler with other log-probs
    than the trainer's (rollout.kv_dtype int8, bfloat16). Needs rollout.old_logprobs trainer."""
    mismatch_cap: float = 2.0
    """The largest weight of terms.mismatch."""
    mask_truncated: bool = False
    """Leave answers cut at rollout.max_new_tokens out of the loss and its denominators (DAPO's overlong
    filtering). They still count in the group accuracy."""

    def __post_init__(self):
        for name in ("kl_weight", "entropy_weight", "balance_weight"):
            self.require(0 <= getattr(self, name) < math.inf, name, "use 0 (off) or more.")
        self.require(self.mismatch_cap >= 1, "mismatch_cap",
                     "a cap below 1 scales tokens on which sampler and trainer agree; use 1 or more (2 is usual).")


@dataclass(frozen=True)
class BatchConfig(Checked, prefix="batch."):
    """How the groups of a step become optimizer updates and packed rows."""
    updates_per_step: int = 16
    """Optimizer updates per step; whole groups are dealt to them evenly."""
    row_length: int = 0
    """Tokens of a packed row. 0 = the cheapest length for the answers at hand: a power of two, or the
    longest prompt and answer allowed (rounded up to 64)."""
    rows_per_micro_batch: int = 8
    """Rows of the longest kind in one forward and backward, over all devices; shorter rows come in
    larger numbers. Set it to what fits; it does not change the result."""

    def __post_init__(self):
        self.require_least(1, "updates_per_step", "rows_per_micro_batch")
        self.require_least(0, "row_length")


@dataclass(frozen=True)
class OptimizerConfig(Checked, prefix="optimizer."):
    """AdamW with a linear warm-up from a tenth of the rate, then constant (the paper's settings)."""
    name: Literal["adamw", "muon"] = "adamw"
    """muon: the matrices of the layers take the orthogonalised momentum (K. Jordan, 2024), scaled as in arXiv
    2502.16982, so that AdamW's rates serve; the rest takes AdamW with Nesterov's momentum, as optax has it."""
    learning_rate: float = 1e-6
    """Rate after the warm-up."""
    warmup_updates: int = 160
    """Updates of the warm-up."""
    b1: float = 0.9
    """Decay of Adam's mean of gradients."""
    b2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of every parameter, times the learning rate."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self):
        for name in ("learning_rate", "eps", "clip_norm"):
            self.require(getattr(self, name) > 0, name, "use a positive number.")
        for name in ("b1", "b2"):
            self.require(0 <= getattr(self, name) < 1, name, "use a number in [0, 1).")
        self.require_least(0, "warmup_updates", "weight_decay")


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the device mesh; their product is the number of devices. One axis may be -1: it takes
    the devices that are left."""
    data: int = -1
    """Copies of the model, each with its share of the batch."""
    fsdp: int = 1
    """Shards of parameters and optimizer state, each with its share of the batch."""
    tensor: int = 1
    """Shards of heads, feed-forward and vocabulary."""
    context: int = 1
    """Shards of every packed row along its tokens, for long answers. Must divide batch.row_length."""

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor, self.context)
        require(all(size >= 1 or size == -1 for size in sizes) and sizes.count(-1) <= 1, "mesh", sizes,
                "each of data, fsdp, tensor, context is 1 or more, and one of them may be -1.")


# Meshes to start from; -1 takes the devices that are left. As flags: --mesh.data 1 --mesh.fsdp -1
# --mesh.tensor 4 ...
MESHES: dict[str, MeshConfig] = {
    "single": MeshConfig(data=1),                                       # one device
    "fsdp": MeshConfig(data=1, fsdp=-1),                                # the state does not fit one device
    "fsdp_tensor": MeshConfig(data=1, fsdp=-1, tensor=4),               # more devices than a micro-batch has rows
    "long_context": MeshConfig(data=1, fsdp=-1, tensor=2, context=2),   # the activations of a row do not fit one device
}
