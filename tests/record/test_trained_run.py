"""A run's folder as a model: its configuration, and the parameters of its checkpoints."""
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import nft_jax
from nft_jax.config import BatchConfig, EvaluationConfig, RolloutConfig
from nft_jax.record.checkpoint import checkpoint_step
from nft_jax.record.folder import is_run, read_run
from nft_jax.record.glossary import MEANINGS, meaning
from nft_jax.record.metrics import read_metrics
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.loop import train
from refusal import refused
from runs import use_devices

NANO = Path(__file__).parents[2] / "nft_jax" / "assets" / "nano"


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """Two steps, which evaluate on two sets: a known one from a file, and one of our own."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [("12+34-5", "41"), ("(20-7)%5", "3"), ("9-3", "6")]
    (folder / "q.jsonl").write_text("".join(json.dumps({"problem": q, "answer": a}) + "\n" for q, a in rows))
    config = small_run(folder / "run", batch=BatchConfig(updates_per_step=1, row_length=64, rows_per_micro_batch=2),
                       rollout=RolloutConfig(prompts_per_step=4, samples_per_prompt=4, max_new_tokens=32, slots=8,
                                             block_size=8, old_logprobs="sampler"), evaluation=EvaluationConfig(
        source=f"mine={folder / 'q.jsonl'},more=arithmetic", questions=3, samples=4, every=1, temperature=0.9))
    with pytest.MonkeyPatch.context() as patch:             # eight virtual devices take longer to compile for
        use_devices(patch)
        train(config, quiet=True)
    return folder / "run", config


def test_the_configuration_comes_back(run):
    folder, config = run
    found = read_run(folder).config
    settled = replace(config, data=replace(config.data, seed=config.seed))
    assert replace(found, rollout=config.rollout, loss=config.loss, mesh=config.mesh) == settled
    assert not is_run(NANO) and not is_run(folder / "model") and not is_run("nowhere")


def test_the_newest_checkpoint_is_the_trained_model_and_others_are_not(run):
    folder, _ = run
    newest, model, first = nft_jax.load(folder), nft_jax.load(folder / "model"), nft_jax.load(folder, step=1)
    jax.tree.map(np.testing.assert_array_equal, newest.params, model.params)
    assert not np.array_equal(first.params["embed"], model.params["embed"])
    assert first.eos == model.eos and first.config == model.config
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / "model" / name).read_bytes() == (NANO / name).read_bytes()
    assert nft_jax.load(folder, step="1", dtype="bfloat16").params["embed"].dtype == "bfloat16"


def test_a_checkpoint_that_is_not_there(run, tmp_path):
    folder, config = run
    with refused("step", 7, folder, "1, 2"):
        nft_jax.load(folder, step=7)
    with refused("step", "best", "checkpoint.best"):
        checkpoint_step(folder, config.checkpoint, "best")
    with refused("step", 3, NANO):
        nft_jax.load(NANO, step=3)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with refused(tmp_path, "checkpoint.every"):
        nft_jax.load(tmp_path)


def test_the_rows_tell_of_every_set_and_their_mean(run):
    folder, _ = run
    for row in read_metrics(folder / "metrics.jsonl"):
        means = [row[f"evaluation/{name}/accuracy/all"] for name in ("mine", "more")]
        assert row["evaluation/accuracy/all"] == pytest.approx(np.mean(means))
        for name in ("mine", "more"):
            assert 0 <= row[f"evaluation/{name}/pass@2"] <= row[f"evaluation/{name}/pass@4"] <= 1
            assert 0 <= row[f"evaluation/{name}/maj@4"] <= 1 and row[f"evaluation/{name}/standard_error"] >= 0
    # The glossary has every metric of a run, and no other but those that need another run.
    rows = read_metrics(folder / "metrics.jsonl")
    known = {key: meaning(key) for row in rows for key in row if key != "step"}
    assert [key for key, term in known.items() if term is None] == []
    assert {name for name, term in MEANINGS.items() if not term.when} <= set(rows[1])
    assert json.loads((folder / "skipped.json").read_text()).keys() == {"data", "evaluation/mine", "evaluation/more"}


def test_the_command_finds_the_run_s_own_numbers_again(run, capsys, monkeypatch):
    """Same sampler, verifier, settings and random numbers, from the checkpoint, whatever is evaluated beside it."""
    from nft_jax.rollout.evaluate import main
    folder, _ = run
    monkeypatch.setattr("nft_jax.rollout.answers.make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
    main(["--model", str(folder), "--step", "1", "--slots", "8", "--block-size", "8"])
    out, told = folder / "evaluations" / "step_000001", capsys.readouterr().out
    found = json.loads((out / "summary.json").read_text())
    row = read_metrics(folder / "metrics.jsonl")[1]
    assert found["settings"]["temperature"] == 0.9 and found["settings"]["step"] == 1 and "T 0.9, top-p 1" in told
    number = row["evaluation/accuracy/all"]
    assert f"the run measured {number}, and here it is {number}" in told
    assert list(found["sets"]) == ["mine", "more"]
    for one in found["sets"]:
        for name, key in (("accuracy", "accuracy/all"), ("pass@4", "pass@4"), ("maj@4", "maj@4")):
            assert found["sets"][one]["estimates"][name]["value"] == row[f"evaluation/{one}/{key}"]
        assert found["sets"][one]["length"] == row[f"evaluation/{one}/length/all"]
