"""The product with a weight matrix: its gradients against float64, and what each platform is given to compile."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.model.products import matmul


def gradients(x, weights, cotangent):
    return jax.grad(lambda x, weights: jnp.sum(matmul(x, weights) * cotangent), argnums=(0, 1))(x, weights)


@pytest.mark.parametrize("wide, narrow", [(24, 8), (8, 24), (8, 8)])
def test_gradients_are_those_of_float64(wide, narrow):
    random = np.random.default_rng(0)
    x, weights, cotangent = (random.normal(size=shape).astype(np.float32)
                             for shape in ((2, 5, wide), (wide, narrow), (2, 5, narrow)))
    found = jax.jit(gradients)(x, weights, cotangent)
    exact = [array.astype(np.float64) for array in (x, weights, cotangent)]
    expected = (exact[2] @ exact[1].T, np.einsum("bti,bto->io", exact[0], exact[2]))
    for mine, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-5)


def test_only_a_cpu_swaps_the_sides():
    """Accelerators transpose as they read, so their program stays one plain product."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 5, 24), (24, 8), (2, 5, 8))]
    swapped = {platform: "optimization_barrier" in jax.jit(gradients).trace(*shapes).lower(
        lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    assert swapped == {"cpu": True, "cuda": False, "tpu": False}
