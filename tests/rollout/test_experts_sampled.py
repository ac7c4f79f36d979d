"""The sampler of a model with experts: independent of slots and mesh, and agreeing with the trainer."""
import re
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from made import trainers_logprobs
from nft_jax.config import DecodingConfig, MeshConfig
from nft_jax.model import decoder
from nft_jax.model.decoder import states_and_load
from nft_jax.model.experts import chosen_otherwise
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.compilation import largest
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Prompt

LONGEST, SAMPLES = 10, 2


@pytest.fixture(scope="module")
def model(tiny_model):
    return replace(tiny_model, family="qwen3_moe", num_experts=4, experts_per_token=2, expert_size=40,
                   norm_topk_prob=True)


@pytest.fixture(scope="module")
def params(model):
    return decoder.init(model, jax.random.key(1))


@pytest.fixture(scope="module")
def make(model, number_tokenizer):
    def make(slots, mesh, record=False, **more):
        return Sampler(model, number_tokenizer, (3,), DecodingConfig(max_new_tokens=LONGEST, slots=slots, block_size=4,
                       **more), mesh=mesh, max_prompt_tokens=8, record_experts=record)
    return make


def answers(sampler, params, lengths=(1, 8, 5)):
    rng = np.random.default_rng(0)
    prompts = [Prompt(i, "", "", "", rng.integers(4, 32, n).astype(np.int32)) for i, n in enumerate(lengths)]
    groups = dict(sampler.sample(sampler.cast(params), prompts, SAMPLES, jax.random.key(5), 2))
    return [rollout for i in range(len(prompts)) for rollout in groups[i]]


@pytest.fixture(scope="module")
def reference(make, params):
    return answers(make(6, make_mesh(MeshConfig(), jax.devices()[:1]), record=True), params)


def test_logprobs_are_those_of_the_trainer(model, params, reference):
    for answer, expected in zip(reference, trainers_logprobs(params, model, reference), strict=True):
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-5)


def trainers_experts(model, params, rollout):
    """[n, L, K]: the trainer's experts of the token before each token of the answer."""
    tokens = np.concatenate([rollout.prompt.tokens, rollout.tokens])[None]
    _, chosen_LBTK = jax.jit(partial(states_and_load, tell=lambda probability, expert, counted: expert),
                             static_argnums=1)(params, model, tokens, np.arange(tokens.shape[1])[None],
                                               np.ones_like(tokens))
    return np.moveaxis(np.asarray(chosen_LBTK)[:, 0], 1, 0)[len(rollout.prompt.tokens) - 1:-1]


def test_the_first_answers_have_the_experts_that_sampled_them(model, params, reference, make):
    assert [answer.experts is not None for answer in reference] == [True, False] * 3
    for exact in reference[::2]:
        assert exact.experts.dtype == np.uint8
        assert exact.experts.shape == (len(exact.tokens), model.num_layers, model.experts_per_token)
        np.testing.assert_array_equal(np.sort(exact.experts), np.sort(trainers_experts(model, params, exact)))
    int8 = make(6, make_mesh(MeshConfig(), jax.devices()[:1]), record=True, weight_dtype="int8")
    otherwise = [chosen_otherwise(rounded.experts, trainers_experts(model, params, rounded)).mean()
                 for rounded in answers(int8, params, (8,) * 20)[::2]]
    assert 0 < np.mean(otherwise) < 0.1


@pytest.mark.parametrize(("slots", "mesh"), [(2, MeshConfig(data=1)), (8, MeshConfig(data=1, fsdp=2, tensor=2))])
def test_samples_do_not_depend_on_slots_and_mesh(make, params, reference, slots, mesh):
    sampler = make(slots, make_mesh(mesh, jax.devices()[:mesh.fsdp * mesh.tensor]), record=True)
    for found, expected in zip(answers(sampler, params), reference, strict=True):
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
        np.testing.assert_array_equal(found.experts, expected.experts)


@pytest.mark.parametrize("weight_dtype", ["compute", "int8"])
def test_experts_stay_on_their_devices_while_they_decode(make, model, weight_dtype):
    """On a mesh, nothing is gathered that is as large as a device's part of one of a layer's arrays of experts."""
    program = largest(make(8, make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4]),
                           weight_dtype=weight_dtype).programs())["decode"]
    text = program.function.lower(*program.arguments).compile().as_text()
    sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in
             re.findall(r"= [a-z]+\d*\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)\(", text)]
    assert max(sizes, default=0) < model.num_experts * model.hidden_size * model.expert_size // 2
