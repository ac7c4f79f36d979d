"""The token losses: what one token of one answer costs, before any reduction.

1. `resolve` completes an `ObjectiveConfig` with the objective's own defaults and refuses settings it does not use.
2. `token_loss` brings the arguments to one shape and type, neutral outside the mask (so no `exp` sees padding), and
   calls the objective.
3. An objective is a pure function of one signature, written to be read beside its paper.
4. `token_weights` is the reduction: the loss of an optimizer batch is sum(weight * token loss), whatever the layout.

Notation: s = reward of the answer, r = group accuracy, R = exp(logprobs - old_logprobs), c = -dloss/dlogprob, the
coefficient on grad log pi in the direction of ascent.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from nft_jax.config import LossAgg, ObjectiveConfig, PromptWeight
from nft_jax.types import InputError

Array = Any
TokenLoss = Callable[..., tuple[Array, dict[str, Array]]]

METRICS = ("ratio", "positive_loss", "negative_loss", "clamped", "saturated", "clipped")
EXTRAS = ("segment_ids", "group_std", "group_ids", "reference_logprobs", "sampler_logprobs", "entropies")
MAX_LOG_RATIO = 10.0        # the ratio stops at exp(10) = 22026, without gradient beyond
ACCURACY_RANGE = (0.02, 0.98)
TIE = 1e-4                  # on-policy x = 1 is a tie with epsilon = 1: rounding of R there is not counted as clamped
STD_FLOOR = 1e-6            # a smaller spread of rewards is rounding of equal rewards: no signal
CHOICES = {"prompt_weight": get_args(PromptWeight), "ratio": ("token", "sequence"), "std_ddof": (0, 1),
           "loss_agg": get_args(LossAgg)}


@dataclass(frozen=True)
class Objective:
    """A token loss and its defaults. `reads` names the fields of `ObjectiveConfig` that may be changed under it
    (`loss_agg` and `constant_length` always may); every other field must keep its default."""
    function: TokenLoss
    reads: tuple[str, ...] = ()
    prompt_weight: PromptWeight | None = None
    neg_weight: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    loss_agg: LossAgg = "token_mean"


# ---- what objectives are made of -------------------------------------------------------------------------------


def prompt_weight(kind: PromptWeight, right: Array, wrong: Array) -> Array:
    """omega(q) from r = `right` and 1 - r = `wrong`, any shape (arXiv 2505.18116; "maxrl" is ours).

    On-policy NFT with 1-r is Dr. GRPO, with sqrt((1-r)/r) GRPO, with (1-r)/r MaxRL."""
    return {"1": jnp.ones_like, "1-r": lambda r: wrong, "sqrt": lambda r: jnp.sqrt(wrong / r),
            "maxrl": lambda r: wrong / r}[kind](right)


def log_ratio(logprobs: Array, old_logprobs: Array) -> Array:
    """min(logprobs - old_logprobs, 10), the gradient whole up to the tie and 0 beyond it. Any shape."""
    difference = logprobs - old_logprobs
    return jnp.where(difference > MAX_LOG_RATIO, MAX_LOG_RATIO, difference)


def segment_sum(values: Array, segment_ids: Array | None) -> Array:
    """[B, T]: at each token, the sum of `values` [B, T] over the tokens of its row with the same id (any integers);
    over the whole row when `segment_ids` is None. Static shapes, O(T log T) per row."""
    if segment_ids is None:
        return jnp.broadcast_to(values.sum(axis=1, keepdims=True), values.shape)

    def row(values_T: Array, ids_T: Array) -> Array:
        slot_T = jnp.searchsorted(jnp.sort(ids_T), ids_T)       # equal ids, equal slot, all below T
        return jax.ops.segment_sum(values_T, slot_T, num_segments=ids_T.shape[0])[slot_T]

    return jax.vmap(row)(values, segment_ids)


def _ratio_and_share(logprobs: Array, old_logprobs: Array, mask: Array, config: ObjectiveConfig,
                     extras: Mapping[str, Array]) -> tuple[Array, Array]:
    """log R [B, T] of the token or of its whole sequence, and the share [B, T] of one loss that the token carries."""
    if config.ratio == "token":
        return log_ratio(logprobs, old_logprobs), jnp.ones_like(logprobs)
    ids = extras.get("segment_ids")
    lengths = segment_sum(mask.astype(logprobs.dtype), ids)
    total = segment_sum(jnp.where(mask, logprobs - old_logprobs, 0), ids)
    return log_ratio(total, jnp.zeros_like(total)), 1 / jnp.maximum(lengths, 1)


def _right_and_wrong(group_accuracy: Array) -> tuple[Array, Array]:
    """r and 1 - r, clipped one by one: 1 - clip(r) would lose digits near r = 0.98."""
    return jnp.clip(group_accuracy, *ACCURACY_RANGE), jnp.clip(1 - group_accuracy, *ACCURACY_RANGE)


# ---- objectives ------------------------------------------------------------------------------------------------


def nft(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Negative-aware Fine-Tuning: likelihood of right answers under pi, of wrong ones under the implicit negative
    policy pi_minus = (pi_old - r pi) / (1 - r). Rewards in [0, 1], fractions included.

    value       omega [pos_weight s (-log R) + neg_weight (1-s) (-log max(x, epsilon))],  x = (1 - r R) / (1 - r),
                log R = min(logp - old, 10),  r clipped to [0.02, 0.98]
    derivative  -omega pos_weight s  +  omega neg_weight (1-s) (r / (1-r)) R / max(x, epsilon),
                the clamp being straight-through: its gradient is kept on both sides and at the tie;
                0 where logp - old > 10
    With ratio "sequence", log R = min(sum of logp - old over the answer, 10); each of the answer's tokens carries
    value / length (their sum is the value) and has the derivative above with the answer's R.

    H. Chen et al., arXiv 2505.18116, Eq. 10 and appendix B (soft rewards); github.com/NVlabs/NFT."""
    log_r, share = _ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    right, wrong = _right_and_wrong(group_accuracy)
    weight = prompt_weight(config.prompt_weight, right, wrong) * share
    odds, ratio = right / wrong, jnp.exp(log_r)
    excess = stop_gradient(odds * jnp.expm1(log_r))                 # 1 - x, with all its digits near R = 1
    x = 1 - excess
    inside = x > config.epsilon
    log_max = jnp.where(inside, jnp.log1p(jnp.where(inside, -excess, 0)), math.log(config.epsilon))
    # Value and gradient are two terms: the literal x + sg(max(x, epsilon) - x) cancels in float32 where x << 0.
    negative = odds * (ratio - stop_gradient(ratio)) / jnp.maximum(x, config.epsilon) - log_max
    positive_loss = weight * (config.pos_weight * rewards * -log_r)
    negative_loss = weight * (config.neg_weight * (1 - rewards) * negative)
    of_negative = rewards < 1
    return positive_loss + negative_loss, {
        "ratio": ratio, "positive_loss": positive_loss, "negative_loss": negative_loss,
        "clamped": of_negative & (x < config.epsilon - TIE), "saturated": of_negative & (right * ratio >= 1)}


def rft(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Rejection-sampling fine-tuning: likelihood of right answers only; NFT with neg_weight 0.

    value       omega pos_weight s (-log R),  log R = min(logp - old, 10) of the token or of the answer
    derivative  -omega pos_weight s;  0 where logp - old > 10

    Yuan et al., arXiv 2308.01825; as the baseline of arXiv 2505.18116 (omega = 1)."""
    log_r, share = _ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    weight = prompt_weight(config.prompt_weight, *_right_and_wrong(group_accuracy)) * share
    loss = weight * (config.pos_weight * rewards * -log_r)
    return loss, {"ratio": jnp.exp(log_r), "positive_loss": loss}


def _clipped_surrogate(logprobs, old_logprobs, advantage, config):
    """PPO's loss -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)); derivative -A R, or 0 where the clip is active
    (A > 0 and R > 1 + clip_high, or A < 0 and R < 1 - clip_low) and where logp - old > 10. The bounds are inside."""
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs))
    low, high = 1 - config.clip_low, 1 + config.clip_high
    clipped = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    loss = -advantage * jnp.where(clipped, jnp.clip(stop_gradient(ratio), low, high), ratio)
    return loss, {"ratio": ratio, "positive_loss": jnp.where(advantage > 0, loss, 0),
                  "negative_loss": jnp.where(advantage < 0, loss, 0), "clipped": clipped}


def grpo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Group Relative Policy Optimization: the clipped surrogate with the advantage in units of the group's std.

    value       -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)),  A = (s - r) / std,  r not clipped
    derivative  -A R;  0 where the clip is active and where logp - old > 10
    std is extras["group_std"], or without it the population std sqrt(r (1-r)) of 0/1 rewards; A = 0 where std < 1e-6.
    Its usual reduction is the mean over sequences of their token means. No KL term.

    Raises InputError: std_ddof 1 without extras["group_std"] (the group's size is not known here).
    Shao et al., DeepSeekMath, arXiv 2402.03300, Eq. 3 (which does not say which std; verl and TRL use std_ddof 1)."""
    std = extras.get("group_std")
    if std is None:
        if config.std_ddof:
            raise InputError("loss.std_ddof is 1 and extras has no 'group_std': the sample standard deviation needs "
                             "the group's size. Pass extras={'group_std': ...} [B] or [B, T], or use std_ddof=0.")
        std = jnp.sqrt(jnp.clip(group_accuracy * (1 - group_accuracy), 0, None))
    centred = rewards - group_accuracy
    advantage = jnp.where(std < STD_FLOOR, 0, centred / jnp.maximum(std, STD_FLOOR))
    return _clipped_surrogate(logprobs, old_logprobs, advantage, config)


def dr_grpo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Dr. GRPO: GRPO without the two biases, division by the std and by the length (loss_agg "constant").

    value       -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)),  A = s - r
    derivative  -A R;  0 where the clip is active and where logp - old > 10

    Liu et al., arXiv 2503.20783."""
    return _clipped_surrogate(logprobs, old_logprobs, rewards - group_accuracy, config)


def dapo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """DAPO: GRPO with the upper clip raised ("clip-higher", 0.28) and one token mean over the whole batch.

    Value, derivative, std and errors are those of `grpo`. Its other two parts are not in the token loss: groups
    without signal are left out (as for every objective), and `overlong_penalty` is added to the rewards.

    Yu et al., arXiv 2503.14476, Eq. 8-13."""
    return grpo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras)


_CLIPPED = ("clip_low", "clip_high", "overlong_buffer")
OBJECTIVES: dict[str, Objective] = {
    "nft": Objective(nft, ("epsilon", "prompt_weight", "pos_weight", "neg_weight", "ratio"),
                     prompt_weight="1-r", neg_weight=1.0),
    "rft": Objective(rft, ("prompt_weight", "pos_weight", "ratio"), prompt_weight="1", neg_weight=0.0),
    "grpo": Objective(grpo, (*_CLIPPED, "std_ddof"), clip_low=0.2, clip_high=0.2, loss_agg="seq_mean_token_mean"),
    "dr_grpo": Objective(dr_grpo, _CLIPPED, clip_low=0.2, clip_high=0.2, loss_agg="constant"),
    "dapo": Objective(dapo, (*_CLIPPED, "std_ddof"), clip_low=0.2, clip_high=0.28),
}


# ---- the public face -------------------------------------------------------------------------------------------


def find_objective(name: str | Objective | TokenLoss) -> Objective:
    """The registry's entry of a name; an `Objective` itself; a bare function as an objective that may read every
    field, with nft's defaults and clips of 0.2. Raises InputError for an unknown name, listing the known ones."""
    if isinstance(name, Objective):
        return name
    if callable(name):
        every = tuple(field.name for field in fields(ObjectiveConfig))
        return Objective(name, every, prompt_weight="1-r", neg_weight=1.0, clip_low=0.2, clip_high=0.2)
    if name not in OBJECTIVES:
        raise InputError(f"objective is {name!r}: there is none of this name. Use one of {', '.join(OBJECTIVES)}, or "
                         "pass a function (logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras) -> "
                         "(loss [B, T], metrics).")
    return OBJECTIVES[name]


def resolve(name: str | Objective | TokenLoss, config: ObjectiveConfig) -> ObjectiveConfig:
    """`config` with each None replaced by the objective's default (None stays where the objective has none).

    Resolving twice changes nothing. Raises InputError: unknown name; a value that is not one of the field's choices;
    a field that the objective does not use and that is not at its default; constant_length without loss_agg
    "constant"."""
    objective = find_objective(name)
    label = name if isinstance(name, str) else getattr(objective.function, "__name__", "this function")
    changes = {}
    for field in fields(ObjectiveConfig):
        key, value = field.name, getattr(config, field.name)
        default = getattr(objective, key, None)
        if key not in (*objective.reads, "loss_agg", "constant_length") and value not in (field.default, default):
            users = [other for other, entry in OBJECTIVES.items() if key in entry.reads]
            why = " (its rewards must stay in [0, 1])" if key == "overlong_buffer" else ""
            raise InputError(f"loss.{key} is {value!r}: {label} does not use it{why}. Leave it at {field.default!r}, "
                             f"or choose an objective that does: {', '.join(users)}.")
        if value is None and default is not None:
            changes[key] = value = default
        if value is not None and key in CHOICES and value not in CHOICES[key]:
            raise InputError(f"loss.{key} is {value!r}: use one of {', '.join(map(repr, CHOICES[key]))}.")
    resolved = replace(config, **changes)
    length, default_length = config.constant_length, ObjectiveConfig().constant_length
    if resolved.loss_agg != "constant" and length != default_length:
        raise InputError(f"loss.constant_length is {length!r}: loss_agg {resolved.loss_agg!r} does not use it. Write "
                         f"loss_agg='constant', or leave it at {default_length!r}.")
    return resolved


def token_loss(name: str | Objective | TokenLoss, logprobs: Array, old_logprobs: Array, mask: Array, rewards: Array,
               group_accuracy: Array, config: ObjectiveConfig | None = None,
               extras: Mapping[str, Array] | None = None) -> tuple[Array, dict[str, Array]]:
    """The loss of every token, before any reduction, and per-token metrics.

    name: a name of `OBJECTIVES`, or a function of the same signature as those (arguments as below, all [B, T],
        config resolved, extras a dict) that returns (loss [B, T], metrics with some of the keys below).
    logprobs, old_logprobs: [B, T], nats, of the tokens under the policy and under the one that sampled them.
    mask: [B, T], nonzero on response tokens (the end-of-sequence token included).
    rewards, group_accuracy: [B], or [B, T] where a row holds several sequences. nft and rft need rewards in [0, 1].
    config: `ObjectiveConfig()` when None; completed by `resolve`.
    extras: "segment_ids" [B, T] int tells the sequences of a row apart (without it a row is one sequence; read by
        ratio "sequence"); "group_std" [B] or [B, T] (grpo, dapo); "group_ids", "reference_logprobs",
        "sampler_logprobs", "entropies" [B] or [B, T] for functions of yours.

    Returns loss [B, T] and metrics, a dict of [B, T] with the keys `METRICS`, both in the promoted type of the
    log-probs and at least float32 (numpy float64 stays float64, also outside jax's x64 mode), exactly 0 outside the
    mask, where the gradient is 0 too; finite for log-probs up to 1e30 in size. Gradients flow to `logprobs` only.
    Metrics: ratio (R); positive_loss and negative_loss, the parts that add up to the loss (for grpo, dr_grpo,
    dapo by the sign of the advantage); clamped (x < epsilon, by more than rounding) and saturated (r R >= 1), 0/1, on
    tokens with s < 1 under nft; clipped, 0/1, where the clip takes the gradient. A metric without a meaning for the
    objective is 0.

    Raises InputError: see `resolve`; shapes that do not fit; unknown keys of extras or metrics.
    Source: arXiv 2505.18116, Eq. 10, and the papers named in the objectives."""
    if _float64_outside_x64(logprobs, old_logprobs):
        with jax.enable_x64(True):
            return token_loss(name, logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras)
    objective, config = find_objective(name), resolve(name, config or ObjectiveConfig())
    logprobs, old_logprobs = jnp.asarray(logprobs), jnp.asarray(old_logprobs)
    if logprobs.ndim != 2:
        raise InputError(f"logprobs has shape {logprobs.shape}: it must be [B, T]; add the missing axis.")
    shape, dtype = logprobs.shape, _loss_dtype(logprobs, old_logprobs)
    mask = _per_token("mask", mask, shape, shapes=(shape,)) != 0

    def prepare(label: str, value: Array, outside: float, shapes=(shape, shape[:1])) -> Array:
        return jnp.where(mask, _per_token(label, value, shape, shapes).astype(dtype), outside)

    extras = dict(extras or {})
    if unknown := [key for key in extras if key not in EXTRAS]:
        raise InputError(f"extras has the key {unknown[0]!r}: use only {', '.join(EXTRAS)}.")
    for key, value in extras.items():
        row_too = () if key == "segment_ids" else (shape[:1],)
        per_token = _per_token(f"extras[{key!r}]", value, shape, (shape, *row_too))
        extras[key] = stop_gradient(prepare(key, per_token, 1.0) if key == "group_std" else per_token)
    loss, found = objective.function(
        prepare("logprobs", logprobs, 0), stop_gradient(prepare("old_logprobs", old_logprobs, 0, (shape,))), mask,
        stop_gradient(prepare("rewards", rewards, 0)), stop_gradient(prepare("group_accuracy", group_accuracy, 0.5)),
        config, extras)
    if loss.shape != shape:
        raise InputError(f"the objective's loss has shape {loss.shape}: return one value per token, {shape}.")
    if unknown := [key for key in found if key not in METRICS]:
        raise InputError(f"the objective's metrics have the key {unknown[0]!r}: use only {', '.join(METRICS)}.")
    metrics = {key: prepare(f"metrics[{key!r}]", stop_gradient(found[key]), 0) if key in found
               else jnp.zeros(shape, dtype) for key in METRICS}
    return jnp.where(mask, loss, 0), metrics


def coefficients(name: str | Objective | TokenLoss, logprobs: Array, old_logprobs: Array, mask: Array, rewards: Array,
                 group_accuracy: Array, config: ObjectiveConfig | None = None,
                 extras: Mapping[str, Array] | None = None) -> Array:
    """c [B, T]: minus the derivative of the summed token loss with respect to `logprobs`, by autodiff, for any
    objective: how hard each token is pushed up (c > 0) or down. Arguments and errors as `token_loss`."""
    if _float64_outside_x64(logprobs, old_logprobs):
        with jax.enable_x64(True):
            return coefficients(name, logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras)
    logprobs = jnp.asarray(logprobs)

    def summed(values: Array) -> Array:
        return token_loss(name, values, old_logprobs, mask, rewards, group_accuracy, config, extras)[0].sum()

    return -jax.grad(summed)(logprobs.astype(_loss_dtype(logprobs, jnp.asarray(old_logprobs))))


def _float64_outside_x64(*values: Array) -> bool:
    """Whether numpy float64 was given while jax would make it float32."""
    return jax.dtypes.canonicalize_dtype(np.float64) != np.float64 and any(
        isinstance(value, np.ndarray) and value.dtype == np.float64 for value in values)


def _loss_dtype(logprobs: Array, old_logprobs: Array):
    return jnp.promote_types(jnp.promote_types(logprobs.dtype, old_logprobs.dtype), jnp.float32)


def _per_token(label: str, value: Array, shape: tuple[int, int], shapes: tuple[tuple[int, ...], ...]) -> Array:
    """`value` [B] or [B, T] as [B, T]; InputError when its shape is not one of `shapes`."""
    value = jnp.asarray(value)
    if value.shape not in shapes:
        raise InputError(f"{label} has shape {value.shape}: with logprobs of shape {shape} it must be "
                         f"{' or '.join(map(str, shapes))}.")
    return jnp.broadcast_to(value[:, None], shape) if value.ndim == 1 else value


# ---- reduction and reward shaping (numpy, on the host) ---------------------------------------------------------


def token_weights(loss_agg: LossAgg, lengths: np.ndarray, constant_length: float = 1000.0) -> np.ndarray:
    """[N] float64: the weight of each response token of sequence i, for which sum(weight * token loss) is the loss.

    lengths: [N] response tokens of all sequences of ONE optimizer batch, over all rows, micro-batches and devices.
    token_mean: 1 / sum(lengths). seq_mean_token_mean: 1 / (N lengths[i]). constant: 1 / constant_length, so the loss
    is the sum over sequences of (sum over tokens) / constant_length (Dr. GRPO, arXiv 2503.20783; NVlabs/NFT).
    Raises InputError for an unknown loss_agg, and for a length below 1."""
    lengths = np.asarray(lengths, np.float64)
    if lengths.size and lengths.min() < 1:
        raise InputError(f"lengths has the value {lengths.min():g}: a sequence without response tokens has no loss; "
                         "leave it out of the batch.")
    if loss_agg == "token_mean":
        return np.full(lengths.shape, 1 / max(lengths.sum(), 1))
    if loss_agg == "seq_mean_token_mean":
        return 1 / (lengths.size * lengths)
    if loss_agg == "constant":
        return np.full(lengths.shape, 1 / constant_length)
    raise InputError(f"loss.loss_agg is {loss_agg!r}: use one of {', '.join(CHOICES['loss_agg'])}.")


def overlong_penalty(lengths: np.ndarray, max_new_tokens: int, buffer: int) -> np.ndarray:
    """[N] float64 in [-1, 0], to be added to the rewards of answers of `lengths` [N] tokens: 0 up to
    max_new_tokens - buffer, then falling linearly to -1 at max_new_tokens. buffer 0 is off: all zeros.

    Only for objectives that accept overlong_buffer (grpo, dr_grpo, dapo): nft and rft need rewards in [0, 1].
    Raises InputError for a buffer outside 0 .. max_new_tokens. Source: DAPO, arXiv 2503.14476, Eq. 13."""
    lengths = np.asarray(lengths, np.float64)
    if not 0 <= buffer <= max_new_tokens:
        raise InputError(f"loss.overlong_buffer is {buffer!r}: the penalty falls over the last tokens before "
                         f"rollout.max_new_tokens = {max_new_tokens}; use 0 (off) to {max_new_tokens}.")
    if buffer == 0:
        return np.zeros(lengths.shape)
    return np.clip((max_new_tokens - buffer - lengths) / buffer, -1.0, 0.0)
