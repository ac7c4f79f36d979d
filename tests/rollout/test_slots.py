"""What answers take in memory, and how many slots fit."""
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from nft_jax.config import MeshConfig, RolloutConfig
from nft_jax.model.decoder import count_parameters
from nft_jax.rollout.cache import empty_state
from nft_jax.rollout.slots import (
    AROUND,
    MOST,
    free_bytes,
    parameter_bytes,
    prefilled_bytes,
    require_positions,
    slot_bytes,
    slots_that_fit,
    useful_slots,
    weight_bytes,
)
from nft_jax.runtime.mesh import make_mesh
from refusal import refused

GIB = 2**30
DECODING = RolloutConfig(max_new_tokens=40, slots=0)


@pytest.fixture
def meshes():
    """`meshes(tensor)`: two devices or more, of which `tensor` share the heads."""
    return lambda tensor: make_mesh(MeshConfig(data=2, tensor=tensor), jax.devices()[:2 * tensor])


def test_a_quarter_of_the_answers_where_memory_allows(tiny_model, meshes):
    assert [useful_slots(n) for n in (1, 20, 32, 100, 1024, 10**6)] == [1, 20, 32, 32, 256, MOST]
    fit = partial(slots_that_fit, tiny_model, meshes(1), DECODING, max_prompt_tokens=24, dtype="float32", taken=0)
    assert fit(1024, free=100 * GIB) == 256
    assert fit(1001, free=100 * GIB) == 252                   # 251, to a multiple of the two devices
    for free in (0, -GIB, 1000):
        with refused("rollout.slots", 0, "rollout.max_new_tokens", "0 MiB"):
            fit(1024, free=free)


@pytest.mark.parametrize(("kv_dtype", "dtype"), [("compute", "float32"), ("compute", "bfloat16"), ("int8", "bfloat16")])
def test_bytes_of_a_slot_are_those_of_its_cache_and_logits(tiny_model, meshes, kv_dtype, dtype):
    state = jax.eval_shape(lambda: empty_state(tiny_model, 1, 512, jnp.dtype(dtype), kv_dtype == "int8"))
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.cache))
    one, two, four = (slot_bytes(tiny_model, meshes(tensor), 512, dtype, kv_dtype) for tensor in (1, 2, 4))
    assert AROUND * cache <= one <= AROUND * cache + 32 * 4 * 4 + 512 * 16 + 1
    assert two < one and four == one                      # two heads: divided over two devices, whole on four


def test_what_is_left_beside_a_run_is_filled_with_slots(tiny_model):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    sizes = tiny_model, mesh, DECODING, 64 * 16, 24, "float32"
    assert free_bytes(mesh) > 0 and slots_that_fit(*sizes) == 256
    one, stored = slot_bytes(tiny_model, mesh, 64, "float32"), parameter_bytes(tiny_model, mesh)
    weights = weight_bytes(tiny_model, mesh, "float32")
    assert stored < count_parameters(tiny_model) * 4 / 2 and weights > count_parameters(tiny_model) * 4 // 2
    prompts = prefilled_bytes(tiny_model, mesh, 24, 256 + 4, "float32")
    assert prompts == 16 * 2 * tiny_model.num_layers * tiny_model.num_kv_heads * tiny_model.head_dim * 4 * 24 // 2
    assert slots_that_fit(*sizes, taken=3 * stored, free=3 * stored + weights + prompts + 12 * one) == 10 * 4
    assert slots_that_fit(*sizes, free=stored + weights + prompts + 12 * one) == 10 * 4
    quantised = weight_bytes(tiny_model, mesh, "float32", "int8")
    assert quantised < weights and slots_that_fit(
        tiny_model, mesh, replace(DECODING, weight_dtype="int8"), *sizes[3:],
        free=stored + quantised + prompts + 12 * one) == 10 * 4


def test_an_answer_that_the_model_has_no_positions_for_is_refused_in_the_callers_words(tiny_model):
    require_positions(tiny_model, 24, 40)
    with refused("data.max_prompt_tokens", "rollout.max_new_tokens", 65, 64):
        require_positions(tiny_model, 24, 41)
    with refused("--prompt", "--answer", 65):
        require_positions(tiny_model, 24, 41, fields=("--prompt", "--answer"))
