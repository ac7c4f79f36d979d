"""Memory of a run's programs by arithmetic.

It stands in for the compiler where the devices are GPUs, and tells how the temporaries of a compiled program
grow with rows and slots. Arrays that stay on the devices are counted exactly, as the bytes of their shards.
Temporaries are a model: a test holds it within a factor of `FACTOR` of XLA's own numbers.
"""
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from nft_jax.model import decoder, delta
from nft_jax.model.adapter import projections_of
from nft_jax.model.config import Attention, LayerKind
from nft_jax.model.kernels import LANES, attention_of
from nft_jax.model.logprobs import CHUNK_ELEMENTS
from nft_jax.model.parameters import IN_LAYERS
from nft_jax.rollout.engine import ADMISSIONS, PREFILLS, Sampler
from nft_jax.rollout.slots import entry_bytes, weight_bytes
from nft_jax.runtime.mesh import data_parallel_size, sharded_bytes
from nft_jax.train.compared_experts import KIND as COMPARE
from nft_jax.train.plan import Plan

FACTOR = 2.5


class Split(NamedTuple):
    """Temporaries of a program on one device: `fixed` bytes, and `each` for every row (or slot) of the run."""
    fixed: float
    each: float

    def at(self, count: int) -> float:
        return self.fixed + self.each * count


@dataclass(frozen=True)
class Model:
    """What stays on each device between the programs, in bytes, and the temporaries of each kind of program."""
    parameters: int               # that are trained, float32: all, or the adapters
    moments: int                  # the rest of the train state: the optimizer's moments, and rollout.ema's average
    base: int                     # the frozen parameters under adapters
    reference: int                # the parameters of a KL term's reference, unless the base serves as one
    weights: int                  # the weights that decode
    table: int                    # of the weights, an embedding that is looked up and not multiplied
    cache: int                    # keys and values of all slots, of the longest answers, and memories of delta nets
    memories: int                 # of the cache
    entries: int                  # of the prompts that are prefilled together and wait for free slots
    layers: int
    temporaries: Mapping[str, Split]

    def needed(self, fill: float) -> float:
        """Bytes that a decode step cannot do without: the weights, and keys and values of the share `fill` of the
        longest ring. Memories are read and written."""
        return self.weights - self.table + 2 * self.memories + fill * (self.cache - self.memories)

    def beside(self, kind: str) -> float:
        """Bytes on the device that are no argument of the running program of this kind. Scoring may begin while
        the last answers are being sampled. Prefilled prompts wait while others are decoded."""
        state, sampling = self.parameters + self.moments, self.weights + self.cache
        beside = {
            "train step": -self.base,
            "average": self.moments - self.parameters,
            "cast": self.moments - self.base,
            **dict.fromkeys(("score", COMPARE), self.moments + sampling - self.base),
            "reference score": state + sampling - (self.reference or self.base),
            **dict.fromkeys(PREFILLS, state + self.cache),
            **dict.fromkeys(ADMISSIONS, state + self.weights),
            "empty cache": state + self.weights + self.entries,
            # The ring grows a layer at a time.
            "grow": state + self.weights + self.entries + self.cache * (1 - 1 / self.layers),
        }
        return self.base + self.reference + beside.get(kind, state + self.entries)


def analytic(plan: Plan, sampler: Sampler, attention: Attention) -> Model:
    """The memory model of a plan. `attention`: the kernel of the run's own devices, which may be others than
    the plan's."""
    model, rollout, dtype = plan.model, plan.config.rollout, plan.compute.dtype
    work = Work(plan, sampler, attention)
    nothing = Split(0, 0)
    return Model(
        parameters=sharded_bytes(plan.state.params),
        moments=sharded_bytes((plan.state.opt_state, plan.state.average)),
        base=sharded_bytes(plan.base),
        reference=0 if plan.reference is plan.base else sharded_bytes(plan.reference),
        weights=weight_bytes(model, sampler.mesh, dtype, rollout.weight_dtype),
        table=0 if model.tie_embeddings else int(work.outside * work.item),
        cache=entry_bytes(model, sampler.mesh, sampler.slots, sampler.buckets[-1], dtype, rollout.kv_dtype),
        memories=entry_bytes(model, sampler.mesh, sampler.slots, 0, dtype),
        entries=max(entry_bytes(model, sampler.mesh, count, sizes[-1], dtype, rollout.kv_dtype, axis=None)
                    for count, sizes in sampler.prefilled.values()),
        layers=model.num_layers,
        temporaries={
            "cast": work.cast(), "empty cache": nothing, "grow": nothing, "average": nothing,
            **{kind: work.prefill(*each) for kind, each in sampler.prefilled.items()},
            **dict.fromkeys(ADMISSIONS, work.admit()),
            "decode": work.decode(4), "decode, truncated": work.decode(6),
            "train step": work.rows_of(True), "score": work.rows_of(False), "reference score": work.rows_of(False),
            COMPARE: work.compared(),
        })


class Work:
    """Temporaries of the programs, in bytes on one device. The sizes kept here are a device's share of the model's."""

    def __init__(self, plan: Plan, sampler: Sampler, attention: Attention):
        self.config, self.model, self.sampler, self.attention = plan.config, plan.model, sampler, attention
        self.item = jnp.dtype(plan.compute.dtype).itemsize
        model, mesh = plan.model, plan.mesh
        self.parallel, self.fsdp, tensor = data_parallel_size(mesh), mesh.shape["fsdp"], mesh.shape["tensor"]
        self.context, self.rows = mesh.shape["context"], plan.longest.rows
        self.heads, self.vocab, self.tensor = model.num_heads / tensor, model.vocab_size / tensor, tensor
        # Layers with attention of each form, and how many there are.
        self.forms = Counter(kind.form for kind in model.kinds if not kind.delta)
        self.inputs = model.num_layers * model.layer_input_size
        # Of a delta net: a token's products with the matrices, and its work and memories in float32.
        keys, values = (model.delta_key_heads * model.delta_key_dim, model.delta_value_heads * model.delta_value_dim)
        self.delta_products = 2 * (keys + values + model.delta_value_heads) / tensor
        self.delta_memory = 4 * model.delta_value_heads * model.delta_key_dim * model.delta_value_dim / tensor
        self.delta_work = 12 * (model.delta_value_heads * delta.CHUNK + keys + values) / tensor \
            + self.delta_memory / delta.CHUNK
        self.feed = self.feed_in(self.forms)
        self.width = self.width_in(self.forms)
        tables = model.vocab_size * self.inputs
        parameters, outside = decoder.count_parameters(model) - tables, model.vocab_size * model.hidden_size
        self.gradient, self.outside = sharded_bytes(plan.state.params), outside / tensor
        self.layer = (parameters - outside * (1 if model.tie_embeddings else 2)) / model.num_layers / tensor
        # The largest parameter.
        self.stack = model.num_layers * model.hidden_size * (
            model.num_experts * model.expert_size / tensor if model.num_experts else self.feed)
        self.adapter = plan.config.adapter

    def feed_in(self, forms: Collection[LayerKind]) -> float:
        """A token's inner activations of the largest MLP. With experts a device has room for all rows of a token,
        wherever the experts lie."""
        experts = self.model.experts_per_token * self.model.expert_size
        return experts or max(self.feed_of(form) for form in forms)

    def width_in(self, forms: Collection[LayerKind]) -> float:
        """Activations of a token in the widest layer; with experts also each row's input and output."""
        products = max(self.products_of(form) for form in forms)
        return (4 + 2 * self.model.experts_per_token) * self.model.hidden_size + 3 * self.feed_in(forms) \
            + 2 * max(products, self.delta_products)

    def kv_of(self, form: LayerKind) -> float:
        """Numbers of a token's keys in a layer."""
        kv_heads, head_dim = self.model.heads_of(form)
        return head_dim * (kv_heads / self.tensor if kv_heads % self.tensor == 0 else kv_heads)

    def products_of(self, form: LayerKind) -> float:
        """Numbers that the products before attention make for a token."""
        model = self.model
        matrices = 0 if form.shared else 1 if form.wide and model.keys_are_values else 2
        _, head_dim = model.heads_of(form)
        return self.heads * model.query_size * head_dim / model.head_dim + matrices * self.kv_of(form)

    def feed_of(self, form: LayerKind) -> float:
        """A token's inner activations of a plain MLP."""
        return (self.model.shared_feed_size if form.shared else self.model.intermediate_size) / self.tensor

    def gathered(self, gradients: bool) -> float:
        """Weights that fsdp brings together: two layers (one in use, one on its way) and the head. The backward
        pass also has their gradients before they are divided. Frozen weights have none; in int8, the layer in use has
        a copy in the compute dtype."""
        here, whole = 0, (2 * self.layer + self.outside) * self.item
        if not self.adapter.rank:
            here, whole = gradients * 4 * self.layer, whole + gradients * 4 * (self.layer + self.outside)
        elif self.adapter.base_dtype == "int8":
            here = self.layer * self.item
        return here if self.fsdp == 1 else whole

    def row(self, gradients: bool) -> float:
        """One row, forward (and backward): what is kept of every layer, and the work of the layer in use."""
        m, tokens = self.model, self.config.row_length / self.parallel / self.context
        kept = sum(count * self.kept(form) for form, count in self.forms.items()) \
            + len(m.delta_layers) * self.kept_around_delta()
        # What each layer has for the token, and its gradient.
        kept += 2 * self.inputs * self.item
        # Every device of `context` computes all tokens of a delta net.
        mixing = max(self.scores(self.config.row_length, 10 if gradients else 4),
                     (4 if gradients else 1) * self.delta_work * self.context)
        return tokens * (gradients * kept + (2 if gradients else 1) * self.width * self.item + 8 * m.hidden_size
                         + mixing)

    def ranks(self, mixer: str) -> int:
        """Numbers of a token between A and B, of all adapters in a layer of this kind."""
        if not self.adapter.rank:
            return 0
        names = projections_of(self.model, self.adapter)
        return self.adapter.rank * sum(IN_LAYERS[name].mixer in ("", mixer) for name in names if name in IN_LAYERS)

    def kept_around_delta(self) -> float:
        """`kept` of a layer with a delta net, whose own work is always computed again."""
        m, remat = self.model, self.config.policy.remat
        products = self.delta_products + m.hidden_size + 2 * self.feed + self.ranks("delta")
        return (remat != "offload") * m.hidden_size * self.item + (remat == "none") * products * self.item

    def kept(self, form: LayerKind) -> float:
        """What a layer with attention of this form keeps of each token for its backward pass (`decoder.hidden_states`).

        With a kernel, remat "none" and "attention" keep its operands (splash pads the heads to its lanes), its
        output in its own and in the model's layout, and the logarithm of each head's sum. A gate of the output is kept
        beside them.
        """
        m, remat, (_, head_dim) = self.model, self.config.policy.remat, self.model.heads_of(form)
        attention, kv_heads = attention_of(self.attention, head_dim), self.kv_of(form) / head_dim
        kernel = attention != "xla"
        gate = self.heads * (m.query_size - m.head_dim) * self.item
        head = -(-head_dim // LANES) * LANES if attention == "splash" else head_dim
        around = (self.heads * (head + head_dim) + (self.heads + 2 * kv_heads * (not form.shared)) * head) * self.item \
            + 4 * self.heads
        feed = self.feed if m.num_experts else self.feed_of(form)
        products = (1 + m.norms_after) * m.hidden_size + 2 * feed
        if m.layer_input_size:
            products += m.hidden_size + m.layer_input_size
        if not kernel:
            products += self.products_of(form)
        elif m.qk_norm or m.qk_norm_all_heads:
            # Inputs of the two norms.
            products += self.heads * m.query_size * head_dim / m.head_dim + kv_heads * head_dim * (not form.shared)
        products += self.ranks("attention")
        block_input = 0 if remat == "offload" else m.hidden_size * self.item
        if remat == "none":
            return block_input + products * self.item + (around + gate) * kernel
        if remat == "attention":
            return block_input + (around + gate if kernel else self.heads * head_dim * self.item)
        return block_input

    def scores(self, length: float, size: int) -> float:
        """What attention has for one token of a row: plain products `size` bytes for each head and token, cuDNN
        one mask for all heads (a byte, and the kernel's bias of two), splash nothing."""
        return max({"xla": size * self.heads * length, "cudnn": 3 * length}.get(
            attention_of(self.attention, self.model.heads_of(form)[1]), 0) for form in self.forms)

    def head(self, gradients: bool) -> Split:
        """Logits of one chunk in float32, and what is made of them. They grow with the rows until a chunk is full."""
        row = self.config.row_length / self.parallel / self.context * self.vocab
        arrays = 3 if gradients else 2
        if row * self.rows < CHUNK_ELEMENTS:
            return Split(0, 4 * arrays * row)
        return Split(4 * arrays * CHUNK_ELEMENTS, 0)

    def rows_of(self, gradients: bool) -> Split:
        """A score, or a train step. That has two sets of gradients: the sum, and the gradient of the micro-batch."""
        head = self.head(gradients)
        return Split(gradients * 2 * self.gradient + self.gathered(gradients) + head.fixed,
                     self.row(gradients) + head.each)

    def compared(self) -> Split:
        """A score without logits. Of each token's experts it also has all pairs of a recorded one and a chosen one."""
        m, tokens = self.model, self.config.row_length / self.parallel / self.context
        pairs = m.num_layers * m.experts_per_token * (m.experts_per_token + 4)
        return Split(self.gathered(False), self.row(False) + tokens * pairs)

    def decode(self, arrays: int) -> Split:
        """`arrays` of [S, V] float32 (logits and what sampling makes of them), scores against the cache, a layer."""
        scores = 2 * 4 * self.heads * self.sampler.buckets[-1]
        return Split(0, (4 * arrays * self.vocab + scores + (self.width + self.inputs) * self.item
                         + 2 * self.delta_memory)
                     / self.parallel)

    def prefill(self, count: int, sizes: tuple[int, ...]) -> Split:
        """`count` prompts that are prefilled together. XLA may place them anywhere, so they count on every device."""
        mixing = max(self.scores(sizes[-1], 4), self.delta_work)
        # Layers without keys and values of their own leave nothing behind, and are skipped.
        width = self.width_in([form for form in self.forms if not form.shared])
        return Split(count * sizes[-1] * ((width + 2 * self.inputs) * self.item + mixing), 0)

    def admit(self) -> Split:
        """Rows of one layer's cache for the samples that are admitted together, a quarter of the slots; or of its
        memories."""
        entries = max(map(self.kv_of, self.forms)) * self.item * self.sampler.buckets[-1]
        return Split(0, max(entries, self.delta_memory))

    def cast(self) -> Split:
        """The largest parameter, which fsdp brings together before it is divided into layers. With adapters, the
        matrix that is merged, in float32."""
        # Experts have no adapter.
        m = self.model
        size = self.heads * m.head_dim if m.num_experts else max(self.feed, self.inputs)
        merged = 4 * m.hidden_size * size if self.adapter.rank else 0
        return Split(merged + (self.stack * self.item if self.fsdp > 1 else 0), 0)
