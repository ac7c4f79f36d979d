"""A run goes on as it began, or is refused by name; it ends, is forked and is begun anew from what another run left."""
import datetime
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import nft_jax
from nft_jax.config import DataConfig, EvaluationConfig, PolicyConfig, RolloutConfig, VerifierConfig
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.record.claim import NAMES, begun
from nft_jax.record.folder import MARKER, read_marker, read_run
from nft_jax.record.metrics import read_metrics
from nft_jax.train import loop, opening
from nft_jax.train.plan import settle
from refusal import refused
from runs import EVERY_OTHER, comparable

DATED = ("{%- if not date_string is defined %}{%- set date_string = strftime_now('%d') %}{%- endif %}"
         "{{ '<|system|>' + date_string + '<|end|>' }}")
REWARD = "def even(prompt, response, gold):\n    return float(len(response) % 2 == 0)\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The folder of what a run reads: a small model whose template writes the day, questions, a reward."""
    folder = tmp_path_factory.mktemp("inputs")
    nano = nft_jax.load("nano")
    config = ModelConfig("qwen3", vocab_size=nano.config.vocab_size, hidden_size=16, intermediate_size=32, num_layers=1,
                         num_heads=4, num_kv_heads=2, head_dim=8, max_positions=64, tie_embeddings=True, qk_norm=True,
                         initializer_range=0.3)
    nft_jax.save(replace(nano, config=config, params=decoder.init(config, jax.random.key(0))), folder / "model")
    template = folder / "model" / "chat_template.jinja"
    template.write_text(DATED + template.read_text())
    for name, count in (("train", 20), ("held_out", 4)):
        rows = [{"problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    return folder


@pytest.fixture(scope="module")
def config(small_run, compiled_once, inputs):
    def make(workdir, steps=2, **changes):
        return small_run(workdir, steps=steps, policy=PolicyConfig(path=str(inputs / "model")),
                         data=DataConfig(source=str(inputs / "train.jsonl"), max_prompt_tokens=32),
                         evaluation=EvaluationConfig(source=str(inputs / "held_out.jsonl"), questions=4, samples=2,
                                                     every=1),
                         verifier=VerifierConfig(reward=f"{inputs / 'reward.py'}:even"),
                         rollout=RolloutConfig(prompts_per_step=4, samples_per_prompt=4, max_new_tokens=16, slots=16,
                                               block_size=8), **changes)
    return make


def train(config, day="02", **options):
    """Trains on that day of March 2026."""
    class Today(datetime.date):
        @classmethod
        def today(cls):
            return cls.fromisoformat(f"2026-03-{day}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "date", Today)
        return loop.train(config, verifier=EVERY_OTHER, **{"quiet": True} | options)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Two steps of a run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config(folder))
    return folder


@pytest.fixture(scope="module")
def longer(config, tmp_path_factory):
    """The same run of three steps, at once."""
    folder = tmp_path_factory.mktemp("longer") / "run"
    train(config(folder, 3))
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def nothing_compiled(monkeypatch):
    def compile_all(*arguments, **options):
        raise AssertionError("it should have ended by now")
    monkeypatch.setattr(opening, "compile_all", compile_all)


def state_of(folder):
    """Every file with its bytes and the time of its last change, but for the lock."""
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in sorted(folder.rglob("*")) if path.name != "lock"}


def assert_same_last_step(folder, expected):
    a, b = (comparable(read_metrics(one / "metrics.jsonl")[-1]) for one in (folder, expected))
    assert a == b and a["step"] == 3
    name = "rollouts/step_000003.parquet"
    assert pq.read_table(folder / name).equals(pq.read_table(expected / name))
    for path in (expected / "model").iterdir():
        assert (folder / "model" / path.name).read_bytes() == path.read_bytes(), path.name


# ---- on another day, and with other inputs


def test_a_run_goes_on_another_day_with_the_date_that_it_began_with(config, run, longer, capsys):
    train(config(run, 3), "03", quiet=False)
    assert "continues from step 2" in capsys.readouterr().out.partition("compiling")[0]
    assert_same_last_step(run, longer)
    table = pq.read_table(run / "rollouts/step_000003.parquet").to_pydict()
    assert {prompt[:14] for prompt in table["prompt"]} == {"<|system|>02<|"}
    assert read_run(run).fields["data.date"] == nft_jax.load(run).date == "2026-03-02"
    rollout, = nft_jax.sample(nft_jax.load(run), ["1+1"], max_new_tokens=1)
    assert rollout.prompt.text.startswith("<|system|>02<|")


def text_changed(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
    return change


def half_of_the_rows(folder):
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:len(lines) // 2]))


def other_weights(folder):
    arrays = load_file(folder / "model/model.safetensors")
    save_file({name: array + np.float32(1e-3) for name, array in arrays.items()}, folder / "model/model.safetensors")


def another_id_ends(folder):
    path = folder / "model/generation_config.json"
    settings = json.loads(path.read_text())
    ends = settings["eos_token_id"]
    path.write_text(json.dumps(settings | {"eos_token_id": [*(ends if isinstance(ends, list) else [ends]), 7]}))


CHANGES = {
    "questions, fewer": (half_of_the_rows, "questions"),
    "questions, another gold": (text_changed("train.jsonl", '"answer": "38"', '"answer": "39"'), "questions"),
    "held-out questions": (text_changed("held_out.jsonl", "3+3", "3+4"), "held-out questions"),
    "chat template": (text_changed("model/chat_template.jinja", "<|system|>", "<|system|> "), "chat template"),
    "tokenizer": (text_changed("model/tokenizer_config.json", "{", '{"note": 1, '), "tokenizer"),
    "weights": (other_weights, "weights of policy.path"),
    "ids that end an answer": (another_id_ends, "ids that end an answer"),
    "reward": (text_changed("reward.py", "% 2 == 0", "% 2 == 1"), "source of verifier.reward"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_input_is_refused_before_anything_is_compiled_and_changes_nothing(
        config, run, inputs, tmp_path, nothing_compiled, kind):
    change, name = CHANGES[kind]
    kept = shutil.copytree(inputs, tmp_path / "kept")
    before = state_of(run)
    try:
        change(inputs)
        with refused(f"\n  {name} ", "in the folder", "now", "--fresh", "another workdir"):
            train(config(run, 3))
        _, lines = opening.preview(settle(config(run, 3)), fresh=True)      # a dry run
        assert "a new run; removes" in lines[-1] and all(each in lines[-1] for each in ("model", "checkpoints"))
    finally:
        shutil.rmtree(inputs)
        shutil.copytree(kept, inputs)
    assert state_of(run) == before


# ---- at its end, and from another's


@pytest.mark.parametrize("steps", [1, 2])
def test_a_finished_run_is_left_as_it_is(config, run, nothing_compiled, capsys, steps):
    before = state_of(run)
    summary = train(config(run, steps), "03", quiet=False)
    assert summary == read_run(run).summary and summary["steps"] == 2
    assert "finished at step 2" in capsys.readouterr().out
    assert state_of(run) == before


def test_steps_that_are_past_are_refused_in_a_run_that_goes_on(config, run, nothing_compiled):
    shutil.rmtree(run / "model")                                     # not at its end, then
    with refused("steps is 1", run, "step 2"):
        train(config(run, 1))


@pytest.mark.parametrize(("steps", "fresh", "said"), [
    (2, False, "finished at step 2"), (3, False, "continues from step 2"), (3, True, "a new run; removes of the run")])
def test_a_dry_run_says_what_is_there_and_whether_it_would_go_on(config, run, steps, fresh, said):
    before = state_of(run)
    _, lines = opening.preview(settle(config(run, steps)), fresh=fresh)
    assert said in lines[-1] and str(run) in lines[-1]
    assert state_of(run) == before


def test_a_fork_ends_as_the_run_itself_would_have(config, whole, longer, tmp_path):
    """On another day, stopped as soon as it is made, and continued by the same command, or without --fork."""
    before, forked = state_of(whole), config(tmp_path / "fork", 3)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(opening, "compile_programs", lambda *arguments: 1 / 0)
        train(forked, "05", fork=str(whole))
    with refused("--fork", longer, whole):
        train(forked, fork=str(longer))
    train(forked, "06", fork=str(whole))
    assert_same_last_step(tmp_path / "fork", longer)
    assert [row["step"] for row in read_metrics(tmp_path / "fork" / "metrics.jsonl")] == [3]
    assert read_marker(tmp_path / "fork")["fork"] == {"run": str(whole), "step": 2, "differs": {}}
    assert train(forked)["finished"] and state_of(whole) == before
    with refused("--fork", whole, "began from a model"):
        train(config(longer, 4), fork=str(whole))


def test_a_fork_may_differ_and_keeps_in_what(config, whole, tmp_path, capsys):
    other = config(tmp_path / "fork", 3)
    other = replace(other, seed=9, data=replace(other.data, seed=0), loss=replace(other.loss, epsilon=0.5))
    train(other, fork=str(whole), quiet=False)
    assert read_marker(tmp_path / "fork")["fork"]["differs"] == {"loss.epsilon": ["1.0", "0.5"], "seed": ["0", "9"]}
    said = capsys.readouterr().out
    assert "forked from step 2" in said and "loss.epsilon" in said


@pytest.mark.parametrize("wrong", ["no run", "itself", "no more steps", "damaged"])
def test_a_fork_of_what_cannot_be_forked(config, run, tmp_path, nothing_compiled, wrong):
    if wrong == "damaged":
        for step in ("1", "2"):
            shutil.rmtree(run / "checkpoints" / step / "state")
    fork = str({"no run": tmp_path, "itself": run}.get(wrong, run))
    workdir = run if wrong == "itself" else tmp_path / "fork"
    with refused(*(("steps is 2", "step 2") if wrong == "no more steps" else ("--fork", fork))):
        train(config(workdir, 2 if wrong == "no more steps" else 3), fork=fork)
    assert wrong == "itself" or not begun(workdir)                   # nothing that would bind another start


def test_a_run_s_folder_is_a_model_to_start_from(config, whole, tmp_path):
    """Its model is the one that the run ended with: the first evaluation finds the last one's numbers again."""
    begun = replace(config(tmp_path / "second", 1), policy=PolicyConfig(path=str(whole)))
    begun = replace(begun, data=replace(begun.data, date="2026-03-02"))
    train(begun)
    assert read_run(tmp_path / "second").fields["policy.path"] == str(whole / "model")
    first, last = read_metrics(tmp_path / "second" / "metrics.jsonl")[0], read_metrics(whole / "metrics.jsonl")[-1]
    found = {name: value for name, value in first.items() if name.startswith("evaluation/")}
    assert found and found == {name: last[name] for name in found}
    shutil.copytree(whole, tmp_path / "unfinished", ignore=shutil.ignore_patterns("model"))
    for field in ("policy.path", "terms.reference"):
        room, _, name = field.partition(".")
        with refused(field, tmp_path / "unfinished", "model/"):
            settle(replace(begun, **{room: replace(getattr(begun, room), **{name: str(tmp_path / "unfinished")})}))


# ---- where it is written


def test_a_start_that_fails_before_its_first_step_is_mended_without_fresh(config, tmp_path, monkeypatch):
    loss = tmp_path / "loss.py"
    loss.write_text("def loss(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):\n"
                    "    return -2 * logprobs, {}\n")
    mine = replace(config(tmp_path / "run", 1), objective=f"{loss}:loss")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(loop, "collect", lambda run, params, progress: 1 / 0)
        train(mine)
    assert read_run(tmp_path / "run").fields["objective"] == mine.objective
    loss.write_text(loss.read_text().replace("-2 * ", "-"))
    assert train(replace(mine, seed=4))["finished"] and read_run(tmp_path / "run").fields["seed"] == 4


def test_every_folder_of_a_run_may_be_a_link_to_another_disk(config, longer, tmp_path):
    """While it is made, continued, finished, lengthened and started over; the links stay."""
    folder, scratch, names = tmp_path / "run", tmp_path / "scratch", ("checkpoints", "model", "rollouts", "tensorboard")
    folder.mkdir()
    for name in names:
        (scratch / name).mkdir(parents=True)
        (folder / name).symlink_to(scratch / name)
    for options in ({"steps": 1}, {"steps": 3}, {"steps": 3, "fresh": True}):
        train(config(folder, options.pop("steps")), **options)
        assert all((folder / name).is_symlink() and any((scratch / name).iterdir()) for name in names)
    assert_same_last_step(folder, longer)
    assert {path.name for path in folder.iterdir()} <= {*NAMES, MARKER, "lock"}
    assert not list(scratch.rglob("*.partial")) + list(scratch.rglob("*.old"))
    assert sorted(os.listdir(scratch / "model")) == sorted(os.listdir(longer / "model"))
