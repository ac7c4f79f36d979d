"""Tallies against numpy over all tokens at once, and their sum over any split."""
import numpy as np
import pytest

from nft_jax.train.tally import combine, quantile, summarise, tally

NAMES = ("ratio", "positive_loss", "negative_loss", "clamped", "saturated", "clipped")


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(0)
    shape = (12, 200)
    metrics = {"ratio": np.exp(rng.normal(0, 0.3, shape)), "positive_loss": rng.normal(size=shape),
               "negative_loss": rng.normal(size=shape)}
    metrics |= {name: (rng.random(shape) < 0.2).astype(float) for name in ("clamped", "saturated", "clipped")}
    weight = np.where(rng.random(shape) < 0.8, rng.random(shape), 0)
    return {"metrics": metrics, "loss": rng.normal(size=shape), "coefficient": rng.normal(size=shape),
            "entropy": rng.random(shape), "weight": weight, "rewards": (rng.random(shape) < 0.4).astype(float)}


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
    assert found["entropy/trained"] == pytest.approx(tokens["entropy"][inside].mean(), rel=1e-5)
    assert found["loss/total"] == pytest.approx((tokens["weight"] * tokens["loss"]).sum() / 2, rel=1e-4)
    negatives = (inside & ~positive).sum()
    for name, count in (("clamped", negatives), ("saturated", negatives), ("clipped", inside.sum())):
        assert found[f"share/{name}"] == pytest.approx(tokens["metrics"][name][inside].sum() / count, rel=1e-5)


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
