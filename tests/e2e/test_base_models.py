"""A model without a chat template: training, going on, sampling and evaluating give it the same whole prompts. It has
LongRoPE, and the longest prompt and answer exceed its original context."""
import json
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from nft_jax.config import DataConfig, EvaluationConfig, PolicyConfig, RolloutConfig
from nft_jax.model import decoder
from nft_jax.model.config import LongRope, ModelConfig
from nft_jax.model.hf import read_config
from nft_jax.record.metrics import read_metrics
from nft_jax.rollout import generate
from nft_jax.train import opening
from nft_jax.train.loop import train
from nft_jax.train.plan import settle
from refusal import refused
from runs import EVERY_OTHER

WHOLE = "3*3 = 9.\n{problem} ="
BOS = 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The folder of what a run reads: a small base model whose tokenizer begins texts with a token, and questions."""
    scaling = LongRope(short_factor=(1.0, 1.5, 2.0, 3.0), long_factor=(4.0, 0.5, 9.0, 7.0),
                       original_max_position_embeddings=32, max_position_embeddings=64)
    from tokenizers import processors
    folder = tmp_path_factory.mktemp("inputs")
    nano = nft_jax.load("nano")
    nano.tokenizer.chat_template = None
    nano.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<bos> $A <end>", special_tokens=[("<bos>", BOS), ("<end>", 1)])
    config = ModelConfig("phi3", vocab_size=nano.config.vocab_size, hidden_size=16, intermediate_size=32, num_layers=1,
                         num_heads=4, num_kv_heads=2, head_dim=8, max_positions=32, tie_embeddings=True,
                         fused_projections=True, rope_scaling=scaling, initializer_range=0.3)
    nft_jax.save(replace(nano, config=config, params=decoder.init(config, jax.random.key(0))), folder / "model")
    (folder / "chat.jinja").write_text("{{ messages[-1].content[-4:] }}<|assistant|>")
    rows = [{"problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(20)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def settings(small_run, inputs):
    def make(folder, **data):
        return small_run(folder, steps=1, policy=PolicyConfig(path=str(inputs / "model")),
                         data=DataConfig(**{"source": str(inputs / "q.jsonl"), "max_prompt_tokens": 32,
                                            "template": WHOLE} | data),
                         evaluation=EvaluationConfig(source=f"gsm8k={inputs / 'q.jsonl'}", questions=4, samples=2),
                         rollout=RolloutConfig(prompts_per_step=4, samples_per_prompt=4, max_new_tokens=16, slots=16,
                                               block_size=8))
    return make


@pytest.fixture(scope="module")
def folder(settings, tmp_path_factory, compiled_once):
    folder = tmp_path_factory.mktemp("base") / "run"
    train(settings(folder), verifier=EVERY_OTHER, quiet=True)
    return folder


def test_training_and_evaluation_ask_by_the_whole_prompt(folder, settings):
    rows = pq.read_table(folder / "rollouts/step_000001.parquet").to_pylist()
    assert {row["prompt"] for row in rows} == {WHOLE.replace("{problem}", row["problem"]) for row in rows}
    assert all(row["prompt_tokens"][0] == BOS and row["prompt_tokens"].count(BOS) == 1 for row in rows)
    inputs = opening.read_inputs(settle(settings(folder)))
    # A set's own template is a user message, which only a chat template frames.
    assert {prompt.text for prompt in inputs.held_out[0].prompts} == {f"3*3 = 9.\n{i}+{i} =" for i in range(4)}


def test_the_start_and_the_dry_run_say_what_a_prompt_and_an_end_are(folder, settings, tmp_path):
    for asked, first in (({}, "the whole prompt"), ({"chat_template": "none"}, "the whole prompt"),
                         ({"chat_template": str(folder / "no.jinja")}, None)):
        config = settle(settings(tmp_path / "new", **asked))
        if first is None:
            with refused("data.chat_template", folder / "no.jinja"):
                opening.preview(config)
            continue
        _, lines = opening.preview(config)
        assert any(line.startswith("prompts: ") and first in line and f"({BOS})" in line for line in lines)
        assert any(line == "answers end with: '<|end|>' (1)" for line in lines)


def test_the_long_factors_of_the_run_hold_for_all_that_is_loaded_from_it(folder, inputs):
    row = read_metrics(folder / "metrics.jsonl")[1]
    assert row["mismatch/p95"] < 1e-5 and row["compiles"] == 0
    policies = [nft_jax.load(folder), nft_jax.load(folder / "model", max_tokens=33), nft_jax.load(folder / "model")]
    assert [policy.config.stretches for policy in policies] == [True, True, False]
    assert read_config(folder / "model") == read_config(inputs / "model") == policies[2].config
    tokens = np.arange(3, 13, dtype=np.int32)[None]
    long, same, short = (np.asarray(nft_jax.logits(policy, tokens, [10])) for policy in policies)
    np.testing.assert_array_equal(long, same)
    assert np.abs(long - short).max() > 0.01
    with refused("max_new_tokens", "max_tokens=40"):
        nft_jax.sample(policies[2], ["1+1"], max_new_tokens=40 - 1 - len("1+1"))
    with refused("max_tokens", 65, 64):
        nft_jax.load(folder / "model", max_tokens=65)


def test_another_template_is_another_run(folder, settings, inputs):
    for name, changes in (("data.template", {"template": "{problem}"}),
                          ("data.chat_template", {"chat_template": str(inputs / "chat.jinja")})):
        with refused(name, "in the folder", "now"):
            opening.preview(settle(settings(folder, **changes)))
    (inputs / "model" / "chat_template.jinja").write_text("{{ messages[-1].content[-4:] }}")
    try:
        with refused("chat template", "questions", "in the folder"):
            opening.preview(settle(settings(folder)))
    finally:
        (inputs / "model" / "chat_template.jinja").unlink()


def test_the_run_its_model_and_the_command_line_continue_a_text_alike(folder, inputs, tmp_path):
    found = []
    for place, longest in ((folder, 0), (folder / "model", 48)):
        policy = nft_jax.load(place, max_tokens=longest)
        assert policy.tokenizer.chat_template is None
        found += nft_jax.sample(policy, ["3*3 = 9.\n1+1 ="], max_new_tokens=8, temperature=0)
    (tmp_path / "one.jsonl").write_text('{"problem": "1+1"}\n')
    generate.main(["--model", str(folder), "--prompts", str(tmp_path / "one.jsonl"), "--template", WHOLE,
                   "--out", str(tmp_path / "a.parquet"), "--max-new-tokens", "8", "--max-prompt-tokens", "32",
                   "--temperature", "0", "--slots", "2"])
    row, = pq.read_table(tmp_path / "a.parquet").to_pylist()
    for rollout in found:
        assert rollout.prompt.tokens[0] == BOS and rollout.prompt.tokens.tolist() == row["prompt_tokens"]
        assert rollout.tokens.tolist() == row["tokens"]


def test_a_run_with_a_chat_template_of_its_own_saves_it(settings, inputs, tmp_path, compiled_once):
    train(settings(tmp_path / "run", chat_template=str(inputs / "chat.jinja"), template="{problem}?"),
          verifier=EVERY_OTHER, quiet=True)
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        policy = nft_jax.load(place)
        answer, = nft_jax.sample(policy, ["1+1"], max_new_tokens=1)
        assert answer.prompt.text == "1+1<|assistant|>" and BOS not in answer.prompt.tokens
    (inputs / "chat.jinja").rename(inputs / "gone.jinja")
    try:
        with refused("data.chat_template", inputs / "chat.jinja"):
            nft_jax.load(tmp_path / "run")
    finally:
        (inputs / "gone.jinja").rename(inputs / "chat.jinja")
