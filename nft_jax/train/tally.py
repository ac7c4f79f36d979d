"""Metrics of the train step as sums, counts, maxima and histograms: they add up over micro-batches, devices and
optimizer steps, so no reported mean is a mean of means."""
from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.objectives.terms import summarise_terms

SIGNS = ("positive", "negative")
HISTOGRAM_BINS = 1024
_STEEPNESS, _LIMIT = 100.0, 20.0      # bins of width 0.01 in log-ratio near 0, wider away from it


def _bin(log_ratio):
    """asinh spacing: fine around ratio 1, and still finite at e^20."""
    scaled = jnp.arcsinh(log_ratio * _STEEPNESS) / np.arcsinh(_LIMIT * _STEEPNESS)
    return jnp.clip(((scaled + 1) / 2 * HISTOGRAM_BINS).astype(jnp.int32), 0, HISTOGRAM_BINS - 1)


def tally(loss, metrics, coefficient, entropy, weight, rewards) -> dict[str, jax.Array]:
    """Per-token values [R, T] -> sums (keys `sum/...`, `count/...`), maxima (`max/...`), histograms (`hist/...`).

    A token is positive when its answer's reward is at least one half.
    """
    inside = weight > 0
    out = {"sum/loss": (weight * loss).sum(), "count/tokens": inside.sum().astype(jnp.float32),
           "sum/entropy": jnp.where(inside, entropy, 0).sum()}
    for sign, chosen in (("positive", inside & (rewards >= 0.5)), ("negative", inside & (rewards < 0.5))):
        def total(values, chosen=chosen):
            return jnp.where(chosen, values, 0).sum()
        out[f"count/{sign}"] = total(1.0)
        out[f"sum/loss_{sign}"] = total(weight * metrics[f"{sign}_loss"])
        out[f"sum/coefficient_{sign}"] = total(coefficient)
        out[f"sum/ratio_{sign}"] = total(metrics["ratio"])
        out[f"max/ratio_{sign}"] = jnp.where(chosen, metrics["ratio"], 0).max()
        bins = _bin(jnp.log(jnp.where(chosen, jnp.maximum(metrics["ratio"], 1e-9), 1.0)))
        out[f"hist/ratio_{sign}"] = jnp.zeros(HISTOGRAM_BINS).at[bins.ravel()].add(chosen.ravel().astype(jnp.float32))
    for name in ("clamped", "saturated", "clipped"):
        out[f"sum/{name}"] = jnp.where(inside, metrics[name], 0).sum().astype(jnp.float32)
    return out


def combine(a: dict, b: dict, maximum=jnp.maximum) -> dict:
    """Tallies of two disjoint sets of tokens -> that of their union. On the host `maximum` is numpy's, so that nothing
    goes back to the devices."""
    return {key: maximum(a[key], b[key]) if key.startswith("max/") else a[key] + b[key] for key in a}


def quantile(histogram: np.ndarray, q: float) -> float:
    """Ratio below which a share `q` of the tokens lies, to the width of a bin (1% near ratio 1)."""
    place = int(np.searchsorted(np.cumsum(histogram), q * histogram.sum()))
    scaled = ((place + 0.5) / HISTOGRAM_BINS * 2 - 1) * np.arcsinh(_LIMIT * _STEEPNESS)
    return float(np.exp(np.sinh(scaled) / _STEEPNESS))


def summarise(total: dict[str, np.ndarray], updates: int) -> dict[str, float]:
    """Metrics of `updates` optimizer steps from their combined tally. A sign without tokens gives no ratio."""
    tokens = float(total["count/tokens"])
    negatives = float(total["count/negative"])
    out = {
        "loss/total": float(total["sum/loss"]) / updates,
        "entropy/trained": float(total["sum/entropy"]) / tokens,
        "share/clamped": float(total["sum/clamped"]) / max(negatives, 1.0),
        "share/saturated": float(total["sum/saturated"]) / max(negatives, 1.0),
        "share/clipped": float(total["sum/clipped"]) / tokens,
    }
    for sign in SIGNS:
        count = float(total[f"count/{sign}"])
        out[f"loss/{sign}"] = float(total[f"sum/loss_{sign}"]) / updates
        if count:
            out[f"coefficient/{sign}"] = float(total[f"sum/coefficient_{sign}"]) / count
            out[f"ratio/mean_{sign}"] = float(total[f"sum/ratio_{sign}"]) / count
            out[f"ratio/p95_{sign}"] = quantile(np.asarray(total[f"hist/ratio_{sign}"]), 0.95)
            out[f"ratio/max_{sign}"] = float(total[f"max/ratio_{sign}"])
    return out | summarise_terms(total, updates)
