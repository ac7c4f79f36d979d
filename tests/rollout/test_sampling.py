"""Sampling against numpy: distributions, truncation by sorting, log-probs, entropy."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.config import SamplingConfig
from nft_jax.rollout.sampling import (
    SamplingParams,
    block_width,
    pick,
    sample_by_column,
    sample_tokens,
    truncation_floor,
    uniforms,
)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def kept_by_sorting(scores, top_k, top_p, min_p=0.0):
    """The reference: sort, keep the first k, then the shortest head whose renormalised mass reaches top_p, then what is
    at least min_p times as likely as the first."""
    logp = log_softmax(scores)
    keep = np.ones_like(logp, bool)
    for row, kept in zip(logp, keep, strict=True):
        order = np.argsort(-row, kind="stable")
        k = min(top_k or len(row), len(row))
        kept[order[k:]] = False
        if top_p < 1:
            mass = np.cumsum(np.exp(row[order[:k]]))
            needed = int(np.searchsorted(mass, top_p * mass[-1])) + 1
            kept[order[needed:]] = False
        kept[np.exp(row - row.max()) < min_p] = False
    return keep


@partial(jax.jit, static_argnames="truncate")
def draw(logits, stream, position, params, truncate=False, seed=1):
    uniform, = uniforms(jax.random.key(seed), jnp.zeros_like(stream), stream, position[None])
    return sample_tokens(logits, uniform, params, truncate=truncate)


def kept(scores, params):
    scores = jnp.asarray(scores)
    return scores >= truncation_floor(scores, jnp.exp(scores), params)[:, None]


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([0, 1, 2, 5, 17, 40]), st.sampled_from([1.0, 0.95, 0.7, 0.3, 0.01]),
       st.sampled_from([0.0, 0.02, 0.3, 0.99]))
def test_truncation_equals_sorting(seed, top_k, top_p, min_p):
    scores = np.random.default_rng(seed).normal(0, 3, (4, 17)).astype(np.float32)
    scores -= scores.max(-1, keepdims=True)
    np.testing.assert_array_equal(
        jax.jit(kept)(scores, SamplingParams(np.float32(1), np.int32(top_k), np.float32(top_p), np.float32(min_p))),
        kept_by_sorting(scores, top_k, top_p, min_p))


def test_truncation_keeps_ties_and_extremes():
    scores = np.array([[0.0, 0.0, -1.0, -1e30], [0.0, -80.0, -90.0, -1e38]], np.float32)
    np.testing.assert_array_equal(kept(scores, SamplingParams(top_k=1)),
                                  [[True, True, False, False], [True, False, False, False]])
    assert kept(scores, SamplingParams(top_k=4)).all()
    assert kept(scores, SamplingParams()).all()
    assert [SamplingConfig(*p).truncates for p in ((), (0.5,), (1, 3), (1, 0, 0.9), (1, 0, 1, 0.1))] == [
        False, False, True, True, True]


def frequencies(logits, count, params=None, truncate=False):
    """Counts [V] of `count` draws, each of its own stream."""
    params = SamplingParams() if params is None else params
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits)))
    sampled = draw(rows, jnp.arange(count, dtype=jnp.uint32), jnp.zeros(count, jnp.int32), params, truncate=truncate)
    return np.bincount(sampled.token, minlength=len(logits))


def assert_follows(counts, probabilities):
    """Pearson's chi-square over the tokens expected at least 5 times, the rest as one: no more than 5 standard
    deviations above its mean. Nothing impossible was drawn."""
    assert counts[probabilities == 0].sum() == 0
    expected = counts.sum() * probabilities
    common = expected >= 5
    a = np.append(counts[common], counts[~common].sum())
    b = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    freedom = len(a) - 1
    assert ((a - b) ** 2 / b)[b > 1].sum() < freedom + 5 * np.sqrt(2 * freedom) + 5


@pytest.mark.parametrize("vocabulary", [2, 4, 31, 33, 512])
def test_frequencies_follow_the_distribution(vocabulary):
    """Also where the vocabulary is not a multiple of the search's blocks."""
    logits = np.random.default_rng(vocabulary).normal(0, 1.5, vocabulary).astype(np.float32)
    for temperature in (0.5, 1.7):
        assert_follows(frequencies(logits, 20_000, SamplingParams(np.float32(temperature))),
                       np.exp(log_softmax(logits / temperature)))


def test_frequencies_of_a_large_vocabulary_with_impossible_tokens():
    """5,000 entries in blocks, some blocks without a possible token, some of almost no probability."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 5_000).astype(np.float32)
    width = block_width(5_000)
    logits[rng.random(5_000) < 0.3] = -1e30
    logits[3 * width:5 * width] = -1e30
    logits[:width] = -60.0
    logits[-3:] = -1e30
    assert_follows(frequencies(logits, 8_000), np.exp(log_softmax(logits)))
    params = SamplingParams(np.float32(1), np.int32(50), np.float32(0.9), np.float32(0.05))
    keep = kept_by_sorting(logits[None], 50, 0.9, 0.05)[0]
    probabilities = np.where(keep, np.exp(log_softmax(logits)), 0)
    assert_follows(frequencies(logits, 1_500, params, truncate=True), probabilities / probabilities.sum())


@settings(max_examples=40)
@given(st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.3, 1.0, 7.0]), min_size=1, max_size=40).filter(any),
       st.sampled_from([0.0, 1e-7, 0.5, 1 - 2**-23]))
def test_nothing_of_weight_zero_is_picked(weights, uniform):
    padded = np.zeros(40, np.float32)
    padded[:len(weights)] = weights
    index = int(jax.jit(pick)(padded[None], np.array([uniform], np.float32))[0])
    assert padded[index] > 0
    below = float(padded[:index].astype(np.float64).sum() / padded.astype(np.float64).sum())
    assert below <= uniform + 1e-5


def test_logprob_truncated_logprob_and_entropy():
    logits = np.random.default_rng(0).normal(0, 2, (50, 9)).astype(np.float32)
    sampled = draw(logits, jnp.arange(50, dtype=jnp.uint32), jnp.zeros(50, jnp.int32),
                   SamplingParams(0.8, 3, 0.9, 0.1), truncate=True)
    logp = log_softmax(logits / np.float32(0.8))
    token = np.asarray(sampled.token)
    kept = kept_by_sorting(logits / np.float32(0.8), 3, 0.9, 0.1)
    assert kept[np.arange(50), token].all()
    np.testing.assert_allclose(sampled.logprob, logp[np.arange(50), token], atol=1e-5)
    inside = np.log(np.where(kept, np.exp(logp), 0).sum(-1))
    np.testing.assert_allclose(sampled.truncated_logprob, logp[np.arange(50), token] - inside, atol=1e-5)
    np.testing.assert_allclose(sampled.entropy, -(np.exp(logp) * logp).sum(-1), atol=1e-5)


def test_greedy_takes_the_mode_and_reports_temperature_one():
    logits = np.array([[0.0, 3.0, 1.0]], np.float32)
    sampled = draw(logits, jnp.zeros(1, jnp.uint32), jnp.zeros(1, jnp.int32), SamplingParams(0.0))
    assert int(sampled.token[0]) == 1
    np.testing.assert_allclose(sampled.logprob, log_softmax(logits)[0, 1:2], atol=1e-6)


def test_a_token_depends_on_stream_and_position_only():
    logits = np.random.default_rng(0).normal(0, 1, (1, 30)).astype(np.float32).repeat(6, 0)
    stream, position = np.array([3, 3, 5, 5, 3, 9], np.uint32), np.array([0, 1, 0, 1, 0, 2], np.int32)
    tokens = np.asarray(draw(logits, stream, position, SamplingParams()).token)
    assert tokens[0] == tokens[4]
    assert len(set(tokens[[0, 1, 2, 3, 5]])) > 1
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]):
        again = draw(logits, stream[order], position[order], SamplingParams()).token
        np.testing.assert_array_equal(again, tokens[order])


@pytest.mark.parametrize("vocabulary", [17, 512, 1000])       # parts of 1 token, of whole blocks, and of 8 tokens
def test_sampling_by_column_is_sampling(vocabulary):
    """The same tokens, log-probs and entropy, at temperatures 0, 0.7 and 1."""
    logits = np.random.default_rng(vocabulary).normal(0, 3, (256, vocabulary)).astype(np.float32)
    # Of tied logits, a greedy answer has the first.
    logits[::2, [5, 12, vocabulary - 1]] = logits[::2].max(axis=1, keepdims=True)
    uniform = jax.random.uniform(jax.random.key(2), (256, 2))
    by_slot, by_column = jax.jit(partial(sample_tokens, truncate=False)), jax.jit(sample_by_column)
    for temperature in (0, 0.7, 1):
        params = SamplingParams.of(SamplingConfig(temperature=temperature))
        expected, found = by_slot(logits, uniform, params), by_column(logits, uniform, params)
        np.testing.assert_array_equal(found.token, expected.token)
        for one, other in zip(found[1:], expected[1:], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)
