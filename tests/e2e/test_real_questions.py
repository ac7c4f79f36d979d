"""Whole steps of a small random Qwen3 model with the Qwen3 tokenizer, on real questions in two layouts."""
import dataclasses
import json
import shutil

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from nft_jax.config import BatchConfig, CheckpointConfig, DataConfig, EvaluationConfig, PolicyConfig, RolloutConfig
from nft_jax.model import decoder
from nft_jax.model.config import ModelConfig
from nft_jax.model.hf import save_params
from nft_jax.record.metrics import read_metrics
from nft_jax.train.loop import train
from runs import Judge, use_devices

MODEL = ModelConfig("qwen3", vocab_size=151_936, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4,
                    num_kv_heads=2, head_dim=16, max_positions=1024, tie_embeddings=True, qk_norm=True)


# Stands in for a verifier: a random model is never right, so answers of even length are.
BY_LENGTH = Judge(lambda i, text, gold: float(len(text) % 2 == 0))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The vocabulary of 151,936 is slow enough without eight virtual devices."""
    use_devices(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_folder):
    folder = tmp_path_factory.mktemp("qwen3")
    save_params(decoder.init(MODEL, jax.random.key(0)), MODEL, folder)
    for path in (data_folder / "tokenizers" / "qwen3").iterdir():
        shutil.copy(path, folder)
    return folder


def config(small_run, folder, workdir, source):
    return small_run(
        workdir, policy=PolicyConfig(path=str(folder)),
        data=DataConfig(source=str(source), max_prompt_tokens=256, thinking=False,
                        limit=0 if str(source).endswith("parquet") else 40,
                        template="{problem}\nPut your final answer within \\boxed{}."),
        rollout=RolloutConfig(prompts_per_step=4, samples_per_prompt=4, max_new_tokens=16, slots=16, block_size=8,
                              max_generation_batches=2),
        batch=BatchConfig(updates_per_step=2, row_length=320, rows_per_micro_batch=2),
        evaluation=EvaluationConfig(source=str(source), questions=2, samples=2, every=0),
        checkpoint=CheckpointConfig(every=1))


@pytest.mark.parametrize(("name", "steps"), [("gsm8k_train.jsonl", 2), ("dapo_schema_sample.parquet", 1)])
def test_whole_steps(small_run, folder, data_folder, tmp_path, name, steps):
    run = config(small_run, folder, tmp_path / "run", data_folder / "data" / name)
    summary = train(dataclasses.replace(run, steps=steps), verifier=BY_LENGTH, quiet=True)
    assert summary["finished"] and summary["steps"] == steps and summary["tokens_kept"] > 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(steps + 1))
    assert rows[1]["groups/kept"] == 4 and rows[1]["grad_norm/mean"] > 0 and rows[-1]["compiles"] == 0
    assert rows[1]["mismatch/p95"] < 1e-3
    table = pq.read_table(tmp_path / "run" / "rollouts" / "step_000001.parquet").to_pylist()
    assert "<|im_start|>user\n" in table[0]["prompt"]
    asked = "within \\boxed{}" if name.startswith("gsm8k") else "Answer:"       # chat messages are taken as they are
    assert asked in table[0]["prompt"]
    assert all(len(row["tokens"]) == len(row["logprobs"]) <= 16 for row in table)
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())["data"]
    assert (skipped["used"], skipped["repeats"]) == ((40, 0) if name.startswith("gsm8k") else (64, 16))
    trained = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert trained != (folder / "model.safetensors").read_bytes()


def test_a_model_that_is_never_right_skips_its_steps_and_ends(small_run, folder, data_folder, tmp_path):
    run = config(small_run, folder, tmp_path / "run", data_folder / "data" / "gsm8k_test.jsonl")
    summary = train(run, quiet=True)
    assert summary["finished"] and summary["skipped_steps"] == 2 and summary["tokens_kept"] == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows[2]["groups/generated"] == 8 and rows[2]["steps_skipped"] == 2 and rows[2]["accuracy/all"] == 0
    before = np.frombuffer((folder / "model.safetensors").read_bytes(), np.uint8)
    after = np.frombuffer((tmp_path / "run/model/model.safetensors").read_bytes(), np.uint8)
    np.testing.assert_array_equal(after, before)


def test_surplus_groups_are_carried_with_their_old_logprobs(small_run, tmp_path):
    """Every third prompt teaches nothing, so later batches overshoot: what is left over opens the next step."""
    class EveryThird(Judge):
        calls = 0

        def submit(self, responses, golds, prompts=None):
            self.calls += 1
            if self.calls % 3 == 0:
                responses = ["xx"] * len(responses)
            else:
                responses = ["x", *["xx"] * (len(responses) - 1)]
            return super().submit(responses, golds)

    run = small_run(tmp_path / "run", steps=3, evaluation=EvaluationConfig(questions=2, samples=2, every=0))
    run = dataclasses.replace(run, rollout=dataclasses.replace(run.rollout, prompts_per_step=7))
    train(run, verifier=EveryThird(BY_LENGTH.judged), quiet=True)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert all(row["groups/kept"] == 7 for row in rows) and any(row["groups/carried"] for row in rows)
    kept = [sorted({row["prompt_index"] for row in pq.read_table(path).to_pylist() if row["kept"]})
            for path in sorted((tmp_path / "run" / "rollouts").iterdir())]
    order = [index for step in kept for index in step]
    assert order == sorted(set(order))                       # in stream order, each once
