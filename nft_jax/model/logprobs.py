"""Log-probs and entropy from hidden states, without the logits [B, T, V].

1. The wanted tokens are brought to the front. The head loops over the blocks of tokens that they
   fill, so prompts and padding cost nothing.
2. Each block meets the vocabulary chunk by chunk. It keeps a running maximum and the sums for
   log-prob and entropy (the online softmax: Milakov & Gimelshein, arXiv 1805.02867).
3. The backward pass is written here. It computes every chunk's logits again, and from them the gradients of the
   states and of the weights (the idea of Wijmans et al., "Cut Your Losses", arXiv 2411.09009).

On a mesh each device works on its own tokens and its own slice of the vocabulary. Both passes are `shard_map`s
of the same functions. All collectives stand in this file, before and after the loops, never inside.
"""
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from nft_jax.model.adapter import is_adapted
from nft_jax.model.config import FLOAT32, Compute, ModelConfig
from nft_jax.model.decoder import hidden_states, soft_cap
from nft_jax.runtime.mesh import RULES

CHUNK_ELEMENTS = 1 << 23        # about so many logits exist at one time on a device: 32 MiB of float32
TOKEN_BLOCK = (1024, 4096)      # a block has an eighth of the device's tokens, but at least and at most so many
# The least for CPUs, where a block's logits do not fit one chunk. Each block reads all weights of the head: an
# accelerator needs many tokens to be worth that, a core few. Short answers then fill their blocks.
CPU_BLOCK = 128
EMPTY = -1e30                   # the running maximum before the first chunk: finite, so that 0 * EMPTY is 0


class Head(NamedTuple):
    """The static part of a head."""
    vocab_axis: int             # of its weights: 1 for a head [D, V], 0 for a tied embedding [V, D]
    softcap: float = 0.0        # logits become softcap * tanh(logits / softcap); 0: unchanged
    mesh: Mesh | None = None
    frozen: bool = False        # the weights get no gradient, and no work is done for one
    on_cpu: bool = False        # the devices are CPUs

    def least(self, words: int) -> int:
        """Tokens of the smallest block, for a device with so many words of the vocabulary."""
        least = TOKEN_BLOCK[0]
        return min(least, CPU_BLOCK) if self.on_cpu and least * words > CHUNK_ELEMENTS else least


def token_logprobs(params, config: ModelConfig, tokens, positions, segment_ids, *, wanted=None, temperature=1.0,
                   compute: Compute = FLOAT32):
    """Log-prob of every token given those before it in its segment, and the entropy of its distribution, in nats.

    tokens, positions, segment_ids: [B, T] int32. On `compute.mesh`, B must divide over the devices of the rows.
    wanted: [B, T] bool, the tokens to compute; None: all. The others have 0 and skip the head.
    temperature: divides the logits, as in sampling. It gets no gradient.

    Returns two of [B, T] float32 (float64 if the pass is). A row's first token has 0. The value at
    the first token of any other segment has no meaning and must be masked."""
    hidden = hidden_states(params, config, tokens, positions, segment_ids, compute)
    return logprobs_of(hidden, params, config, tokens, wanted=wanted, temperature=temperature, compute=compute)


def logprobs_of(hidden, params, config: ModelConfig, tokens, *, wanted=None, temperature=1.0,
                compute: Compute = FLOAT32):
    """`token_logprobs` from the states [B, T, D] before the head."""
    wanted = jnp.ones(tokens.shape, bool) if wanted is None else wanted
    # The state before a token predicts it.
    before = jnp.pad(wanted[:, 1:], ((0, 0), (0, 1)))
    weights, vocab_axis = (params["head"], 1) if "head" in params else (params["embed"], 0)
    mesh = compute.mesh
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    head = Head(vocab_axis, config.final_softcap, mesh if mesh and mesh.size > 1 else None,
                frozen=is_adapted(params), on_cpu=platform == "cpu")
    both = head_logprobs(head, hidden, weights, jnp.roll(tokens, -1, axis=1), before,
                         jax.lax.stop_gradient(jnp.asarray(temperature, accumulator(hidden))))
    return tuple(jnp.pad(x[:, :-1], ((0, 0), (1, 0))) for x in both)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def head_logprobs(head: Head, hidden_BTD, weights, targets_BT, wanted_BT, temperature):
    """Log-probs of the targets and entropies of their distributions, two of [B, T], at least float32; 0 where not
    wanted. Differentiable in hidden and weights; gradients of the weights are summed in float32, unless `head.frozen`.

    weights: [D, V] or [V, D] by `head.vocab_axis`; chunks are cast to the type of `hidden`."""
    return _forward(head, hidden_BTD, weights, targets_BT, wanted_BT, temperature)[:2]


def _keep(head, hidden, weights, targets, wanted, temperature):
    logprobs, entropies, log_sums = _forward(head, hidden, weights, targets, wanted, temperature)
    return (logprobs, entropies), (hidden, weights, targets, wanted, temperature, entropies, log_sums)


def _forward(head: Head, *arguments):
    rows, matrix = _specs(head)
    return _over(head, _local_forward, (rows, matrix, rows, rows, P()), (rows,) * 3)(*arguments)


def _backward(head: Head, kept, cotangents):
    rows, matrix = _specs(head)
    d_hidden, d_weights = _over(head, _local_backward, (rows, matrix, rows, rows, P(), *(rows,) * 4),
                                (rows, None if head.frozen else matrix))(*kept, *cotangents)
    return d_hidden, d_weights, None, None, jnp.zeros_like(kept[4])


head_logprobs.defvjp(_keep, _backward)


def _specs(head: Head):
    """PartitionSpecs of arrays whose axes begin with [B, T], and of the weights."""
    return P(RULES["batch"], "context"), P(*(RULES["vocab"] if axis == head.vocab_axis else RULES["embed"]
                                             for axis in range(2)))


def _over(head: Head, function, in_specs, out_specs):
    """`function` on this device, or on every device of the mesh with its part of the arrays."""
    function = partial(function, head)
    if head.mesh is None:
        return function
    return jax.shard_map(function, mesh=head.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _gathered(head: Head, weights, dtype):
    """This device's slice of the vocabulary, gathered over `fsdp`, and the id of the slice's first word."""
    if head.mesh is None:
        return weights, 0
    if head.mesh.shape["fsdp"] > 1:
        weights = jax.lax.all_gather(weights.astype(dtype), "fsdp", axis=1 - head.vocab_axis, tiled=True)
    return weights, jax.lax.axis_index("tensor") * weights.shape[head.vocab_axis]


class Tokens(NamedTuple):
    """The wanted ones of N tokens, in blocks."""
    size: int                   # tokens of a block
    blocks: jax.Array           # [] int32: blocks that hold any wanted token
    order: jax.Array            # [a multiple of size] int32: indices of the wanted tokens, in order, then N
    rank: jax.Array             # [N] int32: place of each wanted token in `order`; meaningless for the others

    @classmethod
    def of(cls, wanted_N, least: int) -> "Tokens":
        """`least`: tokens of the smallest block."""
        count, most = len(wanted_N), TOKEN_BLOCK[1]
        size = min(count, most, max(least, count // 8))
        total = wanted_N.sum(dtype=jnp.int32)
        order = jnp.pad(jnp.argsort(~wanted_N, stable=True), (0, -count % size))
        order = jnp.where(jnp.arange(len(order)) < total, order, count)
        return cls(size, (total + size - 1) // size, order, jnp.maximum(jnp.cumsum(wanted_N) - 1, 0))

    def take(self, block, *arrays):
        """The block's part of arrays [N, ...], 0 after the last token."""
        index = jax.lax.dynamic_slice_in_dim(self.order, block * self.size, self.size)
        return [jnp.asarray(x).at[index].get(mode="fill", fill_value=0) for x in arrays]

    def over(self, body, carry):
        """carry = body(block, carry) over the blocks that hold any wanted token."""
        # A loop around a single block would only take longer to compile.
        if self.size == len(self.order):
            return body(0, carry)
        return jax.lax.fori_loop(0, self.blocks, body, carry)

    def put_back(self, x, wanted_N):
        """x [len(order), ...] in the order of the blocks -> [N, ...] in that of the tokens; 0 where not wanted."""
        return jnp.where(wanted_N.reshape(-1, *(1,) * (x.ndim - 1)), x[self.rank], 0)


def accumulator(x):
    """The type of sums over x: float32, or float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _over_vocabulary(size: int, tokens: int, step, carry):
    """carry = step(carry, start, skip, width) over chunks that cover a vocabulary of `size`.

    All chunks have one width. The last one begins early, at `size - width`; its first `skip` words
    were in the chunk before."""
    chunks = -(-size * tokens // CHUNK_ELEMENTS)
    if chunks == 1:
        return step(carry, 0, 0, size)
    width = -(-size // chunks)
    width = min(size, -(-width // 128) * 128) if width > 128 else width

    def one(index, carry):
        start = jnp.minimum(index * width, size - width)
        return step(carry, start, index * width - start, width)

    return jax.lax.fori_loop(0, -(-size // width), one, carry)


def _logits(head: Head, states, weights, start, width: int, temperature):
    """Logits of the states for the words from `start` on, after soft-cap and temperature, and the words' weights."""
    part = jax.lax.dynamic_slice_in_dim(weights, start, width, head.vocab_axis).astype(states.dtype)
    logits = jax.lax.dot_general(states, part, (((1,), (1 - head.vocab_axis,)), ((), ())),
                                 preferred_element_type=accumulator(states))
    return soft_cap(logits, head.softcap) / temperature, part


def _local_forward(head: Head, hidden_BTD, weights, targets_BT, wanted_BT, temperature):
    """Log-probs, entropies and log-sum-exps, [B, T] each, of this device's tokens."""
    weights, first = _gathered(head, weights, hidden_BTD.dtype)
    states_ND, wanted = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), wanted_BT.reshape(-1)
    targets, tokens = targets_BT.reshape(-1) - first, Tokens.of(wanted, head.least(weights.shape[head.vocab_axis]))

    def block(index, sums):
        states, target = tokens.take(index, states_ND, targets)

        def chunk(carry, start, skip, width):
            top, total, weighted, chosen = carry
            logits, _ = _logits(head, states, weights, start, width, temperature)
            if width < weights.shape[head.vocab_axis]:
                logits = jnp.where(jnp.arange(width)[None] >= skip, logits, EMPTY)
            highest = jnp.maximum(top, logits.max(axis=-1))
            shifted = logits - highest[:, None]
            exponents, shrink = jnp.exp(shifted), jnp.exp(top - highest)
            place = target - start
            here = jnp.take_along_axis(logits, jnp.clip(place, 0, width - 1)[:, None], axis=1)[:, 0]
            return (highest, total * shrink + exponents.sum(axis=-1),
                    (weighted + total * (top - highest)) * shrink + (exponents * shifted).sum(axis=-1),
                    chosen + jnp.where((place >= skip) & (place < width), here, 0))

        zeros = jnp.zeros(tokens.size, accumulator(states))
        found = _over_vocabulary(weights.shape[head.vocab_axis], tokens.size, chunk,
                                 (zeros + EMPTY, zeros, zeros, zeros))
        return jax.lax.dynamic_update_slice_in_dim(sums, jnp.stack(found), index * tokens.size, axis=1)

    shape, kind = tokens.order.shape, accumulator(hidden_BTD)
    sums = jnp.stack([jnp.zeros(shape, kind), jnp.ones(shape, kind), *[jnp.zeros(shape, kind)] * 2])
    top, total, weighted, chosen = tokens.over(block, sums)
    if head.mesh is not None:
        highest = jax.lax.pmax(top, "tensor")
        shrink = jnp.exp(top - highest)
        total, weighted, chosen = jax.lax.psum(
            (total * shrink, (weighted + total * (top - highest)) * shrink, chosen), "tensor")
        top = highest
    log_total = jnp.log(total)
    return tuple(tokens.put_back(x, wanted).reshape(wanted_BT.shape) for x in
                 (chosen - top - log_total, log_total - weighted / total, top + log_total))


def _local_backward(head: Head, hidden_BTD, weights, targets_BT, wanted_BT, temperature, entropies_BT, log_sums_BT,
                    d_logprobs_BT, d_entropies_BT):
    """Gradients of hidden and of this device's part of the weights, None where they are frozen.

    Let p be the probabilities of the logits l, y the target's one-hot, and m = log-sum-exp - entropy the mean
    of l. Then d logprob / dl = y - p, and d entropy / dl = -p (l - m)."""
    full, first = _gathered(head, weights, hidden_BTD.dtype)
    states_ND, wanted = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), wanted_BT.reshape(-1)
    tokens, kind = Tokens.of(wanted, head.least(full.shape[head.vocab_axis])), accumulator(hidden_BTD)
    per_token = [x.reshape(-1) for x in (targets_BT - first, log_sums_BT, entropies_BT, d_logprobs_BT, d_entropies_BT)]
    over_tensor = head.mesh is not None and head.mesh.shape["tensor"] > 1

    def block(index, carry):
        d_states_all, d_weights = carry
        states, target, *numbers = tokens.take(index, states_ND, *per_token)
        log_sum, entropy, d_logprob, d_entropy = (x[:, None] for x in numbers)

        def chunk(carry, start, skip, width):
            d_states, d_weights = carry
            logits, part = _logits(head, states, full, start, width, temperature)
            p = jnp.exp(logits - log_sum)
            words = jnp.arange(width)[None]
            y = (target - start)[:, None] == words
            d_logits = (d_logprob * (y - p) - d_entropy * p * (logits - log_sum + entropy)) / temperature
            if head.softcap:
                d_logits *= 1 - (logits * (temperature / head.softcap)) ** 2
            if width < full.shape[head.vocab_axis]:
                d_logits = jnp.where(words >= skip, d_logits, 0)
            d_logits = d_logits.astype(states.dtype)
            d_states += jax.lax.dot_general(d_logits, part, (((1,), (head.vocab_axis,)), ((), ())),
                                            preferred_element_type=kind)
            if head.frozen:
                return d_states, d_weights
            sides = (states, d_logits) if head.vocab_axis == 1 else (d_logits, states)
            more = jax.lax.dot_general(*sides, (((0,), (0,)), ((), ())), preferred_element_type=kind)
            so_far = jax.lax.dynamic_slice_in_dim(d_weights, start, width, head.vocab_axis)
            return d_states, jax.lax.dynamic_update_slice_in_dim(d_weights, so_far + more, start, head.vocab_axis)

        d_states, d_weights = _over_vocabulary(full.shape[head.vocab_axis], tokens.size, chunk,
                                               (jnp.zeros(states.shape, kind), d_weights))
        return jax.lax.dynamic_update_slice_in_dim(d_states_all, d_states.astype(d_states_all.dtype),
                                                   index * tokens.size, axis=0), d_weights

    d_states, d_weights = tokens.over(block, (
        jnp.zeros((len(tokens.order), states_ND.shape[1]), kind if over_tensor else hidden_BTD.dtype),
        None if head.frozen else jnp.zeros(full.shape, kind)))
    if over_tensor:
        d_states = jax.lax.psum(d_states, "tensor")
    if head.mesh is not None and not head.frozen:
        d_weights = jax.lax.psum_scatter(d_weights, "fsdp", scatter_dimension=1 - head.vocab_axis, tiled=True)
        d_weights = jax.lax.psum(d_weights, ("data", "context"))
    d_hidden = tokens.put_back(d_states, wanted).reshape(hidden_BTD.shape)
    return d_hidden.astype(hidden_BTD.dtype), None if head.frozen else d_weights.astype(weights.dtype)
