"""One way to find what a name with a colon means."""
import subprocess
import sys

import pytest

from nft_jax.runtime.names import load, load_module
from refusal import refused


def test_a_module_and_a_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("VALUE = [7]\n")
    assert load("json:loads", "objective") is __import__("json").loads
    assert load(f"{tmp_path}/mine.py:VALUE", "experiment") == [7]
    monkeypatch.chdir(tmp_path)
    assert load_module("mine.py", "experiment").__file__ == str(tmp_path / "mine.py")
    assert not {"mine", "mine.py"} & sys.modules.keys()


@pytest.mark.parametrize("home", ["missing.py", "missing.module", "broken.py"])
def test_what_cannot_be_imported_names_the_field(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with refused("verifier.reward", home):
        load(f"{home}:f", "verifier.reward")


def test_a_name_that_the_module_lacks():
    with refused("objective", "json:nothing"):
        load("json:nothing", "objective")


def test_neither_jax_nor_the_verifier_is_imported():
    code = "import sys, nft_jax.runtime.names; print(*sorted({'jax', 'nft_jax.verify'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
