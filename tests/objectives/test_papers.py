"""Every objective against its paper's formula, and the identities between objectives (nft.md has the table)."""
import math

import jax
import numpy as np
import pytest

import paper_references as papers
from nft_jax.config import ObjectiveConfig
from nft_jax.objectives.registry import OBJECTIVES, resolve, token_loss
from objectives_reference import draw, loss_and_grad, on_policy

RATIOS = [(name, ratio) for name in papers.REFERENCES for ratio in ("token", "sequence", "sequence_mean")
          if ratio == "token" or "ratio" in OBJECTIVES[name].reads]
LIKELIHOODS = ("nft", "nft_clip", "rft", "naive_contrast")
SETTINGS = {"nft": [{"prompt_weight": omega, "epsilon": epsilon, "neg_weight": weight, "pos_weight": 1.7 - weight}
                    for omega in papers.OMEGAS for epsilon, weight in ((0.1, 1.0), (0.5, 0.7), (2.0, 0.5), (1.0, 0.0))],
            "nft_clip": [{"prompt_weight": "sqrt", "clip_high": 0.5}],
            "rft": [{"prompt_weight": omega, "pos_weight": 1.5} for omega in papers.OMEGAS],
            "naive_contrast": [{"prompt_weight": "1-r", "neg_weight": 0.5}],
            "dapo": [{"clip_low": 0.1, "clip_high": 0.5}], "sapo": [{"tau_positive": 0.8, "tau_negative": 1.7}],
            "topr": [{"pos_weight": 0.6, "neg_weight": 0.9}], "cispo": [{"clip_low": 0.5, "clip_high": 1.0}],
            "gspo": [{"clip_low": 0.1, "clip_high": 0.3}], "w_reinforce": [{"psr_weight": 0.3}]}


def answers(seed, soft=False, dtype="float64"):
    """`draw`, with accuracies that differ from every reward, and a std that is not sqrt(r (1-r))."""
    logp, old, mask, rewards, _ = draw(seed, soft=soft, dtype=dtype)
    accuracy = np.asarray([0.25, 0.5, 0.75, 0.125, 0.5, 0.0625], dtype)
    return logp, old, mask, rewards, accuracy, np.asarray(1.03 * np.sqrt(accuracy * (1 - accuracy)), dtype)


def test_draws_reach_the_extremes():
    """The comparisons below are only worth something where their inputs reach the clamps."""
    logp, old, mask, rewards, accuracy = draw(1)
    R, r = np.exp(np.minimum(logp - old, 10)), np.clip(accuracy, 0.02, 0.98)[:, None]
    wrong = mask & (rewards[:, None] == 0)
    assert (wrong & (r * R > 1)).any() and (wrong & (r * R < 1)).any()
    assert {0.0, 1.0} < set(accuracy)
    assert all(any((inside & (logp - old > 10) & (rewards[:, None] == s)).any()
                   for logp, old, inside, rewards, _ in map(draw, (0, 1))) for s in (0, 1))


def reference(name, config, logp, old, mask, rewards, accuracy, std):
    """Value and slope [B, T] in float64 of the very numbers given to the implementation."""
    value, slope = papers.REFERENCES[name]
    out = np.zeros((2, *logp.shape))
    for b in range(len(logp)):
        inside = mask[b] != 0
        given = ([float(x) for x in logp[b, inside]], [float(x) for x in old[b, inside]], float(rewards[b]),
                 float(accuracy[b]), float(std[b]), config)
        out[0, b, inside], out[1, b, inside] = value(*given, given[0]), slope(*given)
    return out


@pytest.mark.parametrize(("name", "ratio"), RATIOS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_derivative_are_the_paper_s(name, ratio, dtype):
    tolerance = {"float32": 2e-5, "float64": 1e-9}[dtype]
    draws = [(0, False), (1, False), (1, True)]
    given = [np.concatenate(parts) for parts in zip(*(answers(*one, dtype) for one in draws), strict=True)]
    if name in LIKELIHOODS:                 # whose accuracies are clipped
        given[4] = np.concatenate([draw(seed, soft=soft, dtype=dtype)[4] for seed, soft in draws])
    with jax.enable_x64(dtype == "float64"):
        for settings in [{}, *SETTINGS.get(name, [])]:
            config = resolve(name, ObjectiveConfig(ratio=ratio, **settings))
            loss, grad, metrics = loss_and_grad(name, *given[:5], config=config, extras={"group_std": given[5]})
            value, slope = reference(name, config, *given)
            assert loss.dtype == grad.dtype == dtype
            scale = 1 + np.exp(np.minimum(given[0] - given[1], 10)) if name == "sapo" else 1        # g (1 - g) cancels
            # Likelihoods are exact relative to their two parts, also near R = 1, where both vanish.
            size = np.abs(metrics["positive_loss"]) + np.abs(metrics["negative_loss"])
            size = size if name in LIKELIHOODS else 1 + np.abs(value)
            assert np.all(np.abs(loss - value) <= tolerance * size)
            assert np.all(np.abs(grad - slope) <= tolerance * (scale + np.abs(slope)))
            np.testing.assert_allclose(metrics["positive_loss"] + metrics["negative_loss"], loss, rtol=1e-5, atol=1e-6)
            if name in ("grpo", "dapo", "dr_grpo"):
                R, A = np.exp(np.minimum(given[0] - given[1], 10)), (given[3] - given[4])[:, None]
                clipped = given[2] & ((A > 0) & (1 + config.clip_high < R) | (A < 0) & (1 - config.clip_low > R))
                np.testing.assert_array_equal(metrics["clipped"], clipped)
                assert clipped.any() and not clipped.all()


def test_the_references_slopes_are_the_derivatives_of_their_values():
    step = 1e-6
    for name, ratio in RATIOS:
        config = resolve(name, ObjectiveConfig(ratio=ratio, **SETTINGS.get(name, [{}])[0]))
        value, slope = papers.REFERENCES[name]
        logp, old, mask, rewards, accuracy, std = answers(1, soft=True)
        for b in range(len(logp)):
            inside = mask[b] != 0
            x, rest = logp[b, inside], (old[b, inside].tolist(), rewards[b], accuracy[b], std[b], config)
            want = slope(x.tolist(), *rest)
            for t in range(len(x)):
                up, down = (math.fsum(value((x + sign * step * np.eye(len(x))[t]).tolist(), *rest, x.tolist()))
                            for sign in (1, -1))
                assert (up - down) / (2 * step) == pytest.approx(want[t], rel=1e-4, abs=1e-6 * math.exp(10)
                                                                 if abs(want[t]) > 1e3 else 1e-5), (name, ratio, b, t)


# ---- identities between objectives -----------------------------------------------------------------------------

def test_on_policy_identities(x64):
    K = 8
    _, s, r = on_policy("nft", K)
    std = np.sqrt(r * (1 - r))
    for name, settings, want in [
            ("nft_clip", {}, s - r), ("nft_clip", {"prompt_weight": "sqrt"}, (s - r) / std),
            ("nft", {"ratio": "sequence_mean"}, s - r), ("reinforce", {}, s - r), ("dr_grpo", {}, s - r),
            ("cispo", {}, (s - r) / std), ("gspo", {}, (s - r) / std), ("sapo", {}, (s - r) / std),
            ("sapo", {"tau_positive": 3.0}, (s - r) / std), ("maxrl", {}, (s - r) / r),
            ("nft", {"prompt_weight": "maxrl"}, (s - r) / r), ("dpo", {"beta": 0.3}, 0.3 / K * (s - r) / r),
            ("topr", {}, 2 * s - 1), ("naive_contrast", {}, 2 * s - 1), ("w_reinforce", {"psr_weight": 1.0}, 2 * s - 1),
            ("psr", {}, s), ("nsr", {}, s - 1), ("rft", {}, s)]:
        np.testing.assert_allclose(on_policy(name, K, **settings)[0], want, rtol=1e-11, atol=1e-13,
                                   err_msg=f"{name} {settings}")


def both(name, *given, **settings):
    return loss_and_grad(name, *given[:5], config=ObjectiveConfig(**settings), extras={"group_std": given[5]})[:2]


def assert_equal(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_off_policy_identities(x64):
    given = answers(1, soft=True)
    psr, nsr = both("psr", *given), both("nsr", *given)
    assert_equal(both("w_reinforce", *given, psr_weight=0.3), [0.3 * a + b for a, b in zip(psr, nsr, strict=True)])
    assert_equal(both("naive_contrast", *given, neg_weight=0.0), both("rft", *given))
    for ratio in ("token", "sequence", "sequence_mean"):
        assert_equal(both("rft", *given, ratio=ratio), both("nft", *given, ratio=ratio, prompt_weight="1",
                                                            neg_weight=0.0))
    inside = given[0] - given[1] <= 10                  # where rft's log ratio stops, TOPR's does not
    np.testing.assert_allclose(both("topr", *given, neg_weight=0.0)[1] * inside, both("rft", *given)[1], rtol=1e-12)
    wide = {"clip_low": 1.0, "clip_high": 1e9}
    np.testing.assert_allclose(both("cispo", *given, **wide)[1] * inside, both("grpo", *given, **wide)[1], rtol=1e-12)


def test_one_token_answers_have_one_ratio(x64):
    logp, old, _, rewards, accuracy, std = answers(1)
    given = logp[:, :1], old[:, :1], np.ones((6, 1)), rewards, accuracy, std
    clips = {"clip_low": 0.1, "clip_high": 0.3}
    assert_equal(both("gspo", *given, **clips), both("grpo", *given, **clips))
    for name in ("nft", "nft_clip", "rft"):
        for ratio in ("sequence", "sequence_mean"):
            assert_equal(both(name, *given, ratio=ratio), both(name, *given))


def test_the_mean_ratio_of_equal_tokens_is_the_token_s(x64):
    """And unlike the sum it does not grow with the answer."""
    _, old, mask, rewards, accuracy, std = answers(1)
    given = old + np.linspace(-1, 1, 6)[:, None], old, mask, rewards, accuracy, std
    for name in ("nft", "nft_clip"):
        assert_equal(both(name, *given, ratio="sequence_mean"), both(name, *given))
        assert not np.allclose(both(name, *given, ratio="sequence")[1], both(name, *given)[1])


def test_nft_clip_is_nft_inside_the_region_and_flat_outside(x64):
    given = answers(0)
    logp, old, mask, rewards = given[:4]
    R = np.exp(np.minimum(logp - old, 10))
    right = rewards[:, None] == 1
    clipped = mask & np.where(right, R > 1.28, R < 0.8)
    (loss, grad), (plain, plain_grad) = both("nft_clip", *given), both("nft", *given)
    assert_equal((loss[~clipped], grad[~clipped]), (plain[~clipped], plain_grad[~clipped]))
    assert not grad[clipped].any() and (clipped & right).any() and (clipped & ~right).any()
    assert np.all(loss[clipped] > plain[clipped])                   # pessimistic, as PPO's: never better than NFT's
    edge = token_loss("nft_clip", np.log([[1.28, 0.8]]), np.zeros((1, 2)), np.ones((1, 2)), np.array([[1.0, 0.0]]),
                      np.full((1, 2), 0.25))[1]["clipped"]
    assert not np.asarray(edge).any()                               # the bounds are inside
