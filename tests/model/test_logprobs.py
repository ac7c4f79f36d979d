from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nft_jax.model import decoder, logprobs
from nft_jax.model.config import FLOAT32, Compute, ModelConfig

CONFIG = ModelConfig("qwen2", vocab_size=37, hidden_size=12, intermediate_size=20, num_layers=2, num_heads=3,
                     num_kv_heads=1, head_dim=4, max_positions=64, tie_embeddings=True, qkv_bias=True,
                     initializer_range=0.4)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 11)).astype(np.int32)
SEGMENT_IDS = np.array([[1] * 11, [1] * 4 + [2] * 5 + [0] * 2, [1] * 2 + [0] * 9], np.int32)
POSITIONS = np.array([[*range(11)], [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1], [0, 1, *range(9)]], np.int32)
SPEAKS = np.pad((SEGMENT_IDS[:, 1:] == SEGMENT_IDS[:, :-1]) & (SEGMENT_IDS[:, 1:] > 0), ((0, 0), (1, 0)))


@partial(jax.jit, static_argnames="compute")
def both_of(params, tokens, positions, segment_ids, temperature=1.0, compute=FLOAT32):
    return logprobs.token_logprobs(params, CONFIG, tokens, positions, segment_ids, temperature=temperature,
                                   compute=compute)


@pytest.fixture(scope="module")
def params():
    return decoder.init(CONFIG, jax.random.key(0))


def reference(logits, target):
    """float64 log-prob of the target and entropy, over the last axis."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    all_logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    chosen = np.take_along_axis(all_logprobs, np.asarray(target)[..., None], -1)[..., 0]
    return chosen, -(np.exp(all_logprobs) * all_logprobs).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_logprobs_and_entropy_match_float64(params, temperature):
    ours = both_of(params, TOKENS, POSITIONS, SEGMENT_IDS, temperature)
    hidden = decoder.hidden_states(params, CONFIG, TOKENS, POSITIONS, SEGMENT_IDS)
    logits = np.asarray(decoder.logits(params, CONFIG, hidden))[:, :-1] / temperature
    for got, expected in zip(ours, reference(logits, TOKENS[:, 1:]), strict=True):
        assert got.shape == TOKENS.shape
        assert got.dtype == jnp.float32
        assert np.isfinite(got).all()
        np.testing.assert_allclose(np.asarray(got)[:, 1:][SPEAKS[:, 1:]], expected[SPEAKS[:, 1:]], atol=2e-5)


def test_a_segment_speaks_for_itself(params):
    """Log-probs inside a segment do not depend on its neighbours in the row, on padding, or on the row."""
    packed, entropies = both_of(params, TOKENS, POSITIONS, SEGMENT_IDS)
    for row, start, stop in ((0, 0, 11), (1, 0, 4), (1, 4, 9), (2, 0, 2)):
        tokens = TOKENS[row:row + 1, start:stop]
        alone = both_of(params, tokens, np.arange(stop - start)[None], np.ones_like(tokens))
        np.testing.assert_allclose(packed[row, start + 1:stop], alone[0][0, 1:], atol=2e-5)
        np.testing.assert_allclose(entropies[row, start + 1:stop], alone[1][0, 1:], atol=2e-5)


WEIGHT = np.where(SPEAKS, np.random.default_rng(1).normal(size=TOKENS.shape), 0).astype(np.float32)


def outputs_and_gradients(params):
    def loss(p):
        both = logprobs.token_logprobs(p, CONFIG, TOKENS, POSITIONS, SEGMENT_IDS, temperature=0.8)
        return jnp.sum(WEIGHT * (both[0] + 0.3 * both[1])), both

    (_, both), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)     # traced anew at every call
    return both, gradients


@pytest.fixture(scope="module")
def whole(params):
    return outputs_and_gradients(params)


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 15])      # of 30: 7 leaves a chunk that is not full
def test_chunks_change_nothing(params, whole, monkeypatch, rows_per_chunk):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", rows_per_chunk * CONFIG.vocab_size)
    both, gradients = outputs_and_gradients(params)
    for got, expected in zip(both, whole[0], strict=True):
        np.testing.assert_allclose(np.where(SPEAKS, got, 0), np.where(SPEAKS, expected, 0), atol=1e-6)
    jax.tree.map(lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5),
                 gradients, whole[1])


def largest_array(jaxpr) -> int:
    """Elements of the largest array that any equation makes, those of inner jaxprs included."""
    largest = 0
    for equation in jaxpr.eqns:
        values = [v for value in equation.params.values() for v in (value if isinstance(value, tuple) else (value,))]
        inner = [getattr(value, "jaxpr", value) for value in values]
        sizes = [np.prod(out.aval.shape, dtype=int) for out in equation.outvars]
        largest = max(largest, *sizes, *(largest_array(j) for j in inner if hasattr(j, "eqns")))
    return largest


def test_the_logits_of_all_tokens_never_exist(params, monkeypatch):
    rows, length, vocabulary = 4, 16, 4096
    config = ModelConfig("qwen2", vocabulary, 8, 8, 1, 2, 1, 4, 64, qkv_bias=True)
    weights = decoder.parameter_shapes(config)
    tokens, ones = np.zeros((rows, length), np.int32), np.ones((rows, length), np.int32)
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 8 * vocabulary)

    def loss(p):
        return sum(x[:, 1:].sum() for x in logprobs.token_logprobs(p, config, tokens, ones, ones))

    largest = largest_array(jax.make_jaxpr(jax.grad(loss))(weights).jaxpr)
    assert 8 * vocabulary <= largest < rows * (length - 1) * vocabulary


def test_gradient_of_the_head_matches_float64(params):
    """d log p(target) / d logits = onehot - p, through the chunked head."""
    untied = {**params, "head": params["embed"].T}
    hidden = np.asarray(decoder.hidden_states(untied, CONFIG, TOKENS, POSITIONS, SEGMENT_IDS), np.float64)[:, :-1]

    def loss(p):
        return jnp.sum(WEIGHT * logprobs.token_logprobs(p, CONFIG, TOKENS, POSITIONS, SEGMENT_IDS)[0])

    logits = hidden @ np.asarray(untied["head"], np.float64)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    residual = WEIGHT[:, 1:, None] * (np.eye(CONFIG.vocab_size)[TOKENS[:, 1:]] - probabilities)
    expected = np.einsum("btd,btv->dv", hidden, residual)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(untied)["head"], expected, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(arrays.arrays(np.float32, (5, 9), elements=st.floats(-80, 80, width=32)), st.integers(0, 8))
def test_logprob_and_entropy_of_any_logits(logits, target):
    targets = np.full(5, target, np.int32)
    chosen, entropy = logprobs.logprob_and_entropy(jnp.asarray(logits), jnp.asarray(targets))
    expected_chosen, expected_entropy = reference(logits, targets)
    np.testing.assert_allclose(chosen, expected_chosen, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(entropy, expected_entropy, rtol=1e-4, atol=1e-4)
    assert (np.asarray(entropy) >= -1e-5).all() and (np.asarray(entropy) <= np.log(9) + 1e-5).all()


def test_bfloat16_states_keep_float32_logprobs(params):
    full, half = (both_of(params, TOKENS, POSITIONS, SEGMENT_IDS, compute=Compute(dtype))[0]
                  for dtype in ("float32", "bfloat16"))
    assert half.dtype == jnp.float32
    assert 0 < np.abs((full - half)[SPEAKS]).mean() < 0.05
