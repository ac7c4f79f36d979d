"""One answer of a replayed step, token by token."""
from dataclasses import dataclass

import numpy as np

# What an objective did to a token: fields of `Answer`, metrics of `token_loss`.
FLAGS = ("clamped", "saturated", "clipped")


@dataclass(frozen=True)
class Answer:
    """One answer under the objective. Arrays are [n], a value for each token."""
    update: int                       # which of the step's updates has this answer, from 0
    prompt_index: int
    sample: int
    reward: float                     # with DAPO's overlong penalty where the objective has one
    group_accuracy: float
    finish_reason: str
    ids: np.ndarray
    tokens: tuple[str, ...]           # text of each token; its id where there is no tokenizer
    old_logprobs: np.ndarray
    logprobs: np.ndarray
    entropies: np.ndarray             # nats, of the policy, or of the sampler without one
    ratio: np.ndarray                 # R = exp(logprobs - old_logprobs) of the token, also if the loss takes another
    x: np.ndarray                     # (1 - r R) / (1 - r) = pi_minus / pi_old, before the clamp; below 0 it is none
    weight: np.ndarray                # the loss of an update is the sum of weight * loss
    loss: np.ndarray
    coefficient: np.ndarray           # -dloss/dlogprob: how hard the token is pushed up (> 0) or down
    clamped: np.ndarray
    saturated: np.ndarray
    clipped: np.ndarray
