"""A supervised warm-up of the embedded model on a task that it has not seen."""
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import optax

from nft_jax.data.prompts import render
from nft_jax.model.logprobs import token_logprobs
from nft_jax.policy import Policy
from nft_jax.train.batch import BatchShape, Example, make_batch


def warm_up(policy: Policy, pairs: Callable[[int], Iterator[tuple[str, str]]], updates: int, *, rate: float,
            examples: int = 96, rows: int = 32, row_length: int = 96,
            log: Callable[[dict], None] = print) -> Policy:
    """The policy after supervised training on (problem, response) pairs.

    pairs: update -> the stream that this update takes its examples from.
    rate: AdamW's peak learning rate; it decays by a cosine to a tenth.
    log: takes a row with the mean loss of every 50 updates.
    """
    end = policy.tokenizer.decode([policy.eos[0]])
    schedule = optax.warmup_cosine_decay_schedule(rate / 10, rate, updates // 10, updates, rate / 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.1))

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, batch):
        def loss(params):
            values, _ = token_logprobs(params, policy.config, batch.tokens[0], batch.positions[0],
                                       batch.segment_ids[0])
            return -(values * batch.weight[0]).sum()
        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    def example(problem: str, response: str) -> Example:
        prompt, answer = (np.asarray(policy.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
                          for text in (render(policy.tokenizer, problem), response + end))
        return Example(prompt, answer)

    params, losses = jax.tree.map(lambda leaf: jax.numpy.array(leaf), policy.params), []
    state = optimizer.init(params)
    for index in range(updates):
        stream = pairs(index)
        chosen = [example(*next(stream)) for _ in range(examples)]
        batch, _ = make_batch(chosen, BatchShape(1, rows, row_length), "token_mean")
        params, state, loss = update(params, state, batch)
        losses.append(loss)
        if (index + 1) % 50 == 0:
            log({"update": index + 1, "of": updates, "loss": round(float(np.mean(jax.device_get(losses[-50:]))), 4)})
    return replace(policy, params=params)
