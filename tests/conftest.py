"""Eight virtual CPU devices for every test, set before jax is imported; small models made from nothing."""
import importlib.metadata
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "XLA_FLAGS" not in os.environ:
    # Compiling is most of the suite's time, and tests run each program once or twice.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # The older code generator compiles a train step in a third of the time. Later versions lack it, and XLA
        # stops at a flag that it does not know.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):      # or training would write to the user's cache
    _compiled = tempfile.TemporaryDirectory(prefix="nft_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
# Reading a program takes a sixth of the time of compiling it. The two processes and those that tests start share them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig

# Nothing is timed: a busy machine is slow, not wrong.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config):
    """Files go to the processes by name, so whole runs (e2e) come first and the verifier's small tests last. xdist
    would begin with the files of many tests: at the end, one process would wait for the other's long run."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with real questions and tokenizers, named by NFT_TEST_DATA."""
    folder = os.environ.get("NFT_TEST_DATA")
    if not folder:
        pytest.skip("NFT_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Of a command that a test starts: one device, and the compiled programs of the session."""
    return os.environ | {"JAX_NUM_CPU_DEVICES": "1"}


@pytest.fixture(scope="session")
def tiny_model() -> ModelConfig:
    """Two layers, sizes that divide by 1, 2, 4 and 8 where a mesh would split them."""
    return ModelConfig("qwen3", vocab_size=32, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=4,
                       num_kv_heads=2, head_dim=8, max_positions=64, tie_embeddings=True, qk_norm=True,
                       initializer_range=0.3)


@pytest.fixture(scope="session")
def tiny_params(tiny_model):
    return decoder.init(tiny_model, jax.random.key(0))


class NumberTokenizer:
    """Decodes ids to their decimal numbers: enough of a tokenizer for the sampler."""

    def batch_decode(self, sequences, **_):
        return [" ".join(map(str, sequence)) for sequence in sequences]

    def get_added_vocab(self):
        return {}


@pytest.fixture(scope="session")
def number_tokenizer():
    return NumberTokenizer()


@pytest.fixture(scope="session")
def small_run():
    """`small_run(workdir, **changes)`: a run of the embedded model that takes seconds."""
    from nft_jax.config import (
        BatchConfig,
        CheckpointConfig,
        Config,
        DataConfig,
        EvaluationConfig,
        OptimizerConfig,
        RolloutConfig,
    )

    def make(workdir, **changes) -> Config:
        return Config(**{
            "workdir": str(workdir), "steps": 2,
            "data": DataConfig(source="arithmetic", max_prompt_tokens=24, limit=200),
            "rollout": RolloutConfig(prompts_per_step=8, samples_per_prompt=4, max_new_tokens=32, slots=16,
                                     block_size=8),
            "batch": BatchConfig(updates_per_step=2, row_length=64, rows_per_micro_batch=8),
            "optimizer": OptimizerConfig(learning_rate=1e-4, warmup_updates=4),
            "evaluation": EvaluationConfig(questions=4, samples=2, every=1),
            "checkpoint": CheckpointConfig(every=1, keep=2), **changes})

    return make
