"""Answers that go on in later calls of the sampler (rollout.tokens_per_step) are the answers of one call."""
from dataclasses import replace

import jax
import numpy as np
import pytest

from made import mixed_prompts
from nft_jax.config import DecodingConfig, MeshConfig, SamplingConfig
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.schedule import SlotUse
from nft_jax.runtime.compilation import CompileCounter, compile_all
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Group

EOS, SAMPLES, PROMPTS, LONGEST, FIRST = 3, 4, 7, 20, 2
KEY = 5


@pytest.fixture(scope="module")
def prompts():
    return mixed_prompts(PROMPTS)


@pytest.fixture(scope="module")
def make(tiny_model, number_tokenizer):
    def make(slots=16, devices=1, block=4, **more):
        decoding = DecodingConfig(max_new_tokens=LONGEST, slots=slots, block_size=block)
        return Sampler(tiny_model, number_tokenizer, (EOS,), decoding, max_prompt_tokens=13,
                       mesh=make_mesh(MeshConfig(), jax.devices()[:devices]), **more)
    return make


@pytest.fixture(scope="module")
def sampler(make):
    return make(begun_tokens=LONGEST - 1)


@pytest.fixture(scope="module")
def whole(sampler, tiny_params, prompts):
    """The answers of one call."""
    found = dict(sampler.sample(sampler.cast(tiny_params), prompts, SAMPLES, jax.random.key(KEY), FIRST))
    return [found[i] for i in range(PROMPTS)]


def in_calls(sampler, params, prompts, budget, later=(), use=None):
    """The same answers, of so many calls as it takes: rollout indices FIRST, FIRST + 1, ... `later`: prompts that the
    second call asks, with an index of its own. All groups, by prompt index, and the calls."""
    weights, asked, ended, step = sampler.cast(params), list(prompts), {}, FIRST
    while asked:
        groups = sampler.sample(weights, asked, SAMPLES, jax.random.key(KEY), step, budget=budget, use=use)
        found = {rollouts[0].prompt.index: Group(rollouts[0].prompt, rollouts, ()) for _, rollouts in groups}
        assert len(found) == len(asked)
        ended |= {index: group for index, group in found.items() if not group.is_open}
        asked = [group for _, group in sorted(found.items()) if group.is_open]
        if step == FIRST:
            asked += later
        step += 1
    return ended, step - FIRST


def assert_same(group, expected, budget, first=FIRST):
    for a, b in zip(group.rollouts, expected, strict=True):
        assert (a.prompt.index, a.sample, a.finish_reason, a.text) == (
            b.prompt.index, b.sample, b.finish_reason, b.text)
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.steps, first + np.arange(len(a.tokens)) // budget)
        for name in ("logprobs", "truncated_logprobs", "entropies"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-5)


@pytest.mark.parametrize("budget", [1, 3, 7, 19])
def test_an_answer_in_parts_is_the_answer_at_once(sampler, tiny_params, prompts, whole, budget):
    """Tokens, log-probs, text and end, wherever the budget cuts. The last prompts join the open groups in the second
    call, where the first ones still have the random numbers of their own step."""
    use = SlotUse()
    ended, calls = in_calls(sampler, tiny_params, prompts[:5], budget, prompts[5:], use=use)
    longest = max(len(r.tokens) for group in whole[:5] for r in group)
    assert calls >= -(-longest // budget) > 1
    for prompt, expected in zip(prompts[:5], whole[:5], strict=True):
        assert_same(ended[prompt.index], expected, budget)
    assert use.tokens == sum(len(r.tokens) for group in ended.values() for r in group.rollouts)
    if budget == 7:
        found = dict(sampler.sample(sampler.cast(tiny_params), prompts[5:], SAMPLES, jax.random.key(KEY), FIRST + 1))
        for position, prompt in enumerate(prompts[5:]):
            assert_same(ended[prompt.index], found[position], budget, FIRST + 1)


@pytest.mark.parametrize(("slots", "devices", "block", "delay"), [(64, 1, 3, 1), (8, 4, 8, 0)])
def test_parts_do_not_depend_on_the_schedule(make, tiny_params, prompts, whole, slots, devices, block, delay):
    other = make(slots=slots, devices=devices, block=block, delay=delay, begun_tokens=LONGEST - 1)
    ended, _ = in_calls(other, tiny_params, prompts, 6)
    for prompt, expected in zip(prompts, whole, strict=True):
        assert_same(ended[prompt.index], expected, 6)


def test_a_budget_that_no_answer_reaches_is_none(sampler, tiny_params, prompts, whole):
    """Bit by bit, but for the note of the step."""
    ended, calls = in_calls(sampler, tiny_params, prompts, LONGEST)
    assert calls == 1
    for prompt, expected in zip(prompts, whole, strict=True):
        for a, b in zip(ended[prompt.index].rollouts, expected, strict=True):
            assert a.finish_reason == b.finish_reason and set(a.steps) == {FIRST} and b.steps is None
            for name in ("tokens", "logprobs", "entropies"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_other_parameters_go_on_with_the_tokens_so_far(sampler, tiny_params, prompts):
    """The tokens so far and their log-probs stay. What follows is the new policy's: greedily, its own answer to the
    prompt and the tokens."""
    greedy, other = SamplingConfig(0.0), jax.tree.map(lambda x: x * 0.7, tiny_params)
    prompt = min(prompts, key=lambda prompt: len(prompt.tokens))

    def answers(params, asked, step, budget=0):
        (_, rollouts), = sampler.sample(sampler.cast(params), [asked], SAMPLES, jax.random.key(KEY), step, greedy,
                                        budget=budget)
        return rollouts

    first = answers(tiny_params, prompt, FIRST, 6)
    before, after = first[0], answers(other, Group(prompt, first, ()), FIRST + 1, 6)[0]
    assert before.finish_reason == "budget" and len(before.tokens) == 6 < len(after.tokens)
    np.testing.assert_array_equal(after.tokens[:6], before.tokens)
    np.testing.assert_array_equal(after.logprobs[:6], before.logprobs)
    longer = answers(other, replace(prompt, tokens=np.concatenate([prompt.tokens, before.tokens])), 0)[0]
    np.testing.assert_array_equal(after.tokens[6:], longer.tokens[:len(after.tokens) - 6])
    np.testing.assert_allclose(after.logprobs[6:], longer.logprobs[:len(after.tokens) - 6], atol=1e-5)


def test_programs_are_compiled_ahead(make, tiny_params, prompts):
    """Answers that go on have two kinds of programs of their own; a sampler without them has none of these."""
    sampler = make(slots=24, begun_tokens=LONGEST - 1)
    kinds = {program.kind for program in sampler.programs()}
    assert kinds - {program.kind for program in make(slots=24).programs()} == {"prefill, begun", "admit, begun"}
    compile_all(sampler.programs(), threads=1)
    weights, key, asked = sampler.cast(tiny_params), jax.random.key(KEY), prompts[:2]
    counter = CompileCounter()
    for step in range(2):
        groups = dict(sampler.sample(weights, asked, SAMPLES, key, step, budget=5))
        asked = [Group(prompt, groups[i], ()) for i, prompt in enumerate(prompts[:2])]
    assert any(len(r.tokens) > 5 for group in asked for r in group.rollouts) and counter.take() == 0
