"""Log-probs and entropy from hidden states. The logits [B, T, V] never exist at once: the tokens pass through the head
in chunks, and the backward pass recomputes each chunk's logits."""
from __future__ import annotations

import jax
import jax.numpy as jnp

from nft_jax.model.config import FLOAT32, Compute, ModelConfig
from nft_jax.model.decoder import head_weights, hidden_states, soft_cap

CHUNK_ELEMENTS = 1 << 24        # logits that exist at one time (64 MiB of float32)


def token_logprobs(params, config: ModelConfig, tokens, positions, segment_ids, *, temperature=1.0,
                   compute: Compute = FLOAT32):
    """Log-prob of every token given those before it in its segment, and the entropy (nats) of that distribution.

    tokens, positions, segment_ids [B, T] int32 -> two of [B, T] float32. The logits are divided by `temperature`, as
    in sampling. What stands at the first token of a row or segment speaks of nothing and must be masked.
    """
    hidden = hidden_states(params, config, tokens, positions, segment_ids, compute)
    batch, length, _ = hidden.shape
    weights = head_weights(params)
    chunk = max(1, min(batch * (length - 1), CHUNK_ELEMENTS // config.vocab_size))
    flat, targets = hidden[:, :-1].reshape(-1, hidden.shape[-1]), tokens[:, 1:].reshape(-1)
    padding = -flat.shape[0] % chunk
    flat = jnp.pad(flat, ((0, padding), (0, 0))).reshape(-1, chunk, hidden.shape[-1])
    targets = jnp.pad(targets, (0, padding)).reshape(-1, chunk)

    @jax.checkpoint
    def head(inputs):
        states, target = inputs
        logits = jnp.matmul(states, weights.astype(states.dtype), preferred_element_type=jnp.float32)
        return logprob_and_entropy(soft_cap(logits, config.final_softcap) / temperature, target)

    logprobs, entropies = jax.lax.map(head, (flat, targets))
    shape = (batch, length - 1)
    first = ((0, 0), (1, 0))
    return tuple(jnp.pad(x.reshape(-1)[:shape[0] * shape[1]].reshape(shape), first) for x in (logprobs, entropies))


def logprob_and_entropy(logits, target):
    """logits [N, V] float32, target [N] -> log-prob of the target and entropy of the distribution, [N] each."""
    shifted = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    exponents = jnp.exp(shifted)
    total = exponents.sum(axis=-1)
    log_total = jnp.log(total)
    chosen = jnp.take_along_axis(shifted, target[:, None], axis=-1)[:, 0]
    return chosen - log_total, log_total - (exponents * shifted).sum(axis=-1) / total
