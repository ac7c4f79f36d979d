"""The token losses by name: what one token of one answer costs, before any reduction.

1. `resolve` completes an `ObjectiveConfig` with the objective's own defaults, and refuses settings it does not use.
2. `token_loss` brings the arguments to one shape and type, neutral outside the mask, so that no `exp` sees padding.
   Then it calls the objective.
3. An objective is a pure function of one signature, written to be read beside its paper. The package's are in
   `nft`, `dpo` and `policy_gradient`; yours can be anywhere (`custom`). `ratios` has what they share.
4. `token_weights` is the reduction: the loss of an optimizer batch is sum(weight * token loss),
   whatever the layout.

Notation: s = reward of the answer, r = group accuracy, R = exp(logprobs - old_logprobs),
c = -dloss/dlogprob, the coefficient on grad log pi in the direction of ascent.
"""
import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from nft_jax.config import LossAgg, ObjectiveConfig, PromptWeight, Ratio
from nft_jax.objectives import custom, policy_gradient
from nft_jax.objectives.dpo import dpo
from nft_jax.objectives.nft import naive_contrast, nft, nft_clip, rft
from nft_jax.types import InputError

TokenLoss = Callable[..., tuple[Array, dict[str, Array]]]

METRICS = ("ratio", "positive_loss", "negative_loss", "clamped", "saturated", "clipped")
EXTRAS = ("segment_ids", "group_std", "group_ids", "reference_logprobs", "sampler_logprobs", "entropies")
REDUCTION = ("loss_agg", "constant_length")     # fields that every objective reads, in the reduction of its loss
BATCH = ("std_ddof", "overlong_buffer", "all_wrong")      # that the batch reads for the objectives that use them
CHOICES = {"prompt_weight": get_args(PromptWeight), "ratio": get_args(Ratio), "std_ddof": (0, 1),
           "loss_agg": get_args(LossAgg)}


@dataclass(frozen=True)
class Objective:
    """A token loss and its defaults.

    reads: the fields of `ObjectiveConfig` that may be changed under it. Every other field must keep
        its default, except `constant_length` and `loss_agg`, which may be any of `loss_aggs`.
    whole_groups: the loss of an answer depends on the other answers of its group. The trainer then
        gives the function a whole optimizer batch at once, with extras["group_ids"]. To other
        objectives it gives one micro-batch after another.

    Raises InputError for a name in `reads` that is no field."""
    function: TokenLoss
    reads: tuple[str, ...] = ()
    prompt_weight: PromptWeight | None = None
    neg_weight: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    loss_agg: LossAgg = "token_mean"
    loss_aggs: tuple[LossAgg, ...] = get_args(LossAgg)
    whole_groups: bool = False

    def __post_init__(self):
        known = [field.name for field in fields(ObjectiveConfig)]
        if unknown := [name for name in self.reads if name not in known]:
            raise InputError(f"Objective.reads has {unknown[0]!r}, which is no field of ObjectiveConfig: use some of "
                             f"{', '.join(known)}.")


_LIKELIHOODS = ("epsilon", "prompt_weight", "pos_weight", "neg_weight", "ratio", "all_wrong")
_CLIP = ("clip_low", "clip_high")
_PPO = {"clip_low": 0.2, "clip_high": 0.2}
_PER_ANSWER: LossAgg = "seq_mean_token_mean"
OBJECTIVES: dict[str, Objective] = {
    "nft": Objective(nft, _LIKELIHOODS, prompt_weight="1-r", neg_weight=1.0),
    "rft": Objective(rft, ("prompt_weight", "pos_weight", "ratio"), prompt_weight="1", neg_weight=0.0),
    "grpo": Objective(policy_gradient.grpo, (*_CLIP, *BATCH), **_PPO, loss_agg=_PER_ANSWER),
    "dr_grpo": Objective(policy_gradient.dr_grpo, (*_CLIP, "overlong_buffer", "all_wrong"), **_PPO,
                         loss_agg="constant"),
    "dapo": Objective(policy_gradient.grpo, (*_CLIP, *BATCH), clip_low=0.2, clip_high=0.28),
    "dpo": Objective(dpo, ("beta", "nll_weight"), loss_agg="constant", loss_aggs=("constant", "token_mean"),
                     whole_groups=True),
    "nft_clip": Objective(nft_clip, (*_LIKELIHOODS, *_CLIP), prompt_weight="1-r", neg_weight=1.0,
                          clip_low=0.2, clip_high=0.28),
    "naive_contrast": Objective(naive_contrast, ("prompt_weight", "pos_weight", "neg_weight"), prompt_weight="1",
                                neg_weight=1.0),
    "reinforce": Objective(policy_gradient.reinforce, ("overlong_buffer", "all_wrong")),
    "maxrl": Objective(policy_gradient.maxrl, _CLIP, **_PPO),
    "cispo": Objective(policy_gradient.cispo, (*_CLIP, *BATCH), clip_low=1.0, clip_high=4.0),
    "gspo": Objective(policy_gradient.gspo, (*_CLIP, *BATCH), clip_low=3e-4, clip_high=4e-4, loss_agg=_PER_ANSWER),
    "sapo": Objective(policy_gradient.sapo, ("tau_positive", "tau_negative", *BATCH), loss_agg=_PER_ANSWER),
    "topr": Objective(policy_gradient.topr, ("pos_weight", "neg_weight"), neg_weight=1.0),
    "psr": Objective(policy_gradient.psr, ("clip_high",), **_PPO),
    "nsr": Objective(policy_gradient.nsr, ("clip_low",), **_PPO),
    "w_reinforce": Objective(policy_gradient.w_reinforce, ("psr_weight", *_CLIP), **_PPO),
}


# ---- the public face -------------------------------------------------------------------------------------------


def find_objective(name: str | Objective | TokenLoss) -> Objective:
    """The `Objective` of a name, of a function, or the `Objective` given.

    A name with a colon is looked up by `custom.find`. A bare function may read every field, with
    nft's defaults and clips of 0.2. Raises InputError for an unknown name, listing the known ones."""
    if isinstance(name, Objective):
        return name
    if callable(name):
        every = tuple(field.name for field in fields(ObjectiveConfig))
        return Objective(name, every, prompt_weight="1-r", neg_weight=1.0, clip_low=0.2, clip_high=0.2)
    if ":" in name:
        return find_objective(custom.find(name))
    if name not in OBJECTIVES:
        raise InputError(f"objective is {name!r}: there is none of this name. Use one of {', '.join(OBJECTIVES)}, "
                         "package.module:function or file.py:function, or pass a function (logprobs, old_logprobs, "
                         "mask, rewards, group_accuracy, config, extras) -> (loss [B, T], metrics).")
    return OBJECTIVES[name]


def resolve(name: str | Objective | TokenLoss, config: ObjectiveConfig) -> ObjectiveConfig:
    """`config` with each None replaced by the objective's default (None stays where the objective has none).

    Resolving twice changes nothing. Raises InputError for an unknown name, for a value that is not
    one of the field's choices, for a changed field that the objective does not use, for a loss_agg
    that it does not allow, for constant_length without loss_agg "constant", and for an unknown setting of
    one's own (`custom.settled`)."""
    objective = find_objective(name)
    label = _label(name)
    changes: dict = {"own": custom.settled(objective.function, config.own, label)}
    for field in fields(ObjectiveConfig):
        if field.name == "own":
            continue
        key, value = field.name, getattr(config, field.name)
        default = getattr(objective, key, None)
        if key not in (*objective.reads, *REDUCTION) and value not in (field.default, default):
            users = [other for other, entry in OBJECTIVES.items() if key in entry.reads]
            why = " (its rewards must stay in [0, 1])" if key == "overlong_buffer" else ""
            raise InputError(f"loss.{key} is {value!r}: {label} does not use it{why}. Leave it at {field.default!r}, "
                             f"or choose an objective that does: {', '.join(users)}.")
        if value is None and default is not None:
            changes[key] = value = default
        if value is not None and key in CHOICES and value not in CHOICES[key]:
            raise InputError(f"loss.{key} is {value!r}: use one of {', '.join(map(repr, CHOICES[key]))}.")
    resolved = replace(config, **changes)
    if resolved.loss_agg not in objective.loss_aggs:
        raise InputError(f"loss.loss_agg is {resolved.loss_agg!r}: {label} is one loss for a whole group, "
                         "whose answers cannot be weighted one by one. Use "
                         f"{' or '.join(map(repr, objective.loss_aggs))}.")
    length, default_length = config.constant_length, ObjectiveConfig().constant_length
    if resolved.loss_agg != "constant" and length != default_length:
        raise InputError(f"loss.constant_length is {length!r}: loss_agg {resolved.loss_agg!r} does not use it. Write "
                         f"loss_agg='constant', or leave it at {default_length!r}.")
    return resolved


def _label(name: str | Objective | TokenLoss) -> str:
    """An objective as messages name it."""
    return name if isinstance(name, str) else getattr(custom.function_of(name), "__name__", "this function")


def try_objective(name: str, config: ObjectiveConfig, *, reference: bool) -> None:
    """Calls an objective of one's own on a right and a wrong answer of eight tokens, as training will: a mistake in it
    shows before anything heavy has started. Raises InputError with its place, or where its loss is finite at no token.
    `reference`: the run has a KL term.

    An objective of this package is not called."""
    if ":" not in name:
        return
    right, ones = np.repeat(np.float32([[1], [0]]), 8, axis=1), np.ones((2, 8), np.float32)
    logprobs = -np.linspace(0.1, 3.0, 16, dtype=np.float32).reshape(2, 8)
    extras = {"segment_ids": ones.astype(np.int32), "group_std": ones / 2}
    extras |= {"reference_logprobs": logprobs[:, ::-1]} if reference else {}
    extras |= {"group_ids": ones.astype(np.int32)} if find_objective(name).whole_groups else {"entropies": ones / 2}

    def loss(*arrays):
        return token_loss(name, *arrays[:-1], config, arrays[-1])[0]

    try:
        # Compiled, as in training: what jax cannot trace is a mistake too.
        found = jax.jit(loss)(logprobs, logprobs[::-1], ones, right, ones / 2, extras)
    except InputError:
        raise
    # Whatever a function of the user's raises.
    except Exception as error:
        source = inspect.getsourcefile(custom.function_of(find_objective(name)))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
        where = f" at {source}, line {lines[-1]}" if lines else ""
        raise InputError(f"objective is {name!r}, which fails on arrays [B, T]{where} ({type(error).__name__}: "
                         f"{error}). It gets the extras {', '.join(extras)}. Try it alone: nft_jax.token_loss."
                         ) from error
    if not np.isfinite(found).any():
        raise InputError(f"objective is {name!r}, whose loss is finite at no token of a right and a wrong answer "
                         f"(log-probs from {logprobs.max():.1f} to {logprobs.min():.1f}, group accuracy 0.5): a log, "
                         "a division or an exp meets a value outside its range. nft_jax.token_loss gives it by token.")


def _unpacked(found: object, label: str) -> tuple[Array, Mapping[str, Array]]:
    """What an objective returned. Raises InputError unless it is a loss and a dict of metrics."""
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping):
        return found
    shown = f"an array {found.shape}" if hasattr(found, "shape") else f"a {type(found).__name__}"
    if isinstance(found, tuple):
        shown = f"a tuple of {', '.join(type(each).__name__ for each in found)}"
    raise InputError(f"objective is {label}, which returned {shown}: return (loss [B, T], metrics), with a dict of "
                     "metrics [B, T] by name, {} for none.")


def settings_read(name: str, source: str = "") -> frozenset[str]:
    """The fields of `ObjectiveConfig` that an objective looks at, by its name alone: nothing is imported or run.

    source: of an objective of one's own, the text that its run keeps (objective.py). It may read every field that its
        text names, or any field where it hands `config` on; and the batch reads `BATCH` for it. Without a text, and
        of an objective that this version does not know: every field."""
    every = frozenset(field.name for field in fields(ObjectiveConfig))
    if name in OBJECTIVES:
        return frozenset((*OBJECTIVES[name].reads, *REDUCTION))
    if not source or re.search(r"[(,]\s*config\s*[,)]", re.sub(r"def \w+\([^)]*\)", "", source)):
        return every
    return (every & set(re.findall(r"\w+", source))) | {*REDUCTION, *BATCH}


def token_loss(name: str | Objective | TokenLoss, logprobs: Array, old_logprobs: Array, mask: Array, rewards: Array,
               group_accuracy: Array, config: ObjectiveConfig | None = None,
               extras: Mapping[str, Array] | None = None) -> tuple[Array, dict[str, Array]]:
    """The loss of every token, before any reduction, and per-token metrics.

    name: a name of `OBJECTIVES`, an `Objective`, or a function of the signature that objectives
        have: all arguments [B, T], config resolved, extras a dict, and settings of its own by keyword. It
        returns (loss [B, T], metrics), a dict of [B, T] with some of the keys below and any of its own.
    logprobs, old_logprobs: [B, T], nats, of the tokens under the policy and under the policy that sampled them.
    mask: [B, T], nonzero on response tokens (the end-of-sequence token included).
    rewards, group_accuracy: [B], or [B, T] where a row holds several sequences. Rewards are in
        [0, 1], except that objectives that read overlong_buffer take any.
    config: `ObjectiveConfig()` when None; completed by `resolve`.
    extras: a dict with any of

        segment_ids [B, T] int    tells the sequences of a row apart; without it a row is one sequence
        group_std                 std of the group's rewards, for grpo and its relatives
        group_ids int             equal for the answers of one prompt; dpo needs it, and [B, T] of whole groups
        entropies                 for functions of yours; training gives it unless the objective is of whole_groups
        reference_logprobs        for functions of yours; training gives it with terms.kl_weight
        sampler_logprobs          for functions of yours

        each [B] or [B, T] unless said otherwise.

    Returns the loss [B, T] and a dict of [B, T] with the keys `METRICS` and the function's own. Both have the promoted
    type of the log-probs, at least float32; numpy float64 stays float64, also outside jax's x64
    mode. They are exactly 0 outside the mask, and so is the gradient, which flows to `logprobs`
    only. They are finite for log-probs up to 1e30 in size.

        ratio                          R
        positive_loss, negative_loss   the parts that add up to the loss; of policy gradients by the advantage's sign
        clamped                        0/1, nft, tokens with s < 1: x < epsilon, by more than rounding
        saturated                      0/1, nft, tokens with s < 1: r R >= 1
        clipped                        0/1: the clip takes the gradient (cispo, topr: it bounds the weight)

    A metric without a meaning for the objective is 0. A run records each of the function's own as objective/NAME, the
    mean over the trained tokens.

    Raises InputError for what `resolve` refuses, for shapes that do not fit, for unknown keys of extras, and for a
    function that does not return a loss and a dict.

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
    loss, found = _unpacked(objective.function(
        prepare("logprobs", logprobs, 0), stop_gradient(prepare("old_logprobs", old_logprobs, 0, (shape,))), mask,
        stop_gradient(prepare("rewards", rewards, 0)), stop_gradient(prepare("group_accuracy", group_accuracy, 0.5)),
        config, extras, **config.own), _label(name))
    if loss.shape != shape:
        raise InputError(f"the objective's loss has shape {loss.shape}: return one value per token, {shape}.")
    if unknown := [key for key in found if not isinstance(key, str) or not key]:
        raise InputError(f"the objective's metrics have the key {unknown[0]!r}: name a metric by a text.")
    metrics = {key: prepare(f"metrics[{key!r}]", stop_gradient(found[key]), 0) if key in found
               else jnp.zeros(shape, dtype) for key in (*METRICS, *(key for key in found if key not in METRICS))}
    return jnp.where(mask, loss, 0), metrics


def coefficients(name: str | Objective | TokenLoss, logprobs: Array, old_logprobs: Array, mask: Array, rewards: Array,
                 group_accuracy: Array, config: ObjectiveConfig | None = None,
                 extras: Mapping[str, Array] | None = None) -> Array:
    """c [B, T]: how hard each token is pushed up (c > 0) or down: minus the derivative of the summed token loss by
    `logprobs`, by autodiff. Arguments and errors as `token_loss`."""
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
    """`value` [B] or [B, T] as [B, T]. Raises InputError when its shape is not one of `shapes`."""
    value = jnp.asarray(value)
    if value.shape not in shapes:
        raise InputError(f"{label} has shape {value.shape}: with logprobs of shape {shape} it must be "
                         f"{' or '.join(map(str, shapes))}.")
    return jnp.broadcast_to(value[:, None], shape) if value.ndim == 1 else value


# ---- reduction and reward shaping (numpy, on the host) ---------------------------------------------------------


def token_weights(loss_agg: LossAgg, lengths: np.ndarray, constant_length: float = 1000.0,
                  counted: np.ndarray | None = None) -> np.ndarray:
    """[N] float64: the weight of each response token of sequence i. The loss is the sum of weight * token loss.

    lengths: [N] response tokens of all sequences of ONE optimizer batch, over all rows,
        micro-batches and devices.
    counted: [N] bool, the sequences whose tokens and number the denominators count; None: all.

        token_mean             1 / sum(lengths)
        seq_mean_token_mean    1 / (N lengths[i])
        constant               1 / constant_length (Dr. GRPO, arXiv 2503.20783; github.com/NVlabs/NFT)

    Raises InputError for an unknown loss_agg, and for a length below 1."""
    lengths = np.asarray(lengths, np.float64)
    if lengths.size and lengths.min() < 1:
        raise InputError(f"lengths has the value {lengths.min():g}: a sequence without response tokens has no loss; "
                         "leave it out of the batch.")
    among = lengths if counted is None else lengths[counted]
    if loss_agg == "token_mean":
        return np.full(lengths.shape, 1 / max(among.sum(), 1))
    if loss_agg == "seq_mean_token_mean":
        return 1 / (max(among.size, 1) * lengths)
    if loss_agg == "constant":
        return np.full(lengths.shape, 1 / constant_length)
    raise InputError(f"loss.loss_agg is {loss_agg!r}: use one of {', '.join(CHOICES['loss_agg'])}.")


def overlong_penalty(lengths: np.ndarray, max_new_tokens: int, buffer: int) -> np.ndarray:
    """[N] float64 in [-1, 0], to be added to the rewards of answers of `lengths` [N] tokens.

    It is 0 up to max_new_tokens - buffer tokens, then falls linearly to -1 at max_new_tokens.
    buffer 0 is off: all zeros. Only for objectives that read overlong_buffer (policy gradients):
    likelihoods need rewards in [0, 1]. Raises InputError for a buffer outside 0 .. max_new_tokens.

    DAPO, arXiv 2503.14476, Eq. 13."""
    lengths = np.asarray(lengths, np.float64)
    if not 0 <= buffer <= max_new_tokens:
        raise InputError(f"loss.overlong_buffer is {buffer!r}: the penalty falls over the last tokens before "
                         f"rollout.max_new_tokens = {max_new_tokens}; use 0 (off) to {max_new_tokens}.")
    if buffer == 0:
        return np.zeros(lengths.shape)
    return np.clip((max_new_tokens - buffer - lengths) / buffer, -1.0, 0.0)
