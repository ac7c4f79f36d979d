"""An optimizer step whose loss or gradient is not finite changes nothing, and is found, counted and written down."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made import make_group

from nft_jax.config import MeshConfig, ObjectiveConfig, OptimizerConfig
from nft_jax.model.config import FLOAT32
from nft_jax.objectives.registry import resolve
from nft_jax.runtime.clock import Clock
from nft_jax.runtime.mesh import make_mesh
from nft_jax.runtime.writing import Writing
from nft_jax.train import nonfinite
from nft_jax.train.batch import BatchShape, examples_of, make_batch
from nft_jax.train.nonfinite import count_skipped, nonfinite_logprobs, write_batches
from nft_jax.train.row import Row
from nft_jax.train.state import init_state, make_optimizer, state_shardings
from nft_jax.train.step import compile_step

LOSS = resolve("nft", ObjectiveConfig())
SHAPE = BatchShape.for_sequences(16, 4, 32)


@pytest.fixture(scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def step(request, tiny_model, tiny_params):
    """The compiled step, and a function that makes its first state."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, second_moment_dtype=request.param))
    placements = state_shardings(tiny_params, optimizer, mesh)
    first = jax.jit(partial(init_state, optimizer=optimizer), out_shardings=placements)
    compiled = compile_step(mesh, placements, optimizer, model=tiny_model, objective="nft", loss_config=LOSS,
                            compute=FLOAT32)
    return compiled, lambda: first(tiny_params)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    groups = [make_group(i, rewards, rng=rng) for i, rewards in enumerate([[1, 0, 0, 0], [1, 1, 1, 0]])]
    return make_batch([e for group in groups for e in examples_of(group, LOSS, 12)], SHAPE)[0]


def spoiled(batch, name, value):
    """One number of an answer's token is `value`."""
    array = getattr(batch, name).copy()
    array.ravel()[np.flatnonzero(batch.weight)[3]] = value
    return batch._replace(**{name: array})


def bits(state):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


@pytest.mark.parametrize(("name", "value"), [("old_logprobs", np.nan), ("weight", np.inf), ("rewards", np.nan)])
def test_the_state_stays_bit_by_bit_and_the_next_batch_trains_as_if_nothing_had_been(step, batch, name, value):
    compiled, first = step
    taken, _, norm = compiled(first(), batch, 1e-2, 1.0)             # so that the moments are not 0
    before = bits(taken)
    skipped, tally, bad = compiled(taken, spoiled(batch, name, value), 1e-2, 1.0)
    assert tally["count/nonfinite"] == 1 and np.isfinite(norm)
    assert not np.isfinite(bad) or not np.isfinite(tally["sum/loss"])
    assert bits(skipped) == before
    after, tally, _ = compiled(skipped, batch, 1e-2, 1.0)
    assert tally["count/nonfinite"] == 0
    straight, _, _ = compiled(compiled(first(), batch, 1e-2, 1.0)[0], batch, 1e-2, 1.0)
    assert bits(after) == bits(straight) != before


def row_of(skipped, updates=4, step=12, batch=None):
    return Row(step, Clock(), {}, batches=[(batch, [i, i + 1]) for i in range(updates)], skipped=skipped)


@pytest.mark.parametrize(("before", "skipped", "after", "most"), [
    (0, [], 0, 0), (2, [], 0, 2), (0, [1, 2], 0, 2), (1, [0, 3], 1, 2), (2, [0, 1, 2, 3], 6, 6), (0, [2, 3], 2, 2)])
def test_a_row_of_skipped_steps_is_counted_over_the_ends_of_rollouts(before, skipped, after, most):
    assert count_skipped(row_of(skipped), before) == (after, most)


def test_the_batches_are_written_as_they_were_trained_on(batch, tmp_path, monkeypatch):
    said = []
    paths = write_batches(row_of([1, 3], batch=batch), tmp_path / "nonfinite", Writing(said.append))
    assert [path.name for path in paths] == ["step_000012_update_02.npz", "step_000012_update_04.npz"] and not said
    found = np.load(paths[1])
    used = int(batch.num_micro)
    assert used < len(batch.tokens)                                  # and what lies behind is padding
    assert set(found) == {*(name for name, value in batch._asdict().items() if value is not None), "prompt_index"}
    np.testing.assert_array_equal(found["old_logprobs"], batch.old_logprobs[:used])
    np.testing.assert_array_equal(found["tokens"], batch.tokens[:used])
    assert list(found["prompt_index"]) == [3, 4] and not list(tmp_path.rglob("*.partial"))
    monkeypatch.setattr(nonfinite, "MOST_FILES", 3)
    again = write_batches(row_of([0, 1, 2], step=13, batch=batch), tmp_path / "nonfinite", Writing(said.append))
    assert len(again) == 1 and len(list((tmp_path / "nonfinite").iterdir())) == 3


def test_metrics_are_those_of_the_steps_that_were_taken(step, batch):
    compiled, first = step
    state, good, norm = compiled(first(), batch, 0.0, 1.0)
    _, bad, nan = compiled(state, spoiled(batch, "old_logprobs", np.nan), 0.0, 1.0)

    def metrics(tallies, norms):
        row = Row(1, Clock(), {"tokens/kept": 1}, tallies, norms, trained=Done())
        row.clock.first["train"] = 0.0
        return row.complete(), row.skipped

    with_bad, skipped = metrics([good, bad, good], [norm, nan, norm])
    without, none = metrics([good, good], [norm, norm])
    assert skipped == [1] and none == [] and with_bad.pop("nonfinite/skipped") == 1
    assert without.pop("nonfinite/skipped") == 0
    assert with_bad == without and all(np.isfinite(value) for value in with_bad.values())
    only, skipped = metrics([bad], [nan])
    assert skipped == [0] and "loss/total" not in only and only["nonfinite/skipped"] == 1


class Done:
    def result(self):
        return 1.0


def test_old_logprobs_that_are_not_finite_are_counted():
    group = make_group(0, [1, 0], rng=np.random.default_rng(0))
    group.old_logprobs[1][0] = np.nan
    assert nonfinite_logprobs([group, make_group(1, [1, 0], rng=np.random.default_rng(1), old=False)]) == 1
    assert nonfinite_logprobs([]) == 0
    assert jnp.isfinite(group.old_logprobs[0]).all()
