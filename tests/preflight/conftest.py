"""A run that is large enough for its arrays to outweigh what every program needs, and small enough to compile."""
import pytest

from nft_jax.config import BatchConfig, Config, DataConfig, MeshConfig, PolicyConfig, RolloutConfig
from nft_jax.model.config import ModelConfig


@pytest.fixture(scope="package")
def model() -> ModelConfig:
    return ModelConfig("qwen3", vocab_size=512, hidden_size=128, intermediate_size=384, num_layers=3, num_heads=8,
                       num_kv_heads=4, head_dim=16, max_positions=512, qk_norm=True)


@pytest.fixture(scope="package")
def planned():
    """`planned(mesh, rows, slots, **policy)`: the configuration of a run of `model`."""
    def make(mesh: MeshConfig, rows: int, slots: int, **policy) -> Config:
        return Config(
            name="planned", policy=PolicyConfig(path="model", **policy), mesh=mesh,
            data=DataConfig(source="questions.jsonl", max_prompt_tokens=64),
            rollout=RolloutConfig(prompts_per_step=16, samples_per_prompt=16, max_new_tokens=448, slots=slots),
            batch=BatchConfig(updates_per_step=4, row_length=512, rows_per_micro_batch=rows))
    return make
