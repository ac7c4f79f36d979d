"""The stream of prompts: its order, its exact resume, its digest."""
import dataclasses
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.data.prompts import Question
from nft_jax.data.stream import PromptStream, digest
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
