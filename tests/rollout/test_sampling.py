"""Sampling against numpy: distributions, truncation by sorting, log-probs, entropy."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.rollout.sampling import SamplingParams, kept_by_truncation, sample_tokens


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))


def kept_by_sorting(scores, top_k, top_p):
    """The reference: sort, keep the first k, then the shortest head whose renormalised mass reaches top_p."""
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
    return keep


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0, 1, 2, 5, 17, 40]), st.sampled_from([1.0, 0.95, 0.7, 0.3, 0.01]))
def test_truncation_equals_sorting(seed, top_k, top_p):
    scores = np.random.default_rng(seed).normal(0, 3, (4, 17)).astype(np.float32)
    scores -= scores.max(-1, keepdims=True)
    probabilities = np.exp(log_softmax(scores)).astype(np.float32)
    kept = kept_by_truncation(jnp.array(scores), jnp.array(probabilities),
                              SamplingParams(1.0, np.int32(top_k), np.float32(top_p)))
    np.testing.assert_array_equal(kept, kept_by_sorting(scores, top_k, top_p))


def test_truncation_keeps_ties_and_extremes():
    scores = jnp.array([[0.0, 0.0, -1.0, -1e30], [0.0, -80.0, -90.0, -1e38]])
    probabilities = jax.nn.softmax(scores)
    np.testing.assert_array_equal(kept_by_truncation(scores, probabilities, SamplingParams(1.0, 1, 1.0)),
                                  [[True, True, False, False], [True, False, False, False]])
    assert kept_by_truncation(scores, probabilities, SamplingParams(1.0, 4, 1.0)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_follow_the_distribution(temperature):
    logits = jnp.array([1.0, 0.0, -1.0, 2.0])
    count = 20_000
    sampled = sample_tokens(jnp.broadcast_to(logits, (count, 4)), jax.random.key(1),
                            jnp.arange(count, dtype=jnp.uint32), jnp.zeros(count, jnp.int32),
                            SamplingParams(temperature), truncate=False)
    expected = np.exp(log_softmax(np.asarray(logits) / temperature))
    observed = np.bincount(sampled.token, minlength=4) / count
    np.testing.assert_allclose(observed, expected, atol=5 * np.sqrt(0.25 / count))


def test_logprob_truncated_logprob_and_entropy():
    logits = np.random.default_rng(0).normal(0, 2, (50, 9)).astype(np.float32)
    sampled = sample_tokens(jnp.array(logits), jax.random.key(0), jnp.arange(50, dtype=jnp.uint32),
                            jnp.zeros(50, jnp.int32), SamplingParams(0.8, 3, 0.9), truncate=True)
    logp = log_softmax(logits / np.float32(0.8))
    token = np.asarray(sampled.token)
    kept = kept_by_sorting(logits / np.float32(0.8), 3, 0.9)
    assert kept[np.arange(50), token].all()
    np.testing.assert_allclose(sampled.logprob, logp[np.arange(50), token], atol=1e-5)
    inside = np.log(np.where(kept, np.exp(logp), 0).sum(-1))
    np.testing.assert_allclose(sampled.truncated_logprob, logp[np.arange(50), token] - inside, atol=1e-5)
    np.testing.assert_allclose(sampled.entropy, -(np.exp(logp) * logp).sum(-1), atol=1e-5)


def test_greedy_takes_the_mode_and_reports_temperature_one():
    logits = jnp.array([[0.0, 3.0, 1.0]])
    sampled = sample_tokens(logits, jax.random.key(0), jnp.zeros(1, jnp.uint32), jnp.zeros(1, jnp.int32),
                            SamplingParams(0.0), truncate=False)
    assert int(sampled.token[0]) == 1
    np.testing.assert_allclose(sampled.logprob, log_softmax(logits)[0, 1:2], atol=1e-6)


def test_a_token_depends_on_stream_and_position_only():
    logits = jnp.array(np.random.default_rng(0).normal(0, 1, (6, 30)).astype(np.float32))
    stream, position = jnp.array([3, 3, 5, 5, 3, 9], jnp.uint32), jnp.array([0, 1, 0, 1, 0, 2], jnp.int32)
    draw = lambda rows: sample_tokens(logits[:1].repeat(len(rows), 0), jax.random.key(7), stream[rows],    # noqa: E731
                                      position[rows], SamplingParams(), truncate=False).token
    everything = np.asarray(draw(np.arange(6)))
    assert everything[0] == everything[4]
    assert len(set(everything[[0, 1, 2, 3, 5]])) > 1
    for row in range(6):
        assert draw(np.array([row]))[0] == everything[row]
