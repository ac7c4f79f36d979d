"""Meshes and the sharding table: sizes that fit nothing are refused by name, no two axes meet."""
import jax
import pytest
from jax.sharding import AxisType

from nft_jax.config import MESHES, Config, DataConfig, MeshConfig, RolloutConfig
from nft_jax.runtime.mesh import RULES, make_mesh, partition_spec, peak_memory_mb, sharded_bytes, sharding
from refusal import refused


def test_one_axis_takes_what_is_left():
    assert dict(make_mesh(MeshConfig(fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}
    assert dict(make_mesh(MeshConfig(), jax.devices()[:3]).shape)["data"] == 3


@pytest.mark.parametrize("config", [MeshConfig(data=1, fsdp=7), MeshConfig(fsdp=3), MeshConfig(data=2)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(config):
    with refused("mesh (data, fsdp, tensor, context)", config.data, config.fsdp, "8 devices"):
        make_mesh(config)


def test_meshes_to_start_from_take_what_devices_there_are():
    """Each preset on the least number of devices that it is for, and on more."""
    for name, least in {"single": 1, "fsdp": 2, "fsdp_tensor": 4, "long_context": 4}.items():
        for devices in {least, least if name == "single" else 8}:
            assert make_mesh(MESHES[name], jax.devices()[:devices]).size == devices
    assert set(MESHES) == {"single", "fsdp", "fsdp_tensor", "long_context"}


def test_rows_are_cut_evenly_over_context():
    """Said once the sizes are known: -1 is replaced before anything is made."""
    with refused("mesh.context is 3", "64", "batch.row_length"):
        Config(data=DataConfig(max_prompt_tokens=24), rollout=RolloutConfig(max_new_tokens=32),
               mesh=MeshConfig(context=3))
    Config(mesh=MeshConfig(context=-1, data=1))


def test_two_dimensions_never_share_a_mesh_axis():
    with refused("heads", "mlp", kind=ValueError):
        partition_spec(("heads", "mlp"))
    assert set(RULES["batch"]) == {"data", "fsdp"}


def test_bytes_on_one_device():
    """Shards of what is divided, the whole of what is not."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert sharding(mesh).is_fully_replicated
    placed = [jax.ShapeDtypeStruct((8, 6), "float32", sharding=sharding(mesh, *axes))
              for axes in (("batch", None), (None, "mlp"), ())]
    assert [sharded_bytes(x) for x in placed] == [48, 96, 192] and sharded_bytes(placed) == 336
    assert sharded_bytes((jax.ShapeDtypeStruct((3,), "bfloat16"), None)) == 6


def test_a_mesh_whose_axis_is_shorter_than_any_of_the_slice(monkeypatch):
    """jax refuses to divide an axis of a TPU slice (tensor 4 on 8x8x16); then part of one is taken."""
    def refuses(*arguments, **options):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 2 of size 4")
    monkeypatch.setattr(jax, "make_mesh", refuses)
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1, tensor=4))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 4, "context": 1} and mesh.size == 8
    assert len(set(mesh.devices.flat)) == 8 and mesh.axis_types == (AxisType.Auto,) * 4


def test_the_peak_of_memory_is_in_mib():
    assert 10 < peak_memory_mb() < 1e6
