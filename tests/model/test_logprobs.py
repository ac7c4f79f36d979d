"""Chunked log-probs and entropies against plain softmax in float64, on one device and over meshes."""
import math
import re
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
from nft_jax.runtime.mesh import AXES, sharding

CONFIG = ModelConfig("qwen2", vocab_size=37, hidden_size=12, intermediate_size=20, num_layers=2, num_heads=3,
                     num_kv_heads=1, head_dim=4, max_positions=64, tie_embeddings=True, qkv_bias=True,
                     initializer_range=0.4)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 11)).astype(np.int32)
SEGMENT_IDS = np.array([[1] * 11, [1] * 4 + [2] * 5 + [0] * 2, [1] * 2 + [0] * 9], np.int32)
POSITIONS = np.array([[*range(11)], [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1], [0, 1, *range(9)]], np.int32)
SPEAKS = np.pad((SEGMENT_IDS[:, 1:] == SEGMENT_IDS[:, :-1]) & (SEGMENT_IDS[:, 1:] > 0), ((0, 0), (1, 0)))


@partial(jax.jit, static_argnames="compute")
def both_of(params, tokens, positions, segment_ids, temperature=1.0, wanted=None, compute=FLOAT32):
    return logprobs.token_logprobs(params, CONFIG, tokens, positions, segment_ids, wanted=wanted,
                                   temperature=temperature, compute=compute)


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
        length, room = stop - start, np.arange(TOKENS.shape[1])[None]
        tokens = np.pad(TOKENS[row:row + 1, start:stop], ((0, 0), (0, TOKENS.shape[1] - length)))
        alone = both_of(params, tokens, room.astype(np.int32), (room < length).astype(np.int32))
        np.testing.assert_allclose(packed[row, start + 1:stop], alone[0][0, 1:length], atol=2e-5)
        np.testing.assert_allclose(entropies[row, start + 1:stop], alone[1][0, 1:length], atol=2e-5)


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


@pytest.mark.parametrize(("block", "words"), [(1, 37), (7, 16), (40, 10), (16, 36)])    # of 33 tokens and 37 words
def test_chunks_change_nothing(params, whole, monkeypatch, block, words):
    monkeypatch.setattr(logprobs, "TOKEN_BLOCK", (block, block))
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", min(block, 33) * words)
    both, gradients = outputs_and_gradients(params)
    for got, expected in zip(both, whole[0], strict=True):
        np.testing.assert_allclose(np.where(SPEAKS, got, 0), np.where(SPEAKS, expected, 0), atol=1e-6)
    jax.tree.map(lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5),
                 gradients, whole[1])


def test_on_cpus_short_answers_meet_a_large_vocabulary_in_small_blocks(params, whole, monkeypatch):
    """The number of tokens that meet the vocabulary is read from the traced program: 4 at a time, not all 33."""
    monkeypatch.setattr(logprobs, "CPU_BLOCK", 4)
    one = jnp.zeros(TOKENS.shape, bool).at[1, 3].set(True)

    def widths(most):
        monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", most)
        text = str(jax.make_jaxpr(lambda: logprobs.token_logprobs(
            params, CONFIG, TOKENS, POSITIONS, SEGMENT_IDS, wanted=one)[0])())
        return {int(found) for found in re.findall(r"f32\[(\d+),\d+\] = dot_general", text)}

    assert widths(most=33 * 37 - 1) & {4, 33} == {4} and widths(most=1024 * 37) & {4, 33} == {33}
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 4 * 16)
    for got, expected in zip(outputs_and_gradients(params)[0], whole[0], strict=True):
        np.testing.assert_allclose(np.where(SPEAKS, got, 0), np.where(SPEAKS, expected, 0), atol=1e-6)


def reference_head(hidden, weights, targets, temperature, softcap):
    """Log-probs and entropies by plain softmax, differentiable."""
    logits = hidden @ weights
    logits = (softcap * jnp.tanh(logits / softcap) if softcap else logits) / temperature
    all_logprobs = jax.nn.log_softmax(logits)
    return (jnp.take_along_axis(all_logprobs, targets[..., None], -1)[..., 0],
            -(jnp.exp(all_logprobs) * all_logprobs).sum(-1))


RNG = np.random.default_rng(2)
HIDDEN, WEIGHTS = RNG.normal(size=(8, 12, 16)), RNG.normal(size=(16, 32))
TARGETS, WANTED = RNG.integers(0, 32, (8, 12)), RNG.random((8, 12)) < 0.6
FACTORS = RNG.normal(size=(2, 8, 12)) * WANTED


def value_and_gradients(function, *arguments):
    """Of the sum of both outputs times FACTORS, by the first two arguments (hidden and weights)."""
    def total(*arguments):
        both = function(*arguments)
        return sum(jnp.sum(jnp.asarray(f, x.dtype) * x) for f, x in zip(FACTORS, both, strict=True)), both

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(*arguments)


@pytest.mark.parametrize("vocab_axis", [0, 1])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_both_outputs_have_the_gradients_of_a_plain_softmax(monkeypatch, vocab_axis, softcap):
    """In float64, which is kept; in blocks of tokens and chunks of words that divide neither 96 tokens nor 32 words.
    What is not wanted is 0, gets no gradient, and is never looked at: a nan there spreads nowhere."""
    monkeypatch.setattr(logprobs, "TOKEN_BLOCK", (20, 20))
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 20 * 12)
    with jax.enable_x64(True):
        head = logprobs.Head(vocab_axis, softcap)
        weights = WEIGHTS.T if vocab_axis == 0 else WEIGHTS
        poisoned = np.where(WANTED[..., None], HIDDEN, np.nan)
        (value, both), (d_hidden, d_weights) = value_and_gradients(
            lambda h, w: logprobs.head_logprobs(head, h, w, TARGETS, WANTED, jnp.float64(0.7)), poisoned, weights)
        (expected, plain), (plain_hidden, plain_weights) = value_and_gradients(
            lambda h, w: reference_head(h, w, TARGETS, 0.7, softcap), HIDDEN, WEIGHTS)
    assert value.dtype == d_hidden.dtype == d_weights.dtype == np.float64
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for got, wanted in zip(both, plain, strict=True):
        np.testing.assert_allclose(got, np.where(WANTED, wanted, 0), atol=1e-12)
    np.testing.assert_allclose(d_hidden, plain_hidden, atol=1e-12)
    np.testing.assert_allclose(d_weights.T if vocab_axis == 0 else d_weights, plain_weights, atol=1e-12)


def test_the_head_loops_over_the_blocks_that_are_filled(monkeypatch):
    monkeypatch.setattr(logprobs, "TOKEN_BLOCK", (8, 8))

    @jax.jit
    def ordered(wanted):
        tokens = logprobs.Tokens.of(wanted, 8)
        return tokens.blocks, tokens.order, tokens.put_back(jnp.arange(1, 1 + len(tokens.order)), wanted)

    for count, filled in ((0, 0), (1, 1), (8, 1), (9, 2), (30, 4)):
        wanted = np.random.default_rng(count).permutation(np.arange(30) < count)
        blocks, order, back = ordered(wanted)
        assert blocks == filled
        np.testing.assert_array_equal(order, [*np.flatnonzero(wanted), *[30] * (32 - count)])
        np.testing.assert_array_equal(back, np.where(wanted, np.cumsum(wanted), 0))


def test_wanted_log_probs_are_those_of_all(params):
    everything = both_of(params, TOKENS, POSITIONS, SEGMENT_IDS)
    for mask in (SPEAKS & (TOKENS % 2 == 0), np.zeros_like(SPEAKS)):
        some = both_of(params, TOKENS, POSITIONS, SEGMENT_IDS, wanted=mask)
        for got, expected in zip(some, everything, strict=True):
            np.testing.assert_allclose(got, np.where(mask, expected, 0), atol=1e-6)


@pytest.fixture(scope="module")
def on_one_device():
    return value_and_gradients(lambda h, w: logprobs.head_logprobs(
        logprobs.Head(0), h, w, TARGETS, WANTED, jnp.float32(1.3)), np.float32(HIDDEN), np.float32(WEIGHTS.T))


@pytest.mark.parametrize("sizes", [(8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 4, 1), (2, 2, 2, 1), (1, 2, 2, 2)])
def test_the_mesh_changes_nothing(monkeypatch, on_one_device, sizes):
    """Value and gradients over 8 devices, whose numbers of wanted tokens, and so of blocks, differ."""
    monkeypatch.setattr(logprobs, "TOKEN_BLOCK", (5, 5))
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 5 * 5)
    mesh = jax.make_mesh(sizes, AXES, (jax.sharding.AxisType.Auto,) * 4)
    tied = sizes[0] != 2
    head = logprobs.Head(0 if tied else 1, 0.0, mesh)
    weights = jax.device_put(np.float32(WEIGHTS.T if tied else WEIGHTS),
                             sharding(mesh, *(("vocab", "embed") if tied else ("embed", "vocab"))))
    (value, both), (d_hidden, d_weights) = value_and_gradients(
        lambda h, w: logprobs.head_logprobs(head, h, w, TARGETS, WANTED, jnp.float32(1.3)), np.float32(HIDDEN), weights)
    assert d_weights.sharding.is_equivalent_to(weights.sharding, 2)
    (expected, plain), (plain_hidden, plain_weights) = on_one_device
    for got, wanted in ((value, expected), (d_hidden, plain_hidden), *zip(both, plain, strict=True),
                        (d_weights if tied else d_weights.T, plain_weights)):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def compiled_training(vocabulary: int, rows: int = 8, length: int = 512):
    """Value and gradient of all log-probs and entropies, compiled for a model that is small but for its vocabulary."""
    config = ModelConfig("qwen2", vocabulary, 8, 8, 1, 2, 1, 4, 1024, tie_embeddings=True, qkv_bias=True)

    def loss(params, *batch):
        return sum(x.sum() for x in logprobs.token_logprobs(params, config, *batch))

    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return jax.jit(jax.value_and_grad(loss)).lower(decoder.parameter_shapes(config), *(tokens,) * 3).compile()


def test_memory_does_not_grow_with_the_vocabulary():
    """The issue's bound: less than 5% more temporaries for twice the vocabulary of Qwen2.5. The gradient of the head's
    weight is no temporary but a result."""
    once, twice = (compiled_training(size) for size in (151_936, 303_872))
    temporaries = [compiled.memory_analysis().temp_size_in_bytes for compiled in (once, twice)]
    assert logprobs.CHUNK_ELEMENTS * 4 < temporaries[0] < 5 * logprobs.CHUNK_ELEMENTS * 4
    assert temporaries[1] < 1.05 * temporaries[0]
    shapes = re.findall(r"\[([\d,]+)\]", once.as_text())
    largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
    assert logprobs.CHUNK_ELEMENTS / 2 < largest < 8 * 512 * 151_936 / 50


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


@settings(max_examples=50)
@given(arrays.arrays(np.float32, (5, 9), elements=st.floats(-80, 80, width=32)), st.integers(0, 8))
def test_logprob_and_entropy_of_any_logits(logits, target):
    """Weights that are the identity make any numbers logits; in three chunks of words, the last of them overlapping."""
    targets = np.full((1, 5), target, np.int32)
    chosen, entropy = (x[0] for x in of_logits(logits[None], targets))
    expected_chosen, expected_entropy = reference(logits, targets[0])
    np.testing.assert_allclose(chosen, expected_chosen, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(entropy, expected_entropy, rtol=1e-4, atol=1e-4)
    assert (np.asarray(entropy) >= -1e-5).all() and (np.asarray(entropy) <= np.log(9) + 1e-5).all()


@jax.jit
def of_logits(logits, targets):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "CHUNK_ELEMENTS", 5 * 4)
        return logprobs.head_logprobs(logprobs.Head(1), logits, jnp.eye(9), targets, jnp.ones((1, 5), bool),
                                      jnp.float32(1))


def test_bfloat16_states_keep_float32_logprobs(params):
    full, half = (both_of(params, TOKENS, POSITIONS, SEGMENT_IDS, compute=Compute(dtype))[0]
                  for dtype in ("float32", "bfloat16"))
    assert half.dtype == jnp.float32
    assert 0 < np.abs((full - half)[SPEAKS]).mean() < 0.05
