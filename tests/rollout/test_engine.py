"""The sampler's contracts: independent of the schedule, agreeing with the trainer, exact at its ends."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.config import MeshConfig
from nft_jax.model.logprobs import token_logprobs
from nft_jax.parallel import make_mesh
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.sampling import SamplingParams
from nft_jax.types import InputError, Prompt

EOS, SAMPLES, PROMPTS = 3, 4, 11


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [Prompt(7 + i, "", "", "", rng.integers(4, 32, rng.integers(1, 13)).astype(np.int32))
            for i in range(PROMPTS)]


def make(model, tokenizer, *, slots=16, block=4, devices=1, max_new=20, mesh=None):
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:devices])
    return Sampler(model, tokenizer, (EOS,), mesh=mesh, slots=slots, block_size=block, max_prompt_tokens=13,
                   max_new_tokens=max_new)


def run(sampler, params, prompts, **kwargs):
    groups = dict(sampler.sample(sampler.cast(params), prompts, SAMPLES, jax.random.key(5), 2, **kwargs))
    return [groups[i] for i in range(len(prompts))]


@pytest.fixture(scope="module")
def reference(tiny_model, tiny_params, prompts):
    class Plain:
        def batch_decode(self, sequences, skip_special_tokens):
            return [""] * len(sequences)
    return run(make(tiny_model, Plain(), slots=8, block=1), tiny_params, prompts)


def assert_same(groups, reference):
    for group, expected in zip(groups, reference, strict=True):
        for a, b in zip(group, expected, strict=True):
            assert (a.prompt.index, a.sample, a.finish_reason) == (b.prompt.index, b.sample, b.finish_reason)
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            np.testing.assert_allclose(a.entropies, b.entropies, atol=1e-5)


@pytest.mark.parametrize(("slots", "block", "devices"), [(16, 8, 1), (64, 64, 1), (8, 8, 8), (16, 1, 8), (64, 8, 4)])
def test_samples_do_not_depend_on_the_schedule(tiny_model, tiny_params, prompts, reference, number_tokenizer, slots,
                                               block, devices):
    sampler = make(tiny_model, number_tokenizer, slots=slots, block=block, devices=devices)
    assert_same(run(sampler, tiny_params, prompts), reference)


@pytest.mark.parametrize("mesh", [MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2),
                                  MeshConfig(data=1, fsdp=2, tensor=4), MeshConfig(1, 2, 2, 2)])
def test_samples_do_not_depend_on_the_mesh(tiny_model, tiny_params, prompts, reference, number_tokenizer, mesh):
    sampler = make(tiny_model, number_tokenizer, mesh=make_mesh(mesh))
    assert_same(run(sampler, tiny_params, prompts), reference)


def test_samples_do_not_depend_on_the_order_of_admission(tiny_model, tiny_params, prompts, reference, number_tokenizer):
    order = np.random.default_rng(1).permutation(PROMPTS)
    shuffled = run(make(tiny_model, number_tokenizer), tiny_params, [prompts[i] for i in order])
    assert_same([shuffled[list(order).index(i)] for i in range(PROMPTS)], reference)
    assert_same(run(make(tiny_model, number_tokenizer), tiny_params, prompts[4:6]), reference[4:6])


def test_other_seed_or_rollout_gives_other_samples(tiny_model, tiny_params, prompts, reference, number_tokenizer):
    sampler = make(tiny_model, number_tokenizer)
    for key, rollout in ((jax.random.key(6), 2), (jax.random.key(5), 3)):
        groups = dict(sampler.sample(sampler.cast(tiny_params), prompts, SAMPLES, key, rollout))
        assert any(a.tokens.tolist() != b.tolist() for i, group in groups.items()
                   for a, b in zip(group, (r.tokens for r in reference[i]), strict=True))


def test_logprobs_are_those_of_the_trainer(tiny_model, tiny_params, reference):
    for rollout in reference[0] + reference[5]:
        tokens = jnp.array(np.concatenate([rollout.prompt.tokens, rollout.tokens]))[None]
        logprobs, entropies = token_logprobs(tiny_params, tiny_model, tokens, jnp.arange(tokens.shape[1])[None],
                                             jnp.ones_like(tokens))
        answer = slice(len(rollout.prompt.tokens), None)
        np.testing.assert_allclose(rollout.logprobs, logprobs[0, answer], atol=1e-5)
        np.testing.assert_allclose(rollout.entropies, entropies[0, answer], atol=1e-5)


def test_an_answer_ends_at_eos_or_at_its_limit(reference, tiny_model, tiny_params, prompts, number_tokenizer):
    answers = [rollout for group in reference for rollout in group]
    assert {rollout.finish_reason for rollout in answers} == {"stop", "length"}
    for rollout in answers:
        assert (rollout.tokens[-1] == EOS) == (rollout.finish_reason == "stop")
        assert EOS not in rollout.tokens[:-1]
        assert len(rollout.tokens) == 20 or rollout.finish_reason == "stop"
        assert len(rollout.tokens) == len(rollout.logprobs) == len(rollout.entropies)
    short = run(make(tiny_model, number_tokenizer, max_new=1), tiny_params, prompts)
    assert all(len(rollout.tokens) == 1 for group in short for rollout in group)
    assert_prefix(short, reference)


def assert_prefix(short, long):
    for a, b in zip(short, long, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x.tokens, y.tokens[:1])
            assert x.text == str(int(x.tokens[0]))


def test_truncated_and_greedy_sampling(tiny_model, tiny_params, prompts, number_tokenizer):
    sampler = make(tiny_model, number_tokenizer)
    greedy = run(sampler, tiny_params, prompts, sampling=SamplingParams(0.0))
    top_one = run(sampler, tiny_params, prompts, sampling=SamplingParams(1.0, 1, 1.0))
    for a, b in zip(greedy, top_one, strict=True):
        assert len({rollout.tokens.tobytes() for rollout in a}) == 1
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x.tokens, y.tokens)
            np.testing.assert_allclose(y.truncated_logprobs, 0, atol=1e-6)
            np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-5)


def test_every_token_is_reported_to_progress(tiny_model, tiny_params, prompts, number_tokenizer):
    counts = []
    groups = run(make(tiny_model, number_tokenizer), tiny_params, prompts, progress=counts.append)
    assert sum(counts) == sum(len(r.tokens) for group in groups for r in group)


def test_too_long_input_is_refused(tiny_model, tiny_params, number_tokenizer):
    with pytest.raises(InputError, match="prompt 3 has 30 tokens"):
        run(make(tiny_model, number_tokenizer), tiny_params, [Prompt(3, "", "", "", np.ones(30, np.int32))])
