"""From logits to a token and its log-prob, with random numbers that depend on nothing but the sample's identity.

    key = fold_in(fold_in(fold_in(base, rollout_index), prompt_index * K + sample), position)

so a sample is the same in any slot, in any order of admission, on any number of devices.
"""
from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class SamplingParams(NamedTuple):
    """Values, not constants: changing them compiles nothing. temperature 0 is greedy; top_k 0 and top_p 1 are off."""
    temperature: jax.Array | float = 1.0
    top_k: jax.Array | int = 0
    top_p: jax.Array | float = 1.0


class Sampled(NamedTuple):
    """One token of every slot, [S] each; log-probs and entropy (nats) in float32."""
    token: jax.Array
    logprob: jax.Array                # of the tempered distribution, before truncation
    truncated_logprob: jax.Array      # after top-k and top-p
    entropy: jax.Array                # of the tempered distribution


def sample_tokens(logits, rollout_key, stream, position, params: SamplingParams, *, truncate: bool) -> Sampled:
    """logits [S, V] float32, stream [S] uint32 (prompt_index * K + sample), position [S] int32 (tokens of the answer
    so far). With `truncate` False, top-k and top-p are not even computed. Greedy answers report the log-probs of the
    distribution at temperature 1."""
    greedy = params.temperature == 0
    scaled = logits / jnp.where(greedy, 1.0, params.temperature)
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    exponents = jnp.exp(shifted)
    total = exponents.sum(axis=-1)
    kept = kept_by_truncation(shifted, exponents / total[:, None], params) if truncate else None
    candidates = jnp.where(kept, shifted, -jnp.inf) if truncate else shifted

    def noise(sample, step):
        key = jax.random.fold_in(jax.random.fold_in(rollout_key, sample), step)
        return jax.random.gumbel(key, logits.shape[-1:], jnp.float32)

    token = jnp.argmax(candidates + jnp.where(greedy, 0.0, 1.0) * jax.vmap(noise)(stream, position), axis=-1)
    chosen = jnp.take_along_axis(shifted, token[:, None], axis=-1)[:, 0]
    logprob = chosen - jnp.log(total)
    truncated = chosen - jnp.log(jnp.where(kept, exponents, 0.0).sum(axis=-1)) if truncate else logprob
    entropy = jnp.log(total) - (exponents * shifted).sum(axis=-1) / total
    return Sampled(token.astype(jnp.int32), logprob, truncated, entropy)


def kept_by_truncation(scores, probabilities, params: SamplingParams):
    """The tokens [S, V] bool that top-k and then top-p keep; ties at the threshold stay in.

    scores [S, V] <= 0 float32, probabilities [S, V]. No sort: both thresholds are found by bisection over the 2^31
    float32 numbers from 0 down, in 31 passes over the vocabulary, exactly.
    """
    order = -jax.lax.bitcast_convert_type(jnp.abs(scores), jnp.int32)     # the scores' order, as integers <= 0
    top_k = jnp.where(params.top_k > 0, params.top_k, scores.shape[-1])

    def largest_threshold(weights, target):
        def narrow(_, bounds):
            low, high = bounds             # the tokens at or above `low` weigh enough, those above `high` do not
            middle = low + (high - low) // 2 + (high - low) % 2
            enough = jnp.where(order >= middle[:, None], weights, 0.0).sum(axis=-1) >= target
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)
        size = scores.shape[:1]
        bounds = jnp.full(size, -0x7F800000, jnp.int32), jnp.zeros(size, jnp.int32)
        return jax.lax.fori_loop(0, 32, narrow, bounds)[0]

    by_count = order >= largest_threshold(jnp.ones_like(scores), top_k.astype(jnp.float32))[:, None]
    remaining = jnp.where(by_count, probabilities, 0.0)
    mass = remaining.sum(axis=-1)
    by_mass = order >= largest_threshold(remaining, jnp.minimum(params.top_p, 1.0 - 1e-6) * mass)[:, None]
    return by_count & jnp.where(params.top_p < 1, by_mass, True)
