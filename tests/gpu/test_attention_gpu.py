"""cuDNN's attention on a GPU against float64: forward and backward, in bfloat16.

    JAX_PLATFORMS=cuda,cpu python -m pytest tests/gpu
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_reference import attention_float64
from nft_jax.model.attention import attend
from nft_jax.model.kernels import choose_attention, cudnn_problem

LENGTH = 384
SEGMENT_IDS = np.repeat(np.array([[1, 2, 3, 0], [1, 1, 2, 2]], np.int32), [100, 93, 150, 41], axis=1)


def relative(got, expected) -> float:
    """Root mean square of the difference, over that of what is expected."""
    got, expected = (np.asarray(x, np.float64) for x in (got, expected))
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected ** 2)))


@pytest.mark.parametrize(("group", "head_dim", "window", "length"), [
    (7, 64, 0, LENGTH), (6, 128, 0, LENGTH), (6, 128, 50, LENGTH), (1, 64, 50, LENGTH - 1)])
def test_cudnn_is_attention(group, head_dim, window, length):
    """Packed segments with padding, 7 and 6 queries per kv head as in Qwen2.5, a window, an odd length. Inputs are
    rounded to bfloat16 first; what remains is the rounding of the weights and the output, 2^-9 each."""
    random, scale, ids = np.random.default_rng(group), head_dim ** -0.5, SEGMENT_IDS[:, :length]
    shapes = [(2, 2, group, length, head_dim), *[(2, 2, length, head_dim)] * 2, (2, 2, group, length, head_dim)]
    q, k, v, cotangent = (jnp.asarray(random.normal(size=shape), jnp.bfloat16) for shape in shapes)

    def total(implementation, q, k, v):
        out = attend(q, k, v, ids, scale=scale, window=window, implementation=implementation)
        return jnp.sum((cotangent * out).astype(jnp.float32)), out

    expected = attention_float64(q, k, v, cotangent, ids, scale=scale, window=window)
    for implementation in ("cudnn", "xla"):
        gradients, out = jax.jit(jax.grad(total, argnums=(1, 2, 3), has_aux=True), static_argnums=0)(
            implementation, q, k, v)
        assert out.dtype == jnp.bfloat16
        assert [relative(x, e) < 0.02 for x, e in zip((out, *gradients), expected, strict=True)] == [True] * 4


def test_the_scores_are_not_in_memory():
    """At 4,096 tokens the scores of 14 heads would be 896 MiB in float32; the mask is 16 or 32 MiB."""
    length, heads = 4096, 14
    q, k = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((1, 2, heads // 2, length, 64), (1, 2, length, 64)))

    def total(implementation, q, k, v, ids):
        return attend(q, k, v, ids, scale=0.125, implementation=implementation).astype(jnp.float32).sum()

    temporaries = {name: jax.jit(jax.grad(total, argnums=(1, 2, 3)), static_argnums=0).lower(
        name, q, k, k, jax.ShapeDtypeStruct((1, length), jnp.int32)).compile().memory_analysis().temp_size_in_bytes
        for name in ("cudnn", "xla")}
    assert temporaries["cudnn"] < 300 * 2**20 < temporaries["xla"]


def test_the_choice_here():
    assert choose_attention("auto", "gpu", "bfloat16", 64)[0] == "cudnn"
    assert choose_attention("auto", "gpu", "bfloat16", 128)[0] == "cudnn"
    for dtype, head_dim in (("float32", 64), ("bfloat16", 63)):
        assert choose_attention("auto", "gpu", dtype, head_dim) == ("xla", f"cuDNN cannot: "
                                                                           f"{cudnn_problem(dtype, head_dim)}")
