"""Memory of a run's programs by arithmetic: what `--dry-run` prints, what stands for GPUs, and what tells how the
temporaries of a compiled program grow with its rows and slots.

Arguments are exact (the bytes of each array's shards). Temporaries are a model: they assume that rows are divided over
data and fsdp, weights over fsdp and tensor, heads and feed-forward over tensor, and that attention keeps no T x T
scores where its kernel is a fused one. A test holds them against XLA's own numbers for small models, within a factor
of `FACTOR`.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.logprobs import CHUNK_ELEMENTS
from nft_jax.parallel import data_parallel_size
from nft_jax.rollout.cache import abstract_decode_state
from nft_jax.rollout.slots import policy_bytes
from nft_jax.train.batch import BatchShape
from nft_jax.train.programs import abstract_state


def sharded_bytes(tree) -> int:
    """Bytes on one device of a tree of arrays or jax.ShapeDtypeStruct; without sharding, of the whole."""
    def size(leaf):
        shape = leaf.shape if getattr(leaf, "sharding", None) is None else leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * (jnp.dtype(leaf.dtype).itemsize if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                                   else 8)
    return sum(size(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape"))


FACTOR = 3.0      # temporaries of the model and of XLA differ by no more (tested on CPU programs)


class Split(NamedTuple):
    """Temporaries of a program on one device: `fixed` bytes, and `each` for every row (or slot) of the run."""
    fixed: float
    each: float

    def at(self, count: int) -> float:
        return self.fixed + self.each * count


@dataclass(frozen=True)
class Model:
    """What lies on each device between the programs, and the temporaries of each, in bytes."""
    state: int                    # parameters and optimizer state, float32
    moments: int                  # the optimizer's part of it
    policy: int                   # the parameters that sample
    slot: float                   # keys and values of one slot of the run
    temporaries: Mapping[str, Split]

    def beside(self, name: str) -> int:
        """What lies on the device while program `name` runs and is none of its arguments."""
        if name.startswith("train"):
            return 0
        if name.startswith("score") or name == "cast":
            return self.moments
        return self.state + (self.policy if name == "empty cache" else 0)


def analytic(config: Config, model: ModelConfig, mesh, *, fused_attention: bool) -> Model:
    """The memory model of a settled `config` on `mesh`, whose devices need not be there."""
    state = abstract_state(config, model, mesh)
    dtype = jnp.dtype(config.policy.compute_dtype)
    capacity = -(-config.data.max_prompt_tokens // 8) * 8 + config.rollout.max_new_tokens
    slots = data_parallel_size(mesh)            # one slot a device: the cache is linear in them
    cache = abstract_decode_state(model, mesh, slots, capacity, dtype, config.rollout.kv_dtype == "int8").cache
    work = _Work(config, model, mesh, dtype.itemsize, capacity, fused_attention)
    return Model(
        state=sharded_bytes(state), moments=sharded_bytes(state) - sharded_bytes(state.params),
        policy=policy_bytes(model, mesh, config.policy.compute_dtype)[1],
        slot=sharded_bytes(cache) / slots,
        temporaries={"cast": Split(0, 0), "empty cache": Split(0, 0), "rollout key": Split(0, 0),
                     "prefill": work.prefill(), "admit": work.admit(),
                     "decode": work.decode(), "decode, truncated": work.decode(truncated=True),
                     "train step": work.train(), "score": work.score()})


class _Work:
    """Temporaries, in bytes on one device. `width` is what a token has in a layer, in elements."""

    def __init__(self, config: Config, model: ModelConfig, mesh, item: int, capacity: int, fused: bool):
        self.config, self.model, self.item, self.capacity, self.fused = config, model, item, capacity, fused
        self.parallel, self.fsdp, tensor = data_parallel_size(mesh), mesh.shape["fsdp"], mesh.shape["tensor"]
        self.context = mesh.shape.get("context", 1)
        self.heads, self.vocab = model.num_heads / tensor, model.vocab_size / tensor
        kv_heads = model.num_kv_heads / tensor if model.num_kv_heads % tensor == 0 else model.num_kv_heads
        self.qkv, self.feed = (self.heads + 2 * kv_heads) * model.head_dim, model.intermediate_size / tensor
        self.kv_heads = kv_heads
        parameters, outside = decoder.count_parameters(model), model.vocab_size * model.hidden_size
        self.parameters = parameters / (self.fsdp * tensor)
        self.layer = (parameters - outside * (1 if model.tie_embeddings else 2)) / model.num_layers / tensor
        self.embedding = outside / tensor

    def gathered(self, gradients: bool = False) -> float:
        """Weights that fsdp brings together: two layers at a time (one in use, one on its way), and the head; in the
        backward pass also their gradients before they are divided."""
        if self.fsdp == 1:
            return 0
        return (2 * self.layer + self.embedding) * self.item + gradients * 4 * (self.layer + self.embedding)

    def row(self, gradients: bool) -> float:
        """One row of the run, forward (and backward): what is kept of every layer, and one layer's own work."""
        c, m = self.config, self.model
        tokens = c.row_length / self.parallel / self.context
        kept = {"none": 3 * m.hidden_size + self.qkv + 2 * self.feed,
                "attention": m.hidden_size + self.heads * m.head_dim, "offload": 0}.get(c.policy.remat, m.hidden_size)
        width = 4 * m.hidden_size + 2 * self.qkv + 3 * self.feed
        scores = 0 if self.fused else (10 if gradients else 4) * self.heads * c.row_length
        return tokens * (gradients * m.num_layers * kept * self.item + (2 if gradients else 1) * width * self.item
                         + 8 * m.hidden_size + scores)

    def head(self, gradients: bool) -> float:
        """Logits of one chunk of tokens in float32, with their gradient."""
        tokens = min(self.config.batch.rows_per_micro_batch * self.config.row_length / self.parallel,
                     CHUNK_ELEMENTS / self.vocab)
        return (3 if gradients else 2) * 4 * tokens * self.vocab

    def train(self) -> Split:
        """Two sets of gradients: the sum, and those of the micro-batch."""
        return Split(8 * self.parameters + self.gathered(gradients=True) + self.head(True), self.row(gradients=True))

    def score(self) -> Split:
        return Split(self.gathered() + self.head(False), self.row(gradients=False))

    def decode(self, truncated: bool = False) -> Split:
        """Logits and what sampling makes of them (with truncation the order), scores against the cache, a layer."""
        m = self.model
        logits = (6 if truncated else 4) * 4 * self.vocab
        scores = 2 * 4 * self.heads * self.capacity
        work = (4 * m.hidden_size + 2 * self.qkv + 3 * self.feed) * self.item
        return Split(0, (logits + scores + work) / self.parallel)

    def prefill(self) -> Split:
        """One layer's work on the prompts that are prefilled together, a sixteenth of the slots."""
        length = -(-self.config.data.max_prompt_tokens // 8) * 8
        layer = length * ((4 * self.model.hidden_size + 2 * self.qkv + 3 * self.feed) * self.item
                          + (0 if self.fused else 8 * self.heads * length))
        return Split(0, layer / 16 / self.parallel)

    def admit(self) -> Split:
        """Rows of two layers, for a quarter of the slots."""
        return Split(0, 2 * 2 * self.kv_heads * self.model.head_dim * self.item * self.capacity / 4)


def rows_of(config: Config, mesh) -> int:
    """Rows of a micro-batch as they are computed: a multiple of the devices that share them."""
    return BatchShape.of(config, data_parallel_size(mesh)).rows
