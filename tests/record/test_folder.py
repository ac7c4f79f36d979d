"""Who may write a run folder, and with which configuration."""
import json
from dataclasses import replace

import pytest

from nft_jax.config import CheckpointConfig, MeshConfig, ObjectiveConfig
from nft_jax.config.differences import MAY_CHANGE, REMOVED
from nft_jax.record.folder import claimed, is_run, read_run, upgraded
from nft_jax.types import InputError
from refusal import refused


def claim(config, fresh=False):
    with claimed(config, fresh) as remark:
        assert remark == ""


def test_a_changed_configuration_is_refused_with_a_table(small_run, tmp_path):
    config = small_run(tmp_path)
    claim(config)
    other = replace(config, seed=1, loss=ObjectiveConfig(epsilon=0.5), steps=7, mesh=MeshConfig(1),
                    checkpoint=CheckpointConfig(3))
    with pytest.raises(InputError) as error:
        claim(other)
    lines = str(error.value).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["field", "in", "the", "folder", "now"], ["loss.epsilon", "1.0", "0.5"], ["seed", "0", "1"]]
    assert len(lines) == 5 and "--fresh" in lines[4] and "choose another workdir" in lines[4]
    assert all(name in lines[4] for name in MAY_CHANGE)
    assert read_run(tmp_path).fields["seed"] == 0
    claim(replace(other, seed=0, loss=config.loss))                # what is left may change
    assert read_run(tmp_path).fields["steps"] == 7
    for name in ("rollouts/step_000001.parquet", "metrics.jsonl", "curves.png.partial", "notes.txt"):
        (tmp_path / name).write_text("x")
    claim(other, fresh=True)
    assert read_run(tmp_path).fields["seed"] == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "lock", "notes.txt", "rollouts"]


def test_a_field_that_the_run_did_not_know_had_its_default(small_run, tmp_path):
    config = small_run(tmp_path)
    claim(config)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["rollout"]["kv_dtype"], settings["verifier"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    claim(config)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"gone": 1}))
    with refused("rollout.kv_dtype", "'compute'", "'int8'"):
        claim(replace(config, rollout=replace(config.rollout, kv_dtype="int8")))
    with refused("gone", "1"):
        claim(config)


def test_fresh_does_not_delete_a_run_that_is_alive(small_run, tmp_path):
    config = small_run(tmp_path)
    with claimed(config, False):
        (tmp_path / "metrics.jsonl").write_text("{}")
        (tmp_path / "evaluations" / "step_000001").mkdir(parents=True)       # of weights that will be gone
        (tmp_path / "notes").mkdir()
        with refused("workdir", tmp_path, "--fresh"):
            claim(config, fresh=True)
    assert (tmp_path / "metrics.jsonl").exists() and (tmp_path / "evaluations").exists()
    claim(config, fresh=True)
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "evaluations").exists()
    assert (tmp_path / "notes").exists()


@pytest.mark.parametrize("text", ['{"architectures": ["Qwen3ForCausalLM"]}', '{"objective": "nft", "seed', "[]"])
def test_a_folder_that_is_no_run_is_left_alone(small_run, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with refused("workdir", tmp_path):
        claim(small_run(tmp_path), fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert not is_run(tmp_path)
    with refused("RUN", tmp_path):
        read_run(tmp_path)


@pytest.mark.parametrize("field", ["policy.path", "data.source", "terms.reference"])
def test_a_run_never_writes_over_its_own_inputs(small_run, tmp_path, field):
    source = tmp_path / "model" / "input"
    source.mkdir(parents=True)
    config, (room, name) = small_run(tmp_path), field.split(".")
    with refused(field, source, tmp_path):
        claim(replace(config, **{room: replace(getattr(config, room), **{name: str(source)})}), fresh=True)
    assert source.exists()


def test_what_a_run_has_not_written_is_missing_and_no_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"objective": "nft", "policy": {"path": "nowhere"}}))
    run = read_run(tmp_path)
    assert (run.rows, run.tables, run.summary, run.text) == ([], {}, None, None) and run.fields["loss.epsilon"] == 1.0
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 2}\n{"step": 0}\n{"step": 2, "a"')
    assert read_run(tmp_path).rows == [{"step": 0}, {"step": 1, "a": 2}]
    (tmp_path / "config.json").write_text(json.dumps({"objective": "nft", "data": {"flavour": 1}}))
    with refused("flavour", 1):
        _ = read_run(tmp_path).config


@pytest.mark.parametrize(("path", "now"), [
    ("experiments/assets/nano", "nano"), ("/home/me/nft_jax/experiments/assets/nano", "nano"), ("nano", "nano"),
    ("nft_jax/assets/nano", "nano"), ("my_experiments/assets/nano", "my_experiments/assets/nano"),
    ("experiments/assets/nano2", "experiments/assets/nano2")])
def test_the_embedded_model_of_older_runs_is_nano(path, now):
    settings = upgraded({"policy": {"path": path}, "terms": {"reference": path}})
    assert settings == {"policy": {"path": now}, "terms": {"reference": now}}


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_field_at_what_is_all_there_is_now_is_left_out(small_run, tmp_path, name):
    room, _, field = name.rpartition(".")
    config = small_run(tmp_path)
    claim(config)
    settings = json.loads((tmp_path / "config.json").read_text())
    for value in (REMOVED[name][0], "other"):
        settings[room][field] = value
        (tmp_path / "config.json").write_text(json.dumps(settings))
        if value != "other":
            claim(config)
    with refused(name, "'other'", REMOVED[name][1]):
        claim(config)
