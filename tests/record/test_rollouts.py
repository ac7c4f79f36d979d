"""Groups in a table: nothing is rounded or lost."""
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from made import make_group
from nft_jax.record.rollouts import from_bytes, groups_to_table, table_to_groups, to_bytes


def assert_equal(a, b):
    assert (a.prompt.index, a.prompt.gold, a.verdicts) == (b.prompt.index, b.prompt.gold, b.verdicts)
    np.testing.assert_array_equal(a.prompt.tokens, b.prompt.tokens)
    for x, y in zip(a.rollouts, b.rollouts, strict=True):
        assert (x.sample, x.text, x.finish_reason) == (y.sample, y.text, y.finish_reason)
        for name in ("tokens", "logprobs", "truncated_logprobs", "entropies"):
            np.testing.assert_array_equal(getattr(x, name), getattr(y, name))
            assert getattr(x, name).dtype == getattr(y, name).dtype
    for name in ("old_logprobs", "reference_logprobs"):
        assert (getattr(a, name) is None) == (getattr(b, name) is None)
        for x, y in zip(getattr(a, name) or (), getattr(b, name) or (), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("old", [True, False])
def test_round_trip(old):
    rng = np.random.default_rng(0)
    groups = [make_group(i, [1, 0, None, 0.1], rng=rng, old=old) for i in (4, 9)]
    groups[1] = replace(groups[1], reference_logprobs=tuple(r.logprobs - 1 for r in groups[1].rollouts))
    for a, b in zip(from_bytes(to_bytes(groups)), groups, strict=True):
        assert_equal(a, b)
    older = groups_to_table(groups).drop_columns(["reference_logprobs"])         # before there were references
    for a, b in zip(table_to_groups(older), groups, strict=True):
        assert_equal(a, replace(b, reference_logprobs=None))
    assert from_bytes(to_bytes([])) == []


def test_an_open_group_has_no_verdicts_and_the_steps_of_its_tokens():
    """Its old log-probs may end before its tokens do. It stands among judged groups, and gives the table a column."""
    closed, group = (make_group(i, [1, 0], rng=np.random.default_rng(i)) for i in (1, 2))
    going = [replace(r, finish_reason="budget", steps=np.arange(len(r.tokens), dtype=np.int32)) for r in group.rollouts]
    group = replace(group, rollouts=tuple(going), verdicts=(), old_logprobs=tuple(r.logprobs[:-1] for r in going))
    found = from_bytes(to_bytes([closed, group]))
    for a, b in zip(found, [closed, group], strict=True):
        assert_equal(a, b)
        for x, y in zip(a.rollouts, b.rollouts, strict=True):
            assert x.steps is y.steps is None or ((x.steps == y.steps).all() and x.steps.dtype == y.steps.dtype)
    assert found[1].is_open and not found[0].is_open
    assert "steps" not in groups_to_table([closed]).column_names


def test_columns_and_kept(tmp_path):
    groups = [make_group(i, [1, 0], rng=np.random.default_rng(1)) for i in (0, 1)]
    pq.write_table(groups_to_table(groups, frozenset({1})), tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert table["kept"] == [False, False, True, True]
    assert table["reward"] == [1, 0, 1, 0] and table["group_accuracy"] == [0.5] * 4
