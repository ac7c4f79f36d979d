"""What a bug report needs: `nft-jax doctor` prints versions, devices, kernels, sandbox, network, disk and memory.

It starts jax on this machine's devices and runs a three-line program in the sandbox. It writes nothing.
"""
import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from nft_jax.runtime.devices import GiB
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "datasets",
            "huggingface-hub", "safetensors", "numpy", "math-verify", "tyro", "rich")
PLUGINS = ("jax-cuda", "jax-rocm", "libtpu", "nvidia-cudnn")         # that are shown where they are installed
# Variables that change what runs do. No other is printed: it may hold a secret.
VARIABLES = ("JAX_", "XLA_", "NFT_", "LIBTPU_", "TPU_", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_ENDPOINT",
             "HF_HUB_OFFLINE")


def report() -> Iterator[tuple[str, str]]:
    """(what, how it is here), the cheap things first."""
    import nft_jax
    yield "nft_jax", f"{nft_jax.__version__} in {Path(nft_jax.__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        yield name, _version(name)
    for found in sorted({f"{d.metadata['Name']} {d.version}" for d in distributions()
                         if str(d.metadata["Name"]).lower().startswith(PLUGINS)}):
        yield "plugin", found
    for name, value in sorted(os.environ.items()):
        if name.startswith(VARIABLES):
            yield "variable", f"{name}={value}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield "machine", f"{os.cpu_count()} cores, {memory / GiB:.1f} GiB of memory"
    yield "sandbox", _sandbox()
    yield from _disks()
    from nft_jax.runtime.network import hub_is_off, unreachable
    yield "hub", "switched off by HF_HUB_OFFLINE" if hub_is_off() else unreachable() or "reachable"
    yield from _devices()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _sandbox() -> str:
    from nft_jax.verify.rewards.sandbox import find_sandbox
    try:
        found = find_sandbox(False)
    except InputError as error:
        return f"none, reward code is refused: {error}"
    return f"bubblewrap, python {found.python}"


def _disks() -> Iterator[tuple[str, str]]:
    """The room where runs, compiled programs and downloads go."""
    import jax

    from nft_jax.runtime.compilation import CACHE
    compiled = jax.config.jax_compilation_cache_dir or CACHE
    hub = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    for what, folder in (("runs", Path("runs")), ("compiled programs", Path(compiled)), ("downloads", hub)):
        there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        yield "disk", f"{what} in {folder}: {shutil.disk_usage(there).free / GiB:,.1f} GiB free"


def _devices() -> Iterator[tuple[str, str]]:
    """Devices by kind, and the attention kernel that `policy.attention auto` takes, by type and size of a head."""
    import jax

    from nft_jax.model.kernels import choose_attention
    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield "devices", f"jax finds none: {error}"
        return
    kinds = [f"{device.platform} {device.device_kind}" for device in devices]
    for kind in dict.fromkeys(kinds):
        first = devices[kinds.index(kind)]
        limit = (first.memory_stats() or {}).get("bytes_limit")
        room = f", {limit / GiB:.1f} GiB each for jax" if limit else ""
        yield "devices", f"{kinds.count(kind)} x {kind}{room}, process {jax.process_index()} of {jax.process_count()}"
    for dtype in ("float32", "bfloat16"):
        for size in (64, 128):
            kernel, reason = choose_attention("auto", devices[0].platform, dtype, size)
            yield "attention", f"{dtype}, heads of {size}: {kernel} ({reason})"


def main(arguments: list[str] | None = None, prog: str = "nft-jax doctor") -> int:
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    with one_paragraph_errors():
        for what, told in report():
            print(f"{what:18} {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(prog="python -m nft_jax.preflight.doctor"))
