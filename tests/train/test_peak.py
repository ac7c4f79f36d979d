"""What the compiled train step needs, read from the compiler."""
import dataclasses

import jax
import pytest

from nft_jax.config import BatchConfig, Config, DataConfig, RolloutConfig
from nft_jax.model.config import ModelConfig
from nft_jax.runtime.compilation import largest
from nft_jax.train.plan import make_plan
from nft_jax.train.programs import training_programs

HALF = ModelConfig("qwen2", 151_936, 896, 4_864, 24, 14, 2, 64, 32_768, rope_theta=1e6, tie_embeddings=True,
                   qkv_bias=True)      # Qwen2.5-0.5B


def peak(model, answers, rows, length):
    """Bytes of an optimizer step on so many answers of at most `length` tokens, and those of its arguments."""
    config = Config(
        data=DataConfig(max_prompt_tokens=length // 4),
        rollout=RolloutConfig(prompts_per_step=1, samples_per_prompt=answers, max_new_tokens=length * 3 // 4),
        batch=BatchConfig(updates_per_step=1, row_length=length, rows_per_micro_batch=rows))
    step = largest(training_programs(make_plan(config, model, jax.devices()[:1])))["train step"]
    sizes = step.function.lower(*step.arguments).compile().memory_analysis()
    return (sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            + sizes.temp_size_in_bytes, sizes.argument_size_in_bytes)


def test_one_micro_batch_keeps_one_gradient_and_the_state_is_updated_in_place(tiny_model):
    """Where the parameters dwarf the activations, the step needs them, the two moments and one gradient."""
    model = dataclasses.replace(tiny_model, hidden_size=64, intermediate_size=4096, num_layers=4)
    whole, arguments = peak(model, 2, 2, 16)
    several, _ = peak(model, 2, 1, 16)
    assert whole < 5 * arguments / 3 < several


@pytest.mark.slow
def test_half_a_billion_parameters_train_in_ten_gigabytes():
    """Float32 on CPU: 8 GB are parameters, moments and the gradient."""
    assert peak(HALF, 8, 8, 160)[0] <= 10e9
