"""Who may write a run folder, and with which configuration."""
import json
from dataclasses import replace

import pytest

from nft_jax.config import CheckpointConfig, MeshConfig, ObjectiveConfig
from nft_jax.record.folder import MAY_CHANGE, claimed, read_settings
from nft_jax.types import InputError


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
    assert read_settings(tmp_path)["seed"] == 0
    claim(replace(other, seed=0, loss=config.loss))                # what is left may change
    assert read_settings(tmp_path)["steps"] == 7
    for name in ("rollouts/step_000001.parquet", "metrics.jsonl", "curves.png.partial", "notes.txt"):
        (tmp_path / name).write_text("x")
    claim(other, fresh=True)
    assert read_settings(tmp_path)["seed"] == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "lock", "notes.txt", "rollouts"]


def test_a_field_that_the_run_did_not_know_had_its_default(small_run, tmp_path):
    config = small_run(tmp_path)
    claim(config)
    settings = read_settings(tmp_path)
    del settings["rollout"]["kv_dtype"], settings["verifier"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    claim(config)
    (tmp_path / "config.json").write_text(json.dumps(settings | {"gone": 1}))
    with pytest.raises(InputError, match=r"rollout.kv_dtype +'compute' +'int8'"):
        claim(replace(config, rollout=replace(config.rollout, kv_dtype="int8")))
    with pytest.raises(InputError, match=r"gone +1 +\(not known\)"):
        claim(config)


def test_fresh_does_not_delete_a_run_that_is_alive(small_run, tmp_path):
    config = small_run(tmp_path)
    with claimed(config, False):
        (tmp_path / "metrics.jsonl").write_text("{}")
        (tmp_path / "evaluations" / "step_000001").mkdir(parents=True)       # of weights that will be gone
        (tmp_path / "notes").mkdir()
        with pytest.raises(InputError, match="another process writes there"):
            claim(config, fresh=True)
    assert (tmp_path / "metrics.jsonl").exists() and (tmp_path / "evaluations").exists()
    claim(config, fresh=True)
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "evaluations").exists()
    assert (tmp_path / "notes").exists()


@pytest.mark.parametrize("text", ['{"architectures": ["Qwen3ForCausalLM"]}', '{"objective": "nft", "seed', "[]"])
def test_a_folder_that_is_no_run_is_left_alone(small_run, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="is not that of a run"):
        claim(small_run(tmp_path), fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
