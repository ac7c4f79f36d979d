"""Adapters as a wrapper of the parameters: what they add, where they lie, and what their training does not compute."""
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.config import AdapterConfig, MeshConfig
from nft_jax.config.training import PROJECTIONS, TARGETS
from nft_jax.model import adapter, decoder
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.logprobs import token_logprobs
from nft_jax.model.parameters import ARRAYS, IN_LAYERS, parameter_shardings, role_of
from nft_jax.model.quantise import quantise_matrices
from nft_jax.rollout.engine import decode_weights
from nft_jax.runtime.mesh import make_mesh
from refusal import refused

CONFIG = AdapterConfig(rank=3, alpha=7.0)


@pytest.fixture(scope="module")
def adapters(tiny_model):
    """Both A and B random."""
    made = adapter.init(tiny_model, CONFIG, jax.random.key(1))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), made)


@pytest.fixture(scope="module")
def tokens(tiny_model):
    made = jax.random.randint(jax.random.key(3), (8, 16), 0, tiny_model.vocab_size)
    return made, jnp.broadcast_to(jnp.arange(16), made.shape), jnp.ones_like(made)


def int8(params):
    return params | {"layers": quantise_matrices(params["layers"])}


def loss(model, tokens, compute, params):
    return token_logprobs(params, model, *tokens, compute=compute)[0].sum()


def close(found, expected, rtol=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=rtol * float(np.abs(b).max()), rtol=0, err_msg=jax.tree_util.keystr(path))


def test_targets_are_all_matrices_but_tables_of_tokens_the_head_and_experts():
    assert set(PROJECTIONS) == {role_of(name) for name, array in ARRAYS.items() if array.kind == "matrix"} - {
        "embed", "layer_embed", "head", "expert_gate", "expert_up", "expert_down"}
    assert AdapterConfig(rank=1, targets=("down", "attention", "key")).projections == (
        "query", "key", "value", "out", "down")


def test_experts_have_no_adapters_and_the_error_says_what_has(tiny_model):
    model = replace(tiny_model, num_experts=4, experts_per_token=2, expert_size=8)
    with refused("adapter.targets", "('all',)", "gate", "query, key, value, out"):
        adapter.adapter_shapes(model, AdapterConfig(rank=2))
    assert set(adapter.adapter_shapes(model, AdapterConfig(rank=2, targets=("attention",)))["layers"]) == set(
        TARGETS["attention"])


def test_delta_nets_have_adapters_of_their_own_layers(tiny_model):
    model = replace(tiny_model, num_layers=3, delta_layers=(0, 2), delta_key_heads=2, delta_value_heads=4,
                    delta_key_dim=6, delta_value_dim=5, delta_conv=4)
    found = adapter.adapter_shapes(model, AdapterConfig(rank=2))["layers"]
    assert set(found) == {*TARGETS["all"], *TARGETS["delta"]}
    assert found["query"]["lora_b"].shape == (1, 2, 4, 8) and found["delta_out"]["lora_a"].shape == (2, 4, 5, 2)
    # One matrix in PEFT, and so one A.
    assert found["delta_query"]["lora_a"].shape == (2, 16, 2) and set(found["delta_key"]) == {"lora_b"}
    assert set(adapter.projections_of(model, AdapterConfig(rank=2, targets=("attention",)))) == set(
        TARGETS["attention"])
    with refused("adapter.targets", ("delta_query",), "delta_key", "delta_value"):
        adapter.adapter_shapes(model, AdapterConfig(rank=2, targets=("delta_query",)))
    with refused("adapter.targets", ("delta",), "delta_query", "query, key, value, out, gate, up, down"):
        adapter.adapter_shapes(tiny_model, AdapterConfig(rank=2, targets=("delta",)))
    assert "delta_query" not in adapter.adapter_shapes(tiny_model, AdapterConfig(rank=2))["layers"]


def test_a_target_is_adapted_in_every_layer_that_has_it(tiny_model):
    """Layers of other sizes, and layers that share keys and values (Gemma 4), have arrays of their own."""
    model = replace(tiny_model, num_layers=4, local_layers=(0, 2), window=4, wide_head_dim=6, wide_kv_heads=1,
                    keys_are_values=True, shared_layers=2, layer_input_size=3)

    def adapted(*targets):
        return set(adapter.adapter_shapes(model, AdapterConfig(rank=2, targets=targets))["layers"])

    assert adapted("query", "key") == {"query", "wide_query", "shared_query", "shared_wide_query", "key", "wide_key"}
    assert adapted("value") == {"value"} and adapted("down") == {"down", "shared_down"}
    assert adapted("inputs") <= adapted("all") and len(adapted("inputs")) == 4
    with refused("adapter.targets", ("inputs",), "layer_projection"):
        adapter.adapter_shapes(tiny_model, AdapterConfig(rank=2, targets=("inputs",)))


def test_a_matrix_outside_the_layers_has_one_adapter(tiny_model):
    """Made, wrapped, merged for sampling, and taken off again like the others; alone and beside them."""
    model = replace(tiny_model, layer_input_size=3)
    params = decoder.init(model, jax.random.key(0))
    for targets in (("layer_projection",), ("all",)):
        config = AdapterConfig(rank=64, targets=targets)
        made = adapter.init(model, config, jax.random.key(1))
        parts = made["layer_projection"]
        assert parts["lora_a"].shape == (16, 64) and parts["lora_b"].shape == (64, 2, 3)
        assert 0.9 / 4 < np.abs(parts["lora_a"]).max() <= 1 / 4
        made["layer_projection"]["lora_b"] = jax.random.normal(jax.random.key(2), (64, 2, 3))
        wrapped = adapter.wrap(params, made, config)
        assert adapter.is_adapted(wrapped) and not adapter.is_adapted(params)
        jax.tree.map(np.testing.assert_array_equal, adapter.unwrap(wrapped), made)
        a, b = (np.asarray(part, np.float64) for part in (parts["lora_a"], made["layer_projection"]["lora_b"]))
        found = decode_weights(wrapped, model, Compute(), "compute")["layer_projection"]
        np.testing.assert_allclose(found, params["layer_projection"] + config.scale * np.tensordot(a, b, 1), atol=1e-5)


def test_the_scale_is_alpha_over_the_rank_or_its_root():
    assert AdapterConfig(rank=16, alpha=8.0).scale == 0.5
    assert AdapterConfig(rank=16, alpha=8.0, rslora=True).scale == 2.0


def test_new_adapters_change_nothing_and_are_drawn_as_in_peft(tiny_model, tiny_params):
    new = adapter.init(tiny_model, AdapterConfig(rank=64), jax.random.key(0))
    for name, parts in new["layers"].items():
        array, found = IN_LAYERS[name], np.asarray(parts["lora_a"])
        inputs = np.prod(found.shape[1:-1])
        # kaiming_uniform_(a=sqrt(5)) is uniform within ±1 / sqrt(in).
        assert np.abs(found).max() <= inputs ** -0.5
        np.testing.assert_allclose(found.std(), (3 * inputs) ** -0.5, rtol=0.05)
        assert not np.asarray(parts["lora_b"]).any()
        assert found.shape[1:-1] == tiny_params["layers"][name].shape[1:1 + len(array.summed)]
    merged = adapter.merge(adapter.wrap(tiny_params, new, AdapterConfig(rank=64)), "float32")
    jax.tree.map(np.testing.assert_array_equal, merged, tiny_params)


def test_wrapping_can_be_undone_and_rank_0_is_no_wrapper(tiny_params, adapters):
    jax.tree.map(np.testing.assert_array_equal, adapter.unwrap(adapter.wrap(tiny_params, adapters, CONFIG)), adapters)
    assert adapter.wrap(None, tiny_params, AdapterConfig()) is tiny_params


@pytest.mark.parametrize(("mesh", "stored"), [
    (None, "float32"), (MeshConfig(1, 2, 2, 2), "int8"), (MeshConfig(2, 1, 4), "float32")], ids=str)
def test_wrapped_and_merged_parameters_agree_in_every_layout(tiny_model, tiny_params, adapters, tokens, mesh, stored):
    """Values and gradients by the adapters, of one device and of meshes."""
    compute = Compute(mesh=mesh and make_mesh(mesh))
    frozen = int8(tiny_params) if stored == "int8" else tiny_params
    of = partial(loss, tiny_model, tokens)
    expected = jax.jit(jax.value_and_grad(
        lambda adapters: of(Compute(), adapter.merge(adapter.wrap(frozen, adapters, CONFIG), "float32"))))(adapters)
    if mesh:
        frozen, adapters = (jax.device_put(tree, parameter_shardings(tree, compute.mesh))
                            for tree in (frozen, adapters))
    found = jax.jit(jax.value_and_grad(lambda adapters, base: of(compute, adapter.wrap(base, adapters, CONFIG))))(
        adapters, frozen)
    close(found, expected)


def test_new_adapters_are_the_same_in_every_layout(tiny_model):
    shapes = adapter.adapter_shapes(tiny_model, CONFIG)
    one, *others = (jax.jit(partial(adapter.init, tiny_model, CONFIG),
                            out_shardings=parameter_shardings(shapes, make_mesh(MeshConfig(*sizes))))(jax.random.key(0))
                    for sizes in ((8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 2, 2)))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other, one)


def test_parts_lie_where_their_matrix_lies(tiny_model, adapters):
    mesh = make_mesh(MeshConfig(1, 2, 2, 2))
    layers = parameter_shardings(adapters, mesh)["layers"]
    specs = {name: (layers[name]["lora_a"].spec, layers[name]["lora_b"].spec) for name in ("query", "out", "down")}
    assert specs == {"query": (jax.P(None, "fsdp", None), jax.P(None, None, "tensor", None)),
                     "out": (jax.P(None, "tensor", None, None), jax.P(None, None, "fsdp")),
                     "down": (jax.P(None, "tensor", None), jax.P(None, None, "fsdp"))}


@pytest.mark.parametrize("remat", ["none", "block"])
def test_the_backward_pass_has_no_products_for_frozen_weights(tokens, remat):
    """XLA's count of operations: full training has, more than training of rank 1, one product for every matrix."""
    model = ModelConfig("llama", vocab_size=512, hidden_size=64, intermediate_size=256, num_layers=3, num_heads=4,
                        num_kv_heads=4, head_dim=16, max_positions=64)
    params = decoder.parameter_shapes(model)
    config = AdapterConfig(rank=1)
    of, compute = partial(loss, model, tokens), Compute(remat=remat)

    def operations(function, *shapes) -> float:
        return jax.jit(jax.grad(function)).lower(*shapes).compile().cost_analysis()["flops"]

    full = operations(lambda params: of(compute, params), params)
    ours = operations(lambda adapters, base: of(compute, adapter.wrap(base, adapters, config)),
                      adapter.adapter_shapes(model, config), params)
    # XLA counts the body of a loop once, so one layer counts, and the head.
    layer = sum(array.size for name, array in params["layers"].items() if IN_LAYERS[name].kind == "matrix") / 3
    products = 2 * tokens[0].size * (layer + model.vocab_size * model.hidden_size)
    assert full - ours > 0.9 * products


def test_bad_settings_are_refused():
    for name, value in (("alpha", 4.0), ("targets", ("mlp",)), ("rslora", True), ("base_dtype", "int8")):
        with refused(f"adapter.{name}", value, "adapter.rank"):
            AdapterConfig(**{name: value})
    with refused("adapter.targets", "q_proj", "query"):
        AdapterConfig(rank=4, targets=("q_proj",))
    with refused("adapter.targets", ()):
        AdapterConfig(rank=4, targets=())
    with refused("adapter.rank", -1):
        AdapterConfig(rank=-1)
    with refused("adapter.alpha", 0.0):
        AdapterConfig(rank=1, alpha=0.0)
