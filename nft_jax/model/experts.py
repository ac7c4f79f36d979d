"""The MLP of a layer with experts, for the trainer and the sampler alike.

1. The router gives every token a probability for each expert, in float32. The largest few are the token's experts
   (`route`), and no token is ever dropped.
2. A token has one row for each of its experts. The rows are sorted by expert (`dispatch`).
3. Each product of the MLP is one `jax.lax.ragged_dot` of all rows, each with the matrix of its expert (`grouped`).
4. The rows go back to their tokens, which sum them in the order of their own probabilities. So a token's output
   does not depend on the tokens beside it, and packed rows equal separate ones.

On a mesh the experts lie over `tensor`, where every device of a group has the group's tokens already. Each device
computes the rows of its own experts, and one sum joins them, as for the columns of a plain MLP. Nothing else
travels: an axis of its own would send every row to its expert and back, with room for the worst case. Experts are
whole because their feed-forward size is small (768 of Qwen3-30B-A3B). A device with popular experts has more to do.

X experts, M their feed-forward size, N tokens, K experts of a token; other letters as in `decoder`.
Routing: Qwen3-MoE in transformers (`Qwen3MoeTopKRouter`).
"""
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from nft_jax.model.config import ModelConfig
from nft_jax.model.kernels import padded, tile
from nft_jax.model.quantise import Quantized
from nft_jax.runtime.mesh import RULES, data_parallel_size

# x_ND in its expert's rows times their matrices: the gradient of the matrices sums over the rows of each expert.
BY_EXPERT = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[])


class Load(NamedTuple):
    """Sums over the tokens of a batch that are no padding; of one layer, or stacked over the layers."""
    chosen: jax.Array                  # [X] float32: tokens that have the expert among theirs
    probability: jax.Array             # [X] float32: the router's probabilities
    entropy: jax.Array                 # [] float32: entropies of the router's distributions, in nats
    tokens: jax.Array                  # [] float32


def route(x_ND, router_DX, config: ModelConfig):
    """Probabilities [N, X] float32; of each token's experts the weights [N, K] float32 and the numbers [N, K]."""
    # At full precision, whatever products do elsewhere: sampler and trainer must choose the same experts.
    logits = jnp.matmul(x_ND.astype(jnp.float32), router_DX.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    probability = jax.nn.softmax(logits, axis=-1)
    weight, expert = jax.lax.top_k(probability, config.experts_per_token)
    return probability, weight / weight.sum(-1, keepdims=True) if config.norm_topk_prob else weight, expert


def mixture(x_BTD, weights: dict[str, Any], config: ModelConfig, activation: Callable, mesh: Mesh | None):
    """x [B, T, D] -> the MLP's output [B, T, D], and the router's probabilities [B, T, X] and choices [B, T, K].

    weights: the arrays "router", "expert_gate", "expert_up" and "expert_down" of one layer; on a mesh the experts
    lie over `tensor`, and their other axes are whole. Rows and tokens that the mesh does not divide are computed on
    every device."""
    kernel = mesh is not None and mesh.devices.flat[0].platform == "tpu"
    run = partial(_local, config=config, activation=activation, kernel=kernel)
    if mesh is None or mesh.size == 1:
        return run(x_BTD, weights, 0)
    rows = P(RULES["batch"] if x_BTD.shape[0] % data_parallel_size(mesh) == 0 else None,
             "context" if x_BTD.shape[1] % mesh.shape["context"] == 0 else None, None)
    places = {name: P() if name == "router" else P("tensor") for name in weights}

    def local(x, weights):
        first = jax.lax.axis_index("tensor") * jax.tree.leaves(weights["expert_up"])[0].shape[0]
        y, *routed = run(x, weights, first)
        return jax.lax.psum(y, "tensor"), *routed

    # check_vma is off because a custom gradient cannot say over which axes its sum is still to be taken.
    return jax.shard_map(local, mesh=mesh, in_specs=(rows, places), out_specs=(rows,) * 3, check_vma=False)(
        x_BTD, weights)


def load_of(probability_BTX, expert_BTK, counted_BT) -> Load:
    """The load of a layer over the tokens where counted [B, T] is true."""
    counted = counted_BT.astype(jnp.float32)
    hits_BTX = jax.nn.one_hot(expert_BTK, probability_BTX.shape[-1]).sum(-2)
    # A probability that is 0 in float32 adds nothing.
    entropy_BT = -(probability_BTX * jnp.log(jnp.maximum(probability_BTX, jnp.finfo(jnp.float32).tiny))).sum(-1)
    over = partial(jnp.einsum, "bt,btx->x", counted, precision=jax.lax.Precision.HIGHEST)
    return Load(over(hits_BTX), over(probability_BTX), (counted * entropy_BT).sum(), counted.sum())


def chosen_otherwise(expert_BTK, other_BTK):
    """Which of a token's experts are not among its `other` ones: bool [B, T, K]. The order says nothing."""
    return (expert_BTK[..., :, None] != other_BTK[..., None, :]).all(-1)


def number_dtype(config: ModelConfig) -> str:
    """The smallest type that holds the number of an expert."""
    return "uint8" if config.num_experts <= 256 else "uint16"


def balance_loss(load: Load, chosen_X, tokens):
    """The load-balancing loss of the stacked `load`: X * sum over experts of (share of the tokens that chose it) *
    (mean probability). It is K when all experts are alike. Layers are pooled.

    chosen [X], tokens: the counts of the whole batch, over all layers, of which `load` may be a part; the losses of
    the parts add up. Counts have no gradient. Takes numpy's arrays too. Fedus et al., arXiv 2101.03961, equations 4 to
    6; `load_balancing_loss_func` of transformers."""
    return len(chosen_X) * (chosen_X / tokens * load.probability.sum(0)).sum() / tokens


# ---- on one device ---------------------------------------------------------------------------------------------


def _local(x_BTD, weights, first, *, config: ModelConfig, activation: Callable, kernel: bool):
    """The part of the experts that this device has, from expert number `first` on."""
    batch, length, _ = x_BTD.shape
    x_ND = x_BTD.reshape(batch * length, -1)
    probability, weight_NK, expert_NK = route(x_ND, weights["router"], config)
    count = jax.tree.leaves(weights["expert_up"])[0].shape[0]
    # Rows of experts that lie elsewhere come last, in no group.
    own = expert_NK.reshape(-1) - first
    own = jnp.where((own >= 0) & (own < count), own, count)
    order = jnp.argsort(own, stable=True)
    back, sizes = jnp.argsort(order), (own[:, None] == jnp.arange(count)[None]).sum(0, dtype=jnp.int32)
    product = partial(grouped, sizes=sizes, expert=jnp.minimum(own[order], count - 1), kernel=kernel)

    rows = spread(x_ND, order, back, config.experts_per_token)
    inner = activation(product(rows, weights["expert_gate"])) * product(rows, weights["expert_up"])
    # Weighed before the last product, whose output is then not needed for the weights' gradient.
    inner = inner * spread(weight_NK.reshape(-1, 1), order, back, 1).astype(inner.dtype)
    y_ND = collect(product(inner, weights["expert_down"], keep=False), order, back, config.experts_per_token)
    return (y_ND.reshape(x_BTD.shape), *(x.reshape(batch, length, -1) for x in (probability, expert_NK)))


def grouped(x_RI, weights, *, sizes, expert, kernel: bool, keep: bool = True):
    """Rows x [R, I], sorted by expert, times the matrices [X, I, O] of their experts -> [R, O] of the type of x.

    sizes [X] int32: rows of each expert; rows beyond their sum give 0. expert [R]: each row's. kernel: of a TPU, for
    the gradient of the weights. keep: whether the backward pass needs the product. In decoding the weights may be
    `Quantized`; their scales multiply the product."""
    if isinstance(weights, Quantized):
        product = jax.lax.ragged_dot(x_RI, weights.values.astype(x_RI.dtype), sizes,
                                     preferred_element_type=jnp.float32)
        return _inside((product * weights.scale[expert, 0]).astype(x_RI.dtype), sizes)
    product = _grouped(x_RI, weights, sizes, kernel)
    return checkpoint_name(product, "product") if keep else product


def _inside(x_RI, sizes):
    # What a kernel leaves in rows of no group is not defined.
    return jnp.where(jnp.arange(len(x_RI))[:, None] < sizes.sum(), x_RI, 0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _grouped(x_RI, weights_XIO, sizes, kernel: bool):
    return _inside(jax.lax.ragged_dot(x_RI, weights_XIO.astype(x_RI.dtype), sizes), sizes)


def _grouped_forward(x, weights, sizes, kernel):
    # x is kept for the weights' gradient alone, and frozen weights have none.
    return _grouped(x.value, weights.value, sizes.value, kernel), (
        x.value if weights.perturbed else None, weights.value, sizes.value)


def _grouped_backward(kernel, operands, g_RO):
    x_RI, weights_XIO, sizes = operands
    dx_RI = _grouped(g_RO, jnp.swapaxes(weights_XIO, 1, 2), sizes, kernel)
    if x_RI is None:
        return dx_RI, None, None
    return dx_RI, (by_kernel if kernel else by_expert)(x_RI, g_RO, sizes).astype(weights_XIO.dtype), None


def by_expert(x_RI, g_RO, sizes):
    """The sums over each expert's rows of the products of x [R, I] and g [R, O] -> [X, I, O] float32."""
    return jax.lax.ragged_dot_general(x_RI, g_RO, sizes, BY_EXPERT, preferred_element_type=jnp.float32)


def by_kernel(x_RI, g_RO, sizes, interpret: bool = False):
    """`by_expert` by JAX's megablox kernel, because XLA pads this product on a TPU: 64 experts took 64 times its
    operations (libtpu 0.0.42). `interpret` runs it without a TPU."""
    # Slow to import, and only for TPUs.
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    tiles = tuple(tile(size) for size in (len(x_RI), x_RI.shape[1], g_RO.shape[1]))
    x_RI, g_RO = padded(x_RI, 0, tiles[0]), padded(g_RO, 0, tiles[0])
    return tgmm(x_RI.T, g_RO, sizes, preferred_element_type=jnp.float32, tiling=tiles, interpret=interpret)


_grouped.defvjp(_grouped_forward, _grouped_backward, symbolic_zeros=True)


# Each of the two is the gradient of the other. Autodiff would scatter, which is slow, and on a GPU in no fixed order.


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def spread(x_ND, order_R, back_R, each: int):
    """`each` copies of every row of x [N, D], in the order of `order` [R], which `back` inverts -> [R, D]."""
    return x_ND[order_R // each]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def collect(x_RD, order_R, back_R, each: int):
    """The sums [N, D] of the `each` rows that `spread` made of one."""
    rows_NKD = x_RD[back_R].reshape(-1, each, x_RD.shape[-1])
    return rows_NKD.sum(1, dtype=jnp.promote_types(x_RD.dtype, jnp.float32)).astype(x_RD.dtype)


spread.defvjp(lambda x, order, back, each: (spread(x, order, back, each), (order, back)),
              lambda each, kept, g: (collect(g, *kept, each), None, None))
collect.defvjp(lambda x, order, back, each: (collect(x, order, back, each), (order, back)),
               lambda each, kept, g: (spread(g, *kept, each), None, None))
