"""Device meshes, and the sharding table: which mesh axis each logical axis of an array is divided over.

Every array names its dimensions by logical axes (the parameters': `nft_jax.model.parameters`). `RULES` alone
says what they mean on the four axes of a mesh (`MeshConfig`), so a new layout is a change of `RULES`.
"""
import math
import resource
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nft_jax.config import MeshConfig
from nft_jax.runtime.distributed import process_count
from nft_jax.types import InputError

AXES = ("data", "fsdp", "tensor", "context")
TYPES = (AxisType.Auto,) * len(AXES)

# The sharding table. Two dimensions of one array must not meet on a mesh axis: `partition_spec` checks each array.
RULES: dict[str | None, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),        # rows of a train batch, slots of the sampler
    "context": ("context",),          # tokens of a row
    "embed": ("fsdp",),               # hidden size: fsdp gathers a layer's weights for its use
    "vocab": ("tensor",),
    "heads": ("tensor",),             # query heads
    "kv_heads": ("tensor",),          # whole on every device where tensor exceeds their number
    "mlp": ("tensor",),               # feed-forward size
    "experts": ("tensor",),           # whole experts, because an expert's own feed-forward size is small
    None: (),                         # whole on every device
}


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes. ValueError where two dimensions meet on a mesh axis."""
    used = [mesh_axis for axis in axes for mesh_axis in RULES[axis]]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {tuple(axes)} put two dimensions on one mesh axis ({used})")
    return PartitionSpec(*(RULES[axis] or None for axis in axes))


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """The sharding of an array with these logical axes, `sharding(mesh, "batch", None)`; replicated without axes."""
    return NamedSharding(mesh, partition_spec(axes))


def constrain(x, mesh: Mesh | None, *axes: str | None):
    """`x` laid out by its logical axes, inside a traced function. Without a mesh, or on one device, `x` itself."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(mesh, *axes))


def platform_of(mesh: Mesh) -> str:
    """cpu, gpu or tpu."""
    return mesh.devices.flat[0].platform


def data_parallel_size(mesh: Mesh) -> int:
    """Devices among which rows and slots are divided."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def sharded_bytes(tree) -> int:
    """Bytes on one device of a tree of jax.ShapeDtypeStruct. A leaf without a sharding counts whole."""
    def size(leaf) -> int:
        shape = leaf.shape if getattr(leaf, "sharding", None) is None else leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run over `devices` (None: all devices of all processes). `tensor` and `context` stay inside a
    process, which decodes on its own devices. Raises InputError when the sizes do not fit the devices."""
    devices = jax.devices() if devices is None else devices
    asked = config.data, config.fsdp, config.tensor, config.context
    known = math.prod(size for size in asked if size != -1)
    sizes = [len(devices) // known if size == -1 else size for size in asked]
    if math.prod(sizes) != len(devices):
        raise InputError(f"mesh (data, fsdp, tensor, context) is {asked}, but there are {len(devices)} devices: make "
                         f"the product of the four sizes {len(devices)}, or set one to -1.")
    try:
        mesh = jax.make_mesh(tuple(sizes), AXES, TYPES, devices=devices)
    except NotImplementedError:
        # No axis of the TPU slice has this length (tensor 4 on 8x8x16). Then a part of an axis is taken.
        mesh = Mesh(mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True), AXES,
                    axis_types=TYPES)
    return mesh if len({device.process_index for device in devices}) == 1 else _by_process(mesh)


def _by_process(mesh: Mesh) -> Mesh:
    """The mesh with its devices arranged so that `tensor` and `context` cross no process: the weights that
    decode are divided over `tensor`. Raises InputError where they must cross one."""
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
    fsdp = math.gcd(mesh.shape["fsdp"], share)
    within = (share // fsdp, fsdp, mesh.shape["tensor"], mesh.shape["context"])
    across = [whole // part for whole, part in zip(mesh.devices.shape, within, strict=True)]
    devices = mesh_utils.create_hybrid_device_mesh(within, across, list(mesh.devices.flat), process_is_granule=True)
    return Mesh(devices, AXES, axis_types=TYPES)


def hosts(mesh: Mesh) -> int:
    """Processes of this run that have devices of the mesh. 1 for a topology that is only compiled for: its
    devices belong to processes that do not exist."""
    return 1 if process_count() == 1 else len({device.process_index for device in mesh.devices.flat})


def host_mesh(mesh: Mesh) -> Mesh:
    """The mesh that this process decodes on: its own devices, with all of `tensor` and `context`, and the rest
    as `data`. A mesh of one process is its own host mesh."""
    if hosts(mesh) == 1:
        return mesh
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return Mesh(np.array(here).reshape(-1, 1, mesh.shape["tensor"], mesh.shape["context"]), AXES, axis_types=TYPES)


def place(x, where: NamedSharding):
    """A host array, or its shape, as a program takes it. On a mesh of several processes, each puts the part of
    its own devices there; all must hold the same array."""
    if hosts(where.mesh) == 1:
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    return jax.make_array_from_callback(np.shape(x), where, lambda part: x[part])


def require_host_memory(remat: str, mesh: Mesh) -> None:
    """Raises InputError where `policy.remat` offloads activations to host memory that the devices cannot reach."""
    device = mesh.devices.flat[0]
    if remat == "offload" and "pinned_host" not in {memory.kind for memory in device.addressable_memories()}:
        raise InputError(f"policy.remat is {remat!r}, but the platform {device.platform} has no memory of the kind "
                         "pinned_host: use block, which recomputes as much.")


def peak_memory_mb() -> float:
    """Largest memory in use so far: of the fullest device where the platform says, of this process otherwise."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if max(peaks):
        return max(peaks) / 2**20
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
