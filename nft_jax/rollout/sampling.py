"""From logits to a token and its log-prob, with random numbers that depend on the sample's identity only.

    key = fold_in(fold_in(fold_in(base, rollout_index), prompt_index * K + sample), position)

A token takes two uniform numbers. The first finds a block of the vocabulary by the blocks' summed probabilities, the
second a token inside the block. Nothing is sorted, and no cumulative sum runs over the vocabulary.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.config import SamplingConfig


class SamplingParams(NamedTuple):
    """`SamplingConfig` as the compiled step takes it: values, not constants, so that a change compiles nothing."""
    temperature: jax.Array | float = 1.0
    top_k: jax.Array | int = 0
    top_p: jax.Array | float = 1.0
    min_p: jax.Array | float = 0.0

    @classmethod
    def of(cls, settings: SamplingConfig) -> "SamplingParams":
        """As arrays of fixed types: the type of a Python number would be part of what is compiled."""
        return cls(np.asarray(settings.temperature, np.float32), np.asarray(settings.top_k, np.int32),
                   np.asarray(settings.top_p, np.float32), np.asarray(settings.min_p, np.float32))


class Sampled(NamedTuple):
    """One token of every slot, [S] each; log-probs and entropy (nats) in float32."""
    token: jax.Array
    logprob: jax.Array                # of the tempered distribution, before truncation
    truncated_logprob: jax.Array      # after top-k, top-p and min-p
    entropy: jax.Array                # of the tempered distribution


def uniforms(base_key, rollout, stream, position):
    """Two uniform numbers for every token, [B, S, 2] float32 in [0, 1).

    rollout [S] uint32: the rollout index of the sample. stream [S] uint32: prompt_index * K + sample. position [B, S]
    int32: tokens of the answer so far."""
    def draw(key, step):
        return jax.random.uniform(jax.random.fold_in(key, step), (2,))

    keys = jax.vmap(lambda index, sample: jax.random.fold_in(jax.random.fold_in(base_key, index), sample))(
        rollout, stream)
    return jax.vmap(lambda steps: jax.vmap(draw)(keys, steps))(position)


def sample_tokens(logits, uniform, params: SamplingParams, *, truncate: bool) -> Sampled:
    """Draws one token of every slot. logits [S, V] float32, uniform [S, 2]. Without `truncate`, top-k, top-p and
    min-p are not even computed. Greedy answers report the log-probs of temperature 1."""
    vocabulary = logits.shape[-1]
    greedy = params.temperature == 0
    scaled = logits / jnp.where(greedy, 1.0, params.temperature)
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    exponents = jnp.exp(shifted)
    total = exponents.sum(axis=-1)
    masses, floor = exponents, None
    if truncate:
        floor = truncation_floor(shifted, exponents, params)
        masses = jnp.where(shifted >= floor[:, None], exponents, 0.0)

    def draw():
        width = block_width(vocabulary)
        padded = jnp.pad(masses, ((0, 0), (0, -vocabulary % width)))
        block = pick(padded.reshape(len(padded), -1, width).sum(axis=-1), uniform[:, 0])
        tokens = block[:, None] * width + jnp.arange(width, dtype=jnp.int32)[None]
        inside = jnp.take_along_axis(masses, jnp.minimum(tokens, vocabulary - 1), axis=-1)
        return block * width + pick(jnp.where(tokens < vocabulary, inside, 0.0), uniform[:, 1])

    token = jax.lax.cond(greedy, lambda: jnp.argmax(shifted, axis=-1).astype(jnp.int32), draw)
    chosen = jnp.take_along_axis(shifted, token[:, None], axis=-1)[:, 0]
    logprob = chosen - jnp.log(total)
    truncated = chosen - jnp.log(masses.sum(axis=-1)) if truncate else logprob
    entropy = jnp.log(total) - (exponents * shifted).sum(axis=-1) / total
    return Sampled(token, logprob, truncated, entropy)


def sample_by_column(logits, uniform, params: SamplingParams) -> Sampled:
    """`sample_tokens` without truncation and with its tokens, up to rounding, for TPUs: it reads all logits once. Of
    `sample_tokens` XLA makes ten passes there, since logits lie by slots and sums of their blocks want them by
    tokens."""
    slots, vocabulary = logits.shape
    columns, greedy = logits.T, params.temperature == 0
    inverse, largest = 1 / jnp.where(greedy, 1.0, params.temperature), columns.max(axis=0)
    width = block_width(vocabulary)
    # Parts of blocks that need no padding. The array is divided before anything is computed of it: XLA then reads it
    # where it is.
    part = math.gcd(width, vocabulary)
    parts = columns.reshape(-1, part, slots)
    shifted = (parts - largest[None, None]) * inverse
    exponents = jnp.exp(shifted)

    def by_block(parts):
        together = width // part
        return jnp.pad(parts.T, ((0, 0), (0, -len(parts) % together))).reshape(slots, -1, together).sum(axis=-1)

    masses = by_block(exponents.sum(axis=1))
    total = masses.sum(axis=-1)
    entropy = jnp.log(total) - by_block((exponents * shifted).sum(axis=1)).sum(axis=-1) / total

    def logits_of(tokens):
        return jnp.take_along_axis(columns, tokens, axis=0)

    # A greedy answer is drawn from the largest logits, with 0: the first of them. `argmax` would be another pass.
    masses = jnp.where(greedy, by_block((parts == largest[None, None]).astype(jnp.float32).sum(axis=1)), masses)
    uniform = jnp.where(greedy, 0, uniform)
    block = pick(masses, uniform[:, 0])
    tokens = jnp.arange(width, dtype=jnp.int32)[:, None] + block[None] * width
    inside = logits_of(jnp.minimum(tokens, vocabulary - 1))
    weights = jnp.where(greedy, inside == largest[None], jnp.exp((inside - largest[None]) * inverse))
    token = block * width + pick(jnp.where(tokens < vocabulary, weights, 0.0).T, uniform[:, 1])
    logprob = (logits_of(token[None])[0] - largest) * inverse - jnp.log(total)
    return Sampled(token, logprob, logprob, entropy)


def block_width(vocabulary: int) -> int:
    """The tokens of a block: a power of two near the root of the vocabulary, so both searches are equally short."""
    return 1 << round(vocabulary.bit_length() / 2)


def pick(weights, uniform):
    """Draws an index [S] int32 from weights [S, N] >= 0 by inverse CDF, with uniform [S] in [0, 1); never one of
    weight 0, whatever the rounding of the sums."""
    index = jnp.arange(weights.shape[-1], dtype=jnp.int32)[None]
    cumulative = jnp.cumsum(weights, axis=-1)
    reached = (cumulative > uniform[:, None] * cumulative[:, -1:]) & (weights > 0)
    last = jnp.where(weights > 0, index, 0).max(axis=-1)
    return jnp.minimum(jnp.where(reached, index, weights.shape[-1]).min(axis=-1), last)


def truncation_floor(scores, exponents, params: SamplingParams):
    """The score [S] below which tokens are removed: by top-k, by top-p of the tokens left, and by min-p.

    scores [S, V] float32 <= 0 with maximum 0, exponents [S, V] = exp(scores). Ties with the floor stay in.

    Nothing is sorted. A floor is found exactly, by bisection over the 2^31 float32 numbers from 0 down. That
    takes 32 passes over the vocabulary for each of top-k and top-p, and none where they are off."""
    order = -jax.lax.bitcast_convert_type(jnp.abs(scores), jnp.int32)     # the scores' order, as integers <= 0
    lowest = jnp.full(scores.shape[:1], -0x7F800000, jnp.int32)           # minus infinity

    def largest_floor(weights, target):
        def narrow(_, bounds):
            # Invariant: the tokens at or above `low` weigh enough, the tokens above `high` do not.
            low, high = bounds
            middle = low + (high - low) // 2 + (high - low) % 2
            enough = jnp.where(order >= middle[:, None], weights, 0.0).sum(axis=-1) >= target
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)
        return jax.lax.fori_loop(0, 32, narrow, (lowest, jnp.zeros_like(lowest)))[0]

    def by_mass():
        remaining = jnp.where(order >= by_count[:, None], exponents, 0.0)
        target = jnp.minimum(params.top_p, 1.0 - 1e-6) * remaining.sum(axis=-1)
        return jnp.maximum(by_count, largest_floor(remaining, target))

    by_count = jax.lax.cond(params.top_k > 0, lambda: largest_floor(
        jnp.ones_like(scores), jnp.asarray(params.top_k, jnp.float32)), lambda: lowest)
    floor = jax.lax.cond(params.top_p < 1, by_mass, lambda: by_count)
    return jnp.maximum(-jax.lax.bitcast_convert_type(-floor, jnp.float32), jnp.log(params.min_p))
