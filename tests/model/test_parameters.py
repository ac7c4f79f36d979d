"""The table of arrays: every array has its axes, and a place on every mesh that fits."""
from dataclasses import replace

import jax

from nft_jax.config import MeshConfig
from nft_jax.model.decoder import parameter_shapes
from nft_jax.model.parameters import ARRAYS, parameter_shardings
from nft_jax.runtime.mesh import make_mesh, partition_spec
from refusal import refused


def test_no_array_puts_two_dimensions_on_one_mesh_axis():
    for array in ARRAYS.values():
        partition_spec(array.logical_axes)


def test_a_model_with_everything_has_every_array(tiny_model):
    everything = replace(tiny_model, qkv_bias=True, norms_after=True, tie_embeddings=False)
    shapes = parameter_shapes(everything)
    experts = parameter_shapes(replace(everything, num_experts=6, experts_per_token=2, expert_size=5))
    wide = parameter_shapes(replace(everything, qk_norm=False, qk_norm_all_heads=True))
    delta = parameter_shapes(replace(everything, output_gate=True, num_layers=3, delta_layers=(0, 2), delta_key_heads=2,
                                     delta_value_heads=4, delta_key_dim=6, delta_value_dim=5, delta_conv=7))
    two_sizes = parameter_shapes(replace(
        everything, num_layers=4, local_layers=(0, 2), window=4, wide_head_dim=6, wide_kv_heads=1, shared_layers=2,
        double_shared_mlp=True, layer_input_size=3, layer_scale=True))
    names = [{path[-1].key for path, _ in jax.tree.leaves_with_path(tree)}
             for tree in (shapes, experts, wide, delta, two_sizes)]
    assert set().union(*names) == set(ARRAYS) and names[0] - names[1] == {"gate", "up", "down"}
    assert shapes["layers"]["out"].shape == (2, 4, 8, 16) and shapes["head"].shape == (16, 32)
    assert experts["layers"]["expert_down"].shape == (2, 6, 5, 16)
    assert {name: delta["layers"][name].shape for name in ("query", "delta_value", "delta_key_convolution", "up")} == {
        "query": (1, 16, 4, 16), "delta_value": (2, 16, 4, 5), "delta_key_convolution": (2, 2, 6, 7), "up": (3, 16, 32)}
    layers = two_sizes["layers"]
    assert {name: layers[name].shape for name in ("query", "wide_key", "shared_wide_out", "shared_up")} == {
        "query": (1, 16, 4, 8), "wide_key": (1, 16, 1, 6), "shared_wide_out": (1, 4, 6, 16), "shared_up": (2, 16, 64)}
    assert two_sizes["layer_embed"].shape == (32, 4, 3) and two_sizes["layers"]["shared_layer_scale"].shape == (2,)
    assert "head" not in parameter_shapes(tiny_model)


def test_kv_heads_are_replicated_where_tensor_exceeds_them(tiny_model):
    placed = parameter_shardings(parameter_shapes(tiny_model), make_mesh(MeshConfig(data=1, fsdp=2, tensor=4)))
    assert placed["layers"]["query"].spec == jax.P(None, "fsdp", "tensor", None)
    assert placed["layers"]["key"].spec == jax.P(None, "fsdp", None, None)
    assert placed["embed"].spec == jax.P("tensor", "fsdp")
    assert placed["final_norm"].is_fully_replicated and placed["layers"]["mlp_norm"].is_fully_replicated


def test_experts_lie_over_tensor_and_their_router_on_every_device(tiny_model):
    shapes = parameter_shapes(replace(tiny_model, num_experts=6, experts_per_token=2, expert_size=5))
    placed = parameter_shardings(shapes, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))["layers"]
    assert placed["expert_up"].spec == jax.P(None, "tensor", "fsdp", None)
    assert placed["expert_down"].spec == jax.P(None, "tensor", None, "fsdp")
    assert placed["router"].is_fully_replicated
    with refused("mesh.tensor", 4, "'expert_down'", 6):
        parameter_shardings(shapes, make_mesh(MeshConfig(data=2, tensor=4)))


def test_heads_of_delta_nets_lie_over_tensor_and_their_small_arrays_on_every_device(tiny_model):
    shapes = parameter_shapes(replace(tiny_model, delta_layers=(0,), delta_key_heads=2, delta_value_heads=4,
                                      delta_key_dim=6, delta_value_dim=5, delta_conv=7))
    placed = parameter_shardings(shapes, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))["layers"]
    assert placed["delta_value"].spec == jax.P(None, "fsdp", "tensor", None)
    assert placed["delta_out"].spec == jax.P(None, "tensor", None, "fsdp")
    assert placed["delta_value_convolution"].is_fully_replicated and placed["delta_log_decay"].is_fully_replicated
    with refused("mesh.tensor", 4, "'delta_key'", 2):
        parameter_shardings(shapes, make_mesh(MeshConfig(data=2, tensor=4)))


def test_a_size_that_does_not_divide_is_refused_with_both_names(tiny_model):
    with refused("mesh.tensor", 8, "'out'", 4):
        parameter_shardings(parameter_shapes(tiny_model), make_mesh(MeshConfig(data=1, tensor=8)))
