"""The contracts of the token losses: layouts, reduction, metrics, masks and extremes, settings and errors."""
import inspect
import itertools
import math
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.config import ObjectiveConfig
from nft_jax.objectives.registry import (
    METRICS,
    OBJECTIVES,
    Objective,
    coefficients,
    overlong_penalty,
    resolve,
    settings_read,
    token_loss,
    token_weights,
)
from objectives_reference import draw, loss_and_grad
from paper_references import OMEGAS
from refusal import refused

# ---- §4.6: invariances -----------------------------------------------------------------------------------------

LAYOUTS = [(name, ratio) for name in OBJECTIVES for ratio in ("token", "sequence", "sequence_mean")
           if ratio == "token" or "ratio" in OBJECTIVES[name].reads]


def groups_for(name):
    """The extras without which an objective does not run."""
    return {"group_ids": np.array([1, 2, 2, 1, 1, 2])} if OBJECTIVES[name].whole_groups else {}


def sequences():
    """Log-probs under both policies, rewards, accuracies, lengths and mask of six sequences."""
    logp, old, _, rewards, accuracy = draw(5, B=6, T=5)
    lengths = np.array([5, 3, 1, 4, 2, 5])
    return logp, old, rewards, np.clip(accuracy, 0.1, 0.9), lengths, np.arange(5) < lengths[:, None]


@pytest.mark.parametrize(("name", "ratio"), LAYOUTS)
def test_invariant_to_padding_packing_and_permutation(x64, name, ratio):
    config, extras = ObjectiveConfig(ratio=ratio), groups_for(name)
    logp, old, rewards, accuracy, lengths, mask = sequences()
    loss, grad, metrics = loss_and_grad(name, logp, old, mask, rewards, accuracy, config=config, extras=extras)

    def close(got, want):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)

    longer = [np.pad(a, ((0, 0), (0, 4)), constant_values=value)
              for a, value in ((logp, -777.0), (old, -3.0), (mask, 0))]
    padded = loss_and_grad(name, *longer, rewards, accuracy, config=config, extras=extras)
    close((padded[0][:, :5], padded[1][:, :5]), (loss, grad))
    assert not padded[0][:, 5:].any() and not padded[1][:, 5:].any()

    order = np.random.default_rng(0).permutation(len(logp))
    shuffled = loss_and_grad(name, logp[order], old[order], mask[order], rewards[order], accuracy[order], config=config,
                             extras={key: value[order] for key, value in extras.items()})
    close(shuffled[:2], (loss[order], grad[order]))

    # two rows of three sequences, each after two prompt tokens, in another order, with ids that only tell apart
    packed = {key: np.zeros((2, 24)) for key in ("logp", "old", "mask", "rewards", "accuracy", "ids", "group_ids")}
    places = {}
    for row, members in enumerate(((4, 0, 2), (5, 1, 3))):
        start = 0
        for which, i in enumerate(members):
            stop = start + 2 + lengths[i]
            packed["ids"][row, start:stop] = (70, 3, -1)[which]
            packed["logp"][row, start:stop] = -9.0
            packed["rewards"][row, start:stop], packed["accuracy"][row, start:stop] = rewards[i], accuracy[i]
            places[i] = (row, slice(start + 2, stop))
            packed["group_ids"][places[i]] = extras["group_ids"][i] if extras else 0
            for key, value in (("logp", logp), ("old", old), ("mask", mask)):
                packed[key][places[i]] = value[i, :lengths[i]]
            start = stop
    together = loss_and_grad(name, *(packed[key] for key in ("logp", "old", "mask", "rewards", "accuracy")),
                             config=config, extras={"segment_ids": packed["ids"].astype(np.int32),
                                                    "group_ids": packed["group_ids"].astype(np.int32)})
    for i, place in places.items():
        close((together[0][place], together[1][place]), (loss[i, :lengths[i]], grad[i, :lengths[i]]))
        for key in METRICS:
            close([np.asarray(together[2][key])[place]], [np.asarray(metrics[key])[i, :lengths[i]]])
    assert not together[0][packed["mask"] == 0].any() and not together[1][packed["mask"] == 0].any()


def test_sequence_ratio_sums_to_one_loss_per_sequence(x64):
    logp, old, rewards, accuracy, _, mask = sequences()
    config = ObjectiveConfig(ratio="sequence")
    loss = np.asarray(token_loss("nft", logp, old, mask, rewards, accuracy, config)[0])
    total = (mask * (logp - old)).sum(1)
    one = np.ones((6, 1))
    per_sequence, _ = token_loss("nft", total[:, None], 0 * one, one, rewards, accuracy)
    np.testing.assert_allclose(loss.sum(1), np.asarray(per_sequence)[:, 0], rtol=1e-10)
    np.testing.assert_allclose(loss[0], loss[0, 0], rtol=1e-12)


@pytest.mark.parametrize("loss_agg", ["token_mean", "seq_mean_token_mean", "constant"])
def test_token_weights_are_the_reduction_whatever_the_split(x64, loss_agg):
    logp, old, rewards, accuracy, lengths, mask = sequences()
    loss = np.asarray(token_loss("nft", logp, old, mask, rewards, accuracy)[0])
    rows = [loss[i, :n] for i, n in enumerate(lengths)]
    want = {"token_mean": np.concatenate(rows).mean(), "seq_mean_token_mean": np.mean([row.mean() for row in rows]),
            "constant": sum(row.sum() for row in rows) / 40.0}[loss_agg]
    weights = token_weights(loss_agg, lengths, 40.0)
    assert weights.shape == (6,)
    for pieces in (1, 2, 3):
        parts = [(weights[part, None] * loss[part]).sum() for part in np.array_split(np.arange(6), pieces)]
        assert sum(parts) == pytest.approx(want, rel=1e-12)


def test_token_weights_refuse_what_they_cannot_weigh():
    with refused("loss.loss_agg", "'mean'", "token_mean"):
        token_weights("mean", np.array([3]))
    with refused("lengths", 0):
        token_weights("token_mean", np.array([3, 0]))
    assert token_weights("seq_mean_token_mean", np.array([], int)).shape == (0,)


def test_jit_with_traced_segment_ids(x64):
    logp, old, mask, rewards, accuracy = draw(2)
    ids = np.repeat([[1, 1, 1, 2, 2, 3, 3, 3, 0]], 6, 0)
    config = ObjectiveConfig(ratio="sequence")
    plain = token_loss("nft", logp, old, mask, rewards, accuracy, config, {"segment_ids": ids})[0]
    jitted = jax.jit(lambda ids: token_loss("nft", logp, old, mask, rewards, accuracy, config, {"segment_ids": ids})[0])
    np.testing.assert_allclose(jitted(ids), plain, rtol=1e-12)
    assert not np.allclose(plain, token_loss("nft", logp, old, mask, rewards, accuracy, config)[0])


# ---- metrics, types, masks, extremes ---------------------------------------------------------------------------

@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_metrics_of_nft(x64, ratio):
    logp, old, mask, rewards, accuracy = draw(1)
    config = ObjectiveConfig(epsilon=0.5, ratio=ratio)
    _, metrics = token_loss("nft", logp, old, mask, rewards, accuracy, config)
    delta = logp - old if ratio == "token" else np.where(mask, logp - old, 0).sum(1, keepdims=True) + 0 * logp
    R, r, s = np.exp(np.minimum(delta, 10)), np.clip(accuracy, 0.02, 0.98)[:, None], rewards[:, None]
    want = {"ratio": R, "clamped": (s == 0) & ((1 - r * R) / (1 - r) < 0.5), "saturated": (s == 0) & (r * R >= 1),
            "clipped": np.zeros_like(R)}
    for key, value in want.items():
        np.testing.assert_allclose(metrics[key], value * mask, rtol=1e-12, err_msg=key)
    assert not np.asarray(metrics["positive_loss"])[rewards == 0].any()
    assert not np.asarray(metrics["negative_loss"])[rewards == 1].any()
    assert (want["clamped"] & mask).any() and (want["saturated"] & mask).any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_the_same_metrics_and_only_logprobs_get_gradient(name):
    logp, old, mask, rewards, accuracy = draw(1, soft=True, dtype="float32")
    extras = groups_for(name)
    loss, metrics = token_loss(name, logp, old, mask, rewards, accuracy, extras=extras)
    assert tuple(metrics) == METRICS
    assert all(value.shape == loss.shape and value.dtype == loss.dtype for value in metrics.values())
    np.testing.assert_allclose(metrics["positive_loss"] + metrics["negative_loss"], loss, rtol=1e-5)
    others = jax.grad(lambda *other: token_loss(name, logp, other[0], mask, *other[1:], extras=extras)[0].sum(),
                      (0, 1, 2))(old, rewards, accuracy)
    assert not any(np.asarray(grad).any() for grad in others)
    through = jax.grad(lambda x: sum(value.sum() for value in token_loss(
        name, x, old, mask, rewards, accuracy, extras=extras)[1].values()))(logp)
    assert not np.asarray(through).any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_coefficients_are_minus_the_gradient(x64, name):
    arguments = draw(0)
    arguments[4] = np.clip(arguments[4], 0.1, 0.9)
    _, grad, _ = loss_and_grad(name, *arguments, extras=groups_for(name))
    np.testing.assert_array_equal(coefficients(name, *arguments, extras=groups_for(name)), -grad)
    assert grad.any()


def test_bfloat16_is_computed_in_float32():
    logp, old, mask, rewards, accuracy = draw(0, dtype="float32")
    small = [a if a is mask else jnp.asarray(a, jnp.bfloat16) for a in (logp, old, mask, rewards, accuracy)]
    loss, metrics = token_loss("nft", *small)
    want, _ = token_loss("nft", *(a.astype(jnp.float32) for a in small))
    assert loss.dtype == metrics["ratio"].dtype == coefficients("nft", *small).dtype == jnp.float32
    np.testing.assert_array_equal(loss, want)


@pytest.mark.parametrize(("name", "ratio"), LAYOUTS)
def test_nothing_outside_the_mask_is_seen(name, ratio):
    """Padding may hold anything at all, infinities and NaN included."""
    logp, old, mask, rewards, accuracy = draw(4, dtype="float32")
    settings_ = {"config": ObjectiveConfig(ratio=ratio), "extras": groups_for(name)}
    clean = loss_and_grad(name, logp, old, mask, rewards, accuracy, **settings_)
    per_token = [np.repeat(a[:, None], 9, 1) for a in (rewards, accuracy)]
    dirty = [np.where(mask, a, bad) for a, bad in zip((logp, old, *per_token), (-np.inf, np.inf, np.nan, np.nan),
                                                      strict=True)]
    loss, grad, metrics = loss_and_grad(name, dirty[0], dirty[1], mask, *dirty[2:], **settings_)
    np.testing.assert_array_equal(loss, clean[0])
    np.testing.assert_array_equal(grad, clean[1])
    assert not loss[~mask].any() and not grad[~mask].any()
    assert all(np.isfinite(value).all() and not np.asarray(value)[~mask].any() for value in metrics.values())


log_probabilities = st.sampled_from([0.0, -1e-30, -1e-7, -0.5, -9.99, -10.0, -20.0, -88.0, -1e4, -1e30])
EXTREMES = {"nft": {"epsilon": [1e-6, 0.1, 1.0, 4.0], "prompt_weight": list(OMEGAS)},
            "nft_clip": {"epsilon": [1e-6, 4.0], "clip_low": [0.0, 0.2, 1.0, 3.0], "clip_high": [0.0, 1e9]},
            "dpo": {"beta": [1e-3, 0.1, 5.0], "nll_weight": [0.0, 2.0]}, "gspo": {"clip_low": [0.0, 3e-4, 1.0]},
            "sapo": {"tau_positive": [1e-3, 1.0, 50.0], "tau_negative": [1e-3, 50.0]},
            "cispo": {"clip_high": [0.0, 4.0, 1e9]}, "naive_contrast": {"prompt_weight": list(OMEGAS)}}


@settings(max_examples=60)
@given(st.data())
def test_finite_inputs_stay_finite(data):
    """Whatever the masks (empty ones too), the groups (all right, all wrong) and the log-probs."""
    B, T = data.draw(st.sampled_from([(1, 3), (2, 2)]))

    def array(elements, *shape):
        size = math.prod(shape)
        return np.array(data.draw(st.lists(elements, min_size=size, max_size=size)), np.float32).reshape(shape)
    logp, old = array(log_probabilities, B, T), array(log_probabilities, B, T)
    mask = array(st.booleans(), B, T)
    rewards = array(st.sampled_from([0.0, 1.0, 0.3]), B, T)
    accuracy = array(st.sampled_from([0.0, 1.0, 1e-9, 0.5, 1 - 1e-7]), B)
    extras = {"segment_ids": array(st.integers(0, T), B, T).astype(np.int32),
              "group_ids": array(st.integers(0, 1), B, T).astype(np.int32),
              "group_std": array(st.sampled_from([0.0, 1e-30, 1e-3, 0.5]), B)}
    name, ratio = data.draw(st.sampled_from(LAYOUTS))
    config = ObjectiveConfig(ratio=ratio, **{field: data.draw(st.sampled_from(values))
                                             for field, values in EXTREMES.get(name, {}).items()})
    loss, grad, metrics = loss_and_grad(name, logp, old, mask, rewards, accuracy, config=config, extras=extras)
    for value in (loss, grad, *metrics.values()):
        assert value.shape == (B, T) and np.isfinite(value).all() and not np.asarray(value)[mask == 0].any()


def test_groups_without_spread_carry_no_advantage():
    logp, old, mask, _, _ = draw(0, dtype="float32")
    for name, std in itertools.product(("grpo", "dapo"), (0.0, 1e-8)):
        loss, grad, _ = loss_and_grad(name, logp, old, mask, np.full(6, 0.3), np.full(6, 0.3 + 1e-7),
                                      extras={"group_std": np.full(6, std)})
        assert not loss.any() and not grad.any()


def test_sample_std_is_the_batch_s_to_give(x64):
    logp = np.zeros((4, 1))
    rewards, r = np.array([1.0, 0, 0, 0]), np.full(4, 0.25)
    config = ObjectiveConfig(std_ddof=1)
    with refused("loss.std_ddof", 1, "group_std"):
        token_loss("grpo", logp, logp, np.ones((4, 1)), rewards, r, config)
    got = coefficients("grpo", logp, logp, np.ones((4, 1)), rewards, r, config,
                       {"group_std": np.full(4, rewards.std(ddof=1))})
    population = coefficients("grpo", logp, logp, np.ones((4, 1)), rewards, r)
    np.testing.assert_allclose(got, np.asarray(population) * math.sqrt(3 / 4), rtol=1e-12)


# ---- resolve, errors, objectives of one's own --------------------------------------------------------------------

def test_defaults():
    expected = {"nft": ("1-r", 1.0, None, None, "token_mean"), "rft": ("1", 0.0, None, None, "token_mean"),
                "grpo": (None, None, 0.2, 0.2, "seq_mean_token_mean"), "dr_grpo": (None, None, 0.2, 0.2, "constant"),
                "dapo": (None, None, 0.2, 0.28, "token_mean"), "dpo": (None, None, None, None, "constant"),
                "nft_clip": ("1-r", 1.0, 0.2, 0.28, "token_mean"), "cispo": (None, None, 1.0, 4.0, "token_mean"),
                "gspo": (None, None, 3e-4, 4e-4, "seq_mean_token_mean"),
                "sapo": (None, None, None, None, "seq_mean_token_mean"), "topr": (None, 1.0, None, None, "token_mean")}
    for name, want in expected.items():
        config = resolve(name, ObjectiveConfig())
        assert (config.prompt_weight, config.neg_weight, config.clip_low, config.clip_high, config.loss_agg) == want
        assert resolve(name, config) == config
    assert resolve("nft", ObjectiveConfig(neg_weight=0.5, loss_agg="constant", constant_length=7)) == ObjectiveConfig(
        neg_weight=0.5, loss_agg="constant", constant_length=7, prompt_weight="1-r")


ALTERED = {"epsilon": 0.5, "prompt_weight": "sqrt", "pos_weight": 0.5, "neg_weight": 0.5, "ratio": "sequence",
           "clip_low": 0.1, "clip_high": 0.9, "std_ddof": 1, "overlong_buffer": 8, "beta": 0.3, "nll_weight": 0.5,
           "tau_positive": 2.0, "tau_negative": 2.0, "psr_weight": 0.5, "all_wrong": 0.5}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("field", ALTERED)
def test_a_field_changes_the_loss_or_is_refused(name, field):
    config = ObjectiveConfig(**{field: ALTERED[field]})
    if field not in OBJECTIVES[name].reads:
        users = [other for other, entry in OBJECTIVES.items() if field in entry.reads]
        with refused(f"loss.{field}", repr(ALTERED[field]), name, *users):
            resolve(name, config)
        return
    if field in ("std_ddof", "overlong_buffer", "all_wrong"):       # read by the batch: group_std, rewards, groups
        assert getattr(resolve(name, config), field) == ALTERED[field]
        return
    arguments = draw(0, soft=True, dtype="float32")
    arguments[4] = np.clip(arguments[4], 0.1, 0.9)
    given, extras = (config, ObjectiveConfig()), groups_for(name)
    assert not np.allclose(*(coefficients(name, *arguments, c, extras) for c in given)) or not np.allclose(
        *(token_loss(name, *arguments, c, extras)[0] for c in given))


def test_every_field_of_the_loss_is_read_by_an_objective():
    assert set(ALTERED) | {"loss_agg", "constant_length", "own"} == {field.name for field in fields(ObjectiveConfig)}
    assert set(ALTERED) == {key for entry in OBJECTIVES.values() for key in entry.reads}


def test_refusals_say_what_to_write():
    for name, settings_, message in [
            ("ntf", {}, ("objective", "'ntf'", *OBJECTIVES)),
            ("nft", {"overlong_buffer": 5}, ("loss.overlong_buffer", 5, "[0, 1]", "grpo, dr_grpo, dapo")),
            ("rft", {"neg_weight": 0.5}, ("loss.neg_weight", 0.5, "rft", "nft")),
            ("nft", {"prompt_weight": "r"}, ("loss.prompt_weight", "'r'", "'1', '1-r', 'sqrt', 'maxrl'")),
            ("nft", {"loss_agg": "mean"}, ("loss.loss_agg", "'mean'", "'token_mean', 'seq_mean_token_mean'")),
            ("nft", {"ratio": "seq"}, ("loss.ratio", "'seq'", "'token', 'sequence'")),
            ("grpo", {"std_ddof": 2}, ("loss.std_ddof", 2, "0, 1")),
            ("nft", {"constant_length": 5}, ("loss.constant_length", 5, "'token_mean'", "loss_agg='constant'"))]:
        with refused(*message):
            resolve(name, ObjectiveConfig(**settings_))


def test_shapes_and_keys_are_checked():
    logp, old, mask, rewards, accuracy = draw(0, dtype="float32")
    for changed, message in [
            ({"logprobs": logp[0]}, ("logprobs", (9,))), ({"old_logprobs": old[:, :4]}, ("old_logprobs", (6, 4))),
            ({"mask": mask[:, 0]}, ("mask", (6,))), ({"rewards": rewards[:3]}, ("rewards", (3,), (6, 9))),
            ({"group_accuracy": 0.5}, ("group_accuracy", ())), ({"extras": {"std": old}}, ("'std'", "group_std")),
            ({"extras": {"group_std": rewards[:2]}}, ("group_std", (2,))),
            ({"extras": {"segment_ids": rewards}}, ("segment_ids", (6,)))]:
        arguments = {"logprobs": logp, "old_logprobs": old, "mask": mask, "rewards": rewards,
                     "group_accuracy": accuracy} | changed
        with refused(*message):
            token_loss("grpo", **arguments)


def test_a_function_of_ones_own(x64):
    def reinforce(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        return -(rewards - group_accuracy) * logprobs * config.clip_high, {"ratio": jnp.exp(logprobs - old_logprobs)}

    logp, old, mask, rewards, accuracy = draw(0)
    loss, grad, metrics = loss_and_grad(reinforce, logp, old, mask, rewards, accuracy)
    want = -0.2 * (rewards - accuracy)[:, None] * mask
    np.testing.assert_allclose(grad, want, rtol=1e-12)
    np.testing.assert_allclose(loss, want * logp, rtol=1e-12)
    np.testing.assert_allclose(coefficients(reinforce, logp, old, mask, rewards, accuracy), -want, rtol=1e-12)
    assert set(metrics) == set(METRICS) and not np.asarray(metrics["clamped"]).any()
    assert resolve(reinforce, ObjectiveConfig()).loss_agg == "token_mean"
    entry = Objective(reinforce, ("clip_high",), clip_high=3.0, loss_agg="constant")
    np.testing.assert_allclose(coefficients(entry, logp, old, mask, rewards, accuracy), -15 * want, rtol=1e-12)
    with refused("loss.epsilon", 0.5, "reinforce"):
        resolve(entry, ObjectiveConfig(epsilon=0.5))
    with refused("loss has shape", (), logp.shape):
        token_loss(lambda *arguments: (arguments[0].sum(), {}), logp, old, mask, rewards, accuracy)
    # A metric of one's own comes back beside the others, 0 outside the mask.
    _, found = token_loss(lambda *arguments: (arguments[0], {"mine": 3 * arguments[0]}), logp, old, mask, rewards,
                          accuracy)
    assert set(found) == {*METRICS, "mine"}
    np.testing.assert_allclose(found["mine"], 3 * logp * mask, rtol=1e-12)


def test_docstrings_state_value_derivative_and_source():
    for name, entry in OBJECTIVES.items():
        text = inspect.getdoc(entry.function).lower()
        assert "arxiv" in text and "value" in text and "derivative" in text, name
        assert list(inspect.signature(entry.function).parameters) == [
            "logprobs", "old_logprobs", "mask", "rewards", "group_accuracy", "config", "extras"]


def test_overlong_penalty():
    """DAPO Eq. 13: L_max = 100, L_cache = 20."""
    lengths = np.array([1, 80, 81, 90, 99, 100])
    np.testing.assert_allclose(overlong_penalty(lengths, 100, 20), [0, 0, -0.05, -0.5, -0.95, -1])
    assert not overlong_penalty(lengths, 100, 0).any()
    for buffer in (101, -1):
        with refused("loss.overlong_buffer", buffer, 100):
            overlong_penalty(lengths, 100, buffer)


def test_numpy_float64_stays_float64_without_x64():
    arguments = logp, old, mask, *_ = draw(1)
    loss, metrics = token_loss("nft", *arguments)
    assert loss.dtype == metrics["ratio"].dtype == coefficients("nft", *arguments).dtype == np.float64
    np.testing.assert_allclose(metrics["ratio"], mask * np.exp(np.minimum(logp - old, 10)), rtol=1e-12)


def test_every_named_extra_reaches_a_function_of_yours():
    seen = {}

    def mine(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
        seen.update(extras)
        return -extras["reference_logprobs"] * logprobs, {}

    values = np.full((1, 3), 2.0, np.float32)
    extras = dict.fromkeys(("reference_logprobs", "sampler_logprobs", "entropies"), values)
    loss, _ = token_loss(mine, values, values, values, values[:, 0], values[:, 0], extras=extras)
    assert set(extras) <= set(seen)
    np.testing.assert_allclose(loss, -4.0)


def test_settings_that_an_objective_reads_are_known_without_running_it():
    head = "def f(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):\n    "
    every = {field.name for field in fields(ObjectiveConfig)}
    always = {"loss_agg", "constant_length"}
    assert settings_read("grpo") == {"clip_low", "clip_high", "std_ddof", "overlong_buffer", "all_wrong"} | always
    # What the batch reads changes the loss of any function.
    own = always | {"std_ddof", "overlong_buffer", "all_wrong"}
    assert settings_read("a.py:f", head + "return config.beta * logprobs, {}") == {"beta"} | own
    assert settings_read("a.py:f", head + "return -rewards * logprobs, {}") == own
    # Handed on, or not known: any.
    assert settings_read("a.py:f", head + "return nft(logprobs, config)") == every == settings_read("a.py:f")
    assert settings_read("an older one") == every
