"""Parameters by path: what of a checkpoint is refused."""
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model_folders import NANO
from nft_jax.model.hf import load_params, read_config
from nft_jax.record import weights
from refusal import refused


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_checkpoint_whose_values_are_not_finite_is_named(value, monkeypatch, tmp_path):
    params = load_params(NANO)
    params["layers"]["down"] = params["layers"]["down"].at[1, 0, 0].set(value)
    stored = SimpleNamespace(restore_params=lambda step, shapes, part: params)
    monkeypatch.setattr(weights, "reading", lambda *_: nullcontext(stored))
    found = weights.Weights(NANO, read_config(NANO), SimpleNamespace(checkpoint=None), tmp_path, 3)
    if np.isfinite(value):
        assert found.read()["layers"]["down"].dtype == jnp.float32
    with refused(tmp_path, "layers/down", "step 3", "float16"):
        found.read("float16")


def test_a_copy_has_the_digest_of_its_weights_and_other_weights_do_not(tmp_path):
    copy, other = (Path(shutil.copytree(NANO, tmp_path / name)) for name in ("copy", "other"))
    os.utime(copy / "model.safetensors", (1, 1))
    arrays = load_file(other / "model.safetensors")
    save_file({name: array + np.float32(1e-3) for name, array in arrays.items()}, other / "model.safetensors",
              metadata={"format": "pt"})
    stat = (NANO / "model.safetensors").stat()
    assert (other / "model.safetensors").stat().st_size == stat.st_size
    os.utime(other / "model.safetensors", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    told = {folder: weights.Weights(folder, read_config(folder)).digests for folder in (NANO, copy, other)}
    assert told[copy] == told[NANO] != told[other]


def test_the_digests_of_a_checkpoint_are_of_every_file_below_it(tmp_path):
    run = SimpleNamespace(checkpoint=None)
    for step, content in ((1, b"one"), (2, b"two"), (3, b"one")):
        part = tmp_path / "checkpoints" / str(step) / "params" / "d"
        part.mkdir(parents=True)
        (part / "values").write_bytes(content)
    one, two, again = (weights.Weights(NANO, read_config(NANO), run, tmp_path, step).digests for step in (1, 2, 3))
    assert one == again != two and len(one) == 1
