"""Configurations by name: of a registry, of a module, of a file."""
import pytest

from nft_jax.config import Config
from nft_jax.runtime.names import experiment
from refusal import refused


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The name of a registry in a module of its own, with one preset and one entry that is none."""
    (tmp_path / "my_presets.py").write_text(
        "from nft_jax.config import Config\nSMALL = Config(name='small')\nPRESETS = {'small': SMALL, 'odd': 7}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_presets:PRESETS"


def test_a_preset_is_found_in_the_registry_that_is_handed_in(registry):
    assert experiment("small", registry).name == "small"
    assert experiment("my_presets:SMALL", "no.registry:AT_ALL") == experiment("my_presets.py:SMALL") == Config(
        name="small")


def test_a_mistake_names_the_experiment_and_what_there_is(registry):
    with refused("experiment", "large", "small", "odd"):
        experiment("large", registry)
    for name in ("odd", "my_presets:PRESETS"):
        with refused("experiment", name, "Config"):
            experiment(name, registry)
    with refused("experiment", "small", "no_presets_here", "file.py:NAME"):
        experiment("small", "no_presets_here:PRESETS")
