"""Parameters by path: what of a checkpoint is refused."""
from contextlib import nullcontext
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

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
