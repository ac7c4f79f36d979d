"""Model folders to break."""
import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from model_folders import FIXTURES, SINGLE


@pytest.fixture
def copy_of(tmp_path):
    """A fixture folder to break: copy_of(name, change of config.json, change of the tensors)."""
    def make(name, config=None, change=None):
        folder = tmp_path / name
        shutil.copytree(FIXTURES / name, folder)
        if config:
            raw = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**raw, **config}))
        if change:
            arrays = load_file(folder / SINGLE)
            change(arrays)
            save_file(arrays, folder / SINGLE)
        return folder
    return make
