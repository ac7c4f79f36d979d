"""The sampler of a model with delta nets: their memories follow the samples through every change of the schedule."""
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from made import trainers_gaps, trainers_logprobs
from nft_jax.config import DecodingConfig, MeshConfig
from nft_jax.model import decoder
from nft_jax.rollout.cache import empty_state
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.slots import entry_bytes
from nft_jax.runtime.compilation import largest
from nft_jax.runtime.mesh import make_mesh, sharded_bytes
from nft_jax.types import Group, Prompt

LONGEST, SAMPLES, PROMPTS = 24, 3, (1, 13, 2, 9, 5, 1, 11)


@pytest.fixture(scope="module")
def model(tiny_model):
    """A layer with a delta net, and one with attention."""
    return replace(tiny_model, family="qwen3_5_text", output_gate=True, norm_offset=1.0,
                   partial_rotary_factor=0.5, delta_layers=(0,), delta_key_heads=2, delta_value_heads=4,
                   delta_key_dim=6, delta_value_dim=5, delta_conv=4)


@pytest.fixture(scope="module")
def params(model):
    return decoder.init(model, jax.random.key(1))


@pytest.fixture(scope="module")
def make(model, number_tokenizer):
    def make(slots, mesh=None, block_size=4, buckets=None, begun_tokens=0, **more):
        mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
        return Sampler(model, number_tokenizer, (3,), DecodingConfig(max_new_tokens=LONGEST, slots=slots,
                       block_size=block_size, **more), mesh=mesh, max_prompt_tokens=13, buckets=buckets,
                       begun_tokens=begun_tokens)
    return make


def answers(sampler, params):
    rng = np.random.default_rng(0)
    prompts = [Prompt(i, "", "", "", rng.integers(4, 32, n).astype(np.int32)) for i, n in enumerate(PROMPTS)]
    # Short and long answers in turn, so that slots are freed and taken again at different steps.
    limits = rng.integers(1, LONGEST + 1, (len(prompts), SAMPLES))
    groups = dict(sampler.sample(sampler.cast(params), prompts, SAMPLES, jax.random.key(5), 2, limits=limits))
    return [rollout for i in range(len(prompts)) for rollout in groups[i]]


@pytest.fixture(scope="module")
def reference(make, params):
    """Every sample has a slot of its own from the beginning, and the ring never grows."""
    return answers(make(len(PROMPTS) * SAMPLES, buckets=(40,)), params)


def test_logprobs_are_those_of_the_trainer(model, params, reference):
    for answer, expected in zip(reference, trainers_logprobs(params, model, reference), strict=True):
        np.testing.assert_allclose(answer.logprobs, expected, atol=3e-5)


def test_an_answer_that_goes_on_has_its_memories_again(make, params, reference):
    """The first prompts' answers in parts of at most 7 tokens, as `reference` has them at once."""
    sampler, whole = make(8, buckets=(40,), begun_tokens=LONGEST - 1), reference[:2 * SAMPLES]
    limits = np.array([len(rollout.tokens) for rollout in whole]).reshape(2, SAMPLES)
    asked, steps = [group.prompt for group in whole[::SAMPLES]], range(2, 2 + -(-limits.max() // 7))
    for step in steps:
        groups = dict(sampler.sample(sampler.cast(params), asked, SAMPLES, jax.random.key(5), step, budget=7))
        asked = [Group(rollouts[0].prompt, rollouts, ()) for _, rollouts in sorted(groups.items())]
    assert len(steps) > 2
    for found, expected in zip([r for group in asked for r in group.rollouts], whole, strict=True):
        n = len(expected.tokens)
        np.testing.assert_array_equal(found.tokens[:n], expected.tokens)
        np.testing.assert_allclose(found.logprobs[:n], expected.logprobs, atol=1e-5)


@pytest.mark.parametrize(("slots", "block_size", "buckets", "mesh"), [
    (16, 3, (16, 24, 40), None),         # slots are taken again, the ring grows, the last answers move to fewer slots
    (8, 4, (40,), MeshConfig(data=1, fsdp=2, tensor=2))])
def test_samples_do_not_depend_on_the_schedule(make, params, reference, slots, block_size, buckets, mesh):
    sampler = make(slots, mesh and make_mesh(mesh, jax.devices()[:mesh.fsdp * mesh.tensor]), block_size, buckets)
    moved, keep = [], sampler._keep
    sampler._keep = lambda state, rows: moved.append(rows) or keep(state, rows)
    for found, expected in zip(answers(sampler, params), reference, strict=True):
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
    assert [rows.shape for rows in moved] == [(8,)] * (slots == 16)


@pytest.mark.slow
def test_memories_and_weights_stay_on_their_devices_while_they_decode(make, model):
    """On a mesh nothing is gathered that is as large as a device's part of a memory, or of a matrix."""
    program = largest(make(8, make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])).programs())["decode"]
    text = program.function.lower(*program.arguments).compile().as_text()
    sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in
             re.findall(r"= [a-z]+\d*\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)\(", text)]
    memory, matrix = 4 * 2 * model.delta_key_dim * model.delta_value_dim, model.hidden_size * model.delta_key_dim
    assert max(sizes, default=0) < min(memory, matrix)


def test_int8_rings_and_weights_are_close_to_the_trainer(make, model, params):
    found = answers(make(8, buckets=(40,), kv_dtype="int8", weight_dtype="int8"), params)
    gaps = trainers_gaps(params, model, found)
    assert 1e-4 < gaps.mean() < 0.1


def test_memory_is_counted_and_does_not_grow_with_the_answer(model):
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    state = jax.eval_shape(lambda: empty_state(model, 3, 40, jnp.float32))
    assert entry_bytes(model, one, 3, 40, "float32") == sharded_bytes((state.cache, state.memories))
    attention = 2 * 3 * model.num_kv_heads * model.head_dim * 4
    assert entry_bytes(model, one, 3, 80, "float32") - entry_bytes(model, one, 3, 40, "float32") == 40 * attention
    split = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    assert entry_bytes(model, split, 4, 40, "float32") == entry_bytes(model, one, 4, 40, "float32") / 4
