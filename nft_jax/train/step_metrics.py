"""The metrics of a step: what its answers, its optimizer updates and its skipped updates say.

The life of an update's numbers:
1. `tally`: the compiled update reduces its values per token to sums, counts, maxima and histograms.
2. `combine`: tallies are added over micro-batches and devices, and on the host over the updates of a step.
3. `summarise`: only then do sums become means, so no reported mean is a mean of means.
4. `Updates.finish`: an update whose loss or gradient is not finite is left out and counted. Its batch
   is kept for a look (`write_batches`)."""
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.model.experts import Load, balance_loss
from nft_jax.objectives.registry import METRICS
from nft_jax.objectives.terms import summarise_terms
from nft_jax.record.metrics import answer_metrics
from nft_jax.runtime.files import replaced
from nft_jax.runtime.writing import Writing
from nft_jax.train.batch import Place, unpack
from nft_jax.types import Group, TrainBatch

SIGNS = ("positive", "negative")
OWN = "objective/"   # begins the names of the metrics of an objective of one's own
HISTOGRAM_BINS = 1024
MOST_FILES = 20      # skipped batches kept for one run: the first ones are the ones to look at

# Bins are 0.01 wide in log-ratio near 0 and wider away from it; they reach ratios from e^-20 to e^20.
_STEEPNESS, _LIMIT = 100.0, 20.0


def tally(loss, metrics, coefficient, entropy, weight, rewards) -> dict[str, jax.Array]:
    """Values per token [R, T] -> sums (keys `sum/...`, `count/...`), maxima (`max/...`), histograms (`hist/...`).
    A token counts as positive where the reward of its answer is at least one half. `metrics` are those of
    `token_loss`."""
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
    # In an order that every process shares: another order is another program, for the cache and for the devices.
    for name in sorted(metrics.keys() - set(METRICS)):
        out[f"sum/{OWN}{name}"] = jnp.where(inside, metrics[name], 0).sum().astype(jnp.float32)
    return out


def tally_load(load: Load) -> dict[str, jax.Array]:
    """Sums of a micro-batch for each layer: the tokens of each expert [L, X], probabilities [L, X], entropies [L]."""
    return {"sum/expert_tokens": load.chosen, "sum/expert_probability": load.probability,
            "sum/router_entropy": load.entropy, "count/routed": load.tokens}


def summarise_load(total: dict[str, np.ndarray]) -> dict[str, float]:
    """Metrics of the experts over all trained prompts and answers; empty for a model without experts.

        router/entropy         nats per token, mean over the layers; the logarithm of num_experts where all are alike
        router/fullest_share   of a layer's rows, the share of its fullest expert, mean over the layers; 1 / num_experts
                               where all are alike
        router/fullest_max     the largest of these shares
        router/balance         the load-balancing loss before its weight; experts_per_token where all are alike
    """
    if "count/routed" not in total:
        return {}
    chosen, routed = np.asarray(total["sum/expert_tokens"], np.float64), np.asarray(total["count/routed"], np.float64)
    fullest = chosen.max(axis=1) / chosen.sum(axis=1)
    load = Load(chosen, total["sum/expert_probability"], total["sum/router_entropy"], routed)
    return {"router/entropy": float((total["sum/router_entropy"] / routed).mean()),
            "router/fullest_share": float(fullest.mean()), "router/fullest_max": float(fullest.max()),
            "router/balance": float(balance_loss(load, chosen.sum(axis=0), routed.sum()))}


def combine(a: dict, b: dict, maximum=jnp.maximum) -> dict:
    """The tally of two disjoint sets of tokens, from their tallies. Host code passes numpy's `maximum`:
    jax's would send the numbers back to the devices."""
    return {key: maximum(a[key], b[key]) if key.startswith("max/") else a[key] + b[key] for key in a}


def _bin(log_ratio):
    """The histogram's bin of a log-ratio. asinh spacing: fine around ratio 1, and still finite at e^20."""
    scaled = jnp.arcsinh(log_ratio * _STEEPNESS) / np.arcsinh(_LIMIT * _STEEPNESS)
    return jnp.clip(((scaled + 1) / 2 * HISTOGRAM_BINS).astype(jnp.int32), 0, HISTOGRAM_BINS - 1)


def quantile(histogram: np.ndarray, q: float) -> float:
    """The ratio below which a share `q` of the tokens lies, to the width of a bin (1% near ratio 1)."""
    place = int(np.searchsorted(np.cumsum(histogram), q * histogram.sum()))
    scaled = ((place + 0.5) / HISTOGRAM_BINS * 2 - 1) * np.arcsinh(_LIMIT * _STEEPNESS)
    return float(np.exp(np.sinh(scaled) / _STEEPNESS))


def effective_sample_size(histogram: np.ndarray) -> float:
    """(sum of R)^2 / (count * sum of R^2) over the tokens of a histogram of ratios R, each taken at the middle of its
    bin: the share of the tokens that as many tokens of one ratio are worth. 1 where all ratios are alike.

    L. Kish, Survey Sampling (1965); A. Kong, A Note on Importance Sampling using Standardized Weights (1992)."""
    scaled = (np.arange(HISTOGRAM_BINS) + 0.5) / HISTOGRAM_BINS * 2 - 1
    ratios = np.exp(np.sinh(scaled * np.arcsinh(_LIMIT * _STEEPNESS)) / _STEEPNESS)
    counts = np.asarray(histogram, np.float64)
    return float((counts @ ratios) ** 2 / (counts.sum() * (counts @ ratios**2)))


def summarise(total: dict[str, np.ndarray], updates: int) -> dict[str, float]:
    """The metrics of `updates` optimizer updates from their combined tally. A sign without tokens has no ratio."""
    tokens = float(total["count/tokens"])
    negatives = float(total["count/negative"])
    out = {
        "loss/total": float(total["sum/loss"]) / updates,
        "entropy/trained": float(total["sum/entropy"]) / tokens,
        "share/clamped": float(total["sum/clamped"]) / max(negatives, 1.0),
        "share/saturated": float(total["sum/saturated"]) / max(negatives, 1.0),
        "share/clipped": float(total["sum/clipped"]) / tokens,
        # The histogram, not one more sum on the devices: another reduction would change the last bits of a run.
        "ratio/effective_sample_size": effective_sample_size(sum(total[f"hist/ratio_{sign}"] for sign in SIGNS)),
    }
    for sign in SIGNS:
        count = float(total[f"count/{sign}"])
        out[f"loss/{sign}"] = float(total[f"sum/loss_{sign}"]) / updates
        if count:
            out[f"coefficient/{sign}"] = float(total[f"sum/coefficient_{sign}"]) / count
            out[f"ratio/mean_{sign}"] = float(total[f"sum/ratio_{sign}"]) / count
            out[f"ratio/p95_{sign}"] = quantile(np.asarray(total[f"hist/ratio_{sign}"]), 0.95)
            out[f"ratio/max_{sign}"] = float(total[f"max/ratio_{sign}"])
    out |= {key.removeprefix("sum/"): float(value) / tokens for key, value in sorted(total.items())
            if key.startswith(f"sum/{OWN}")}
    return out | summarise_terms(total, updates) | summarise_load(total)


def drift(metrics: dict[str, float], size: int) -> str:
    """A line at the end of an epoch over `size` stored groups: how far the policy has moved from pi_old, by the step
    that ends the epoch. "" for any other step."""
    read = round(metrics.get("answers/epoch", 0) * size)
    epoch = read // size
    if not read or epoch == (read - metrics["groups/generated"]) // size:
        return ""
    shares = [f"{name} {metrics[key]:.1%}" for name, key in (
        ("clamped", "share/clamped"), ("saturated", "share/saturated"),
        ("effective sample size", "ratio/effective_sample_size")) if key in metrics]
    ratios = [f"ratio {metrics[key]:.3f} of {kind} tokens" for kind, key in (
        ("right", "ratio/mean_positive"), ("wrong", "ratio/mean_negative")) if key in metrics]
    return f"end of epoch {epoch} over the stored answers: {', '.join([*ratios, *shares])}"


class Update(NamedTuple):
    """One optimizer update: what was handed to the devices, and, on the devices, what it gives."""
    batch: TrainBatch                  # numpy arrays
    groups: list[Group]
    places: list[list[Place]]          # of each group's answers in the loss
    tally: dict
    norm: jax.Array                    # of the gradient, before clipping
    old: jax.Array | None              # [M, R, T]: the old log-probs of a fresh batch


@dataclass
class Updates:
    """The optimizer updates of one step."""
    made: list[Update] = field(default_factory=list)
    metrics: dict = field(default_factory=dict)            # what the host knew before
    causes: list[str] = field(default_factory=list)        # of skipped ones: "loss", "gradient"

    def finish(self) -> tuple[dict, list[int]]:
        """Waits for the updates: their metrics, and the numbers (from 0) of those that were not finite. The
        metrics are over the updates that were taken; the skipped ones are only counted."""
        tallies, norms = jax.device_get(([each.tally for each in self.made], [each.norm for each in self.made]))
        skipped = [i for i, each in enumerate(tallies) if each["count/nonfinite"]]
        self.causes = ["gradient" if np.isfinite(tallies[i]["sum/loss"]) else "loss" for i in skipped]
        taken = [i for i in range(len(tallies)) if i not in skipped]
        metrics = {"nonfinite/skipped": len(skipped)}
        if taken:
            total = reduce(partial(combine, maximum=np.maximum), [tallies[i] for i in taken])
            norms = np.array([norms[i] for i in taken])
            metrics |= summarise(total, len(taken))
            metrics |= {"grad_norm/mean": float(np.mean(norms)), "grad_norm/max": float(np.max(norms))}
        return metrics, skipped

    def groups(self) -> list[Group]:
        """The groups of the updates, in the order of the prompt stream, all with their old log-probs. Waits for
        updates that compute them."""
        found = []
        for update in self.made:
            for group, places in zip(update.groups, update.places, strict=True):
                if update.old is not None and group.old_logprobs is None:
                    group = replace(group, old_logprobs=tuple(unpack(np.asarray(update.old), places)))
                found.append(group)
        return sorted(found, key=lambda group: group.prompt.index)


@dataclass(frozen=True)
class Rollouts:
    """The groups of one step."""
    kept: list[Group]                  # the groups it trains on, in the order of the prompt stream
    seen: list[Group]                  # all groups it generated, or read
    tokens: int                        # that were generated; at the first step on stored answers, all of theirs
    sources: dict[str, float]          # metrics of slots and verdicts, or of stored answers; and of the prompt stream

    def metrics(self, carried: int) -> dict[str, float]:
        """`carried`: how many groups are left for the next step."""
        metrics = answer_metrics(self.seen) | self.sources | {
            "groups/generated": len(self.seen), "groups/carried": carried, "tokens/generated": self.tokens,
            "nonfinite/logprobs": nonfinite_logprobs(self.kept)}
        # A step whose carried groups are enough asks nothing, and then no share is known.
        if self.seen:
            metrics["groups/accepted_share"] = float(np.mean([group.has_signal for group in self.seen]))
        return metrics


def nonfinite_logprobs(groups: list[Group]) -> int:
    """Tokens whose old log-prob is not finite. An update that gets a NaN is skipped; objectives with a bounded
    ratio train on an infinite log-prob."""
    return sum(int((~np.isfinite(old)).sum()) for group in groups for old in group.old_logprobs or ())


def count_skipped(skipped: list[int], updates: int, in_a_row: int) -> tuple[int, int]:
    """Counts skipped updates in a row over the end of a step.

    `in_a_row` were skipped at the end of the step before; of this step's `updates` the numbers in `skipped` were.
    Returns the count at the end of this step, and the largest count there was on the way."""
    most = in_a_row
    for number in range(updates):
        in_a_row = in_a_row + 1 if number in skipped else 0
        most = max(most, in_a_row)
    return in_a_row, most


def nonfinite_advice(cause: str, trained: int, objective: str) -> str:
    """What to do about updates that were not finite. cause: of the first of them, "loss" or "gradient". trained: how
    many updates of the run were finite."""
    if trained:
        return ("Lower optimizer.learning_rate, or start from an earlier checkpoint: "
                f"{trained:,} updates before them were finite.")
    told = "No update of this run was finite, so it is not the learning rate. "
    if ":" not in objective:
        return told + (f"The {cause} itself is not finite: look at nonfinite/logprobs, and compare the model with "
                       "`python -m nft_jax.model.hf --check FOLDER`.")
    if cause == "loss":
        return told + (f"The loss of {objective} itself is not finite: a log, a division or an exp meets a value "
                       "outside its range. nft_jax.token_loss gives it token by token.")
    return told + (f"The loss of {objective} is finite, and its derivative is not. jnp.where(c, f(x), 0) "
                   "differentiates f also where c is false: write f(jnp.where(c, x, 1)) inside it. "
                   "nft_jax.coefficients gives the derivative token by token.")


def write_batches(updates: Updates, skipped: list[int], step: int, folder: Path, writing: Writing) -> list[Path]:
    """Writes `step_NNNNNN_update_MM.npz` for every skipped update (MM counts from 1), and returns the paths.

    A file holds the fields of the TrainBatch, without its unused micro-batches, and the indices of its
    prompts. The folder gets MOST_FILES files at most."""
    paths = []
    for number in skipped:
        path = folder / f"step_{step:06d}_update_{number + 1:02d}.npz"
        if len(list(folder.glob("*.npz"))) + len(paths) < MOST_FILES or path.exists():
            update = updates.made[number]
            save = partial(_save, path, update.batch, [group.prompt.index for group in update.groups])
            writing("nonfinite", path.name, save, most=MOST_FILES)
            paths.append(path)
    return paths


def _save(path: Path, batch: TrainBatch, prompts: list[int]) -> None:
    used = int(batch.num_micro)
    arrays = {name: value[:used] if np.ndim(value) else value
              for name, value in batch._asdict().items() if value is not None}
    path.parent.mkdir(exist_ok=True)
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez(file, prompt_index=np.array(prompts), **arrays)
