"""What a run will do and need, told before it starts: `--dry-run`."""
from __future__ import annotations

import json

import jax.numpy as jnp

from nft_jax.config import Config
from nft_jax.model.config import ModelConfig
from nft_jax.model.decoder import count_parameters
from nft_jax.rollout.slots import useful_slots
from nft_jax.train.batch import BatchShape


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
    """Bytes over all devices of the large things, by arithmetic from the shapes (not compiled, hence an estimate)."""
    parameters, item = count_parameters(model), jnp.dtype(config.policy.compute_dtype).itemsize
    context = config.data.max_prompt_tokens + config.rollout.max_new_tokens
    rollout = config.rollout
    slots = rollout.slots or useful_slots(rollout.prompts_per_step * rollout.samples_per_prompt)
    entries = slots * context * model.num_layers * model.num_kv_heads * model.head_dim
    tokens = config.batch.rows_per_micro_batch * config.row_length
    width = 4 * model.hidden_size + 3 * model.intermediate_size + 2 * (model.num_heads + model.num_kv_heads) \
        * model.head_dim + model.num_heads * config.row_length
    kept = model.num_layers * model.hidden_size + width if config.policy.remat != "none" else model.num_layers * width
    return [
        ("parameters, float32", 4 * parameters),
        ("Adam's two moments", 8 * parameters),
        ("gradients", 4 * parameters),
        ("parameters for sampling", 0 if item == 4 else item * parameters),
        ("keys and values while sampling", 2 * item * entries),
        ("activations of a micro-batch", item * tokens * kept),
    ]


def describe(config: Config, model: ModelConfig) -> str:
    """The text of `--dry-run`: resolved configuration, parameters, batch arithmetic, memory."""
    memory = memory_estimate(config, model)
    lines = ["configuration", json.dumps(config.to_dict(), indent=2), "",
             f"model: {model.family}, {count_parameters(model):,} parameters", ""]
    lines += [f"{name + ':':32} {text}" for name, text in batch_arithmetic(config)]
    lines += ["", "memory over all devices (estimate)"]
    lines += [f"{name + ':':32} {size / 2**20:12,.1f} MiB" for name, size in memory]
    return "\n".join([*lines, f"{'sum:':32} {sum(size for _, size in memory) / 2**20:12,.1f} MiB"])
