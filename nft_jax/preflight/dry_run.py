"""What a run will do and need, told before it starts: `--dry-run`."""
from __future__ import annotations

import json
from dataclasses import replace

import jax

from nft_jax.config import Config, MeshConfig
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.decoder import count_parameters
from nft_jax.preflight.memory import analytic
from nft_jax.rollout.slots import useful_slots
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.batch import BatchShape, shapes_of
from nft_jax.train.programs import programs_of, sampler_of


def batch_arithmetic(config: Config) -> list[tuple[str, str]]:
    """How prompts become answers, rows and optimizer steps, in global numbers."""
    rollout, batch = config.rollout, config.batch
    answers = rollout.prompts_per_step * rollout.samples_per_prompt
    groups, shape = config.groups_per_update, BatchShape.of(config)
    return [
        ("answers trained on per step", f"{rollout.prompts_per_step} prompts x {rollout.samples_per_prompt} answers = "
                                        f"{answers}"),
        ("prompts sampled per step", f"at most {rollout.max_generation_batches} x {rollout.prompts_per_step}, until "
                                     f"{rollout.prompts_per_step} have right and wrong answers"),
        ("optimizer steps per step", f"{batch.updates_per_step} of at most {groups} prompts = "
                                     f"{groups * rollout.samples_per_prompt} answers each"),
        ("optimizer steps in all", f"{config.steps} x {batch.updates_per_step} = "
                                   f"{config.steps * batch.updates_per_step:,}"),
        ("packed rows per optimizer step", f"at most {shape.micro_batches * shape.rows} of {shape.row_length} tokens, "
                                           f"{shape.rows} in a micro-batch"),
    ]


def memory_estimate(config: Config, model: ModelConfig) -> list[tuple[str, float]]:
    """Bytes over all devices of the large things: the memory model of preflight, as if all were one device."""
    rollout = config.rollout
    slots = rollout.slots or useful_slots(rollout.prompts_per_step * rollout.samples_per_prompt)
    config = replace(config, mesh=MeshConfig(data=1), rollout=replace(rollout, slots=slots))
    mesh = make_mesh(config.mesh, jax.devices("cpu")[:1])
    policy = config.policy
    compute = Compute(policy.compute_dtype, policy.remat, "xla", mesh)
    sampler = sampler_of(config, model, mesh, compute)
    memory = analytic(config, model, mesh, sampler,
                      programs_of(config, model, mesh, compute, sampler, shapes_of(config)),
                      attention="xla" if policy.attention == "xla" or policy.compute_dtype == "float32" else "cudnn")
    gradients = 2 * memory.parameters
    return [
        ("parameters, float32", memory.parameters),
        ("the optimizer's moments", memory.moments),
        *[("the reference of the KL term", memory.reference)] * (memory.reference > 0),
        ("gradients, of the step and of a micro-batch", gradients),
        ("activations of a micro-batch", memory.temporaries["train step"].at(BatchShape.of(config).rows) - gradients),
        ("weights for sampling", memory.weights),
        (f"keys and values of {slots} slots", memory.cache),
    ]


def describe(config: Config, model: ModelConfig) -> str:
    """The text of `--dry-run`: resolved configuration, parameters, batch arithmetic, memory."""
    memory = memory_estimate(config, model)
    lines = ["configuration", json.dumps(config.to_dict(), indent=2), "",
             f"model: {model.family}, {count_parameters(model):,} parameters", ""]
    lines += [f"{name + ':':32} {text}" for name, text in batch_arithmetic(config)]
    lines += ["", "memory over all devices (estimate)"]
    lines += [f"{name + ':':46} {size / 2**20:12,.1f} MiB" for name, size in memory]
    return "\n".join(lines)
