"""Delta nets against a recurrence in float64, one token at a time."""
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.config import MeshConfig
from nft_jax.model import delta
from nft_jax.model.config import ModelConfig
from nft_jax.model.parameters import IN_LAYERS, sizes_of
from nft_jax.runtime.mesh import make_mesh

B, T, N, G, I, O, W = 2, 150, 2, 2, 5, 3, 4             # several chunks, and a part of one
U = N * G
CONFIG = ModelConfig("qwen3_5_text", vocab_size=31, hidden_size=12, intermediate_size=20, num_layers=2, num_heads=2,
                     num_kv_heads=1, head_dim=6, max_positions=64, delta_layers=(0,), delta_key_heads=N,
                     delta_value_heads=U, delta_key_dim=I, delta_value_dim=O, delta_conv=W)


def made(seed: int = 0, length: int = T) -> delta.Inputs:
    rng = np.random.default_rng(seed)
    shapes = ((N, I), (N, I), (U, O), (U,), (U,))
    return delta.Inputs(*(rng.normal(size=(B, length, *shape)).astype(np.float32) for shape in shapes))


def small_arrays() -> dict:
    rng = np.random.default_rng(9)
    sizes = {"delta_query_convolution": (N, I, W), "delta_key_convolution": (N, I, W),
             "delta_value_convolution": (U, O, W), "delta_log_decay": (U,), "delta_forget_bias": (U,)}
    return {name: rng.normal(0, 0.7, size).astype(np.float32) for name, size in sizes.items()}


WEIGHTS = small_arrays()
mix = jax.jit(lambda inputs, weights, segments: delta.mix(inputs, weights, segments, None))
step = jax.jit(delta.step)


def silu(x):
    return x / (1 + np.exp(-x))


def one_by_one(inputs, segments, weights=WEIGHTS):
    """Outputs [B, T, U, O] and the heads' memories [B, U, I, O] after each token, [B, T, U, I, O], in float64."""
    x = delta.Inputs(*(np.asarray(part, np.float64) for part in inputs))
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    length = x.value.shape[1]
    out, memories = np.zeros((B, length, U, O)), np.zeros((B, length, U, I, O))
    for row in range(B):
        for t in range(length):
            first = t == 0 or segments[row, t] != segments[row, t - 1]
            memory = np.zeros((U, I, O)) if first else memories[row, t - 1].copy()
            mixed = {}
            for name, part in (("query", x.query), ("key", x.key), ("value", x.value)):
                total = 0
                for back in range(W):
                    if t - back >= 0 and (segments[row, t - back:t] == segments[row, t]).all() \
                            and segments[row, t - back] == segments[row, t]:
                        total = total + part[row, t - back] * w[f"delta_{name}_convolution"][..., W - 1 - back]
                mixed[name] = silu(total)
            for head in range(U):
                q, k = (mixed[name][head // G] for name in ("query", "key"))
                q, k = q / np.sqrt(q @ q + 1e-6) / np.sqrt(I), k / np.sqrt(k @ k + 1e-6)
                forget = np.logaddexp(0, x.forget[row, t, head] + w["delta_forget_bias"][head])
                memory[head] *= np.exp(-np.exp(w["delta_log_decay"][head]) * forget)
                share = 1 / (1 + np.exp(-x.write[row, t, head]))
                memory[head] += share * np.outer(k, mixed["value"][head] - k @ memory[head])
                out[row, t, head] = q @ memory[head]
            memories[row, t] = memory
    return out, memories


def layout(*lengths) -> np.ndarray:
    """[T] segments of these lengths, then padding."""
    return np.pad(np.repeat(np.arange(len(lengths)) + 1, lengths), (0, T - sum(lengths)))


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(1, 90), max_size=5), min_size=B, max_size=B))
def test_packed_rows_are_the_recurrence_of_each_segment(rows):
    segments = np.stack([layout(*np.diff(np.minimum(np.cumsum([0, *row]), T))) for row in rows]).astype(np.int32)
    inputs = made()
    out, memory = mix(inputs, WEIGHTS, segments)
    expected, memories = one_by_one(inputs, segments)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(memory.heads, memories[:, -1] * (segments[:, -1] > 0)[:, None, None, None], atol=2e-5)


@pytest.mark.parametrize("prompt", [0, 1, 2, 70])
def test_steps_go_on_where_a_prompt_ended(prompt):
    """Prompts are padded on the left, by different lengths. The memory of an empty one is empty."""
    rest = 6
    inputs = made(1, prompt + rest)
    padded = delta.Inputs(*(np.concatenate([noise[:, :T - prompt], x[:, :prompt]], 1)
                            for noise, x in zip(made(2), inputs, strict=True)))
    segments = np.concatenate([np.zeros((B, T - prompt)), np.ones((B, prompt))], 1).astype(np.int32)
    memory = mix(padded, WEIGHTS, segments)[1]
    if not prompt:
        jax.tree.map(np.testing.assert_array_equal, memory, delta.empty(CONFIG, B, np.float32))
    expected, memories = one_by_one(inputs, np.ones((B, prompt + rest)))
    for t in range(prompt, prompt + rest):
        out, memory = step(delta.Inputs(*(x[:, t:t + 1] for x in inputs)), WEIGHTS, memory)
        np.testing.assert_allclose(out[:, 0], expected[:, t], atol=2e-5)
        np.testing.assert_allclose(memory.heads, memories[:, t], atol=2e-5)


def by_steps(inputs, weights, segments):
    """The outputs by `step`, of one segment."""
    def one(memory, x):
        out, memory = delta.step(delta.Inputs(*(part[:, None] for part in x)), weights, memory)
        return memory, out[:, 0]

    tokens = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), inputs)
    _, out = jax.lax.scan(one, delta.empty(CONFIG, B, jnp.float32), tokens)
    return jnp.moveaxis(out, 0, 1)


def test_gradients_are_those_of_the_recurrence():
    segments = np.ones((B, T), np.int32)

    def total(function, inputs, weights):
        return jnp.sin(3 * function(inputs, weights, segments)).sum()

    found, expected = (jax.jit(jax.grad(partial(total, function), argnums=(0, 1)))(made(3), WEIGHTS)
                       for function in (lambda *given: delta.mix(*given, None)[0], by_steps))
    for (path, ours), plain in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        name, size = jax.tree_util.keystr(path), np.abs(plain).max()
        assert size > 1e-3, name
        np.testing.assert_allclose(ours, plain, atol=2e-5 * size, rtol=0, err_msg=name)


@pytest.mark.parametrize(("write", "forget"), [(20.0, -40.0), (20.0, 60.0), (-40.0, -40.0)])
def test_hard_cases_stay_exact_and_their_gradients_finite(write, forget):
    """The same token again and again: it is written whole and never forgotten, or forgotten at once, or not written.
    Powers of the chunk's system would grow beyond float32 in the first case."""
    inputs, segments = made(4), np.ones((B, T), np.int32)
    inputs = delta.Inputs(*(np.repeat(x[:, :1], T, 1) for x in inputs[:3]), np.full((B, T, U), write, np.float32),
                          np.full((B, T, U), forget, np.float32))
    np.testing.assert_allclose(mix(inputs, WEIGHTS, segments)[0], one_by_one(inputs, segments)[0], atol=2e-5)
    gradients = jax.jit(jax.grad(lambda x: jnp.sin(delta.mix(x, WEIGHTS, segments, None)[0]).sum()))(inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_mesh_divides_rows_and_heads():
    """The tokens of a row lie on several devices. Values, memories and gradients are those of one device."""
    segments = np.stack([layout(70, 40), layout(3, 147)]).astype(np.int32)

    def run(mesh):
        def total(inputs, weights):
            out, memory = delta.mix(inputs, weights, segments, mesh)
            return jnp.sin(3 * out).sum(), (out, memory)
        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(made(5), WEIGHTS)

    for found, expected in zip(*map(jax.tree.leaves, (run(make_mesh(MeshConfig(1, 2, 2, 2))), run(None))), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * max(1, np.abs(expected).max()), rtol=0)


def test_operations_are_about_those_that_xla_counts():
    """Of one chunk: XLA counts the body of a loop once, and no library's triangular system."""
    config = replace(CONFIG, delta_key_dim=32, delta_value_dim=48, delta_key_heads=1, delta_value_heads=3)
    shapes = ((1, 32), (1, 32), (3, 48), (3,), (3,))
    inputs = delta.Inputs(*(jax.ShapeDtypeStruct((1, delta.CHUNK, *shape), jnp.float32) for shape in shapes))
    weights = {name: jax.ShapeDtypeStruct(sizes_of(IN_LAYERS[name].axes, config), jnp.float32) for name in delta.SMALL}
    segments = jax.ShapeDtypeStruct((1, delta.CHUNK), jnp.int32)
    counted = mix.lower(inputs, weights, segments).compile().cost_analysis()["flops"] / delta.CHUNK
    assert 0.6 < delta.operations(config) / counted < 1.4


def test_lapack_is_given_one_system_at_a_time():
    """Of a batch, jax 0.10 hands parts to the threads that run the devices, and with eight devices waits for ever."""
    def loss(inputs):
        return delta.mix(inputs, WEIGHTS, np.ones((B, T), np.int32), None)[0].sum()

    text = jax.jit(jax.grad(loss)).lower(made()).compile().as_text()
    found = re.findall(r"= f32\[([\d,]*)\]\S* custom-call\([^\n]*lapack_strsm", text)
    assert len(found) >= 2 and all(np.prod([*map(int, dims.split(","))][:-2]) == 1 for dims in found), found
