"""The optional terms: values and gradients against their formulas, one result whatever the layout, nothing when off."""
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from made import make_group
from model_folders import NANO
from nft_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    TermsConfig,
)
from nft_jax.model import decoder
from nft_jax.model.config import FLOAT32, Compute
from nft_jax.model.hf import load_params, read_config
from nft_jax.model.logprobs import token_logprobs
from nft_jax.objectives.registry import find_objective, resolve, token_loss, token_weights
from nft_jax.objectives.terms import (
    OFF,
    answer_terms,
    answers_in_loss,
    kl_estimate,
    mismatch_weights,
    term_losses,
    with_ratio,
)
from nft_jax.runtime.compilation import largest
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train import reference as reference_module
from nft_jax.train.batch import BatchShape, examples_of, make_batch
from nft_jax.train.plan import make_plan, settle
from nft_jax.train.programs import training_programs
from nft_jax.train.reference import abstract_reference, check_reference, load_reference
from nft_jax.train.state import init_state, make_optimizer, state_shardings
from nft_jax.train.step import Loss, compile_step, micro_batch, micro_loss
from nft_jax.train.step_metrics import summarise
from refusal import refused

LOSS = resolve("nft", ObjectiveConfig())
ALL = TermsConfig(kl_weight=0.3, kl_estimator="k2", entropy_weight=0.2, mismatch="sequence", mismatch_cap=1.2,
                  mask_truncated=True)


# ---- formulas --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_and_their_derivatives(kind):
    """In float64, beyond the end of k3's exponential too."""
    rng = np.random.default_rng(0)
    logprobs, reference = rng.normal(-2, 1, 40), rng.normal(-2, 1, 40)
    reference[:3] = logprobs[:3] + np.array([9.999, 10.001, 25.0])
    d = reference - logprobs
    value = {"k1": -d, "k2": d ** 2 / 2,
             "k3": np.exp(np.minimum(d, 10)) - 1 - d + np.exp(10) * np.maximum(d - 10, 0)}[kind]
    slope = {"k1": np.ones(40), "k2": -d, "k3": 1 - np.exp(np.minimum(d, 10))}[kind]
    with jax.enable_x64(True):
        got = kl_estimate(kind, jnp.asarray(logprobs), jnp.asarray(reference))
        derivative = jax.grad(lambda x: kl_estimate(kind, x, jnp.asarray(reference)).sum())(jnp.asarray(logprobs))
    np.testing.assert_allclose(got, value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(derivative, slope, rtol=1e-12, atol=1e-14)
    assert not np.asarray(kl_estimate(kind, logprobs, logprobs)).any()


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_times_the_ratio_and_its_derivative(kind):
    """`terms.kl_ratio` in float64, as TRL computes it; a log-ratio beyond 10 is a constant factor."""
    rng = np.random.default_rng(2)
    logprobs, old, reference = (rng.normal(-2, 1, 40) for _ in range(3))
    old[:2] = logprobs[:2] - np.array([9.99, 10.5])
    d, ratio = reference - logprobs, np.exp(np.minimum(logprobs - old, 10))
    value = {"k1": -d, "k2": d ** 2 / 2, "k3": np.exp(d) - 1 - d}[kind]
    slope = {"k1": np.ones(40), "k2": -d, "k3": 1 - np.exp(d)}[kind] + np.where(logprobs - old < 10, value, 0)
    with jax.enable_x64(True):
        def loss(x, kl_ratio):
            terms = TermsConfig(kl_weight=0.3, kl_estimator=kind, kl_ratio=kl_ratio)
            return term_losses(terms, x, jnp.zeros(40), jnp.asarray(old), jnp.asarray(reference))["kl"]
        got = loss(jnp.asarray(logprobs), True)
        derivative = jax.grad(lambda x: loss(x, True).sum())(jnp.asarray(logprobs))
        plain = loss(jnp.asarray(logprobs), TermsConfig().kl_ratio)
    np.testing.assert_allclose(got, 0.3 * ratio * value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(derivative, 0.3 * ratio * slope, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(plain, 0.3 * value, rtol=1e-12, atol=1e-14)


def test_expected_gradients_are_those_that_the_docstring_names():
    """The sum over all tokens of a vocabulary of 7, each weighted by its probability: exact, no sampling."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        logits, other, older = (jnp.asarray(rng.normal(size=7)) for _ in range(3))
        reference, old = jax.nn.log_softmax(other), jax.nn.softmax(older)

        def everything(x):
            logp, p = jax.nn.log_softmax(x), jax.nn.softmax(logits)
            estimates = [(p * kl_estimate(kind, logp, reference)).sum() for kind in ("k1", "k2", "k3")]
            # Tokens of an older policy, weighed by the ratio.
            estimates.append((old * with_ratio(kl_estimate("k3", logp, reference), logp, jnp.log(old))).sum())
            divergences = [(jnp.exp(a) * (a - b)).sum() for a, b in ((logp, reference), (reference, logp))]
            return jnp.stack([*estimates, *divergences])

        k1, k2, k3, weighed, from_reference, to_reference = jax.jit(jax.jacobian(everything))(logits)
        values = everything(logits)
    np.testing.assert_allclose(k1, 0, atol=1e-15)
    np.testing.assert_allclose(k2, from_reference, rtol=1e-12)
    np.testing.assert_allclose(k3, to_reference, rtol=1e-12)
    np.testing.assert_allclose(weighed, from_reference, rtol=1e-12)
    np.testing.assert_allclose(values[3], values[4], rtol=1e-12)


def test_mismatch_weights():
    old, sampler = np.float32([-1.0, -2.0, -0.5]), np.float32([-1.5, -1.9, -0.5])
    np.testing.assert_allclose(mismatch_weights("token", old, sampler, 1.3), [1.3, np.exp(-0.1), 1], rtol=1e-6)
    np.testing.assert_allclose(mismatch_weights("sequence", old, sampler, 2.0), [np.exp(0.4)] * 3, rtol=1e-6)
    np.testing.assert_allclose(mismatch_weights("sequence", old, sampler, 1.1), [1.1] * 3, rtol=1e-12)
    assert (mismatch_weights("sequence", old - 500, sampler, 1.1) == pytest.approx(1e-20))


def cut(group, *samples):
    """The group with these answers truncated."""
    return replace(group, rollouts=tuple(replace(r, finish_reason="length") if r.sample in samples else r
                                         for r in group.rollouts))


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    made = [make_group(i, rewards, rng=rng) for i, rewards in enumerate([[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, None, 0]])]
    return [replace(cut(group, 1), old_logprobs=tuple(r.logprobs + rng.normal(0, 0.1, len(r.tokens)).astype(np.float32)
                                                      for r in group.rollouts),
                    reference_logprobs=tuple(rng.normal(-3, 1, len(r.tokens)).astype(np.float32)
                                             for r in group.rollouts)) for group in made]


def examples(groups, terms, loss=LOSS):
    return [e for group in groups for e in examples_of(group, loss, 12, terms)]


def test_truncated_answers_leave_the_loss_and_nothing_else(groups):
    """The statistics are of the full group; the denominators count the answers that are left."""
    masked = TermsConfig(mask_truncated=True)
    assert [answers_in_loss(group, masked) for group in groups] == [(0, 2, 3), (0, 2, 3), (0, 3)]
    assert [answers_in_loss(group, OFF) for group in groups] == [(0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 3)]
    every, left = examples(groups, OFF), examples(groups, masked)
    kept = [e for e in every if any(np.array_equal(e.response, other.response) for other in left)]
    for a, b in zip(kept, left, strict=True):
        assert (a.reward, a.group_accuracy, a.group_std) == (b.reward, b.group_accuracy, b.group_std)
    assert answer_terms([1.0] * len(left), 11, masked) == {"share/masked": pytest.approx(3 / 11)}
    for loss_agg in ("token_mean", "seq_mean_token_mean"):
        batch, _ = make_batch(left, BatchShape(1, 16, 32), loss_agg)
        assert batch.weight.sum() == pytest.approx(1)
    assert examples_of(cut(groups[0], 0, 1, 2, 3), LOSS, 12, masked) == []
    assert answer_terms([], 4, replace(masked, mismatch="token")) == {"share/masked": 1.0}


def test_mismatch_metrics_are_over_the_trained_tokens(groups):
    terms = TermsConfig(mismatch="token", mismatch_cap=1.05)
    ratios = np.exp(np.concatenate([(group.old_logprobs[i] - group.rollouts[i].logprobs).astype(np.float64)
                                    for group in groups for i in group.judged]))
    weights = [e.importance for group in groups for e in examples_of(group, LOSS, 12, terms)]
    found = answer_terms(weights, 11, terms)
    assert 0 < found["mismatch/capped"] < 1 and found["mismatch/capped"] == pytest.approx((ratios > 1.05).mean())
    assert found["mismatch/weight"] == pytest.approx(np.minimum(ratios, 1.05).mean())
    assert answer_terms([1.0] * 11, 11, OFF) == {}


# ---- the step --------------------------------------------------------------------------------------------------

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, eps=1e-3, clip_norm=1e6)


def run_step(model, params, items, terms, *, mesh=None, rows=4, row_length=32, objective="nft"):
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    optimizer = make_optimizer(OPTIMIZER)
    placements = state_shardings(params, optimizer, mesh)
    state = jax.jit(partial(init_state, optimizer=optimizer), out_shardings=placements)(params)
    loss = resolve(objective, ObjectiveConfig())
    step = compile_step(mesh, placements, optimizer, Loss(objective, loss, model, Compute(mesh=mesh), terms))
    batch, _ = make_batch(items, BatchShape.for_sequences(16, rows, row_length), loss.loss_agg, loss.constant_length,
                          find_objective(objective).whole_groups)
    return jax.device_get(step(state, batch, 1e-2, 0.9, None))[:3]


def same(result, expected, atol=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


def plain_loss(params, model, items, terms, groups):
    """The loss of every answer by itself, log-probs and entropies from its whole logits."""
    weights = token_weights("token_mean", np.array([len(e.response) for e in items]))
    length = max(len(e.prompt) + len(e.response) for e in items)
    tokens = np.stack([np.pad(np.concatenate([e.prompt, e.response]), (0, length))[:length] for e in items])
    of_group = {id(r.tokens): (g.old_logprobs[r.sample], r.logprobs) for g in groups for r in g.rollouts}
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    every = jax.nn.log_softmax(decoder.logits(params, model, decoder.hidden_states(
        params, model, tokens, positions, jnp.ones_like(positions))) / 0.9)
    entropies, total = -(jnp.exp(every) * every).sum(-1), 0.0
    for row, (e, weight) in enumerate(zip(items, weights, strict=True)):
        place = np.arange(len(e.prompt), len(e.prompt) + len(e.response))
        logprobs, entropy = every[row, place - 1, tokens[row, place]], entropies[row, place - 1]
        d = e.reference_logprobs - logprobs
        kl = d ** 2 / 2 if terms.kl_estimator == "k2" else (jnp.exp(d) - 1 - d) * jnp.exp(logprobs - e.old_logprobs)
        objective, _ = token_loss("nft", logprobs[None], e.old_logprobs[None], np.ones((1, len(place)), bool),
                                  np.array([e.reward]), np.array([e.group_accuracy]), LOSS)
        old, sampler = of_group[id(e.response)]
        ratio = np.exp(min((old.astype(np.float64) - sampler).sum(), np.log(1.2)))
        total += weight * ratio * (objective[0] + 0.3 * kl - 0.2 * entropy).sum()
    return total


@pytest.fixture(scope="module", params=["k2", pytest.param("k3", marks=pytest.mark.slow)])
def plain(request, tiny_model, tiny_params, groups):
    """Terms, the examples, and the plain loss with its gradient."""
    terms = replace(ALL, kl_estimator=request.param, kl_ratio=request.param == "k3")
    items = examples(groups, terms)
    return terms, items, jax.jit(jax.value_and_grad(partial(
        plain_loss, model=tiny_model, items=items, terms=terms, groups=groups)))(tiny_params)


@pytest.mark.parametrize(("sizes", "rows", "row_length"), [
    ((1, 2, 2, 2), 4, 32), pytest.param((1,), 1, 64, marks=pytest.mark.slow),
    pytest.param((2, 2, 2), 8, 20, marks=pytest.mark.slow)])
def test_loss_gradient_and_metrics_equal_a_plain_sum_over_answers(tiny_model, tiny_params, plain, sizes, rows,
                                                                  row_length):
    """In micro-batches, packed, over a mesh. Adam's first moment is a tenth of the gradient."""
    terms, items, (expected_loss, expected) = plain
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[:int(np.prod(sizes))])
    state, tally, norm = run_step(tiny_model, tiny_params, items, terms, mesh=mesh, rows=rows, row_length=row_length)
    same(jax.tree.map(lambda x: 10 * x, next(s for s in state.opt_state if hasattr(s, "mu")).mu), expected)
    np.testing.assert_allclose(norm, np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(expected))), rtol=1e-4)
    metrics = summarise(tally, 1)
    assert metrics["loss/total"] == pytest.approx(float(expected_loss), rel=1e-4)
    assert metrics["loss/total"] == pytest.approx(sum(metrics[f"loss/{name}"] for name in (
        "positive", "negative", "kl", "entropy_bonus")), abs=1e-5)
    assert metrics["loss/kl"] > 0 > metrics["loss/entropy_bonus"] and metrics["kl/mean"] > 0
    assert ("kl/mean_k2" in metrics) == (terms.kl_estimator == "k2")


@pytest.mark.slow
def test_terms_join_a_loss_of_whole_groups(tiny_model, tiny_params, groups):
    """In one micro-batch and in eight; the terms' own part of the loss is told apart."""
    terms = replace(ALL, mismatch="off")
    few, many = (run_step(tiny_model, tiny_params, examples(groups, terms), terms, rows=rows, objective="dpo")
                 for rows in (16, 2))
    same(few, many)
    metrics, alone = (summarise(tally, 1) for tally in (few[1], run_step(
        tiny_model, tiny_params, examples(groups, terms), OFF, rows=16, objective="dpo")[1]))
    assert metrics["loss/total"] == pytest.approx(alone["loss/total"] + metrics["loss/kl"]
                                                  + metrics["loss/entropy_bonus"], rel=1e-5)


def test_terms_that_are_off_change_no_bit(tiny_model, tiny_params, groups):
    """The batch and the program of a step that is told of them are those of one that never was."""
    batch, _ = make_batch(examples([replace(group, reference_logprobs=None) for group in groups], OFF),
                          BatchShape(2, 8, 32))
    told = replace(OFF, kl_estimator="k3", reference="elsewhere", mismatch_cap=9.0)
    for e, other in zip(examples(groups, told), examples(groups, OFF), strict=True):
        assert e.importance == other.importance == 1.0
    plain = Loss("nft", LOSS, tiny_model, FLOAT32)
    lowered = [jax.jit(jax.grad(f, has_aux=True)).lower(tiny_params, micro_batch(batch, 0), 1.0).as_text()
               for f in (partial(micro_loss, loss=loss) for loss in (replace(plain, terms=told), plain))]
    assert batch.reference_logprobs is None and lowered[0] == lowered[1]


def test_the_divergence_of_a_policy_from_itself_is_nothing(tiny_model, tiny_params, groups):
    """Its value is 0 and so is every gradient."""
    batch, _ = make_batch(examples(groups, OFF), BatchShape(1, 16, 32))
    one = micro_batch(batch, 0)
    own = jax.jit(partial(token_logprobs, config=tiny_model))(tiny_params, tokens=one.tokens, positions=one.positions,
                                                              segment_ids=one.segment_ids, wanted=one.weight > 0)[0]
    loss = Loss("rft", resolve("rft", ObjectiveConfig(pos_weight=0.0)), tiny_model, FLOAT32, TermsConfig(kl_weight=1.0))
    (value, (tally, _)), gradient = jax.jit(jax.value_and_grad(partial(micro_loss, loss=loss), has_aux=True))(
        tiny_params, one._replace(reference_logprobs=own), 1.0)
    assert abs(value) < 1e-12 and abs(summarise(jax.device_get(tally), 1)["kl/mean"]) < 1e-12
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-6


# ---- the reference ---------------------------------------------------------------------------------------------


def config(**changes) -> Config:
    return settle(Config(policy=PolicyConfig(path=str(NANO)), **changes))


def test_no_weight_no_reference(tiny_model, monkeypatch):
    """Its folder is not even looked for; with a weight it is, and the message names the field."""
    off, on = (config(terms=TermsConfig(kl_weight=weight, reference="no/such/model")) for weight in (0.0, 0.1))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr(reference_module, "load_frozen", None)
    check_reference(off, tiny_model, weights=True)
    assert load_reference(off, tiny_model, abstract_reference(off, tiny_model, mesh)) is None
    with refused("terms.reference", "'no/such/model'"):
        check_reference(on, tiny_model, weights=True)
    with refused("terms.reference", repr(str(NANO)), "vocab_size"):
        check_reference(config(terms=TermsConfig(kl_weight=0.1, reference=str(NANO))), tiny_model, weights=True)


def test_programs_and_batches_know_of_the_reference(tiny_model):
    def programs(terms, old="trainer", dtype="float32"):
        made = config(terms=terms, data=DataConfig(max_prompt_tokens=24),
                      rollout=RolloutConfig(old_logprobs=old, max_new_tokens=32, slots=8))
        made = replace(made, policy=replace(made.policy, compute_dtype=dtype))
        return largest(training_programs(make_plan(made, tiny_model, jax.devices()[:1])))

    kl = TermsConfig(kl_weight=0.1)
    assert set(programs(OFF)) == {"train step", "score"} and set(programs(OFF, "sampler")) == {"train step"}
    assert set(programs(kl)) == {"train step", "score"}                         # the same program scores both
    assert set(programs(kl, "sampler")) == {"train step", "reference score"}
    both = programs(kl, dtype="bfloat16")
    assert set(both) == {"train step", "score", "reference score"}
    assert both["train step"].arguments[1].reference_logprobs is not None
    assert both["score"].arguments[1].reference_logprobs is programs(OFF)["train step"].arguments[1].reference_logprobs
    assert both["reference score"].arguments[0]["embed"].dtype == jnp.bfloat16


@pytest.mark.slow
def test_a_reference_in_bfloat16_has_the_policys_log_probs_bit_for_bit():
    model, mesh = read_config(NANO), make_mesh(MeshConfig(), jax.devices()[:2])
    low = config(terms=TermsConfig(kl_weight=0.1))
    low = replace(low, policy=replace(low.policy, compute_dtype="bfloat16"))
    reference = load_reference(low, model, abstract_reference(low, model, mesh))
    for leaf, shape in zip(jax.tree.leaves(reference), jax.tree.leaves(abstract_reference(low, model, mesh)),
                           strict=True):
        assert (leaf.dtype, leaf.shape, leaf.sharding) == (shape.dtype, shape.shape, shape.sharding)
    tokens = jax.random.randint(jax.random.key(0), (2, 16), 0, model.vocab_size)
    positions = jnp.broadcast_to(jnp.arange(16), (2, 16))
    score = jax.jit(partial(token_logprobs, config=model, tokens=tokens, positions=positions,
                            segment_ids=jnp.ones_like(positions), compute=Compute("bfloat16", mesh=mesh)))
    np.testing.assert_array_equal(score(load_params(NANO, model))[0], score(reference)[0])
