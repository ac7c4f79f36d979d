"""A run folder is told from other folders, and read back whatever is missing in it."""
import json

import pytest

from made import make_run
from nft_jax.config import Config
from nft_jax.record.folder import MARKER, as_read, is_run, read_run, upgraded
from refusal import refused

CONFIG = as_read(Config())
MARKED = json.dumps({"names": ["config.json"], "inputs": {}})
# What is no run's: of a model, of another trainer, cut short, another kind of JSON.
NO_RUN = {"a model": '{"architectures": ["Qwen3ForCausalLM"]}', "another trainer": '{"objective": "binary:logistic"}',
          "cut short": json.dumps(CONFIG)[:100], "a list": "[]"}


def test_a_run_is_told_in_three_lines(tmp_path):
    rows = [{"step": step, "evaluation/accuracy/all": step / 4} for step in range(3)]
    run = read_run(make_run(tmp_path / "mine", rows=rows, steps=2, objective="grpo", seed=5))
    (run.folder / "checkpoints" / "2").mkdir(parents=True)
    first, second, third = repr(run).splitlines()
    assert str(run.folder) in first and "grpo, seed 5" in first and "checkpoints: 2" in third
    assert "step 2 of" in second and run.state in second and "0.0% -> 50.0%" in second
    assert len(repr(read_run(make_run(tmp_path / "new", rows=[], steps=0))).splitlines()) == 3


@pytest.mark.parametrize("kind", NO_RUN)
@pytest.mark.parametrize("marker", ["", MARKED])
def test_a_config_of_something_else_makes_no_run(tmp_path, kind, marker):
    (tmp_path / "config.json").write_text(NO_RUN[kind])
    if marker:
        (tmp_path / MARKER).write_text(marker)
    assert not is_run(tmp_path)
    with refused("RUN", tmp_path):
        read_run(tmp_path)


@pytest.mark.parametrize(("rows", "run"), [(None, True), ("", True), ('{"step": 0, "a": 1}\n', True),
                                           ('{"step": 1, "accur', True), ('{"epoch": 1}\n', False), ("a,b\n", False)])
def test_an_older_run_has_no_marker_and_is_known_by_its_rows(tmp_path, rows, run):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    if rows is not None:
        (tmp_path / "metrics.jsonl").write_text(rows)
    assert is_run(tmp_path) == run
    (tmp_path / MARKER).write_text(MARKED)
    assert is_run(tmp_path)


def test_what_a_run_has_not_written_is_missing_and_no_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"policy": {"path": "nowhere"}}))
    run = read_run(tmp_path)
    assert (run.rows, run.tables, run.summary, run.text) == ([], {}, None, None) and run.fields["loss.epsilon"] == 1.0
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 2}\n{"step": 0}\n{"step": 2, "a"')
    assert read_run(tmp_path).rows == [{"step": 0}, {"step": 1, "a": 2}]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"data": {"flavour": 1}}))
    with refused("flavour", 1):
        _ = read_run(tmp_path).config


@pytest.mark.parametrize(("path", "now"), [
    ("experiments/assets/nano", "nano"), ("/home/me/nft_jax/experiments/assets/nano", "nano"), ("nano", "nano"),
    ("nft_jax/assets/nano", "nano"), ("my_experiments/assets/nano", "my_experiments/assets/nano"),
    ("experiments/assets/nano2", "experiments/assets/nano2")])
def test_the_embedded_model_of_older_runs_is_nano(path, now):
    settings = upgraded({"policy": {"path": path}, "terms": {"reference": path}})
    assert settings == {"policy": {"path": now}, "terms": {"reference": now}}
