"""Work and time of a run, by arithmetic from the shapes: XLA's `cost_analysis` counts the body of a loop once, and
nearly all our work is in loops."""
import math
from collections.abc import Mapping
from dataclasses import dataclass

from nft_jax.config import Config
from nft_jax.data.benchmarks import answers_of
from nft_jax.model.flops import forward_flops, train_flops
from nft_jax.preflight.memory import Model
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.devices import Device
from nft_jax.train.plan import Plan
from nft_jax.train.programs import FORWARD

# Shares of the makers' peaks that a run reaches. Compute and memory: what we measured on one H100, the middle of two
# models of 0.5B and 1.5B (experiments/benchmark/README.md). An update reached 0.356 and 0.468 of the 812 TFLOP/s that
# large products reach there, of a peak of 989. A rollout reached 0.268 and 0.383 of the 2,938 GB/s that copies reach,
# of a peak of 3,350. Other devices are taken to be alike.
UTILISATION = 0.34
BANDWIDTH = 0.28
# Links between devices, not measured by us. The latencies of PaLM (Pope et al., arXiv 2211.05102) are of this order.
LINKS = 0.6


@dataclass(frozen=True)
class Assumptions:
    """What nobody knows before a run."""
    answer_tokens: float              # mean over all answers
    prompt_tokens: float
    accepted_share: float             # of the prompts sampled, the share with right and wrong answers

    @classmethod
    def of(cls, config: Config, answer_tokens: int = 0, accepted_share: float = 0.5) -> "Assumptions":
        """`answer_tokens` 0: a third of the longest answer allowed (the paper's 7B model: about 1,000 of 3,584)."""
        return cls(answer_tokens or config.rollout.max_new_tokens / 3, min(128, config.data.max_prompt_tokens),
                   accepted_share)


def flops(plan: Plan, sampler: Sampler) -> dict[str, float]:
    """Operations of one call of each kind of program that multiplies matrices, over all devices. A micro-batch
    has full rows; decoding is a block of steps with every slot active over the whole ring."""
    config, model, rows = plan.config, plan.model, plan.longest.rows
    sizes = config.row_length, config.row_length / 2
    row, again = forward_flops(model, *sizes), 0 if config.policy.remat == "none" else 1
    decode = config.rollout.block_size * forward_flops(model, sampler.slots, sampler.buckets[-1])
    return {**dict.fromkeys(FORWARD, rows * row),
            "train step": rows * (train_flops(model, *sizes, plan.adapter_parameters) + again * row),
            "decode": decode, "decode, truncated": decode,
            **{kind: forward_flops(model, count * sizes[-1], sizes[-1] / 2)
               for kind, (count, sizes) in sampler.prefilled.items()}}


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


def estimate(plan: Plan, sampler: Sampler, memory: Model, device: Device, assumed: Assumptions,
             received: Mapping[str, float]) -> Estimate:
    """Times of a plan on devices of this kind. received: bytes that each device receives in one call of a
    program, by kind (0 where it is missing)."""
    config, model, slots, devices = plan.config, plan.model, sampler.slots, plan.mesh.size
    rollout = config.rollout
    compute, link = devices * device.flops * UTILISATION, device.link * LINKS
    # A step reads the shortest ring that holds its longest answer: half of the longest, on average. It reads and
    # writes the memories of delta nets.
    ring = (memory.cache - memory.memories) / 2
    reads = (memory.weights + ring + 2 * memory.memories) / (device.bandwidth * BANDWIDTH)
    multiplies = forward_flops(model, slots, sampler.buckets[-1] / 2) / compute
    block = received.get("decode", received.get("decode, truncated", 0.0))
    decode_step = max(reads, multiplies) + block / rollout.block_size / link

    def sampling(answers: float, rounds: int) -> float:
        """Seconds with full slots, and at the end of each round with slots that wait for the longest answer."""
        steps = max(answers / slots, 1) * assumed.answer_tokens + rounds * (
            rollout.max_new_tokens - assumed.answer_tokens)
        prompts = answers / rollout.samples_per_prompt * assumed.prompt_tokens
        return steps * decode_step + forward_flops(model, prompts, assumed.prompt_tokens / 2) / compute

    share = max(assumed.accepted_share, 1 / rollout.max_generation_batches)
    kept = rollout.prompts_per_step * rollout.samples_per_prompt
    length = assumed.prompt_tokens + assumed.answer_tokens
    forward = forward_flops(model, kept * length, length / 2) / compute
    micro_batches = math.ceil(kept * length / (plan.longest.rows * config.row_length))
    passes = config.scores + bool(config.terms.kl_weight)
    score = passes * max(forward, micro_batches * received.get("score", received.get("reference score", 0.0)) / link)
    train = max(train_flops(model, kept * length, length / 2, plan.adapter_parameters) / compute,
                micro_batches * received.get("train step", 0.0) / link)
    sample = 0.0 if rollout.answers else sampling(kept / share, 1 if share == 1 else 2)
    step, evaluation, evaluations = sample + score + train, 0.0, 0
    if config.evaluation.source:
        evaluation = sampling(answers_of(config.evaluation), 1)
        evaluations = 2 + (config.steps // config.evaluation.every if config.evaluation.every else 0)
    return Estimate(sample, score, train, evaluation, decode_step, step,
                    (config.steps * step + evaluations * evaluation) * devices / 3600)
