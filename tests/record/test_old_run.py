"""A run's folder that commit aff9c20 wrote, before the rooms: it is read, replayed, shown and continued today."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import nft_jax
from nft_jax.record.folder import read_run
from nft_jax.report.data import page_data
from refusal import refused
from runs import use_devices

# Two steps of a model of 8 units on arithmetic. end.safetensors is the model of the same run after its third step, of
# that commit too.
OLD = Path(__file__).parent / "fixtures" / "old_run"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A copy that may be written, in the current folder: its configuration names model and reward.py from there."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    use_devices(monkeypatch)
    return tmp_path / "run"


def test_it_is_read(run):
    found = read_run(run)
    assert found.config.optimizer.learning_rate == 0.01 and found.config.policy.path == "model"
    assert [row["step"] for row in found.rows] == [0, 1, 2] and list(found.tables) == [1, 2]
    assert found.summary["finished"] and found.text([1]) == "<|end|>"
    answers = nft_jax.replay(run).answers
    assert len(answers) == 4 and all("".join(answer.tokens) for answer in answers)
    page = page_data([run], 100)
    assert page["runs"][0]["step"] == 2 and len(page["rollouts"]["rows"]) == 16 and page["rollouts"]["notes"] == []


def test_it_goes_on_to_the_same_end(run):
    before = np.asarray(nft_jax.load(run).params["embed"])
    nft_jax.train(replace(read_run(run).config, steps=3), quiet=True)
    now, end = load_file(run / "model" / "model.safetensors"), load_file(OLD / "end.safetensors")
    assert not np.array_equal(before, now["model.embed_tokens.weight"]) and now.keys() == end.keys()
    # Bit for bit on the processor of that commit, with its compiler flags; others round otherwise.
    for name in end:
        np.testing.assert_allclose(now[name], end[name], atol=1e-5)


@pytest.mark.parametrize(("field", "value"), [("rollout_ahead", 1), ("old_logprobs", "sampler")])
def test_what_it_computed_otherwise_is_refused_by_name(run, field, value):
    config = read_run(run).config
    settings = json.loads((run / "config.json").read_text())
    settings["rollout"][field] = value
    (run / "config.json").write_text(json.dumps(settings))
    with refused(f"rollout.{field}", value):
        nft_jax.train(config, quiet=True)
