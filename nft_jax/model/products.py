"""What every layer is made of: RMSNorm, and the product with a matrix that may be adapted or quantised."""
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nft_jax.model.adapter import Adapted
from nft_jax.model.attention import align
from nft_jax.model.config import ModelConfig
from nft_jax.model.quantise import Quantized


def rms_norm(x, scale, config: ModelConfig):
    """RMSNorm of x [..., n], times `scale` [n] + config.norm_offset: in float32, back to the type of x.

    Zhang & Sennrich, arXiv 1910.07467."""
    scale = scale.astype(jnp.float32)
    return (unit_rms(x, config) * align(scale + config.norm_offset if config.norm_offset else scale, x)).astype(x.dtype)


def unit_rms(x, config: ModelConfig):
    """x [..., n] over its root mean square, float32."""
    x32 = x.astype(jnp.float32)
    return x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + config.norm_eps)


def matmul(x, weights):
    """x [B, T, in] @ weights [in, out] -> [B, T, out], in the type of x.

    The weights may be `Adapted`. In decoding they may be `Quantized`; their scales then multiply the product."""
    if isinstance(weights, Adapted):
        low = checkpoint_name(weights.scale * _product(x, weights.lora_a), "product")
        return checkpoint_name(_product(x, weights.base) + _product(low, weights.lora_b), "product")
    if not isinstance(weights, Quantized):
        return checkpoint_name(_product(x, weights), "product")
    product = jnp.matmul(x, weights.values.astype(x.dtype), preferred_element_type=jnp.float32)
    return (product * align(weights.scale[0], product)).astype(x.dtype)


@jax.custom_vjp
def _product(x, weights):
    return x @ weights.astype(x.dtype)


def _product_forward(x, weights):
    # x is kept for the weights' gradient alone, and frozen weights have none.
    return _product(x.value, weights.value), (x.value if weights.perturbed else None, weights.value)


def _product_backward(operands, g_BTO):
    x_BTI, weights = operands
    dx_BTI = jnp.einsum("bto,io->bti", g_BTO, weights.astype(g_BTO.dtype))
    if x_BTI is None:
        return dx_BTI, None
    summed = jax.lax.platform_dependent(x_BTI, g_BTO, cpu=_sum_by_the_narrower, default=_sum_over_tokens)
    return dx_BTI, summed.astype(weights.dtype)


def _sum_over_tokens(x_BTI, g_BTO):
    """The weights' gradient [in, out], summed in float32."""
    # Autodiff would round each device's part to the type of x first.
    return jnp.einsum("bti,bto->io", x_BTI, g_BTO, preferred_element_type=jnp.float32)


def _sum_by_the_narrower(x_BTI, g_BTO):
    """`_sum_over_tokens`, as a core computes it faster."""
    if x_BTI.shape[-1] <= g_BTO.shape[-1]:
        return _sum_over_tokens(x_BTI, g_BTO)
    # XLA for CPUs first transposes the left side in memory, and recomputes it number by number on the way. For the
    # MLP's last matrix that took longer than the product. The barrier keeps XLA from swapping the sides back.
    return jax.lax.optimization_barrier(_sum_over_tokens(g_BTO, x_BTI)).T


_product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)
