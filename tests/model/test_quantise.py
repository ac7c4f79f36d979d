"""int8 against float32."""
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.model.products import matmul
from nft_jax.model.quantise import Quantized, quantise, quantise_matrices


def back(x):
    return np.asarray(x.values, np.float32) * np.asarray(x.scale)


@pytest.mark.parametrize("axes", [0, -1, (0, 1)])
def test_no_value_is_off_by_more_than_half_a_step(axes):
    x = np.random.default_rng(0).normal(0, 3, (5, 6, 7)).astype(np.float32)
    x[0, 0] = x[:, 2, 3] = 0
    q = quantise(jnp.asarray(x), axes)
    assert q.values.dtype == jnp.int8 and np.abs(np.asarray(q.values, int)).max() == 127
    assert (np.abs(back(q) - x) <= np.asarray(q.scale) / 2 + 1e-6).all()
    assert not back(quantise(jnp.zeros((3, 4)), axes if axes != (0, 1) else (0, 1))).any()


def test_a_product_is_that_with_the_dequantised_matrix():
    rng = np.random.default_rng(1)
    weights = {"query": rng.normal(size=(8, 4, 3)), "out": rng.normal(size=(4, 3, 8)), "query_bias": np.ones((4, 3))}
    layer = quantise_matrices({name: jnp.asarray(w, jnp.float32) for name, w in weights.items()})
    assert isinstance(layer["query_bias"], jnp.ndarray) and isinstance(layer["out"], Quantized)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(matmul(x, layer["query"].reshape(8, -1)), x @ back(layer["query"]).reshape(8, -1),
                               rtol=1e-5, atol=1e-5)
    heads = rng.normal(size=(2, 5, 12)).astype(np.float32)
    np.testing.assert_allclose(matmul(heads, layer["out"].reshape(-1, 8)), heads @ back(layer["out"]).reshape(-1, 8),
                               rtol=1e-5, atol=1e-5)
