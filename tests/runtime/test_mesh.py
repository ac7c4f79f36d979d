"""Meshes and the sharding table: sizes that fit nothing are refused by name, no two axes meet."""
import jax
import pytest
from jax.sharding import AxisType

from nft_jax.config import MESHES, Config, DataConfig, MeshConfig, RolloutConfig
from nft_jax.runtime.mesh import RULES, make_mesh, partition_spec, sharding
from nft_jax.types import InputError


def test_one_axis_takes_what_is_left():
    assert dict(make_mesh(MeshConfig(fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}
    assert dict(make_mesh(MeshConfig(), jax.devices()[:3]).shape)["data"] == 3


@pytest.mark.parametrize("config", [MeshConfig(data=1, fsdp=7), MeshConfig(fsdp=3), MeshConfig(data=2)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(config):
    with pytest.raises(InputError, match="there are 8 devices: make the product of the four sizes 8"):
        make_mesh(config)


def test_meshes_to_start_from_take_what_devices_there_are():
    """Each preset on the least number of devices that it is for, and on more."""
    for name, least in {"single": 1, "fsdp": 2, "fsdp_tensor": 4, "long_context": 4}.items():
        for devices in {least, least if name == "single" else 8}:
            assert make_mesh(MESHES[name], jax.devices()[:devices]).size == devices
    assert set(MESHES) == {"single", "fsdp", "fsdp_tensor", "long_context"}


def test_rows_are_cut_evenly_over_context():
    """Said once the sizes are known: -1 is replaced before anything is made."""
    with pytest.raises(InputError, match=r"mesh.context is 3: it does not divide the 64 tokens of a row \(batch.row_"):
        Config(data=DataConfig(max_prompt_tokens=24), rollout=RolloutConfig(max_new_tokens=32),
               mesh=MeshConfig(context=3))
    Config(mesh=MeshConfig(context=-1, data=1))


def test_two_dimensions_never_share_a_mesh_axis():
    with pytest.raises(ValueError, match="two dimensions on one mesh axis"):
        partition_spec(("heads", "mlp"))
    assert set(RULES["batch"]) == {"data", "fsdp"}


def test_replicated():
    assert sharding(make_mesh(MeshConfig())).is_fully_replicated


def test_a_mesh_whose_axis_is_shorter_than_any_of_the_slice(monkeypatch):
    """jax refuses to divide an axis of a TPU slice (tensor 4 on 8x8x16); then part of one is taken."""
    def refuses(*arguments, **options):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 2 of size 4")
    monkeypatch.setattr(jax, "make_mesh", refuses)
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1, tensor=4))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 4, "context": 1} and mesh.size == 8
    assert len(set(mesh.devices.flat)) == 8 and mesh.axis_types == (AxisType.Auto,) * 4
