"""Two processes with two devices each: they exchange, agree, fail together, load, save, sample and judge; `worker.py`
says what. Its answers are those of one process."""
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import worker

from nft_jax.config import MeshConfig, SamplingConfig
from nft_jax.model.hf import save_params
from nft_jax.runtime.mesh import make_mesh

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, tiny_params):
    folder = tmp_path_factory.mktemp("two")
    save_params(tiny_params, tiny_model, folder / "model")
    result = subprocess.run(
        [sys.executable, ROOT / "launch" / "local.py", "-n", "2", "-d", "2", "--", sys.executable,
         ROOT / "tests" / "multihost" / "worker.py", folder],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_weights_come_and_go_through_both(folder):
    """Each process reads its devices' part, and the file that they write is the one that they read."""
    name = "model.safetensors"
    assert (folder / "saved" / name).read_bytes() == (folder / "model" / name).read_bytes()


def test_answers_do_not_depend_on_the_processes(folder, tiny_model, tiny_params):
    """Nor on which of them had how many prompts; groups are in the order of the prompts, each with its verdicts."""
    found = pickle.loads((folder / "answers.pickle").read_bytes())
    assert [len(groups) for groups in found] == [worker.PROMPTS, 1, 0]
    sampler = worker.sampler_on(tiny_model, make_mesh(MeshConfig(), jax.devices()[:1]))
    expected = list(worker.judged_groups(
        sampler, worker.Parity(), sampler.cast(tiny_params), worker.prompts(), worker.SAMPLES, jax.random.key(5), 2,
        SamplingConfig()))
    for groups in found:
        for group, wanted in zip(groups, expected, strict=False):
            assert group.prompt.index == wanted.prompt.index
            np.testing.assert_array_equal(group.rewards, wanted.rewards)
            for a, b in zip(group.rollouts, wanted.rollouts, strict=True):
                assert (a.sample, a.text, a.finish_reason) == (b.sample, b.text, b.finish_reason)
                np.testing.assert_array_equal(a.tokens, b.tokens)
                np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
