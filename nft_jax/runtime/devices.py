"""Accelerators by name: memory, and the rates that their makers publish. No jax at the top: see
`nft_jax.preflight.devices`."""
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GB, GiB = 10**9, 2**30


@dataclass(frozen=True)
class Device:
    """One device as jax counts them. Rates are the makers' peaks."""
    memory: float            # bytes
    flops: float             # dense bfloat16 (float32 on a CPU), per second
    bandwidth: float         # bytes/s of its memory
    link: float              # bytes/s that it can receive from other devices
    usable: float            # share of the memory that programs may take
    bfloat16: bool = True    # the matrix units take it, and so does cuDNN's attention


# TPU: docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x). Memory is what the compiler allows
# (the limit in libtpu's out-of-memory message). Link is half the bidirectional interconnect
# bandwidth of a chip. A v4 or tpu7x chip is two devices; every other chip is one.
# GPU: NVIDIA's data sheets, bfloat16 without sparsity, SXM boards. Link is NVLink in one direction,
# or PCIe 4 x16 for L40S and RTX 4090. A T4 (PCIe 3 x16; 15 of its 16 GiB are free of the memory's own error codes)
# has no bfloat16: XLA multiplies in float32, so that is its rate.
DEVICES: Mapping[str, Device] = MappingProxyType({
    "v4": Device(15.25 * GiB, 137.5e12, 614e9, 67e9, 0.97),
    "v5e": Device(15.75 * GiB, 197e12, 819e9, 200e9, 0.97),
    "v5p": Device(95.74 * GiB, 459e12, 2765e9, 300e9, 0.97),
    "v6e": Device(31.25 * GiB, 918e12, 1640e9, 224e9, 0.97),
    "tpu7x": Device(94.75 * GiB, 1154e12, 3690e9, 300e9, 0.97),
    "A100-40": Device(40 * GiB, 312e12, 1555e9, 300e9, 0.9),
    "A100-80": Device(80 * GiB, 312e12, 2039e9, 300e9, 0.9),
    "H100": Device(80 * GiB, 989e12, 3350e9, 450e9, 0.9),
    "H200": Device(141 * GB, 989e12, 4800e9, 450e9, 0.9),
    "B200": Device(180 * GB, 2250e12, 7700e9, 900e9, 0.9),
    "L40S": Device(48 * GB, 362e12, 864e9, 32e9, 0.9),
    "T4": Device(15 * GiB, 8.1e12, 320e9, 16e9, 0.9, bfloat16=False),
    "RTX4090": Device(24 * GB, 165e12, 1008e9, 32e9, 0.9),
})
# What jax calls whole ones (`Device.device_kind`, less the maker's name).
KINDS: Mapping[str, str] = MappingProxyType({
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e",
    "TPU v6e": "v6e", "TPU7x": "tpu7x", "A100-SXM4-40GB": "A100-40", "A100-PCIE-40GB": "A100-40",
    "A100-SXM4-80GB": "A100-80", "A100 80GB PCIe": "A100-80", "H100 80GB HBM3": "H100", "H200": "H200", "B200": "B200",
    "L40S": "L40S", "Tesla T4": "T4", "GeForce RTX 4090": "RTX4090"})


def published(kind: str) -> Device | None:
    """The device that jax calls `kind`; None for a CPU, a part of a GPU, and a device that the table lacks."""
    name = KINDS.get(kind.removeprefix("NVIDIA "))
    return DEVICES[name] if name else None
