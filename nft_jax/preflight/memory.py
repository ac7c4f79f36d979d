"""Memory of a run's programs by arithmetic: what `--dry-run` prints, what stands for GPUs, and what tells how the
temporaries of a compiled program grow with its rows and slots.

Arguments are exact: the bytes of each array's shards. Temporaries are a model: rows are divided over data and fsdp,
heads, feed-forward and vocabulary over tensor; fsdp brings the weights of two layers together; attention keeps no T x T
scores where it has a kernel. A test holds them against XLA's own numbers, within a factor of `FACTOR`.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.model import decoder
from nft_jax.model.config import Attention, ModelConfig
from nft_jax.model.kernels import LANES
from nft_jax.model.logprobs import CHUNK_ELEMENTS
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.compilation import Program
from nft_jax.runtime.mesh import data_parallel_size
from nft_jax.train.batch import BatchShape
from nft_jax.train.reference import abstract_reference

FACTOR = 2.5


def kind(name: str) -> str:
    """What a program does, whatever its sizes: `decode, truncated, ring of 512` is a "decode, truncated"."""
    return re.sub(r"( to \d+)?(, \w+ of \d+)?$", "", name)


def largest(programs: Mapping[str, Program]) -> dict[str, str]:
    """Kind -> name of its largest variant: the longest rows, prompts and rings, whose names have no size."""
    def size(name: str) -> list[float]:
        return sorted((int(n) for n in re.findall(r"\d+", name)), reverse=True) or [math.inf]

    found: dict[str, str] = {}
    for name in programs:
        if kind(name) not in found or size(name) > size(found[kind(name)]):
            found[kind(name)] = name
    return found


def sharded_bytes(tree) -> int:
    """Bytes on one device of a tree of jax.ShapeDtypeStruct; of the whole where there is no sharding."""
    def size(leaf) -> int:
        shape = leaf.shape if getattr(leaf, "sharding", None) is None else leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize
    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


class Split(NamedTuple):
    """Temporaries of a program on one device: `fixed` bytes, and `each` for every row (or slot) of the run."""
    fixed: float
    each: float

    def at(self, count: int) -> float:
        return self.fixed + self.each * count


@dataclass(frozen=True)
class Model:
    """What lies on each device between the programs, in bytes, and the temporaries of each kind of program."""
    parameters: int               # float32
    moments: int                  # the optimizer's part of the train state
    reference: int                # the parameters of a KL term's reference
    weights: int                  # what decoding reads
    cache: int                    # keys and values of all slots, of the longest answers
    entries: int                  # of the prompts that are prefilled together, which wait there for free slots
    layers: int
    temporaries: Mapping[str, Split]

    def beside(self, what: str) -> float:
        """What lies on the device while a program of this kind runs, and is none of its arguments. Scoring may begin
        while the last answers are being sampled; prefilled prompts wait while others are."""
        state, sampling = self.parameters + self.moments, self.weights + self.cache
        beside = {"train step": 0, "cast": self.moments, "score": self.moments + sampling,
                  "reference score": state + sampling - self.reference,      # its own argument
                  "rollout key": state + sampling, "prefill": state + self.cache, "admit": state + self.weights,
                  "empty cache": state + self.weights + self.entries,
                  "grow": state + self.weights + self.entries + self.cache * (1 - 1 / self.layers)}
        return self.reference + beside.get(what, state + self.entries)


def analytic(config: Config, model: ModelConfig, mesh: Mesh, sampler: Sampler, programs: Mapping[str, Program], *,
             attention: Attention) -> Model:
    """The memory model of a settled `config` on `mesh`, whose devices need not be there; `programs`: all of the run."""
    names = largest(programs)
    decode = names.get("decode") or names["decode, truncated"]
    state, (weights, cache) = programs["train step"].arguments[0], programs[decode].arguments[:2]
    work = Work(config, model, mesh, sampler, attention)
    nothing = Split(0, 0)
    return Model(
        parameters=sharded_bytes(state.params), moments=sharded_bytes(state.opt_state),
        reference=sharded_bytes(abstract_reference(config, model, mesh)),
        weights=sharded_bytes(weights), cache=sharded_bytes(cache.cache),
        entries=sharded_bytes(programs["admit"].arguments[1]), layers=model.num_layers,
        temporaries={"cast": work.cast(), "rollout key": nothing, "empty cache": nothing, "prefill": work.prefill(),
                     "admit": work.admit(), "grow": nothing, "decode": work.decode(4),
                     "decode, truncated": work.decode(6), "train step": work.train(), "score": work.score(),
                     "reference score": work.score()})


class Work:
    """Temporaries, in bytes on one device. Sizes of the model are those of a device's share."""

    def __init__(self, config: Config, model: ModelConfig, mesh: Mesh, sampler: Sampler, attention: Attention):
        self.config, self.model, self.sampler, self.attention = config, model, sampler, attention
        self.item = jnp.dtype(config.policy.compute_dtype).itemsize
        self.parallel, self.fsdp, tensor = data_parallel_size(mesh), mesh.shape["fsdp"], mesh.shape["tensor"]
        self.context, self.rows = mesh.shape["context"], rows_of(config, mesh)
        self.kv_heads = model.num_kv_heads / tensor if model.num_kv_heads % tensor == 0 else model.num_kv_heads
        self.heads, self.vocab = model.num_heads / tensor, model.vocab_size / tensor
        self.qkv, self.feed = (self.heads + 2 * self.kv_heads) * model.head_dim, model.intermediate_size / tensor
        self.width = 4 * model.hidden_size + 2 * self.qkv + 3 * self.feed      # what a token has in a layer
        parameters, outside = decoder.count_parameters(model), model.vocab_size * model.hidden_size
        self.parameters, self.outside = parameters / (self.fsdp * tensor), outside / tensor
        self.layer = (parameters - outside * (1 if model.tie_embeddings else 2)) / model.num_layers / tensor
        self.stack = model.num_layers * model.hidden_size * self.feed          # the largest parameter

    def gathered(self, gradients: bool) -> float:
        """Weights that fsdp brings together: two layers (one in use, one on its way) and the head; in the backward pass
        also their gradients before they are divided."""
        if self.fsdp == 1:
            return gradients * 4 * self.layer
        return (2 * self.layer + self.outside) * self.item + gradients * 4 * (self.layer + self.outside)

    def row(self, gradients: bool) -> float:
        """One row of the run, forward (and backward): what is kept of every layer, and one layer's own work."""
        m, tokens = self.model, self.config.row_length / self.parallel / self.context
        return tokens * (gradients * m.num_layers * self.kept() + (2 if gradients else 1) * self.width * self.item
                         + 8 * m.hidden_size + self.scores(self.config.row_length, 10 if gradients else 4))

    def kept(self) -> float:
        """What a layer leaves its backward pass of a token: `decoder.hidden_states`. Around a kernel "none" and
        "attention" keep its operands (splash pads the heads to its lanes) and its output, before and after it is turned
        into the layout of the model, with the logarithm of each head's sum."""
        m, remat, kernel = self.model, self.config.policy.remat, self.attention != "xla"
        head = -(-m.head_dim // LANES) * LANES if self.attention == "splash" else m.head_dim
        around = (self.heads * (head + m.head_dim) + (self.heads + 2 * self.kv_heads) * head) * self.item \
            + 4 * self.heads
        products = (1 + m.sandwich_norms) * m.hidden_size + 2 * self.feed
        if not kernel:
            products += self.qkv
        elif m.qk_norm:                                             # what the norms of queries and keys are given
            products += (self.heads + self.kv_heads) * m.head_dim
        return m.hidden_size * self.item * (remat != "offload") + {
            "none": products * self.item + around * kernel,
            "attention": around if kernel else self.heads * m.head_dim * self.item}.get(remat, 0)

    def scores(self, length: float, size: int) -> float:
        """What attention has for one token of a row: with plain products `size` bytes for each head and token of the
        row; for cuDNN the mask of all heads, as one byte and as the kernel's bias of two; nothing for splash."""
        return {"xla": size * self.heads * length, "cudnn": 3 * length}.get(self.attention, 0)

    def head(self, gradients: bool) -> Split:
        """Logits of one chunk in float32, with what is made of them; they grow with the rows until a chunk is full."""
        row, size = self.config.row_length / self.parallel / self.context * self.vocab, (3 if gradients else 2) * 4
        return Split(0, size * row) if row * self.rows < CHUNK_ELEMENTS else Split(size * CHUNK_ELEMENTS, 0)

    def train(self) -> Split:
        """Two sets of gradients: the sum, and those of the micro-batch."""
        head = self.head(True)
        return Split(8 * self.parameters + self.gathered(True) + head.fixed, self.row(True) + head.each)

    def score(self) -> Split:
        head = self.head(False)
        return Split(self.gathered(False) + head.fixed, self.row(False) + head.each)

    def decode(self, arrays: int) -> Split:
        """`arrays` of [S, V] float32 (logits, and what sampling makes of them), scores against the cache, a layer."""
        scores = 2 * 4 * self.heads * self.sampler.buckets[-1]
        return Split(0, (4 * arrays * self.vocab + scores + self.width * self.item) / self.parallel)

    def prefill(self) -> Split:
        """All prompts that are prefilled together; where they lie is left to XLA, so on every device."""
        length = self.sampler.prompt_buckets[-1]
        return Split(self.sampler.prefills * length * (self.width * self.item + self.scores(length, 4)), 0)

    def admit(self) -> Split:
        """Rows of one layer's cache for the samples that are admitted, a quarter of the slots."""
        rows = 2 * self.kv_heads * self.model.head_dim * self.item * self.sampler.buckets[-1] / 4
        return Split(0, 2 * rows)

    def cast(self) -> Split:
        """The largest parameter, brought together over fsdp before it is divided into layers."""
        return Split(self.stack * self.item if self.fsdp > 1 else 0, 0)


def rows_of(config: Config, mesh: Mesh) -> int:
    """Rows of a micro-batch of the longest kind, as computed: a multiple of the devices that share them."""
    return BatchShape.of(config, data_parallel_size(mesh)).rows
