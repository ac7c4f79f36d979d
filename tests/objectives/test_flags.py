"""Settings of an objective of one's own as flags, in config.json, and in a sweep."""
import json

import pytest

from experiments.harness.variants import digest, flags, vary
from experiments.sweep import arms_of, grid_of
from nft_jax.cli import parse
from nft_jax.config import Config, ObjectiveConfig
from nft_jax.record.claim import claimed
from nft_jax.record.folder import read_run
from nft_jax.train.plan import settle

LOSS = """
def loss(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras, scale=0.5, hard=False, kind="a"):
    return -rewards * scale * logprobs, {}
"""


@pytest.fixture
def name(tmp_path):
    (tmp_path / "mine.py").write_text(LOSS)
    return f"{tmp_path / 'mine.py'}:loss"


@pytest.mark.parametrize("equals", [True, False])
def test_a_setting_is_a_flag(name, equals):
    line = ["--objective.scale", "2", "--objective.hard", "True"]
    line = ["--objective.scale=2", "--objective.hard=True"] if equals else line
    config = parse(Config(), "", [f"--objective={name}", *line, "--steps", "3"]).config
    assert config.objective == name and config.steps == 3
    assert config.loss.own == {"scale": 2.0, "hard": True, "kind": "a"}
    assert settle(config) == config or settle(config).loss.own == config.loss.own
    # A preset's own values are the defaults of its own objective only.
    preset = Config(objective=name, loss=ObjectiveConfig(own={"scale": 3.0}))
    assert parse(preset, "", ["--objective.kind", "b"]).config.loss.own == {"scale": 3.0, "hard": False, "kind": "b"}


@pytest.mark.parametrize("line", [["--objective.scala", "2"], ["--objective.scale", "x"], ["--loss.own", "1"]])
def test_a_flag_that_it_does_not_have_is_refused(name, line, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Config(), "", ["--objective", name, *line])
    assert ended.value.code == 2 and line[0] in capsys.readouterr().err


def test_the_help_has_the_settings_and_nothing_that_is_no_flag(name, capsys):
    for line, shown in ((["--objective", name], True), ([], False)):
        with pytest.raises(SystemExit):
            parse(Config(), "", [*line, "--help"])
        told = capsys.readouterr().out
        assert ("--objective.scale FLOAT" in told) == shown and "loss.own" not in told


def test_they_are_in_the_run_s_config_and_come_back(name, tmp_path):
    config = settle(Config(objective=name, workdir=str(tmp_path / "run"), loss=ObjectiveConfig(own={"scale": 2.0})))
    with claimed(config, {}):
        pass
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert list(kept)[4:8] == ["objective", "objective.scale", "objective.hard", "objective.kind"]
    assert kept["objective.scale"] == 2.0 and "own" not in kept["loss"]
    run = read_run(tmp_path / "run")
    assert run.config.loss == config.loss and run.fields["objective.scale"] == 2.0


def test_a_sweep_over_them_names_runs_and_commands(name):
    base = Config()
    arms = arms_of(base, grid_of([f"objective={name}", "objective.scale=0.5,2", "objective.hard=True"]))
    made = [vary(base, changes) for changes, _ in arms.values()]
    assert [settle(config).loss for config in made] == [settle(config).loss for _, config in arms.values()]
    assert [config.loss.own["scale"] for config in made] == [0.5, 2.0]
    assert all(config.loss.own["hard"] is True for config in made)
    assert len({digest(config) for config in made}) == 2
    for config in made:
        again = parse(base, "", flags(base, config)).config
        assert settle(again).loss == settle(config).loss
