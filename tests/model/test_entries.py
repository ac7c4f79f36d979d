"""Keys and values in both layouts: attention against numpy, writes in place, and who has which layout."""
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.config import MeshConfig
from nft_jax.model import entries
from nft_jax.model.entries import (
    Rows,
    attend_cache,
    cache_entries,
    heads_in_row,
    with_heads,
    without_heads,
    write_entries,
)
from nft_jax.runtime.mesh import make_mesh

S, K, G, C, E = 3, 4, 2, 10, 8


@pytest.fixture(scope="module")
def case():
    """Queries [S, K, G, E], keys and values [S, K, C, E], how many entries behind the sixth each slot has [S], and the
    exact result of attention."""
    rng = np.random.default_rng(2)
    q, (k, v) = rng.normal(size=(S, K, G, E)).astype(np.float32), rng.normal(size=(2, S, K, C, E)).astype(np.float32)
    length = np.array([0, 3, 8], np.int32)
    valid = (5 - np.arange(C)) % C <= length[:, None]
    scores = np.where(valid[:, None, None], np.einsum("skgd,skcd->skgc", q, k).astype(np.float64) * 0.3, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return q, k, v, length, np.einsum("skgc,skcd->skgd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("heads", [0, 1, 2, 4])
def test_attention_in_every_layout(case, heads):
    q, k, v, length, exact = case
    layer = cache_entries(jnp.asarray(k), jnp.asarray(v), False, heads)
    assert isinstance(layer, Rows) == bool(heads)
    assert layer[1].shape == ((S, K // heads, C, heads * E) if heads else (S, K, C, E))
    np.testing.assert_allclose(attend_cache(q, layer, 5, length, scale=0.3), exact, atol=1e-5)


@pytest.mark.parametrize("heads", [0, 2])
def test_attention_against_int8_is_that_against_what_it_stands_for(case, heads):
    q, k, v, length, exact = case

    def back(x):
        return jnp.asarray(np.asarray(x.values, np.float32) * np.asarray(x.scale))

    keys, values = cache_entries(jnp.asarray(k), jnp.asarray(v), True)
    stands_for = attend_cache(q, (back(keys), back(values)), 5, length, scale=0.3)
    found = attend_cache(q, cache_entries(jnp.asarray(k), jnp.asarray(v), True, heads), 5, length, scale=0.3)
    np.testing.assert_allclose(found, stands_for, atol=1e-5)
    np.testing.assert_allclose(found, exact, atol=0.1)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("heads", [0, 2])
def test_a_written_entry_takes_one_place(case, heads, quantised):
    _, k, v, *_ = case
    layer = cache_entries(jnp.asarray(k), jnp.asarray(v), quantised, heads)
    written = write_entries(layer, jnp.asarray(v[:, :, :1]), jnp.asarray(k[:, :, :1]), 7)
    k, v = k.copy(), v.copy()
    k[:, :, 7], v[:, :, 7] = v[:, :, 0], k[:, :, 0]
    jax.tree.map(np.testing.assert_array_equal, written,
                 cache_entries(jnp.asarray(k), jnp.asarray(v), quantised, heads))


@pytest.mark.parametrize("quantised", [False, True])
def test_a_layer_of_one_head_does_without_its_axis(case, quantised):
    q, k, v, length, _ = case
    q, k, v = (jnp.asarray(x[:, :1]) for x in (q, k, v))
    layer = cache_entries(k, v, quantised)
    less = without_heads(layer)
    assert {x.ndim for x in jax.tree.leaves(less)} == {3}
    jax.tree.map(np.testing.assert_array_equal, with_heads(less), layer)
    written, found = (write_entries(each, v[:, :, :1], k[:, :, :1], 7) for each in (layer, less))
    jax.tree.map(np.testing.assert_array_equal, with_heads(found), written)
    np.testing.assert_allclose(attend_cache(q, less, 5, length, scale=0.3),
                               attend_cache(q, layer, 5, length, scale=0.3), atol=1e-6)
    # Layers of more heads, and rows, stay as they are.
    for other in (cache_entries(*[jnp.ones((S, K, C, E))] * 2, quantised), cache_entries(k, v, quantised, 1)):
        assert without_heads(other) is other


def test_rows_are_for_tpus_and_fill_their_lanes(tiny_model, monkeypatch):
    mesh = make_mesh(MeshConfig(data=-1, tensor=2), jax.devices()[:2])

    def of(kv_heads, head_dim):
        return heads_in_row(replace(tiny_model, num_heads=kv_heads, num_kv_heads=kv_heads, head_dim=head_dim), mesh,
                            tiny_model.kinds[0])

    assert of(4, 64) == 0                                                            # a CPU
    monkeypatch.setattr(entries, "platform_of", lambda mesh: "tpu")
    assert [of(4, 64), of(4, 128), of(4, 256), of(8, 32)] == [2, 1, 1, 4]
    assert [of(3, 64), of(4, 96), of(4, 8)] == [0, 0, 0]
    # Two heads would share a row, and they are on two devices. Where no device has its own, they may.
    assert of(2, 64) == 0 and heads_in_row(replace(tiny_model, head_dim=64), make_mesh(
        MeshConfig(data=-1, tensor=1), jax.devices()[:1]), tiny_model.kinds[0]) == 2
    # Wide heads have a layout of their own.
    model = replace(tiny_model, head_dim=8, local_layers=(0,), window=4, wide_head_dim=64, wide_kv_heads=4)
    assert [heads_in_row(model, mesh, kind) for kind in model.kinds] == [0, 2]
