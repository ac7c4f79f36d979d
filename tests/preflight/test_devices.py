"""Topologies of the command line: what is understood, what is refused, and how jax is made to start."""
import os

import pytest

from nft_jax.config import MeshConfig
from nft_jax.preflight import devices
from nft_jax.preflight.devices import Topology
from nft_jax.preflight.report import estimate_of
from nft_jax.runtime.devices import DEVICES
from refusal import refused


@pytest.mark.parametrize(("name", "platform", "device", "count"), [
    ("v5p:4x4x4", "tpu", "v5p", None), ("v6e:8x8", "tpu", "v6e", None), ("gpu:8xH100", "gpu", "H100", 8),
    ("gpu:A100-40", "gpu", "A100-40", 1)])
def test_names(name, platform, device, count):
    found = Topology.parse(name)
    assert (found.platform, found.device, found.count) == (platform, DEVICES[device], count)


def test_gpus_of_several_machines_meet_over_the_network():
    assert Topology.parse("gpu:16xH100").device.link == devices.NETWORK < Topology.parse("gpu:8xH100").device.link


def test_a_gpu_without_bfloat16_has_no_kernel(planned, model):
    """The others are taken to run cuDNN's attention, which no T4 does."""
    config = planned(MeshConfig(data=1), 1, 4, compute_dtype="bfloat16")
    kernels = {name: estimate_of(config, model, Topology.parse(f"gpu:{name}")).attention for name in ("T4", "H100")}
    assert kernels == {"T4": "xla", "H100": "cudnn"} and DEVICES["T4"].flops < 1e13


def test_cpu_devices_share_the_machine():
    one, four = (Topology.parse(f"cpu:{count}").device.memory for count in (1, 4))
    assert one == pytest.approx(4 * four)


@pytest.mark.parametrize("name", ["", "v5p", "v5p:4", "v7:4x4", "gpu:8xV100", "gpu:8xv5p", "cpu:0", "cpu:many", "h100"])
def test_other_names_are_refused_with_the_known_ones(name):
    with refused("topology", repr(name), "v5p:4x4x4", "gpu:8xH100", "cpu:8"):
        Topology.parse(name)


def test_without_libtpu_a_tpu_topology_says_what_to_install(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with refused("topology", "v5p:4x4x4", "pip install libtpu"):
        Topology.parse("v5p:4x4x4").prepare()


def test_no_accelerator_of_this_machine_is_looked_for(monkeypatch):
    monkeypatch.setattr(os, "environ", {"JAX_PLATFORMS": "cuda"})
    Topology.parse("gpu:8xH100").prepare()
    assert os.environ["JAX_PLATFORMS"] == "cpu" and os.environ["JAX_NUM_CPU_DEVICES"] == "8"


def test_more_virtual_devices_than_jax_was_started_with_are_refused():
    with refused("topology", "cpu:9", "JAX_NUM_CPU_DEVICES=9"):
        Topology.parse("cpu:9").devices()
