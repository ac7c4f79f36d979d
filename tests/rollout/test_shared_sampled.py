"""The sampler of a model whose last layers share keys and values, with rings of two sizes (Gemma 4)."""
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from made import trainers_gaps, trainers_logprobs
from nft_jax.config import DecodingConfig, MeshConfig
from nft_jax.model import decoder
from nft_jax.model.config import ProportionalRope
from nft_jax.rollout.cache import empty_state
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.slots import entry_bytes
from nft_jax.runtime.compilation import CompileCounter, compile_all
from nft_jax.runtime.mesh import make_mesh, sharded_bytes
from nft_jax.types import Prompt
from rows import use_rows

LONGEST, SAMPLES, PROMPTS = 24, 2, (1, 13, 2, 9, 5)


@pytest.fixture(scope="module")
def model(tiny_model):
    """A local layer and a wide one, and two that share theirs. Prompts and answers are longer than the window.

    A layer's input has 8 values: the norm over fewer enlarges float32's rounding (4 values: up to 4e-5 in a log-prob).
    """
    return replace(tiny_model, family="gemma4_text", num_layers=4, local_layers=(0, 2), window=5, local_rope_theta=50.0,
                   rope_scaling=ProportionalRope(0.5), activation="gelu_tanh", norms_after=True, scale_embeddings=True,
                   final_softcap=3.0, query_pre_attn_scalar=1, value_norm=True, wide_head_dim=6, wide_kv_heads=1,
                   keys_are_values=True, shared_layers=2, double_shared_mlp=True, layer_input_size=8, layer_scale=True)


@pytest.fixture(scope="module")
def params(model):
    return decoder.init(model, jax.random.key(1))


@pytest.fixture(scope="module")
def make(model, number_tokenizer):
    def make(slots, mesh=None, block_size=4, buckets=None, **more):
        mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
        return Sampler(model, number_tokenizer, (3,), DecodingConfig(max_new_tokens=LONGEST, slots=slots,
                       block_size=block_size, **more), mesh=mesh, max_prompt_tokens=13, buckets=buckets)
    return make


def answers(sampler, weights):
    rng = np.random.default_rng(0)
    prompts = [Prompt(i, "", "", "", rng.integers(4, 32, n).astype(np.int32)) for i, n in enumerate(PROMPTS)]
    limits = rng.integers(1, LONGEST + 1, (len(prompts), SAMPLES))
    groups = dict(sampler.sample(weights, prompts, SAMPLES, jax.random.key(5), 2, limits=limits))
    return [rollout for i in range(len(prompts)) for rollout in groups[i]]


@pytest.fixture(scope="module")
def reference(make, params):
    """Every sample has a slot of its own from the beginning, and the rings never grow."""
    sampler = make(len(PROMPTS) * SAMPLES, buckets=(40,))
    return answers(sampler, sampler.cast(params))


def test_logprobs_are_those_of_the_trainer(model, params, reference):
    for answer, expected in zip(reference, trainers_logprobs(params, model, reference), strict=True):
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-5)


def test_samples_do_not_depend_on_the_schedule_and_nothing_compiles_but_what_was_named(make, params, reference):
    """Slots are taken again, both rings grow."""
    sampler = make(4, None, 3, (16, 40))
    compile_all(sampler.programs())
    weights, counter = sampler.cast(params), CompileCounter()
    for found, expected in zip(answers(sampler, weights), reference, strict=True):
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
    assert counter.take() == 0
    grown = [program for program in sampler.programs() if program.kind == "grow"]
    assert len(grown) == 2 and len({program.arguments[0][0].shape for program in grown}) == 2


def test_samples_do_not_depend_on_the_kernel(make, params, reference, monkeypatch):
    """On a mesh whose `tensor` divides the kv heads of local layers alone. Slots are taken again, both rings grow."""
    use_rows(monkeypatch, 1)
    sampler = make(4, make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4]), 3, (16, 40))
    for found, expected in zip(answers(sampler, sampler.cast(params)), reference, strict=True):
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)


@pytest.mark.slow
def test_samples_do_not_depend_on_the_mesh(make, params, reference):
    """`tensor` divides the kv heads of local layers, and exceeds those of the others."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    sampler = make(8, mesh, buckets=(16, 40))
    for found, expected in zip(answers(sampler, sampler.cast(params)), reference, strict=True):
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)


@pytest.mark.slow
def test_int8_rings_and_weights_are_close_to_the_trainer(make, model, params):
    sampler = make(8, buckets=(40,), kv_dtype="int8", weight_dtype="int8")
    found = answers(sampler, sampler.cast(params))
    gaps = trainers_gaps(params, model, found)
    assert 1e-5 < gaps.mean() < 0.1


def test_shared_rings_are_counted_once(model):
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    state = jax.eval_shape(lambda: empty_state(model, 3, 40, jnp.float32))
    assert len(state.cache) == 2
    local, wide = (2 * 3 * heads * size * 4 for heads, size in (
        (model.num_kv_heads, model.head_dim), (model.wide_kv_heads, model.wide_head_dim)))
    assert entry_bytes(model, one, 3, 40, "float32") == sharded_bytes(state.cache) == 40 * (local + wide)
    split = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    # The wide layer has one kv head, which both devices of `tensor` hold.
    assert entry_bytes(model, split, 4, 40, "float32") == 40 * (local * 4 / 3 / 4 + wide * 4 / 3 / 2)
