"""Tallies against numpy over all tokens at once, and their sum over any split. An update whose loss or gradient is not
finite changes nothing, and is found, counted and written down."""

import jax
import numpy as np
import pytest

from made import make_group, make_step
from nft_jax.config import MeshConfig, ObjectiveConfig, OptimizerConfig
from nft_jax.model.config import FLOAT32
from nft_jax.objectives.registry import resolve
from nft_jax.runtime.mesh import make_mesh
from nft_jax.runtime.writing import Writing
from nft_jax.train import step_metrics
from nft_jax.train.batch import BatchShape, examples_of, make_batch
from nft_jax.train.step import Loss
from nft_jax.train.step_metrics import (
    Rollouts,
    Update,
    Updates,
    combine,
    drift,
    quantile,
    summarise,
    tally,
    write_batches,
)

LOSS = resolve("nft", ObjectiveConfig())
SHAPE = BatchShape.for_sequences(16, 4, 32)
NAMES = ("ratio", "positive_loss", "negative_loss", "clamped", "saturated", "clipped")


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(0)
    shape = (12, 200)
    metrics = {"ratio": np.exp(rng.normal(0, 0.3, shape)), "positive_loss": rng.normal(size=shape),
               "negative_loss": rng.normal(size=shape), "deep/one's own": rng.normal(size=shape)}
    metrics |= {name: (rng.random(shape) < 0.2).astype(float) for name in ("clamped", "saturated", "clipped")}
    weight = np.where(rng.random(shape) < 0.8, rng.random(shape), 0)
    return {"metrics": metrics, "loss": rng.normal(size=shape), "coefficient": rng.normal(size=shape),
            "entropy": rng.random(shape), "weight": weight, "rewards": (rng.random(shape) < 0.4).astype(float)}


def test_a_step_that_asks_nothing_knows_no_share():
    """Its carried groups were enough. A share of 0 would be read as a policy that learns nothing."""
    group = make_group(0, [1, 0], rng=np.random.default_rng(0))
    assert "groups/accepted_share" not in Rollouts([group], [], 0, {}).metrics(0)
    assert Rollouts([group], [group], 9, {}).metrics(0)["groups/accepted_share"] == 1


def of_rows(tokens, rows):
    pick = {key: value[rows] for key, value in tokens.items() if key != "metrics"}
    return tally(metrics={name: value[rows] for name, value in tokens["metrics"].items()}, **pick)


def test_summary_equals_numpy(tokens):
    inside, positive = tokens["weight"] > 0, tokens["rewards"] > 0.5
    found = summarise(of_rows(tokens, slice(None)), 2)
    for sign, chosen in (("positive", inside & positive), ("negative", inside & ~positive)):
        ratio = tokens["metrics"]["ratio"][chosen]
        assert found[f"ratio/mean_{sign}"] == pytest.approx(ratio.mean(), rel=1e-5)
        assert found[f"ratio/max_{sign}"] == pytest.approx(ratio.max(), rel=1e-5)
        assert found[f"ratio/p95_{sign}"] == pytest.approx(np.quantile(ratio, 0.95), rel=0.02)
        assert found[f"coefficient/{sign}"] == pytest.approx(tokens["coefficient"][chosen].mean(), rel=1e-4)
        part = (tokens["weight"] * tokens["metrics"][f"{sign}_loss"])[chosen].sum()
        assert found[f"loss/{sign}"] == pytest.approx(part / 2, rel=1e-4)
    ratio = tokens["metrics"]["ratio"][inside]
    assert found["ratio/effective_sample_size"] == pytest.approx(
        ratio.sum() ** 2 / (ratio.size * (ratio**2).sum()), rel=1e-3)
    own = tokens["metrics"]["deep/one's own"][inside].mean()
    assert found["objective/deep/one's own"] == pytest.approx(own, rel=1e-4, abs=1e-6)
    assert found["entropy/trained"] == pytest.approx(tokens["entropy"][inside].mean(), rel=1e-5)
    assert found["loss/total"] == pytest.approx((tokens["weight"] * tokens["loss"]).sum() / 2, rel=1e-4)
    negatives = (inside & ~positive).sum()
    for name, count in (("clamped", negatives), ("saturated", negatives), ("clipped", inside.sum())):
        assert found[f"share/{name}"] == pytest.approx(tokens["metrics"][name][inside].sum() / count, rel=1e-5)


def test_the_metrics_of_an_objective_stand_in_one_order(tokens):
    """In every process, whatever its hashes of texts: the order is part of the compiled program."""
    more = tokens["metrics"] | dict.fromkeys("zyxwvutsrq", tokens["loss"])
    names = [key for key in tally(**tokens | {"metrics": more}) if key.startswith("sum/objective/")]
    assert len(names) == 11 and names == sorted(names)


def test_tallies_add_up_over_any_split(tokens):
    whole = summarise(of_rows(tokens, slice(None)), 1)
    for cut in (1, 5, 11):
        parts = combine(of_rows(tokens, slice(0, cut)), of_rows(tokens, slice(cut, None)))
        assert summarise(parts, 1) == pytest.approx(whole, rel=1e-4)


def test_a_sign_without_tokens_gives_no_ratio(tokens):
    only_right = dict(tokens, rewards=np.ones_like(tokens["rewards"]))
    found = summarise(of_rows(only_right, slice(None)), 1)
    assert "ratio/mean_positive" in found and "ratio/mean_negative" not in found


@pytest.mark.parametrize("ratio", [1.0, 1.05, 0.5, 3.0, 2e4])
def test_the_histogram_resolves_a_ratio_to_a_few_percent(tokens, ratio):
    metrics = {name: np.full((1, 4), ratio if name == "ratio" else 0.0) for name in NAMES}
    ones = np.ones((1, 4))
    histogram = tally(ones, metrics, ones, ones, ones, ones)["hist/ratio_positive"]
    assert quantile(np.asarray(histogram), 0.95) == pytest.approx(ratio, rel=0.02 if 0.9 < ratio < 1.1 else 0.1)


@pytest.fixture(scope="module")
def step(tiny_model, tiny_params):
    """The compiled step, and a function that makes its first state."""
    return make_step(tiny_params, OptimizerConfig(learning_rate=1e-2), Loss("nft", LOSS, tiny_model, FLOAT32),
                     make_mesh(MeshConfig(), jax.devices()[:1]))


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
    # One update first, so that the moments are not 0.
    taken, _, norm, _ = compiled(first(), batch, 1e-2, 1.0, None)
    before = bits(taken)
    skipped, counts, bad, _ = compiled(taken, spoiled(batch, name, value), 1e-2, 1.0, None)
    assert counts["count/nonfinite"] == 1 and np.isfinite(norm)
    assert not np.isfinite(bad) or not np.isfinite(counts["sum/loss"])
    assert bits(skipped) == before
    after, counts, *_ = compiled(skipped, batch, 1e-2, 1.0, None)
    assert counts["count/nonfinite"] == 0
    straight, *_ = compiled(compiled(first(), batch, 1e-2, 1.0, None)[0], batch, 1e-2, 1.0, None)
    assert bits(after) == bits(straight) != before


def made(*results):
    """Updates of these tallies and norms."""
    return Updates([Update(None, [], [], tally, norm, None) for tally, norm in results])


def test_metrics_are_those_of_the_updates_that_were_taken(step, batch):
    compiled, first = step
    state, good, norm, _ = compiled(first(), batch, 0.0, 1.0, None)
    _, bad, nan, _ = compiled(state, spoiled(batch, "old_logprobs", np.nan), 0.0, 1.0, None)
    with_bad, skipped = made((good, norm), (bad, nan), (good, norm)).finish()
    without, none = made((good, norm), (good, norm)).finish()
    assert skipped == [1] and none == []
    assert (with_bad.pop("nonfinite/skipped"), without.pop("nonfinite/skipped")) == (1, 0)
    assert with_bad == without and all(np.isfinite(value) for value in with_bad.values())
    only = made((bad, nan))
    assert only.finish() == ({"nonfinite/skipped": 1}, [0])
    assert only.causes == ["loss"]
    steep = made((good, norm), (good | {"count/nonfinite": np.float32(1)}, nan))
    assert steep.finish()[1] == [1] and steep.causes == ["gradient"]


@pytest.mark.parametrize(("cause", "trained", "objective", "told", "not_told"), [
    ("loss", 8, "mine.py:f", "optimizer.learning_rate", "No update"),
    ("loss", 0, "mine.py:f", "nft_jax.token_loss", "optimizer.learning_rate"),
    ("gradient", 0, "mine.py:f", "jnp.where", "optimizer.learning_rate"),
    ("gradient", 0, "nft", "nonfinite/logprobs", "optimizer.learning_rate")])
def test_the_advice_goes_by_what_was_seen(cause, trained, objective, told, not_told):
    """NaN from the first update on is the loss; after finite ones it may be the rate."""
    advice = step_metrics.nonfinite_advice(cause, trained, objective)
    assert told in advice and not_told not in advice


def test_tallies_and_norms_of_the_updates_of_a_step(tokens):
    """Losses are means over the updates, and gradient norms their mean and maximum."""
    parts = [of_rows(tokens, slice(0, 5)), of_rows(tokens, slice(5, None))]
    tallies = [part | {"count/nonfinite": 0.0} for part in parts]
    found, _ = made(*zip(tallies, np.float32([1, 3]), strict=True)).finish()
    assert (found["grad_norm/mean"], found["grad_norm/max"]) == (2, 3)
    assert found["loss/total"] == pytest.approx((tokens["weight"] * tokens["loss"]).sum() / 2, rel=1e-4)


@pytest.mark.parametrize(("before", "skipped", "after", "most"), [
    (0, [], 0, 0), (2, [], 0, 2), (0, [1, 2], 0, 2), (1, [0, 3], 1, 2), (2, [0, 1, 2, 3], 6, 6), (0, [2, 3], 2, 2)])
def test_skipped_updates_in_a_row_are_counted_over_the_ends_of_steps(before, skipped, after, most):
    assert step_metrics.count_skipped(skipped, 4, before) == (after, most)


def test_the_batches_are_written_as_they_were_trained_on(batch, tmp_path, monkeypatch):
    said, rng = [], np.random.default_rng(0)
    updates = Updates([Update(batch, [make_group(j, [1, 0], rng=rng) for j in (i, i + 1)], [], {}, None, None)
                       for i in range(4)])
    paths = write_batches(updates, [1, 3], 12, tmp_path / "nonfinite", Writing(said.append))
    assert [path.name for path in paths] == ["step_000012_update_02.npz", "step_000012_update_04.npz"] and not said
    found = np.load(paths[1])
    # Micro-batches that are not in use are left out.
    used = int(batch.num_micro)
    assert used < len(batch.tokens)
    assert set(found) == {*(name for name, value in batch._asdict().items() if value is not None), "prompt_index"}
    np.testing.assert_array_equal(found["old_logprobs"], batch.old_logprobs[:used])
    np.testing.assert_array_equal(found["tokens"], batch.tokens[:used])
    assert list(found["prompt_index"]) == [3, 4] and not list(tmp_path.rglob("*.partial"))
    monkeypatch.setattr(step_metrics, "MOST_FILES", 3)
    again = write_batches(updates, [0, 1, 2], 13, tmp_path / "nonfinite", Writing(said.append))
    assert len(again) == 1 and len(list((tmp_path / "nonfinite").iterdir())) == 3


def test_old_logprobs_that_are_not_finite_are_counted():
    group = make_group(0, [1, 0], rng=np.random.default_rng(0))
    group.old_logprobs[1][0] = np.nan
    assert step_metrics.nonfinite_logprobs([group, make_group(1, [1, 0], rng=np.random.default_rng(1), old=False)]) == 1
    assert step_metrics.nonfinite_logprobs([]) == 0


def test_drift_is_told_where_an_epoch_ends():
    """Of five groups, three a step; the step that ends two epochs names the second. A run that samples has none."""
    row = {"groups/generated": 3, "ratio/mean_positive": 1.25, "ratio/mean_negative": 0.5, "share/clamped": 0.25,
           "share/saturated": 0.125, "ratio/effective_sample_size": 0.75}
    told = [drift(row | {"answers/epoch": read / 5}, 5) for read in (3, 6, 9, 12)]
    assert [bool(line) for line in told] == [False, True, False, True]
    for part in ("epoch 2", "1.250", "0.500", "25.0%", "12.5%", "75.0%"):
        assert part in told[3]
    assert drift(row, 5) == "" and "ratio" not in drift({"groups/generated": 5, "answers/epoch": 1.0}, 5)
