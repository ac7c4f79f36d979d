"""Work and time of a run, by arithmetic. `cost_analysis` of a compiled program counts the body of a loop once, and
nearly all of ours is in loops; so operations are counted from the shapes, and times are estimates and say so."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nft_jax.config import Config
from nft_jax.data.benchmarks import answers_of
from nft_jax.model.config import ModelConfig
from nft_jax.model.decoder import count_parameters
from nft_jax.preflight.devices import Device

# Shares of the makers' peaks that a run reaches. 0.4: model FLOPs utilisation of training, 38 to 43% on 8,192 to 16,384
# H100 (Llama 3, arXiv 2407.21783, table 4). 0.6: memory and links, what decoding is held to (PaLM's latencies, Pope et
# al., arXiv 2211.05102, are of this order).
UTILISATION, BANDWIDTH = 0.4, 0.6


@dataclass(frozen=True)
class Assumptions:
    """What nobody knows before a run."""
    answer_tokens: float              # mean over all answers
    prompt_tokens: float
    accepted_share: float             # of the prompts sampled, those with right and wrong answers

    @classmethod
    def of(cls, config: Config, answer_tokens: int = 0, accepted_share: float = 0.5) -> Assumptions:
        """`answer_tokens` 0: a third of the longest answer allowed (the paper's 7B model: about 1,000 of 3,584)."""
        return cls(answer_tokens or config.rollout.max_new_tokens / 3, min(128, config.data.max_prompt_tokens),
                   accepted_share)


def forward_flops(model: ModelConfig, tokens: float, seen: float) -> float:
    """Operations of a forward pass: 2 for every weight that multiplies and token, and the scores and sums of attention
    over the `seen` tokens that a token sees on average."""
    lookup = 0 if model.tie_embeddings else model.vocab_size * model.hidden_size
    weights = count_parameters(model) - lookup
    return tokens * (2 * weights + 4 * model.num_layers * model.num_heads * model.head_dim * seen)


def flops(config: Config, model: ModelConfig, *, rows: int, slots: int, entries: int,
          prompts: tuple[int, int]) -> dict[str, float]:
    """Operations of one call of each kind of program that multiplies matrices, over all devices: a micro-batch of full
    rows (what rematerialisation computes again included), a block of decode steps with every slot active over the whole
    ring, `prompts` (number, length) prefilled together."""
    row = forward_flops(model, config.row_length, config.row_length / 2)
    again = 0 if config.policy.remat == "none" else 1
    decode = config.rollout.block_size * forward_flops(model, slots, entries)
    return {"score": rows * row, "reference score": rows * row, "train step": (3 + again) * rows * row,
            "decode": decode, "decode, truncated": decode,
            "prefill": forward_flops(model, math.prod(prompts), prompts[1] / 2)}


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step's phases, and of the run."""
    rollout: float
    score: float
    train: float
    evaluation: float                 # of one evaluation
    decode_step: float
    step: float
    device_hours: float


def estimate(config: Config, model: ModelConfig, device: Device, devices: int, assumed: Assumptions, *,
             rows: int, slots: int, weights: float, cache: float, entries: int,
             received: Mapping[str, float]) -> Estimate:
    """`weights`, `cache`: bytes that decoding has on one device, the cache of `entries` a slot, of which a step reads
    the shortest ring that holds the longest of its answers: taken as half. `received`: bytes that each device
    receives in one call of a program, by kind."""
    rollout = config.rollout
    block = received.get("decode", received.get("decode, truncated", 0.0))
    decode_step = max((weights + cache / 2) / (device.bandwidth * BANDWIDTH),
                      forward_flops(model, slots, entries / 2) / (devices * device.flops * UTILISATION)
                      ) + block / rollout.block_size / (device.link * BANDWIDTH)

    def sampling(answers: float, rounds: int) -> float:
        """Full slots, and at the end of every round those that wait for the longest answer."""
        steps = max(answers / slots, 1) * assumed.answer_tokens + rounds * (
            rollout.max_new_tokens - assumed.answer_tokens)
        prompts = answers / rollout.samples_per_prompt * assumed.prompt_tokens
        return steps * decode_step + forward_flops(model, prompts, assumed.prompt_tokens / 2) / (
            devices * device.flops * UTILISATION)

    share = max(assumed.accepted_share, 1 / rollout.max_generation_batches)
    kept = rollout.prompts_per_step * rollout.samples_per_prompt
    length = assumed.prompt_tokens + assumed.answer_tokens
    forward = forward_flops(model, kept * length, length / 2) / (devices * device.flops * UTILISATION)
    micro_batches = math.ceil(kept * length / (rows * config.row_length))
    link = device.link * BANDWIDTH
    passes = (rollout.old_logprobs == "trainer") + bool(config.terms.kl_weight)
    score = passes * max(forward, micro_batches * received.get("score", received.get("reference score", 0.0)) / link)
    train = max(3 * forward, micro_batches * received.get("train step", 0.0) / link)
    sample = sampling(kept / share, 1 if share == 1 else 2)
    step, evaluation, times = sample + score + train, 0.0, 0
    if config.evaluation.source:
        evaluation = sampling(answers_of(config.evaluation), 1)
        times = 2 + (config.steps // config.evaluation.every if config.evaluation.every else 0)
    return Estimate(sample, score, train, evaluation, decode_step, step,
                    (config.steps * step + times * evaluation) * devices / 3600)
