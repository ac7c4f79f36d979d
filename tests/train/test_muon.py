"""Muon, as an optimizer of a run (optimizer.name)."""
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.config import AdapterConfig, CheckpointConfig, MeshConfig, OptimizerConfig
from nft_jax.model.adapter import adapter_shapes
from nft_jax.model.decoder import parameter_shapes
from nft_jax.model.parameters import ARRAYS, parameter_shardings
from nft_jax.record.checkpoint import Checkpoints
from nft_jax.runtime.compilation import with_shardings
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.state import MUON_RMS, init_state, make_optimizer, matrices_of, state_shardings

CONFIG = OptimizerConfig(name="muon", weight_decay=0.0, clip_norm=1e9)


@pytest.fixture(scope="module")
def direction(tiny_params):
    """What the first update subtracts, and its gradient."""
    optimizer = make_optimizer(CONFIG)
    gradient = jax.tree.map(lambda x: jnp.sin(7 * x) + 0.1, tiny_params)
    first = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p, norm=jnp.float32(1.0))[0])
    return jax.device_get((first(gradient, tiny_params), gradient))


def test_the_matrices_of_the_layers_are_orthogonalised(direction):
    """Against the singular vectors of each layer's gradient: five steps of Newton and Schulz bring its singular values
    near 1, each in its own direction. All matrices have AdamW's size."""
    update, gradient = direction
    for name, found in update["layers"].items():
        array = ARRAYS[name]
        if array.kind != "matrix":
            continue
        inner = int(np.prod(found.shape[1:1 + len(array.summed)]))
        for layer, slope in zip(found, gradient["layers"][name], strict=True):
            u, _, v = np.linalg.svd(slope.reshape(inner, -1).astype(np.float64), full_matrices=False)
            scale = MUON_RMS * np.sqrt(max(inner, layer.size // inner))
            inside = u.T @ layer.reshape(inner, -1) @ v.T / scale
            strong = np.diag(inside)[:len(inside) // 2]
            assert (strong > 0.6).all() and (strong < 1.3).all(), name
            assert np.abs(inside - np.diag(np.diag(inside))).max() < 0.2
        assert 0.5 * MUON_RMS < np.sqrt((found ** 2).mean()) < 1.3 * MUON_RMS, name


def test_the_rest_moves_against_its_gradient_as_adam_does(direction):
    update, gradient = direction
    for path in (("embed",), ("final_norm",), ("layers", "attention_norm")):
        found, slope = update, gradient
        for key in path:
            found, slope = found[key], slope[key]
        assert (np.sign(found) == np.sign(slope)).all() and np.abs(found).std() < 0.01 * np.abs(found).mean()


def test_parts_of_adapters_are_matrices_too(tiny_model):
    shapes = adapter_shapes(tiny_model, AdapterConfig(rank=2))["layers"]
    found = matrices_of({"layers": shapes})["layers"]
    assert found["query"]["lora_a"] == ((1,), (2,)) and found["query"]["lora_b"] == ((1,), (2, 3))
    assert found["out"]["lora_a"] == ((1, 2), (3,)) and found["out"]["lora_b"] == ((1,), (2,))
    # Outside the layers, there is no axis of layers before them. The matrix itself is AdamW's.
    model = replace(tiny_model, layer_input_size=3)
    outside = matrices_of(adapter_shapes(model, AdapterConfig(rank=2)))["layer_projection"]
    assert outside == {"lora_a": ((0,), (1,)), "lora_b": ((0,), (1, 2))}
    assert matrices_of(parameter_shapes(model))["layer_projection"] is None


def test_its_state_lies_where_the_parameters_lie_and_is_saved(tiny_params, tmp_path):
    mesh, optimizer = make_mesh(MeshConfig(1, 4, 2)), make_optimizer(CONFIG)
    placements = state_shardings(tiny_params, optimizer, mesh)
    momentum = placements.opt_state[1].inner_states["muon"].inner_state[0].mu
    assert momentum["layers"]["query"] == parameter_shardings(tiny_params, mesh)["layers"]["query"]
    state = jax.jit(partial(init_state, optimizer=optimizer), out_shardings=placements)(tiny_params)
    state = jax.tree.map(lambda x: x + 1 if x.dtype == jnp.float32 else x, state)
    saved = Checkpoints(tmp_path / "checkpoints", CheckpointConfig())
    saved.save(1, state, {"step": 1}, {"carried": []})
    saved.wait()
    shapes = with_shardings(jax.eval_shape(lambda: state), placements)
    again, _, _ = saved.restore(1, shapes)
    saved.close()
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)
