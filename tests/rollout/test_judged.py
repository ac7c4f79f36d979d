"""Decoding and judging at the same time, in the order of the prompts."""
from concurrent.futures import Future
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from nft_jax.config import DecodingConfig, MeshConfig, SamplingConfig
from nft_jax.rollout import judged
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.judged import judged_groups
from nft_jax.rollout.schedule import SlotUse
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Prompt, Verdict

PROMPTS, SAMPLES = 8, 2


@pytest.fixture(scope="module")
def sampler(tiny_model, number_tokenizer):
    """A third of the answers are decoded at a time; they end at different times (three ids of 32 end one)."""
    decoding = DecodingConfig(max_new_tokens=20, slots=6, block_size=4)
    return Sampler(tiny_model, number_tokenizer, (1, 2, 3), decoding, max_prompt_tokens=4,
                   mesh=make_mesh(MeshConfig(), jax.devices()[:1]))


class Verdicts:
    """Judges at once, except what is held open until the last group has been submitted."""

    def __init__(self, events, held=()):
        self.events, self.held, self.open, self.submitted = events, held, [], 0

    def submit(self, responses, golds, prompts):
        index, future, self.submitted = int(golds[0]), Future(), self.submitted + 1
        self.events.append(("submit", index))
        self.open.append((future, index))
        if index not in self.held or self.submitted == PROMPTS:
            for waiting, of in self.open if self.submitted == PROMPTS else [self.open.pop()]:
                self.events.append(("judged", of))
                waiting.set_result([Verdict("right", 1.0)] * len(responses))
        return future


@pytest.fixture
def judge(sampler, tiny_params):
    """judge(held) -> the events in their order: block, submit, judged, yield and the phases."""
    def run(held=()):
        events = []

        @contextmanager
        def phase(name):
            events.append(("phase", name))
            yield

        prompts = [Prompt(i, "", str(i), "", np.array([4 + i, 5], np.int32)) for i in range(PROMPTS)]
        for group in judged_groups(sampler, Verdicts(events, held), sampler.cast(tiny_params), prompts, SAMPLES,
                                   jax.random.key(0), 0, SamplingConfig(), phase=phase,
                                   progress=lambda tokens: events.append(("block", tokens))):
            assert len(group.rollouts) == len(group.verdicts) == SAMPLES
            events.append(("yield", group.prompt.index))
        return events
    return run


def places(events, kind):
    return [i for i, event in enumerate(events) if event[0] == kind]


def test_groups_are_judged_and_yielded_while_others_are_decoded(judge):
    events = judge()
    assert [event[1] for event in events if event[0] == "yield"] == list(range(PROMPTS))
    last_block = places(events, "block")[-1]
    assert places(events, "submit")[0] < last_block and places(events, "yield")[0] < last_block
    assert {name for kind, name in events if kind == "phase"} == {"rollout", "verify"}


def test_decoding_waits_for_no_verdict_and_the_order_stays(judge):
    """The first group's verdict is open until everything is decoded: nothing is yielded before, nothing is lost."""
    plain, events = judge(), judge(held={0})
    assert [event for event in events if event[0] in ("block", "submit")] == \
        [event for event in plain if event[0] in ("block", "submit")]
    blocks, opened, judged = places(events, "block"), events.index(("submit", 0)), events.index(("judged", 0))
    assert len([i for i in blocks if opened < i < judged]) >= 2
    assert places(events, "yield")[0] > judged
    assert [event[1] for event in events if event[0] == "yield"] == list(range(PROMPTS))


def test_the_use_of_several_processes_grows_with_every_batch(sampler, tiny_params, monkeypatch):
    """Two processes that do the same: both decode, and both drain at the same time."""
    monkeypatch.setattr(judged, "process_count", lambda: 2)
    monkeypatch.setattr(judged, "gather", lambda mine: [mine, mine])
    prompts = [Prompt(i, "", str(i), "", np.array([4 + i // 2, 5], np.int32)) for i in range(PROMPTS)]

    def collect(use):
        groups = list(judged_groups(sampler, Verdicts([]), sampler.cast(tiny_params), prompts, SAMPLES,
                                    jax.random.key(0), 0, SamplingConfig(), use=use))
        assert len(groups) == PROMPTS
        return use

    one = collect(SlotUse())
    two = collect(collect(SlotUse()))
    assert one.drained_steps > 0 and one.tokens > 0
    assert (two.tokens, two.slot_steps, two.drained_steps) == (
        2 * one.tokens, 2 * one.slot_steps, 2 * one.drained_steps)
