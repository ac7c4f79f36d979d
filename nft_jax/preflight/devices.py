"""The topologies of the command line. No jax at the top: the topology decides how it starts."""
import importlib.util
import os
import re
from dataclasses import dataclass, replace

from nft_jax.runtime.devices import DEVICES, Device
from nft_jax.types import InputError

NODE = 8                     # GPUs of a machine; more GPUs also meet over the network
NETWORK = 50e9               # bytes/s of a GPU between machines: 400 Gb/s InfiniBand, an adapter for each (DGX H100)
TPUS = ("v4", "v5e", "v5p", "v6e", "tpu7x")
SINGLE = ("v5e:1x1", "v6e:1x1", "tpu7x:1x1x1")      # machines with one chip


@dataclass(frozen=True)
class Topology:
    """The devices of a run."""
    name: str
    platform: str                # tpu, gpu or cpu
    device: Device
    count: int | None            # None where libtpu has to be asked

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """`v5p:4x4x4` (the chips of a TPU slice), `gpu:8xH100`, `cpu:8`. Raises InputError for anything else."""
        kind, _, rest = name.partition(":")
        if kind in TPUS and re.fullmatch(r"\d+x\d+(x\d+)?", rest):
            return cls(name, "tpu", DEVICES[kind], None)
        gpu = re.fullmatch(r"(?:(\d+)x)?(.+)", rest)
        if kind == "gpu" and gpu and gpu[2] in DEVICES and gpu[2] not in TPUS:
            device, count = DEVICES[gpu[2]], int(gpu[1] or 1)
            if count > NODE:
                device = replace(device, link=min(device.link, NETWORK))
            return cls(name, "gpu", device, count)
        if kind == "cpu" and rest.isdigit() and int(rest) >= 1:
            return cls(name, "cpu", _cpu(int(rest)), int(rest))
        gpus = ", ".join(sorted(DEVICES.keys() - set(TPUS)))
        raise InputError(f"topology is {name!r}: write the chips of a TPU slice as v5p:4x4x4 or v6e:8x8 "
                         f"({', '.join(TPUS)}), GPUs as gpu:8xH100 ({gpus}), or virtual CPU devices as cpu:8.")

    def prepare(self) -> None:
        """Set the environment that jax must start with; to be called before jax is imported. jax then looks for
        no accelerator of this machine. Raises InputError for a TPU topology without libtpu."""
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if self.platform == "tpu":
            found = importlib.util.find_spec("libtpu")
            if found is None or found.origin is None:
                raise InputError(f"topology is {self.name!r}, and compiling for a TPU that is not there takes libtpu "
                                 "(330 MB, needs no TPU): pip install libtpu, or pip install 'nft_jax[tpu-preflight]'.")
            os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
                           "TPU_ACCELERATOR_TYPE": "v5p-8",            # any: the topology's name decides
                           "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",       # no TPU is opened, so nothing to lock
                           "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}
        else:
            os.environ["JAX_NUM_CPU_DEVICES"] = str(self.count)

    def devices(self) -> list:
        """jax devices to make a mesh of: the topology's own, or as many virtual CPU devices. Raises InputError
        when libtpu does not know the topology, or when jax was started with fewer devices."""
        import jax
        if self.platform == "tpu":
            from jax.experimental.topologies import get_topology_desc
            # libtpu takes machines of 2x2 chips for granted, which do not divide a slice of one chip.
            host = {"chips_per_host_bounds": (1, 1, 1)} if self.name in SINGLE else {}
            try:
                return list(get_topology_desc(platform="tpu", topology_name=self.name, **host).devices)
            except jax.errors.JaxRuntimeError as error:
                raise InputError(f"topology is {self.name!r}, which libtpu refuses: choose the shape of a slice that "
                                 f"exists. ({str(error).splitlines()[0][:200]})") from error
        if len(jax.devices("cpu")) < self.count:
            raise InputError(f"topology is {self.name!r}, but jax was started with {len(jax.devices('cpu'))} virtual "
                             f"CPU devices: set JAX_NUM_CPU_DEVICES={self.count} before it is imported.")
        return jax.devices("cpu")[:self.count]


def _cpu(count: int) -> Device:
    """One of `count` equal shares of this machine. A core is taken to do 50 GFLOP/s and 5 GB/s, the right order
    of magnitude."""
    cores, memory = (os.cpu_count() or 1) / count, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count
    return Device(memory, 50e9 * cores, 5e9 * cores, 5e9 * cores, 0.9)
