"""Small model folders of every family, written by tests/model/make_fixtures.py, and what is in them."""
import shutil
from pathlib import Path

import jax
from safetensors.numpy import load_file

from nft_jax.model import decoder, hf

FIXTURES = Path(__file__).parents[1] / "model" / "fixtures"
CASES = sorted(folder.name for folder in FIXTURES.iterdir())
NANO = Path(__file__).parents[2] / "nft_jax" / "assets" / "nano"
SINGLE = "model.safetensors"


def save_random(model, folder):
    """Writes a random model with the embedded model's tokenizer; returns its folder."""
    folder = hf.save_params(decoder.init(model, jax.random.key(0)), model, folder)
    for file in NANO.iterdir():
        if not (folder / file.name).exists():
            shutil.copy(file, folder)
    return folder


def tensors(folder):
    """All tensors of a folder, by name."""
    return {name: array for file in sorted(folder.glob("*.safetensors")) for name, array in load_file(file).items()}


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name
