"""The kernels of a decode step, interpreted: what they write, attend to, and leave unread."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.config import MeshConfig
from nft_jax.model import ring_kernels
from nft_jax.model.entries import attend_cache, cache_entries
from nft_jax.model.ring_kernels import attend_rows, chunks_behind, write_row
from nft_jax.runtime.mesh import make_mesh

S, K, G, E = 6, 4, 3, 32


def mesh_of(devices: int):
    return make_mesh(MeshConfig(data=-1, tensor=2 if devices > 1 else 1), jax.devices()[:devices])


@pytest.mark.parametrize("dtype, entries, devices", [("float32", 24, 1), ("bfloat16", 40, 1), ("int8", 40, 1),
                                                     ("bfloat16", 28, 4)])
def test_the_kernel_writes_one_row(dtype, entries, devices):
    """Also where the last tile is cut off, and slots and heads lie on several devices."""
    rng, mesh = np.random.default_rng(0), mesh_of(devices)
    ring, entry = (jnp.asarray(rng.integers(-9, 9, (4, 2, size, 128)), dtype) for size in (entries, 1))
    write = jax.jit(lambda ring, entry, index: write_row(ring, entry, index, mesh))
    for index in (0, 17, entries - 1):
        expected = np.array(ring, np.float32)
        expected[:, :, index] = np.asarray(entry, np.float32)[:, :, 0]
        np.testing.assert_array_equal(np.asarray(write(ring, entry, np.int32(index)), np.float32), expected)


def case(capacity: int, slots: int = S, kv_heads: int = K):
    """Queries, keys and values, and lengths of slots: none, all, and between."""
    rng = np.random.default_rng(capacity)
    q = rng.normal(size=(slots, kv_heads, G, E)).astype(np.float32)
    k, v = rng.normal(size=(2, slots, kv_heads, capacity, E)).astype(np.float32)
    return q, k, v, np.array([0, capacity - 1, *rng.integers(1, capacity - 1, slots - 2)], np.int32)


def exact(q, k, v, length, index):
    """Of float64, an entry after another."""
    out = np.zeros(q.shape)
    for slot, behind in enumerate(length):
        seen = (index - np.arange(behind + 1)) % k.shape[2]
        scores = np.einsum("kge,kce->kgc", q[slot].astype(np.float64), k[slot][:, seen]) * 0.3
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[slot] = np.einsum("kgc,kce->kge", weights / weights.sum(-1, keepdims=True), v[slot][:, seen])
    return out


# One chunk, whole ones, and a last one that is cut off.
@pytest.mark.parametrize("capacity, chunk", [(24, 32), (24, 8), (29, 8)])
def test_attention_is_exact_wherever_the_ring_stands(capacity, chunk, monkeypatch):
    monkeypatch.setattr(ring_kernels, "CHUNK", chunk)
    q, k, v, length = case(capacity)
    keys, values = cache_entries(jnp.asarray(k), jnp.asarray(v), False, 4)
    attend = jax.jit(lambda *arrays: attend_rows(*arrays, None, scale=0.3))
    for index in (0, 5, 8, capacity - 1):
        found = attend(q, keys, values, length, np.int32(index))
        np.testing.assert_allclose(found, exact(q, k, v, length, index), atol=1e-6, rtol=0)


def test_bfloat16_is_as_close_as_without_the_kernel(monkeypatch):
    monkeypatch.setattr(ring_kernels, "CHUNK", 16)
    q, k, v, length = case(48)
    q, k, v = (np.asarray(jnp.asarray(x, jnp.bfloat16)) for x in (q, k, v))
    layer, expected = cache_entries(jnp.asarray(k), jnp.asarray(v), False, 4), exact(q, k, v, length, 20)
    found, plain = (np.asarray(attend_cache(jnp.asarray(q), layer, np.int32(20), length, scale=0.3, attention=each),
                               np.float64) for each in ("splash", "xla"))
    # Half a step of numbers up to 4, and of the weights.
    for each in (found, plain):
        np.testing.assert_allclose(each, expected, atol=2**-6)
    assert np.abs(found - expected).mean() < 1.1 * np.abs(plain - expected).mean()


def test_chunks_without_an_entry_of_the_slot_are_not_read(monkeypatch):
    """They may hold anything: here they are not numbers."""
    monkeypatch.setattr(ring_kernels, "CHUNK", 8)
    capacity, index, length = 37, 10, np.array([3, 1, 2, 16, 29, 0], np.int32)
    q, k, v, _ = case(capacity)
    for slot, behind in enumerate(length):
        needed = (index - np.arange(behind + 1)) % capacity // 8
        k[slot, :, ~np.isin(np.arange(capacity) // 8, needed)] = np.nan
        v[slot, :, ~np.isin(np.arange(capacity) // 8, needed)] = np.nan
    keys, values = cache_entries(jnp.asarray(k), jnp.asarray(v), False, 4)
    found = jax.jit(lambda *arrays: attend_rows(*arrays, None, scale=0.3))(q, keys, values, length, np.int32(index))
    np.testing.assert_allclose(found, exact(q, k, v, length, index), atol=1e-6, rtol=0)


@pytest.mark.parametrize("capacity, chunk", [(24, 8), (29, 8), (5, 5)])
def test_the_chunks_are_those_with_the_entries(capacity, chunk):
    index, length = (x.reshape(-1) for x in np.meshgrid(np.arange(capacity), np.arange(capacity)))
    found = np.asarray(jax.jit(lambda *arrays: chunks_behind(*arrays, chunk, capacity))(index, length))
    chunks = -(-capacity // chunk)
    for at, behind, count in zip(index, length, found, strict=True):
        # Backwards from the newest one, so that a count names them.
        needed = set((at - np.arange(behind + 1)) % capacity // chunk)
        assert needed == {(at // chunk - step) % chunks for step in range(count)}, (at, behind, count)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])       # of two devices each has its own rows, a row is shared, or a head
def test_attention_on_a_mesh(kv_heads):
    mesh = mesh_of(4)
    q, k, v, length = case(24, slots=4, kv_heads=kv_heads)
    layer = cache_entries(jnp.asarray(k), jnp.asarray(v), False, min(2, kv_heads))
    attend = jax.jit(lambda q, layer, length, index: attend_cache(q, layer, index, length, scale=0.3, mesh=mesh,
                                                                  attention="splash"))
    np.testing.assert_allclose(attend(q, layer, length, np.int32(3)), exact(q, k, v, length, 3), atol=1e-6, rtol=0)


def test_the_kernel_declares_what_full_slots_move():
    """Keys, values, queries and results, each once: `preflight.traffic` counts by it."""
    q, k, v, length = case(600)
    layer = cache_entries(jnp.asarray(k, jnp.bfloat16), jnp.asarray(v, jnp.bfloat16), False, 4)
    jaxpr = jax.make_jaxpr(lambda *arrays: attend_rows(*arrays, None, scale=0.3))(
        jnp.asarray(q, jnp.bfloat16), *layer, length, np.int32(3))
    declared, = (each.params["cost_estimate"] for each in jaxpr.eqns if each.primitive.name == "pallas_call")
    assert declared.bytes_accessed == 2 * (k.size + v.size + 2 * q.size)
