"""Independent references of the token losses: one sequence at a time, in Python floats, from the papers' formulas."""
import math

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.objectives.registry import token_loss

OMEGAS = {"1": lambda r: 1.0, "1-r": lambda r: 1 - r, "sqrt": lambda r: math.sqrt((1 - r) / r),
          "maxrl": lambda r: (1 - r) / r}


def enable_x64(on):
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64 as context
    return context(on)


def nft_reference(logp, old, mask, s, accuracy, config):
    """Per token of one sequence: loss, its derivative in logp, and the sizes of the parts that add up to each."""
    omega, eps, nw, pw = config.prompt_weight, config.epsilon, config.neg_weight, config.pos_weight
    where = [t for t in range(len(logp)) if mask[t]]
    loss, grad, loss_size, grad_size = (np.zeros(len(logp)) for _ in range(4))
    for t in where:
        delta = float(logp[t]) - float(old[t])
        if config.ratio == "sequence":
            delta = math.fsum(float(logp[u]) - float(old[u]) for u in where)
        r = min(max(float(accuracy[t]), 0.02), 0.98)
        R = math.exp(min(delta, 10.0))
        x = (1 - r * R) / (1 - r)
        w = OMEGAS[omega](r)
        positive, negative = w * pw * s[t] * -min(delta, 10.0), w * nw * (1 - s[t]) * -math.log(max(x, eps))
        spread = len(where) if config.ratio == "sequence" else 1
        loss[t], loss_size[t] = (positive + negative) / spread, (abs(positive) + abs(negative)) / spread
        if delta <= 10.0:
            up, down = w * pw * s[t], w * nw * (1 - s[t]) * r / (1 - r) * R / max(x, eps)
            grad[t], grad_size[t] = down - up, down + up
    return loss, grad, loss_size, grad_size


def grpo_reference(logp, old, mask, s, accuracy, std, low, high):
    loss, grad, clipped = (np.zeros(len(logp)) for _ in range(3))
    for t in range(len(logp)):
        if mask[t]:
            R = math.exp(min(logp[t] - old[t], 10.0))
            A = (s[t] - accuracy[t]) / std[t]
            bounded = min(max(R, 1 - low), 1 + high)
            loss[t] = max(-A * R, -A * bounded)
            clipped[t] = float(A * bounded < A * R)
            grad[t] = 0.0 if clipped[t] or logp[t] - old[t] > 10 else -A * R
    return loss, grad, clipped


def draw(seed, B=6, T=9, soft=False, dtype="float64"):
    """Log-probs whose ratios span R << 1, R > 1/r (x < 0) and log R > 10; each row one sequence."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1.0, (B, T)) - 0.05
    delta = rng.normal(0, 0.8, (B, T))
    delta[0, :3], delta[1, 1], delta[2, 2], delta[3, :2] = (12.0, 3.0, -15.0), 10.5, 0.0, (4.0, 2.5)
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


def reference_rows(function, logp, old, mask, *per_row):
    """The reference on each row, in float64 of the very numbers given to the implementation."""
    wide = [np.asarray(a, np.float64) for a in per_row]
    T = logp.shape[1]
    return [np.stack(part) for part in zip(*(
        function(np.float64(logp[b]), np.float64(old[b]), mask[b], *(np.full(T, a[b]) for a in wide))
        for b in range(len(logp))), strict=True)]
