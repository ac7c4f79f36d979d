"""Packing and weights: every token of every judged answer exactly once, with its own numbers, in any layout."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import make_group

from nft_jax.config import ObjectiveConfig
from nft_jax.train.batch import BatchShape, Example, deal, examples_of, make_batch, pack, unpack

SHAPE = BatchShape(micro_batches=4, rows=3, row_length=24)


def examples(rng, count):
    return [Example(rng.integers(1, 30, rng.integers(1, 6)).astype(np.int32),
                    rng.integers(1, 30, rng.integers(1, 14)).astype(np.int32),
                    float(rng.random()), float(rng.random()), float(rng.random()),
                    rng.normal(size=20).astype(np.float32)) for _ in range(count)]


def trimmed(items):
    return [Example(e.prompt, e.response, e.reward, e.group_accuracy, e.group_std, e.old_logprobs[:len(e.response)])
            for e in items]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 24), max_size=40))
def test_packing_places_everything_once_and_fits(lengths):
    rows = pack(lengths, 24)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 24 for row in rows)
    assert len(rows) <= max(1, 2 * sum(lengths) / 24 + 1)
    assert rows == pack(list(lengths), 24)


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="25 tokens does not fit in a row of 24"):
        pack([25], 24)
    with pytest.raises(ValueError, match="more than the batch's 12"):
        make_batch(trimmed(examples(np.random.default_rng(0), 12)) * 4, SHAPE)


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_holds_every_example_with_its_numbers(seed):
    rng = np.random.default_rng(seed)
    items = trimmed(examples(rng, 12))
    batch, places = make_batch(items, SHAPE)
    rows = {name: getattr(batch, name).reshape(-1, 24) for name in batch._fields if name != "num_micro"}
    covered = np.zeros((12, 24), bool)
    for example, (row, answer) in zip(items, places, strict=True):
        whole = slice(answer.start - len(example.prompt), answer.stop)
        np.testing.assert_array_equal(rows["tokens"][row, whole], np.concatenate([example.prompt, example.response]))
        np.testing.assert_array_equal(rows["positions"][row, whole], np.arange(whole.stop - whole.start))
        assert len(set(rows["segment_ids"][row, whole])) == 1
        assert not covered[row, whole].any()
        covered[row, whole] = True
        assert (rows["weight"][row, whole.start:answer.start] == 0).all()
        assert (rows["weight"][row, answer] > 0).all()
        for name in ("rewards", "group_accuracy", "group_std"):
            value = {"rewards": example.reward}.get(name) or getattr(example, name, None)
            np.testing.assert_allclose(rows[name][row, answer], value, rtol=1e-6)
        np.testing.assert_array_equal(rows["old_logprobs"][row, answer], example.old_logprobs)
    assert (rows["segment_ids"][~covered] == 0).all() and (rows["weight"][~covered] == 0).all()
    assert (rows["weight"] > 0).sum() == sum(len(e.response) for e in items)
    used = covered.any(-1).nonzero()[0].max() + 1
    assert batch.num_micro == -(-used // SHAPE.rows)


def test_segments_of_a_row_differ():
    batch, places = make_batch(trimmed(examples(np.random.default_rng(1), 12)), SHAPE)
    ids = batch.segment_ids.reshape(-1, 24)
    seen = [(row, ids[row, answer.start]) for row, answer in places]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(("loss_agg", "expected"), [
    ("token_mean", lambda n: np.full(len(n), 1 / n.sum())), ("seq_mean_token_mean", lambda n: 1 / (len(n) * n)),
    ("constant", lambda n: np.full(len(n), 1 / 7))])
def test_weights_are_the_reduction(loss_agg, expected):
    items = trimmed(examples(np.random.default_rng(2), 9))
    batch, places = make_batch(items, SHAPE, loss_agg, 7.0)
    wanted = expected(np.array([len(e.response) for e in items], float))
    for values, weight in zip(unpack(batch.weight, places), wanted, strict=True):
        np.testing.assert_allclose(values, weight, rtol=1e-6)


def test_unpack_is_the_inverse_of_make_batch():
    items = trimmed(examples(np.random.default_rng(3), 10))
    batch, places = make_batch(items, SHAPE)
    for tokens, example in zip(unpack(batch.tokens, places), items, strict=True):
        np.testing.assert_array_equal(tokens, example.response)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(1, 8), st.integers(0, 100))
def test_groups_are_dealt_whole_and_evenly(count, updates, seed):
    parts = deal(list(range(count)), updates, (seed, 3))
    assert sorted(x for part in parts for x in part) == list(range(count))
    assert len(parts) == min(updates, count)
    assert max(map(len, parts), default=0) - min(map(len, parts), default=0) <= 1
    assert parts == deal(list(range(count)), updates, (seed, 3))


def test_examples_carry_the_statistics_of_the_full_group():
    group = make_group(0, [1, 0, 0, None, 1], rng=np.random.default_rng(0))
    items = examples_of(group, ObjectiveConfig(), 12)
    assert [e.reward for e in items] == [1, 0, 0, 1]
    assert all(e.group_accuracy == 0.5 and e.group_std == 0.5 for e in items)
    np.testing.assert_array_equal(items[3].old_logprobs, group.old_logprobs[4])
    sample_std = examples_of(group, ObjectiveConfig(std_ddof=1), 12)[0].group_std
    assert sample_std == pytest.approx(0.5 * np.sqrt(4 / 3))


def test_overlong_penalty_enters_rewards_mean_and_std():
    group = make_group(0, [1, 0, 1, 0], rng=np.random.default_rng(4), longest=12)
    lengths = np.array([len(r.tokens) for r in group.rollouts])
    shaped = np.array([1, 0, 1, 0]) + np.clip((12 - 6 - lengths) / 6, -1, 0)
    assert (shaped != [1, 0, 1, 0]).any()
    items = examples_of(group, ObjectiveConfig(overlong_buffer=6), 12)
    np.testing.assert_allclose([e.reward for e in items], shaped)
    assert items[0].group_accuracy == pytest.approx(shaped.mean()) and items[0].group_std == pytest.approx(shaped.std())
