"""Independent references of the objectives, from the papers' formulas, in Python floats.

Each is (value, slope) of one answer: the tokens' values, and the derivative of their sum by hand. `at` stands for the
log-probs under a stop-gradient: the slope is the derivative of value(logp, at=fixed) in logp, which finite differences
check.
"""
import math

import numpy as np

OMEGAS = {"1": lambda r: 1.0, "1-r": lambda r: 1 - r, "sqrt": lambda r: math.sqrt((1 - r) / r),
          "maxrl": lambda r: (1 - r) / r}


def omega(kind, r):
    return OMEGAS[kind](r)


def clipped(r):
    return min(max(r, 0.02), 0.98)


def log_ratios(logp, old, kind="token"):
    """The log ratio that every token sees, before it stops at 10."""
    d = [a - b for a, b in zip(logp, old, strict=True)]
    if kind == "token":
        return d
    return [math.fsum(d) / (len(d) if kind == "sequence_mean" else 1)] * len(d)


def region(c):
    return 1 - c.clip_low, 1 + c.clip_high


def ppo(advantage, log_r, low, high):
    """Value and slope of -min(A R, A clip(R, low, high)) for one ratio."""
    ratio = math.exp(min(log_r, 10))
    value = -min(advantage * ratio, advantage * min(max(ratio, low), high))
    flat = (advantage > 0 and ratio > high) or (advantage < 0 and ratio < low) or log_r > 10
    return value, 0.0 if flat else -advantage * ratio


def ppo_reference(advantage_of, kind="token"):
    def both(logp, old, s, r, std, c):
        return [ppo(advantage_of(s, r, std), d, *region(c)) for d in log_ratios(logp, old, kind)]

    def value(logp, old, s, r, std, c, at):
        return [pair[0] for pair in both(logp, old, s, r, std, c)]

    def slope(logp, old, s, r, std, c):
        return [pair[1] for pair in both(logp, old, s, r, std, c)]
    return value, slope


def reinforce(logp, old, s, r, std, c, at):
    return [-(s - r) * d for d in log_ratios(logp, old)]


def reinforce_slope(logp, old, s, r, std, c):
    return [-(s - r)] * len(logp)


def cispo_weights(at, old, c):
    return [min(max(math.exp(min(d, 10)), 1 - c.clip_low), 1 + c.clip_high) for d in log_ratios(at, old)]


def cispo(logp, old, s, r, std, c, at):
    return [-w * (s - r) / std * d for w, d in zip(cispo_weights(at, old, c), log_ratios(logp, old), strict=True)]


def cispo_slope(logp, old, s, r, std, c):
    return [-w * (s - r) / std for w in cispo_weights(logp, old, c)]


def sapo(logp, old, s, r, std, c, at):
    A = (s - r) / std
    tau = c.tau_positive if A > 0 else c.tau_negative
    return [-A * 4 / tau / (1 + math.exp(-tau * (math.exp(min(d, 10)) - 1))) for d in log_ratios(logp, old)]


def sapo_slope(logp, old, s, r, std, c):
    A, out = (s - r) / std, []
    tau = c.tau_positive if A > 0 else c.tau_negative
    for d in log_ratios(logp, old):
        R = math.exp(min(d, 10))
        half = math.exp(-tau * abs(R - 1))                      # g (1 - g) = half / (1 + half)^2, g the sigmoid
        out.append(0.0 if d > 10 else -A * R * 4 * half / (1 + half) ** 2)
    return out


def topr_weight(at, old):
    return min(math.exp(min(math.fsum(log_ratios(at, old)), 0)), 1.0)


def topr(logp, old, s, r, std, c, at):
    w = topr_weight(at, old)
    return [-(c.pos_weight * s - c.neg_weight * (1 - s) * w) * d for d in log_ratios(logp, old)]


def topr_slope(logp, old, s, r, std, c):
    return [-c.pos_weight * s + c.neg_weight * (1 - s) * topr_weight(logp, old)] * len(logp)


def naive_contrast(logp, old, s, r, std, c, at):
    w = omega(c.prompt_weight, clipped(r))
    return [w * (c.neg_weight * (1 - s) - c.pos_weight * s) * min(d, 10) for d in log_ratios(logp, old)]


def naive_contrast_slope(logp, old, s, r, std, c):
    w = omega(c.prompt_weight, clipped(r))
    return [w * (c.neg_weight * (1 - s) - c.pos_weight * s) if d <= 10 else 0.0 for d in log_ratios(logp, old)]


def w_reinforce(logp, old, s, r, std, c, at):
    return [c.psr_weight * ppo(s, d, *region(c))[0] + ppo(s - 1, d, *region(c))[0] for d in log_ratios(logp, old)]


def w_reinforce_slope(logp, old, s, r, std, c):
    return [c.psr_weight * ppo(s, d, *region(c))[1] + ppo(s - 1, d, *region(c))[1] for d in log_ratios(logp, old)]


def nft(logp, old, s, r, std, c, at, bounds=(0.0, math.inf)):
    """NFT under each ratio; with bounds, inside a trust region. max_v is linear in R around `at`."""
    r, values = clipped(r), []
    share = len(logp) if c.ratio == "sequence" else 1
    for d, fixed in zip(log_ratios(logp, old, c.ratio), log_ratios(at, old, c.ratio), strict=True):
        up = math.exp(min(min(d, 10), math.log(bounds[1])))
        down, down_at = (max(math.exp(min(x, 10)), bounds[0]) for x in (d, fixed))
        x, x_at = ((1 - r * R) / (1 - r) for R in (down, down_at))
        clamp = max(x_at, c.epsilon)
        negative = -math.log(clamp) - (x - x_at) / clamp
        values.append(omega(c.prompt_weight, r) / share
                      * (-c.pos_weight * s * math.log(up) + c.neg_weight * (1 - s) * negative))
    return values


def nft_slope(logp, old, s, r, std, c, bounds=(0.0, math.inf)):
    r, out = clipped(r), []
    for d in log_ratios(logp, old, c.ratio):
        ratio = math.exp(min(d, 10))
        x = (1 - r * ratio) / (1 - r)
        up = 0.0 if ratio > bounds[1] else -c.pos_weight * s
        down = 0.0 if ratio < bounds[0] else c.neg_weight * (1 - s) * r / (1 - r) * ratio / max(x, c.epsilon)
        out.append(omega(c.prompt_weight, r) * (up + down) if d <= 10 else 0.0)
    return out


REFERENCES = {
    "nft": (nft, nft_slope),
    "nft_clip": (lambda *a: nft(*a, bounds=region(a[5])), lambda *a: nft_slope(*a, bounds=region(a[5]))),
    "rft": (nft, nft_slope),
    "naive_contrast": (naive_contrast, naive_contrast_slope),
    "reinforce": (reinforce, reinforce_slope),
    "grpo": ppo_reference(lambda s, r, std: (s - r) / std),
    "dapo": ppo_reference(lambda s, r, std: (s - r) / std),
    "dr_grpo": ppo_reference(lambda s, r, std: s - r),
    "maxrl": ppo_reference(lambda s, r, std: (s - r) / r),
    "psr": ppo_reference(lambda s, r, std: s),
    "nsr": ppo_reference(lambda s, r, std: s - 1),
    "gspo": ppo_reference(lambda s, r, std: (s - r) / std, "sequence_mean"),
    "cispo": (cispo, cispo_slope),
    "sapo": (sapo, sapo_slope),
    "topr": (topr, topr_slope),
    "w_reinforce": (w_reinforce, w_reinforce_slope),
}


def dpo(rhos, rewards, beta, nll_weight):
    """Of one group: the answers' terms, and the derivative of their sum in each rho."""
    z, total = beta * np.asarray(rhos, np.float64), sum(rewards)
    w = np.asarray(rewards, np.float64) / total if total else np.zeros(len(z))
    log_p = z - z.max() - math.log(math.fsum(np.exp(z - z.max())))
    return -w * (log_p + nll_weight * np.asarray(rhos)), -beta * (w - w.sum() * np.exp(log_p)) - nll_weight * w
