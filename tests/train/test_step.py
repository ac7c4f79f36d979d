"""The compiled step: one loss and gradient whatever the layout, AdamW equal to torch's formula, no recompilation."""
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from made import make_group, make_step
from nft_jax.config import MeshConfig, ObjectiveConfig, OptimizerConfig
from nft_jax.model import decoder
from nft_jax.model.config import FLOAT32, Compute
from nft_jax.model.logprobs import token_logprobs
from nft_jax.objectives.registry import find_objective, resolve, token_loss, token_weights
from nft_jax.runtime.compilation import CompileCounter
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.batch import BatchShape, Example, examples_of, make_batch, unpack
from nft_jax.train.state import learning_rate, make_optimizer, state_shardings
from nft_jax.train.step import Loss, compile_score, micro_batch, micro_loss
from nft_jax.train.step_metrics import summarise

OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_updates=4, clip_norm=0.5)
STEPS = {}


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    return [make_group(i, rewards, rng=rng) for i, rewards in
            enumerate([[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, None]])]


def examples(groups, loss):
    return [e for group in groups for e in examples_of(group, loss, 12)]


def run_step(model, params, items, loss, objective, *, rows=4, row_length=32, steps=1):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    # One jitted step for each loss: tests that use the same rows share its program.
    if (objective, loss) not in STEPS:
        STEPS[objective, loss] = make_step(params, OPTIMIZER, Loss(objective, loss, model, Compute(mesh=mesh)), mesh)
    step, first = STEPS[objective, loss]
    state = first()
    batch, _ = make_batch(items, BatchShape.for_sequences(32, rows, row_length), loss.loss_agg, loss.constant_length,
                          find_objective(objective).whole_groups)
    for index in range(steps):
        state, tally, norm, _ = step(state, batch, learning_rate(OPTIMIZER, index), 1.0, None)
    return jax.device_get((state, tally, norm))


@pytest.fixture(scope="module", params=["nft", "grpo", "dr_grpo"])
def reference(request, tiny_model, tiny_params, groups):
    """Objective, config and the result of the plainest layout: one device, one micro-batch, one row per answer."""
    loss = resolve(request.param, ObjectiveConfig(ratio="sequence" if request.param == "nft" else "token"))
    items = examples(groups, loss)
    return request.param, loss, items, run_step(tiny_model, tiny_params, items, loss, request.param, rows=32,
                                                row_length=20)


def assert_same(result, expected, atol=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(("rows", "row_length"), [(4, 20), (1, 64), (2, 40)])
def test_the_step_does_not_depend_on_micro_batches_or_packing(tiny_model, tiny_params, reference, rows, row_length):
    objective, loss, items, expected = reference
    assert_same(run_step(tiny_model, tiny_params, items, loss, objective, rows=rows, row_length=row_length), expected)


def test_the_step_does_not_depend_on_order(tiny_model, tiny_params, reference):
    objective, loss, items, expected = reference
    order = np.random.default_rng(3).permutation(len(items))
    assert_same(run_step(tiny_model, tiny_params, [items[i] for i in order], loss, objective, rows=2, row_length=40),
                expected)


def test_a_loss_over_whole_groups_does_not_depend_on_the_layout(tiny_model, tiny_params, groups):
    """All answers in one micro-batch, and the groups scattered over many: softmaxes of micro-batches would differ."""
    loss = resolve("dpo", ObjectiveConfig(beta=2.0, nll_weight=0.1))
    items = examples(groups, loss)
    order = np.random.default_rng(4).permutation(len(items))
    expected = run_step(tiny_model, tiny_params, items, loss, "dpo", rows=32, row_length=20)
    assert expected[1]["count/tokens"] > 0 and expected[2] > 0
    scattered = [items[i] for i in order]
    assert_same(run_step(tiny_model, tiny_params, scattered, loss, "dpo", rows=2, row_length=40), expected)


def test_state_stays_where_the_table_puts_it(tiny_model, tiny_params):
    mesh, optimizer = make_mesh(MeshConfig(1, 4, 2)), make_optimizer(OPTIMIZER)
    placements = state_shardings(tiny_params, optimizer, mesh)
    adam = next(s for s in placements.opt_state if hasattr(s, "mu"))
    assert adam.mu == adam.nu == placements.params
    assert placements.params["layers"]["gate"].spec == jax.P(None, "fsdp", "tensor")
    assert placements.params["layers"]["out"].spec == jax.P(None, "tensor", None, "fsdp")


def test_loss_and_gradient_equal_a_plain_sum_over_answers(tiny_model, tiny_params, groups):
    """Against a loop: one answer at a time, unpadded, its loss weighted by hand."""
    loss = resolve("nft", ObjectiveConfig())
    items = examples(groups, loss)[2:7]                   # of two groups, right ones and wrong ones
    weights = token_weights("token_mean", np.array([len(e.response) for e in items]), 1.0)

    def plain(params):
        total = 0.0
        for example, weight in zip(items, weights, strict=True):
            tokens = jnp.array(np.concatenate([example.prompt, example.response]))[None]
            logprobs, _ = token_logprobs(params, tiny_model, tokens, jnp.arange(tokens.shape[1])[None],
                                         jnp.ones_like(tokens))
            answer = logprobs[:, len(example.prompt):]
            each, _ = token_loss("nft", answer, example.old_logprobs[None], np.ones(answer.shape, bool),
                                 np.array([example.reward]), np.array([example.group_accuracy]), loss)
            total += weight * each.sum()
        return total

    batch, _ = make_batch(items, BatchShape(1, 32, 32))
    packed = partial(micro_loss, loss=Loss("nft", loss, tiny_model, FLOAT32))
    expected_loss, expected = jax.jit(jax.value_and_grad(plain))(tiny_params)
    (value, _), gradient = jax.jit(jax.value_and_grad(packed, has_aux=True))(tiny_params, micro_batch(batch, 0), 1.0)
    np.testing.assert_allclose(value, expected_loss, rtol=1e-5)
    assert_same(gradient, expected)


def test_eos_is_trained_on(tiny_model, tiny_params, groups):
    """The last token of an answer is inside the mask, and its logit gets a gradient."""
    item = examples(groups, resolve("nft", ObjectiveConfig()))[0]
    item = Example(item.prompt, item.response[:1], 1.0, 0.5, 0.5, np.zeros(1, np.float32))
    batch, _ = make_batch([item], BatchShape(1, 1, 8))
    assert (batch.weight > 0).sum() == 1
    loss = Loss("rft", resolve("rft", ObjectiveConfig()), tiny_model, FLOAT32)
    gradient_of = jax.jit(jax.grad(partial(micro_loss, loss=loss), has_aux=True))
    gradient, _ = gradient_of(tiny_params, micro_batch(batch, 0), 1.0)
    assert float(jnp.abs(gradient["embed"][item.response[0]]).sum()) > 0


def test_adamw_equals_its_formula(tiny_model, tiny_params, groups):
    """Two steps against numpy float64: clip by global norm, Adam with bias correction, decoupled decay, warm-up."""
    loss = resolve("nft", ObjectiveConfig())
    items = examples(groups, loss)
    batch, _ = make_batch(items, BatchShape(1, 32, 32))
    gradient_of = jax.jit(jax.grad(partial(micro_loss, loss=Loss("nft", loss, tiny_model, FLOAT32)), has_aux=True))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), tiny_params)
    mu = nu = jax.tree.map(np.zeros_like, params)
    for t in (1, 2):
        gradient, _ = gradient_of(jax.tree.map(np.float32, params), micro_batch(batch, 0), 1.0)
        gradient = jax.tree.map(lambda g: np.asarray(g, np.float64), gradient)
        norm = np.sqrt(sum((g ** 2).sum() for g in jax.tree.leaves(gradient)))
        gradient = jax.tree.map(lambda g, n=norm: g * min(1, OPTIMIZER.clip_norm / n), gradient)
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mu, gradient)
        nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, nu, gradient)
        rate = 1e-2 * (0.1 + 0.9 * (t - 1) / 4)
        params = jax.tree.map(
            lambda p, m, v, t=t, rate=rate: p - rate * (m / (1 - 0.9 ** t) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
                                                        + 0.1 * p), params, mu, nu)
    state, _, _ = run_step(tiny_model, tiny_params, items, loss, "nft", rows=32, steps=2)
    assert_same(state.params, params, atol=2e-4)


def test_full_and_empty_batches_use_one_program(tiny_model, tiny_params, groups):
    loss, mesh = resolve("nft", ObjectiveConfig()), make_mesh(MeshConfig(), jax.devices()[:1])
    step, first = make_step(tiny_params, OPTIMIZER, Loss("nft", loss, tiny_model, FLOAT32), mesh)
    state = first()
    items, shape = examples(groups, loss), BatchShape.for_sequences(32, 4, 32)
    counter, compiled = CompileCounter(), []
    for count, rate, temperature in ((15, 1e-3, 1.0), (1, 1e-4, 1.0), (7, 1e-3, 0.8)):
        state, *_ = step(state, make_batch(items[:count], shape)[0], rate, temperature, None)
        compiled.append(counter.take())
    assert compiled[0] > 0 and compiled[1:] == [0, 0]
    assert int(state.updates) == 3


def test_score_is_the_training_graph_in_any_layout(tiny_model, tiny_params, groups):
    """Against one forward pass of each sequence, alone in its row."""
    items = [Example(g.prompt.tokens, r.tokens) for g in groups for r in g.rollouts]
    sequences = [np.concatenate([item.prompt, item.response]) for item in items]
    length = max(map(len, sequences))
    tokens = np.stack([np.pad(each, (0, length - len(each))) for each in sequences])
    segments = np.stack([np.arange(length) < len(each) for each in sequences]).astype(np.int32)
    positions = np.broadcast_to(np.arange(length), tokens.shape)
    logits = jax.jit(lambda *given: decoder.logits(tiny_params, tiny_model, decoder.hidden_states(
        tiny_params, tiny_model, *given)))(tokens, positions, segments)
    expected = scipy.special.log_softmax(np.asarray(logits, np.float64) / 0.7, axis=-1)
    for mesh, shape in ((make_mesh(MeshConfig(), jax.devices()[:1]), BatchShape(4, 4, 24)),
                        (make_mesh(MeshConfig(2, 2, 2)), BatchShape(3, 8, 40))):
        batch, places = make_batch(items, shape)
        placements = state_shardings(tiny_params, make_optimizer(OPTIMIZER), mesh).params
        scored = compile_score(mesh, placements, model=tiny_model, compute=Compute(mesh=mesh))(tiny_params, batch, 0.7)
        for item, row, sequence, values in zip(items, expected, sequences, unpack(np.asarray(scored), places),
                                               strict=True):
            logp = row[np.arange(len(sequence) - 1), sequence[1:]]
            np.testing.assert_allclose(values, logp[len(item.prompt) - 1:], atol=2e-5)


def test_metrics_of_a_step(tiny_model, tiny_params, groups):
    loss = resolve("nft", ObjectiveConfig())
    _, tally, norm = run_step(tiny_model, tiny_params, examples(groups, loss), loss, "nft")
    metrics = summarise(tally, 1)
    assert metrics["loss/total"] == pytest.approx(metrics["loss/positive"] + metrics["loss/negative"], abs=1e-6)
    assert metrics["coefficient/positive"] > 0 > metrics["coefficient/negative"]
    assert norm > 0 and 0 <= metrics["share/clamped"] <= 1


def test_learning_rate_warms_up_from_a_tenth():
    config = OptimizerConfig(learning_rate=2.0, warmup_updates=10)
    assert [learning_rate(config, i) for i in (0, 5, 10, 99)] == pytest.approx([0.2, 1.1, 2.0, 2.0])
    assert learning_rate(OptimizerConfig(learning_rate=2.0, warmup_updates=0), 0) == 2.0


def test_masked_tokens_get_no_gradient_and_are_context(tiny_model, tiny_params):
    """The packed, masked loss has the gradient of the unpacked answers, of whose losses only the trained tokens' are
    summed. A masked token changes the loss of the tokens after it; the last one changes nothing."""
    rng, loss = np.random.default_rng(3), resolve("nft", ObjectiveConfig())
    masks = [np.array([0, 1, 0, 1, 1, 0], bool), np.array([1, 0, 0, 1], bool), None]
    items = [Example(*(rng.integers(1, 30, n).astype(np.int32) for n in (3, size)), float(i % 2), 1 / 3, 0.5,
                     rng.normal(-1, 0.3, size).astype(np.float32), i, mask=mask)
             for i, (size, mask) in enumerate(zip((6, 4, 5), masks, strict=True))]

    @jax.jit
    @jax.value_and_grad
    def packed(params, batch):
        return micro_loss(params, batch, 1.0, Loss("nft", loss, tiny_model, FLOAT32))[0]

    def of(items):
        batch, _ = make_batch(items, BatchShape(1, 2, 24), "token_mean")
        return packed(tiny_params, micro_batch(batch, 0))

    def alone(params):
        total = 0.0
        for e in items:
            tokens = np.concatenate([e.prompt, e.response])[None]
            logprobs, _ = token_logprobs(params, tiny_model, tokens, np.arange(tokens.size)[None],
                                         np.ones_like(tokens), wanted=np.ones(tokens.shape, bool), temperature=1.0,
                                         compute=FLOAT32)
            chosen = np.ones(len(e.response), bool) if e.mask is None else e.mask
            token_losses, _ = token_loss("nft", logprobs[:, len(e.prompt):], e.old_logprobs[None],
                                         np.ones((1, len(e.response))), np.array([e.reward]),
                                         np.array([e.group_accuracy]), loss)
            total += (token_losses[0] * chosen).sum()
        return total / sum(e.trained for e in items)

    (value, gradient), (expected, wanted) = of(items), jax.value_and_grad(alone)(tiny_params)
    assert value == pytest.approx(float(expected), rel=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for place, same in ((0, False), (5, True)):
        response = items[0].response.copy()
        response[place] = response[place] % 29 + 1
        changed, _ = of([replace(items[0], response=response), *items[1:]])
        assert (float(changed) == float(value)) == same
