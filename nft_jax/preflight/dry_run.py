"""What a run will do and need, told before it starts: `--dry-run`. Arithmetic alone; no device is asked."""
import json
from collections.abc import Sequence
from dataclasses import replace

import jax

from nft_jax.config import Config, MeshConfig
from nft_jax.model.adapter import adapter_shapes, projections_of
from nft_jax.model.config import ModelConfig
from nft_jax.model.decoder import count_parameters, told_parameters
from nft_jax.preflight.memory import analytic
from nft_jax.rollout.slots import position_lines, useful_slots
from nft_jax.runtime.devices import GiB
from nft_jax.train.batch import shapes_of
from nft_jax.train.plan import make_plan

# Memory of a process whose devices are CPUs, beside and as a multiple of the large things. Measured: the embedded model
# (0.1 GiB of large things) took 0.55 GiB, a model of 52M parameters (1.54 GiB) 2.61 GiB, and Gemma 3 270M (6.2 GiB)
# 8.7 GiB.
BASE, COPIES = 0.5 * GiB, 1.3
# The best learning rate of adapters, as a multiple of full training's: 10 over many models, data sets and ranks
# (https://thinkingmachines.ai/blog/lora; TRL's documentation repeats its experiments).
RATES = 10.0


def batch_arithmetic(config: Config) -> list[tuple[str, str]]:
    """How prompts become answers, rows and optimizer steps, in global numbers."""
    rollout, batch = config.rollout, config.batch
    answers = rollout.prompts_per_step * rollout.samples_per_prompt
    groups, shape = config.groups_per_update, shapes_of(config)[-1]
    most, source = "", ("prompts sampled per step", f"at most {rollout.max_generation_batches} x "
                        f"{rollout.prompts_per_step}, until {rollout.prompts_per_step} have right and wrong answers")
    if rollout.answers:
        most, source = "at most ", ("groups read per step", f"{rollout.prompts_per_step} of those in {rollout.answers} "
                                    "with unequal rewards; an epoch's length is told at the start")
    return [
        ("answers trained on per step", f"{most}{rollout.prompts_per_step} prompts x {rollout.samples_per_prompt} "
                                        f"answers = {answers}"),
        source,
        ("updates per step", f"{batch.updates_per_step} of at most {groups} prompts = "
                                     f"{groups * rollout.samples_per_prompt} answers each"),
        ("updates in all", f"{config.steps} x {batch.updates_per_step} = "
                                   f"{config.steps * batch.updates_per_step:,}"),
        ("packed rows per update", f"at most {shape.micro_batches * shape.rows} of {shape.row_length} tokens, "
                                           f"{shape.rows} in a micro-batch"),
    ]


def memory_estimate(config: Config, model: ModelConfig) -> list[tuple[str, float]]:
    """Bytes of the large things, as if the whole run were on one device: name -> bytes. Raises InputError as
    `make_plan`."""
    policy, rollout = config.policy, config.rollout
    # The kernel of the accelerator that the run is for, whatever this machine has.
    attention = "xla" if policy.attention == "xla" or policy.compute_dtype == "float32" else "cudnn"
    one_device = replace(config, mesh=MeshConfig(data=1), policy=replace(policy, attention="xla"))
    plan = make_plan(one_device, model, jax.devices("cpu")[:1],
                     slots=useful_slots(rollout.prompts_per_step * rollout.samples_per_prompt))
    memory = analytic(plan, plan.sampler(), attention)
    gradients, adapter = 2 * memory.parameters, config.adapter
    trained = "adapters" if adapter.rank else "parameters"
    average = memory.parameters if rollout.ema else 0
    lines = [(f"{trained}, float32", memory.parameters), ("the optimizer's moments", memory.moments - average)]
    if average:
        lines.append(("their average, which samples (rollout.ema)", average))
    if adapter.rank:
        stored = "int8" if adapter.base_dtype == "int8" else policy.compute_dtype
        lines.insert(0, (f"the frozen model under the adapters, {stored}", memory.base))
    if memory.reference:
        lines.append(("the reference of the KL term", memory.reference))
    return [
        *lines,
        ("gradients, of the step and of a micro-batch", gradients),
        ("activations of a micro-batch", memory.temporaries["train step"].at(plan.longest.rows) - gradients),
        ("weights for sampling", memory.weights),
        (f"{'memories, keys' if memory.memories else 'keys'} and values of {plan.config.rollout.slots} slots",
         memory.cache),
    ]


def process_peak(parts: Sequence[tuple[str, float]]) -> float:
    """Bytes that the process takes at its peak on CPUs, of what `memory_estimate` counts: Python, compiled programs
    and copies come to it."""
    return BASE + COPIES * sum(size for _, size in parts)


def adapter_lines(config: Config, model: ModelConfig) -> list[str]:
    """What is trained in a run with adapters, and the learning rate that suits them."""
    adapter, rate = config.adapter, config.optimizer.learning_rate
    if not adapter.rank:
        return []
    trained = sum(leaf.size for leaf in jax.tree.leaves(adapter_shapes(model, adapter)))
    begun = f"; they go on from {adapter.path}" if adapter.path else ""
    return [
        f"adapters: rank {adapter.rank} on {', '.join(projections_of(model, adapter))}, scale {adapter.scale:g}: "
        f"{trained:,} trained parameters, {trained / count_parameters(model):.2%} of the model's{begun}",
        f"optimizer.learning_rate is {rate:g}. The presets' rates are for full training, and adapters learn best at "
        f"about {RATES:g} times that (Schulman et al., LoRA Without Regret, Thinking Machines Lab, 2025). If this is a "
        f"preset's rate, use --optimizer.learning-rate {RATES * rate:g}", ""]


def describe(config: Config, model: ModelConfig) -> str:
    """The text of `--dry-run` for a settled configuration: the configuration, parameters, batch arithmetic, memory."""
    memory = memory_estimate(config, model)
    lines = ["configuration", json.dumps(config.to_dict(), indent=2), "",
             f"model: {model.family}, {told_parameters(model)}",
             *position_lines(model.for_lengths(config.longest_sequence)), "", *adapter_lines(config, model)]
    lines += [f"{name + ':':32} {text}" for name, text in batch_arithmetic(config)]
    total = sum(size for _, size in memory)
    lines += ["", "memory over all devices (estimate)"]
    lines += [f"{name + ':':46} {size / 2**20:12,.1f} MiB" for name, size in [
        *memory, ("total", total), ("peak of the process, where it runs on CPUs", process_peak(memory))]]
    return "\n".join(lines)
