"""Device meshes, and the one table that says which logical axis lives on which mesh axis."""
from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nft_jax.config import MeshConfig
from nft_jax.runtime.distributed import process_count
from nft_jax.types import InputError

AXES = ("data", "fsdp", "tensor", "context")

# Logical axis -> mesh axes. No two logical axes of one array may meet on a mesh axis (checked in `partition_spec`).
RULES: dict[str | None, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),        # rows of a train batch, slots of the sampler
    "context": ("context",),          # tokens of a row
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    None: (),
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run over all devices (or those given), those of all processes; `tensor` and `context` stay inside
    a process, which decodes on its own devices. Raises InputError when the sizes do not fit them."""
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor, config.context]
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if int(np.prod(sizes)) != len(devices):
        raise InputError(
            f"mesh (data, fsdp, tensor, context) is {(config.data, config.fsdp, config.tensor, config.context)}, but "
            f"there are {len(devices)} devices: make the product of the four sizes {len(devices)}, or set one to -1.")
    types = (AxisType.Auto,) * len(AXES)
    try:
        mesh = jax.make_mesh(tuple(sizes), AXES, types, devices=devices)
    except NotImplementedError:       # no axis of the slice is that long (tensor 4 on 8x8x16): part of one is taken
        mesh = Mesh(mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True), AXES,
                    axis_types=types)
    return mesh if len({device.process_index for device in devices}) == 1 else _by_process(mesh)


def hosts(mesh: Mesh) -> int:
    """Processes of this run that have devices of the mesh. (Devices of a topology that is only compiled for belong to
    processes that are not there: 1.)"""
    return 1 if process_count() == 1 else len({device.process_index for device in mesh.devices.flat})


def _by_process(mesh: Mesh) -> Mesh:
    """The mesh, its devices arranged so that `tensor` and `context` cross no process. Raises InputError where they
    must: the weights that decode are divided over `tensor`, and no process decodes with another."""
    owners = [device.process_index for device in mesh.devices.flat]
    each = {owners.count(process) for process in owners}
    inside = mesh.shape["tensor"] * mesh.shape["context"]
    if len(each) > 1:
        raise InputError(f"The processes have different numbers of devices ({', '.join(map(str, sorted(each)))}): "
                         "start one process on each of several machines that are alike.")
    local, = each
    if local % inside:
        raise InputError(
            f"mesh.tensor * mesh.context is {inside}, which does not divide the {local} devices of a process, and "
            "every process decodes on its own devices: choose sizes that divide them (fsdp and data may cross "
            "processes), or start one process per machine, with all of its devices.")
    places = np.array(owners).reshape(mesh.devices.shape)
    if (places == places[:, :, :1, :1]).all():
        return mesh
    share = local // inside                            # of data * fsdp, in one process
    fsdp = int(np.gcd(mesh.shape["fsdp"], share))
    within = (share // fsdp, fsdp, mesh.shape["tensor"], mesh.shape["context"])
    across = [whole // part for whole, part in zip(mesh.devices.shape, within, strict=True)]
    devices = mesh_utils.create_hybrid_device_mesh(within, across, list(mesh.devices.flat), process_is_granule=True)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def host_mesh(mesh: Mesh) -> Mesh:
    """The part of a mesh of several processes that this one decodes on: its devices, all of `tensor` and `context`, and
    the rest of them as `data`. A mesh of one process is its own part."""
    if hosts(mesh) == 1:
        return mesh
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return Mesh(np.array(here).reshape(-1, 1, mesh.shape["tensor"], mesh.shape["context"]), AXES,
                axis_types=(AxisType.Auto,) * len(AXES))


def place(x, where: NamedSharding):
    """An array of the host, or the shape of one, as a program takes it: as it is, or, where the mesh spans several
    processes, on the devices, each process having put its own devices' part there. All must hold the same array."""
    if hosts(where.mesh) == 1:
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    return jax.make_array_from_callback(np.shape(x), where, lambda part: x[part])


def require_host_memory(remat: str, mesh: Mesh) -> None:
    """InputError where `policy.remat` wants activations in the host's memory and the devices cannot reach it."""
    device = mesh.devices.flat[0]
    if remat == "offload" and "pinned_host" not in {memory.kind for memory in device.addressable_memories()}:
        raise InputError(f"policy.remat is {remat!r}, but the platform {device.platform} has no memory of the kind "
                         "pinned_host: use block, which recomputes as much.")


def data_parallel_size(mesh: Mesh) -> int:
    """Devices among which rows and slots are divided."""
    return int(np.prod([mesh.shape[axis] for axis in RULES["batch"]]))


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
    """Logical axes of an array -> its PartitionSpec, by `RULES`."""
    used = [mesh_axis for axis in axes for mesh_axis in RULES[axis]]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {tuple(axes)} put two dimensions on one mesh axis ({used})")
    return PartitionSpec(*(RULES[axis] or None for axis in axes))


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """`sharding(mesh, "batch", None)`; without axes, replicated."""
    return NamedSharding(mesh, partition_spec(axes))


def constrain(x, mesh: Mesh | None, *axes: str | None):
    """`x` laid out by its logical axes inside a traced function; `x` itself without a mesh, or on one device."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(mesh, *axes))
