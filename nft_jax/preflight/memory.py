"""Memory of a run's programs by arithmetic: what `--dry-run` prints, what stands for GPUs, and what tells how the
temporaries of a compiled program grow with its rows and slots.

Arguments are exact: the bytes of each array's shards. Temporaries are a model: rows are divided over data and fsdp,
heads, feed-forward and vocabulary over tensor; fsdp brings the weights of two layers together; attention keeps no T x T
scores where its kernel is a fused one. A test holds them against XLA's own numbers, within a factor of `FACTOR`.
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
from nft_jax.model.config import ModelConfig
from nft_jax.model.logprobs import CHUNK_ELEMENTS
from nft_jax.parallel import data_parallel_size
from nft_jax.programs import Program
from nft_jax.rollout.engine import Sampler
from nft_jax.train.batch import BatchShape

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
    weights: int                  # what decoding reads
    cache: int                    # keys and values of all slots, of the longest answers
    layers: int
    temporaries: Mapping[str, Split]

    def beside(self, what: str) -> float:
        """What lies on the device while a program of this kind runs, and is none of its arguments. Scoring may begin
        while the last answers are being sampled."""
        state = self.parameters + self.moments
        return {"train step": 0, "cast": self.moments, "score": self.moments + self.weights + self.cache,
                "empty cache": state + self.weights, "admit": state + self.weights, "prefill": state + self.cache,
                "grow": state + self.weights + self.cache * (1 - 1 / self.layers)}.get(
                    what, state + (self.weights + self.cache if what == "rollout key" else 0))


def analytic(config: Config, model: ModelConfig, mesh: Mesh, sampler: Sampler, programs: Mapping[str, Program], *,
             fused_attention: bool) -> Model:
    """The memory model of a settled `config` on `mesh`, whose devices need not be there; `programs`: all of the run."""
    names = largest(programs)
    decode = names.get("decode") or names["decode, truncated"]
    state, (weights, cache) = programs["train step"].arguments[0], programs[decode].arguments[:2]
    work = _Work(config, model, mesh, sampler, fused_attention)
    nothing = Split(0, 0)
    return Model(
        parameters=sharded_bytes(state.params), moments=sharded_bytes(state.opt_state),
        weights=sharded_bytes(weights), cache=sharded_bytes(cache.cache), layers=model.num_layers,
        temporaries={"cast": work.cast(), "rollout key": nothing, "empty cache": nothing, "prefill": work.prefill(),
                     "admit": work.admit(), "grow": nothing, "decode": work.decode(4),
                     "decode, truncated": work.decode(6), "train step": work.train(), "score": work.score()})


class _Work:
    """Temporaries, in bytes on one device. Sizes of the model are those of a device's share."""

    def __init__(self, config: Config, model: ModelConfig, mesh: Mesh, sampler: Sampler, fused: bool):
        self.config, self.model, self.sampler, self.fused = config, model, sampler, fused
        self.item = jnp.dtype(config.policy.compute_dtype).itemsize
        self.parallel, self.fsdp, tensor = data_parallel_size(mesh), mesh.shape["fsdp"], mesh.shape["tensor"]
        self.context = mesh.shape["context"]
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
        kept = {"none": 3 * m.hidden_size + self.qkv + 2 * self.feed, "offload": 0,
                "attention": m.hidden_size + self.heads * m.head_dim}.get(self.config.policy.remat, m.hidden_size)
        scores = 0 if self.fused else (10 if gradients else 4) * self.heads * self.config.row_length
        return tokens * (gradients * m.num_layers * kept * self.item + (2 if gradients else 1) * self.width * self.item
                         + 8 * m.hidden_size + scores)

    def head(self, gradients: bool) -> float:
        """Logits of one chunk in float32, with what is made of them."""
        tokens = self.config.batch.rows_per_micro_batch * self.config.row_length / self.parallel
        return (3 if gradients else 2) * 4 * min(tokens * self.vocab, CHUNK_ELEMENTS)

    def train(self) -> Split:
        """Two sets of gradients: the sum, and those of the micro-batch."""
        return Split(8 * self.parameters + self.gathered(True) + self.head(True), self.row(True))

    def score(self) -> Split:
        return Split(self.gathered(False) + self.head(False), self.row(False))

    def decode(self, arrays: int) -> Split:
        """`arrays` of [S, V] float32 (logits, and what sampling makes of them), scores against the cache, a layer."""
        scores = 2 * 4 * self.heads * self.sampler.buckets[-1]
        return Split(0, (4 * arrays * self.vocab + scores + self.width * self.item) / self.parallel)

    def prefill(self) -> Split:
        """All prompts that are prefilled together; where they lie is left to XLA, so on every device."""
        length = self.sampler.prompt_buckets[-1]
        scores = 0 if self.fused else 4 * self.heads * length
        return Split(self.sampler.prefills * length * (self.width * self.item + scores), 0)

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
