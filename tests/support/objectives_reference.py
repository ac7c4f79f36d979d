"""Inputs that reach the extremes of the token losses, and how tests compute on them."""
import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.config import ObjectiveConfig
from nft_jax.objectives.registry import OBJECTIVES, coefficients, token_loss


def draw(seed, B=6, T=9, soft=False, dtype="float64"):
    """logprobs, old_logprobs, mask [B, T], rewards, accuracy [B]; each row is one sequence.

    The ratios span R << 1, R near 1, R > 1/r (x < 0) and log R > 10."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1.0, (B, T)) - 0.05
    delta = rng.normal(0, 0.8, (B, T))
    delta[0, :3], delta[1, 1], delta[2, 2], delta[3, :2] = (12.0, 3.0, -15.0), 10.5, 0.0, (4.0, 2.5)
    if B > 5:
        delta[4, :2] = delta[5, :2] = 1e-4, -1e-4
    mask = rng.random((B, T)) < 0.7
    mask[:, 0] = True
    accuracy = np.array([0.25, 0.5, 0.9, 0.0, 1.0, 1 / 16])[np.arange(B) % 6]
    rewards = rng.random(B) if soft else (np.arange(B) % 2 == seed % 2).astype(float)
    return [np.asarray(a, dtype) for a in (old + delta, old)] + [mask] + [np.asarray(a, dtype)
                                                                         for a in (rewards, accuracy)]


def loss_and_grad(name, logp, *arguments, **keywords):
    def summed(values):
        loss, metrics = token_loss(name, values, *arguments, **keywords)
        return loss.sum(), (loss, metrics)
    (_, (loss, metrics)), grad = jax.value_and_grad(summed, has_aux=True)(jnp.asarray(logp))
    return np.asarray(loss), np.asarray(grad), metrics


def on_policy(name, K, **settings):
    """Coefficients at R = 1 of all groups of K answers with 1 .. K-1 right ones, and s and r: three of [K-1, K]."""
    s = (np.arange(K) < np.arange(1, K)[:, None]).astype(float)
    r = np.broadcast_to(s.mean(1, keepdims=True), s.shape)
    logp = -np.linspace(0.1, 2.0, 2 * s.size).reshape(s.size, 2)
    extras = {"group_ids": np.repeat(np.arange(K - 1), K)} if OBJECTIVES[name].whole_groups else None
    got = np.asarray(coefficients(name, logp, logp, np.ones_like(logp), s.ravel(), r.ravel(),
                                  ObjectiveConfig(**settings), extras))
    np.testing.assert_allclose(got[:, 0], got[:, 1], rtol=1e-12)
    return got[:, 0].reshape(s.shape), s, r
