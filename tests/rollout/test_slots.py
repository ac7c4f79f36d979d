"""Slots from free memory."""
import jax
import jax.numpy as jnp
import pytest

from nft_jax.config import Config, DataConfig, MeshConfig, RolloutConfig
from nft_jax.model.decoder import count_parameters
from nft_jax.rollout.cache import empty_state
from nft_jax.rollout.slots import (
    AROUND,
    MOST,
    automatic_slots,
    free_bytes,
    policy_bytes,
    prefilled_bytes,
    settle_slots,
    slot_bytes,
    useful_slots,
)
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import InputError

GIB = 2**30


def test_a_quarter_of_the_answers_where_memory_allows():
    assert [useful_slots(n) for n in (1, 20, 32, 100, 1024, 10**6)] == [1, 20, 32, 32, 256, MOST]
    assert automatic_slots(100 * GIB, 1, 1024) == 256
    assert automatic_slots(100 * GIB, 1, 1000, data_parallel=8) == 256        # 250, to a multiple of the devices
    assert automatic_slots(GIB, GIB // 100, 1024) == 90                       # a tenth of the memory is left alone
    assert automatic_slots(GIB, GIB // 100, 1024, data_parallel=2) == 180
    assert automatic_slots(GIB, GIB // 2, 1024, data_parallel=4) == 4
    for free in (0, -GIB, GIB):
        with pytest.raises(InputError, match=r"rollout.slots is 0 .*MiB left.*lower rollout.max_new_tokens"):
            automatic_slots(free, 2 * GIB, 1024)


@pytest.mark.parametrize(("kv_dtype", "dtype"), [("compute", "float32"), ("compute", "bfloat16"), ("int8", "bfloat16")])
def test_bytes_of_a_slot_are_those_of_its_cache_and_logits(tiny_model, kv_dtype, dtype):
    state = jax.eval_shape(lambda: empty_state(tiny_model, 1, 512, jnp.dtype(dtype), kv_dtype == "int8"))
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.cache))
    found = slot_bytes(tiny_model, 512, dtype, kv_dtype)
    assert AROUND * cache <= found <= AROUND * cache + 32 * 4 * 4 + 512 * 16 + 1
    assert slot_bytes(tiny_model, 512, dtype, kv_dtype, tensor=2) < found
    assert slot_bytes(tiny_model, 512, dtype, kv_dtype, tensor=4) == found    # undivided heads stay whole


def test_settled_where_it_is_automatic(tiny_model):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    config = Config(data=DataConfig(max_prompt_tokens=24),
                    rollout=RolloutConfig(max_new_tokens=40, prompts_per_step=64, samples_per_prompt=16))
    assert settle_slots(config, tiny_model, mesh).rollout.slots == 256
    one = slot_bytes(tiny_model, 64, "float32", tensor=2)
    stored, weights = policy_bytes(tiny_model, mesh, "float32")
    assert stored < count_parameters(tiny_model) * 4 / 2 and weights == count_parameters(tiny_model) * 4 // 2
    prompts = prefilled_bytes(tiny_model, 24, 256 + 4, "float32", tensor=2)
    assert prompts == 16 * 2 * tiny_model.num_layers * tiny_model.num_kv_heads * tiny_model.head_dim * 4 * 24 // 2
    tight = settle_slots(config, tiny_model, mesh, free=3 * stored + weights + prompts + 12 * one)
    assert tight.rollout.slots == 10 * 4
    given = Config(rollout=RolloutConfig(slots=7))
    assert settle_slots(given, tiny_model, mesh, free=0) is given
    assert free_bytes(mesh) > 0
