"""Layers with experts against plain loops over tokens and experts."""
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model_folders import FIXTURES
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.experts import Load, balance_loss, by_expert, by_kernel, load_of, mixture, route
from nft_jax.model.hf import load_params, read_config
from nft_jax.model.quantise import Quantized, dequantise, quantise_matrices

D, X, M, K = 12, 5, 7, 2
CONFIG = ModelConfig("qwen3_moe", vocab_size=31, hidden_size=D, intermediate_size=20, num_layers=2, num_heads=6,
                     num_kv_heads=2, head_dim=6, max_positions=64, qk_norm=True, num_experts=X, experts_per_token=K,
                     expert_size=M, norm_topk_prob=True)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    shapes = {"router": (D, X), "expert_gate": (X, D, M), "expert_up": (X, D, M), "expert_down": (X, M, D)}
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).normal(size=(3, 4, D)).astype(np.float32)


@partial(jax.jit, static_argnames="config")
def run(x, weights, config=CONFIG):
    return mixture(x, weights, config, nn.silu, None)


def by_loops(x, weights, norm: bool):
    """The mixture in float64, a token and an expert at a time."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    tokens = np.asarray(x, np.float64).reshape(-1, D)
    out = np.zeros_like(tokens)
    for n, token in enumerate(tokens):
        scores = token @ w["router"]
        probability = np.exp(scores - scores.max())
        probability /= probability.sum()
        chosen = np.argsort(-probability, kind="stable")[:K]
        total = probability[chosen].sum() if norm else 1.0
        for e in chosen:
            gate, up = token @ w["expert_gate"][e], token @ w["expert_up"][e]
            out[n] += probability[e] / total * (gate / (1 + np.exp(-gate)) * up) @ w["expert_down"][e]
    return out.reshape(x.shape)


@pytest.mark.parametrize("norm", [True, False])
def test_each_token_passes_its_own_experts(x, weights, norm):
    found, probability, expert = run(x, weights, replace(CONFIG, norm_topk_prob=norm))
    np.testing.assert_allclose(found, by_loops(x, weights, norm), atol=1e-5)
    assert probability.shape == (3, 4, X) and expert.shape == (3, 4, K)
    np.testing.assert_array_equal(expert, np.argsort(-np.asarray(probability), axis=-1)[..., :K])


def test_no_token_is_dropped_where_all_want_the_same_experts(x, weights):
    crowded = weights | {"router": np.zeros((D, X), np.float32)}
    found, _, expert = run(x, crowded)
    assert len(np.unique(expert)) == K
    np.testing.assert_allclose(found, by_loops(x, crowded, True), atol=1e-5)


def test_a_token_does_not_depend_on_the_tokens_beside_it(x, weights):
    others = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    others[1] = x[1]
    np.testing.assert_array_equal(run(others, weights)[0][1], run(x, weights)[0][1])


def densely(x, weights):
    """The same function without sorting: every expert for every token, most of them times 0."""
    _, weight, expert = route(x.reshape(-1, D), weights["router"], CONFIG)
    share = (jax.nn.one_hot(expert, X) * weight[..., None]).sum(1)
    inner = nn.silu(jnp.einsum("btd,xdm->btxm", x, weights["expert_gate"])) \
        * jnp.einsum("btd,xdm->btxm", x, weights["expert_up"])
    return jnp.einsum("btxm,xmd,btx->btd", inner, weights["expert_down"], share.reshape(*x.shape[:2], X))


def test_gradients_are_those_of_the_plain_function(x, weights):
    def total(function, *arguments):
        return jnp.sin(function(*arguments)).sum()

    ours, plain = (jax.jit(jax.grad(partial(total, function), argnums=(0, 1)))(x, weights)
                   for function in (lambda *given: run(*given)[0], densely))
    for (path, found), expected in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))
        assert np.abs(expected).max() > 1e-2


@pytest.mark.parametrize("sizes", [[3, 0, 140, 7, 0], [0, 0, 0, 0, 0]])
def test_the_kernel_of_a_tpu_sums_over_the_same_rows(sizes):
    """Interpreted. Some experts have no row, and some rows, of experts that lie elsewhere, are in no group."""
    rng = np.random.default_rng(3)
    rows, gradient = (rng.normal(size=(170, n)).astype(np.float32) for n in (D, M))
    ends = np.cumsum(sizes)
    exact = np.stack([rows[end - size:end].T @ gradient[end - size:end] for size, end in zip(sizes, ends, strict=True)])
    for function in (by_expert, partial(by_kernel, interpret=True)):
        np.testing.assert_allclose(function(rows, gradient, jnp.array(sizes, jnp.int32)), exact, atol=1e-4)


def test_frozen_experts_are_no_work_of_the_backward_pass(x, weights):
    def products(argnums):
        gradient = jax.grad(lambda x, weights: run(x, weights)[0].sum(), argnums=argnums)
        return str(jax.make_jaxpr(gradient)(x, weights)).count("ragged_dot_general[")

    assert (products(0), products((0, 1))) == (3 + 3, 3 + 3 + 3)


def test_the_router_is_exact_whatever_the_type_of_the_pass(x, weights):
    """In bfloat16 two near experts would change places between the sampler's program and the trainer's."""
    low = jnp.asarray(x, jnp.bfloat16)
    found, probability, _ = run(low, weights)
    assert found.dtype == jnp.bfloat16 and probability.dtype == jnp.float32
    scores = np.asarray(low, np.float64) @ weights["router"]
    exact = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(probability, exact, rtol=1e-5)


def test_int8_experts_are_the_rounded_experts(x, weights):
    rounded = quantise_matrices(weights)
    assert isinstance(rounded["expert_up"], Quantized) and rounded["expert_up"].scale.shape == (X, 1, M)
    assert rounded["router"] is weights["router"]
    np.testing.assert_allclose(run(x, rounded)[0], by_loops(x, {k: dequantise(v) for k, v in rounded.items()}, True),
                               atol=1e-5)


def test_the_load_counts_tokens_that_are_no_padding():
    probability = np.array([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]], np.float32)
    expert = np.array([[[0, 1], [2, 1], [0, 1]]])
    load = load_of(jnp.asarray(probability), jnp.asarray(expert), jnp.asarray([[True, True, False]]))
    np.testing.assert_allclose(load.chosen, [1, 2, 1])
    np.testing.assert_allclose(load.probability, [0.7, 0.8, 0.5], rtol=1e-6)
    np.testing.assert_allclose(load.entropy, np.log(2) - (0.2 * np.log(0.2) + 0.3 * np.log(0.3) + 0.5 * np.log(0.5)),
                               rtol=1e-6)
    assert load.tokens == 2


@pytest.mark.parametrize("name", ["qwen3_moe_untied", "qwen3_moe_tied_local"])
def test_the_balance_loss_is_that_of_transformers_and_its_parts_add_up(name):
    config, params = read_config(FIXTURES / name), load_params(FIXTURES / name)
    with np.load(FIXTURES / name / "reference.npz") as reference:
        tokens, lengths, expected = (reference[key] for key in ("tokens", "lengths", "balance_loss"))
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    counted = (positions < lengths[:, None]).astype(np.int32)
    of_rows = jax.jit(lambda *arrays: decoder.states_and_load(params, config, *arrays)[1])
    parts = [of_rows(tokens, positions, counted * chosen) for chosen in ([[1], [0], [1], [0]], [[0], [1], [0], [1]])]
    whole = Load(*(a + b for a, b in zip(*parts, strict=True)))
    counts = whole.chosen.sum(0), whole.tokens.sum()
    assert counts[1] == config.num_layers * lengths.sum()
    np.testing.assert_allclose(balance_loss(whole, *counts), expected, rtol=1e-5)
    np.testing.assert_allclose(sum(balance_loss(part, *counts) for part in parts), expected, rtol=1e-5)
