"""TPU slices that are not there: run where libtpu is installed (pip install libtpu)."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
found = importlib.util.find_spec("libtpu")
pytestmark = pytest.mark.skipif(found is None or found.origin is None, reason="libtpu is not installed")


def command(*arguments):
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS",)}
    return subprocess.run([sys.executable, "-m", "nft_jax.preflight", *arguments], cwd=ROOT, capture_output=True,
                          text=True, timeout=3000, env=environment)


def test_a_small_run_on_a_slice_of_v5e():
    result = command("quickstart", "--topology", "v5e:2x2", "--mesh.data", "1", "--mesh.fsdp", "2", "--mesh.tensor",
                     "2", "--policy.compute-dtype", "bfloat16")
    assert result.returncode == 0, result.stderr
    assert "splash attention" in result.stdout and "4 devices of 15.75 GiB" in result.stdout
    assert "it fits" in result.stdout


def test_a_slice_of_one_chip():
    """libtpu refuses v5e:1x1 unless it is told that the machine has one chip."""
    code = """
from nft_jax.preflight.devices import SINGLE, Topology
found = [Topology.parse(name) for name in SINGLE]
found[0].prepare()
chips = [sorted({tuple(device.coords) for device in topology.devices()}) for topology in found]
assert chips == [[(0, 0, 0)]] * len(SINGLE), chips
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=3000)
    result = command("quickstart", "--topology", "v5e:1x1", "--policy.compute-dtype", "bfloat16")
    assert result.returncode == 0, result.stderr
    assert "1 devices of 15.75 GiB" in result.stdout and "it fits" in result.stdout


@pytest.mark.parametrize("name", ["v5p:3x5x7", "v5p:1x1x1"])         # v5p comes in machines of four chips
def test_a_slice_that_does_not_exist_is_refused(name):
    result = command("quickstart", "--topology", name)
    assert result.returncode == 2 and name in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_train_step_of_7b_for_64_chips_of_v5p():
    """Minutes of compiling. The state is exact; the temporaries are those of a micro-batch of one row in 16 devices."""
    code = """
from nft_jax.preflight.devices import Topology
from nft_jax.runtime.devices import GiB
topology = Topology.parse("v5p:4x4x4")
topology.prepare()
from dataclasses import replace
from experiments.presets.qwen2_5_math_7b import RECOMMENDED
from nft_jax.config import MeshConfig
from nft_jax.model.hf import config_of
from nft_jax.preflight.compiled import compile_programs
from nft_jax.runtime.compilation import largest
from nft_jax.train.plan import make_plan
from nft_jax.train.programs import training_programs
config = replace(RECOMMENDED, mesh=MeshConfig(data=1, fsdp=16, tensor=4))
plan = make_plan(config, config_of(config.policy.path), topology.devices())
found, = compile_programs([largest(training_programs(plan))["train step"]], plan.mesh.size)
assert plan.compute.attention == "splash" and not found.refusal
assert 12 * 7_615_616_512 / 64 < found.arguments < 1.1 * 12 * 7_615_616_512 / 64, found
assert 8 * 7_615_616_512 / 64 < found.temporaries < 20 * GiB and found.received > 0, found
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=3000)
