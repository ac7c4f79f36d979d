"""The stream of prompts: its order, its exact resume, its digest."""
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.data.prompts import Question
from nft_jax.data.stream import AccuracyStream, PromptStream, digest
from nft_jax.types import Group, Verdict
from refusal import refused


def made(count: int) -> list[Question]:
    return [Question(f"q{i}", str(i), f"[user]q{i}", np.array([i], np.int32)) for i in range(count)]


@given(st.integers(1, 12), st.integers(0, 2**40), st.lists(st.integers(0, 9), min_size=1, max_size=8),
       st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_resume_is_exact_and_the_size_of_a_draw_does_not_matter(count, seed, draws, cut):
    whole = PromptStream(made(count), seed).take(sum(draws))
    stream = PromptStream(made(count), seed)
    drawn = [stream.take(n) for n in draws[:cut]]
    state = json.loads(json.dumps(stream.state()))
    resumed = PromptStream(made(count), seed)
    resumed.restore(state)
    drawn += [resumed.take(n) for n in draws[cut:]]
    assert [(p.index, p.problem) for part in drawn for p in part] == [(p.index, p.problem) for p in whole]
    assert [p.index for p in whole] == list(range(sum(draws)))


def test_every_epoch_is_another_permutation_of_all_questions():
    stream = PromptStream(made(50), 3)
    epochs = [[p.problem for p in stream.take(50)] for _ in range(3)]
    assert all(sorted(epoch) == sorted(q.problem for q in made(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] == [p.problem for p in PromptStream(made(50), 3).take(50)]
    assert epochs[0] != [p.problem for p in PromptStream(made(50), 4).take(50)]
    # As written down: the first permutation drawn from numpy's generator seeded by (seed, epoch).
    assert epochs[1] == [f"q{i}" for i in np.random.default_rng([3, 1]).permutation(50)]


def test_a_digest_is_of_tokens_golds_and_order():
    first = made(3)
    assert PromptStream(first).digest() == PromptStream(made(3)).digest() == digest(q.prompt(9) for q in first)
    others = [first[::-1], first[:2], [*first[:2], dataclasses.replace(first[2], gold="other")],
              [*first[:2], dataclasses.replace(first[2], tokens=first[2].tokens + 1)]]
    assert len({digest(questions) for questions in [first, *others]}) == 5


def test_stream_errors():
    with refused("no questions"):
        PromptStream([], 0)
    with refused("index", -1):
        PromptStream(made(2), 0).restore({"index": -1})


# ---- the order by accuracy ---------------------------------------------------------------------------------------


def judged(prompt, rewards):
    """A group of these rewards; None is an answer whose verification failed."""
    verdicts = tuple(Verdict("error" if r is None else "right" if r > 0.5 else "wrong", r) for r in rewards)
    return Group(prompt, (), verdicts)


REWARDS = {"mixed": (0.0, 1.0), "right": (1.0, 1.0), "wrong": (0.0, 0.0), "nearly": (0.7, 0.7), "error": (None, None)}


def walk(stream, draws, kinds):
    """Takes and observes draw by draw; `kinds[i]` is what the prompt at index i turns out to be."""
    out = []
    for count in draws:
        prompts = stream.take(count)
        stream.observe([judged(p, REWARDS[kinds[p.index % len(kinds)]]) for p in prompts])
        out += [(p.index, p.problem) for p in prompts]
    return out


@given(st.integers(1, 9), st.integers(0, 2**40), st.lists(st.integers(0, 7), min_size=1, max_size=8),
       st.integers(0, 8), st.lists(st.sampled_from(sorted(REWARDS)), min_size=1, max_size=11))
@settings(max_examples=60, deadline=None)
def test_the_order_by_accuracy_resumes_exactly_and_is_its_rule(size, seed, draws, cut, kinds):
    whole = walk(AccuracyStream(made(size), seed), draws, kinds)
    stream = AccuracyStream(made(size), seed)
    found = walk(stream, draws[:cut], kinds)
    resumed = AccuracyStream(made(size), seed)
    resumed.restore(json.loads(json.dumps(stream.state())))
    assert found + walk(resumed, draws[cut:], kinds) == whole
    assert whole == by_the_rule(size, seed, draws, kinds)


@given(st.integers(0, 2**40), st.lists(st.sampled_from(sorted(REWARDS)), min_size=1, max_size=5), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_groups_that_are_still_open_are_observed_after_a_resume(seed, kinds, late):
    """With rollout.tokens_per_step a group is judged steps after its prompt was taken."""
    def observe(stream, prompts):
        stream.observe([judged(p, REWARDS[kinds[p.index % len(kinds)]]) for p in prompts])
        return [(p.index, p.problem) for p in stream.take(9)]

    stream, resumed = AccuracyStream(made(4), seed), AccuracyStream(made(4), seed)
    prompts = stream.take(7)
    stream.observe([judged(p, REWARDS["mixed"]) for p in prompts[late:]])
    resumed.restore(json.loads(json.dumps(stream.state())))
    assert observe(resumed, prompts[:late]) == observe(stream, prompts[:late])
    # A fork to other questions goes on with the open groups; its stream knows none of them.
    other = AccuracyStream(made(5), seed)
    other.restore(stream.state())
    other.observe([judged(p, REWARDS["right"]) for p in prompts[:late]])
    assert {p.problem for p in other.take(5)} == {f"q{i}" for i in range(5)}


def by_the_rule(size, seed, draws, kinds):
    """The order, written down a second time: of single questions, with their whole history of epochs and kinds."""
    history = {question: [] for question in range(size)}

    def due(question):
        if not history[question]:
            return 0
        kinds_back = [kind for _, kind in reversed(history[question])]
        kind, asked = kinds_back[0], history[question][-1][0]
        times = next((i for i, other in enumerate(kinds_back) if SAME[other] != SAME[kind]), len(kinds_back))
        return asked + {"right": min(3 ** times, 27), "wrong": min(1 + times, 4), "mixed": 1}[SAME[kind]]

    def places():
        epoch = 0
        while True:
            for question in np.random.default_rng([seed, epoch]).permutation(size):
                if due(question) <= epoch:
                    yield epoch, int(question)
            epoch += 1

    following, out, index = places(), [], 0
    for count in draws:
        seen = [next(following) for _ in range(count)]
        for epoch, question in seen:
            history[question].append((epoch, kinds[index % len(kinds)]))
            out.append((index, f"q{question}"))
            index += 1
    return out


SAME = {"mixed": "mixed", "error": "mixed", "right": "right", "nearly": "right", "wrong": "wrong"}


def test_with_right_and_wrong_answers_everywhere_it_is_the_permutation():
    found, expected = (walk(kind(made(7), 3), [5, 9, 4], ["mixed"]) for kind in (AccuracyStream, PromptStream))
    assert found == expected


def test_what_is_asked_is_told():
    stream = AccuracyStream(made(4), 0)
    assert stream.metrics() == {"prompts/new_share": 0, "prompts/resting_share": 0}
    first = stream.take(4)
    stream.observe([judged(p, REWARDS["right" if p.problem == "q0" else "mixed"]) for p in first])
    assert stream.metrics() == {"prompts/new_share": 1, "prompts/resting_share": 0.25}
    seen = stream.take(3)
    assert sorted(p.problem for p in seen) == ["q1", "q2", "q3"]
    stream.observe([judged(p, REWARDS["mixed"]) for p in seen])
    assert stream.metrics() == {"prompts/new_share": 0, "prompts/age": 1, "prompts/resting_share": 0.25}
    stream.take(3)
    stream.metrics()
    stream.take(4)
    assert stream.metrics()["prompts/age"] == pytest.approx(6 / 4)              # q0 after three epochs


def test_a_history_of_other_questions_says_nothing():
    """A fork may ask others, or in another order: an epoch begins, and nothing rests."""
    stream = AccuracyStream(made(4), 0)
    walk(stream, [6], ["right"])
    for state in (stream.state(), {"index": 6}):
        other = AccuracyStream(made(5), 0)
        other.restore(state)
        prompts = other.take(5)
        assert [p.index for p in prompts] == list(range(6, 11)) and len({p.problem for p in prompts}) == 5
        assert [p.problem for p in prompts] == [f"q{i}" for i in np.random.default_rng([0, 2]).permutation(5)]
