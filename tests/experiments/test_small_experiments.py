"""The small experiments: their tasks, rewards and warm-up, without the runs themselves."""
import json
import os
from dataclasses import replace
from itertools import islice

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from experiments.benchmark.verify import lines
from experiments.nano import constraints, stack_programs, write_questions
from experiments.nano.warm_up import warm_up
from nft_jax.config import BatchConfig, DataConfig, EvaluationConfig, VerifierConfig
from nft_jax.record.metrics import read_metrics
from nft_jax.train.loop import train
from nft_jax.verify import Verifier
from nft_jax.verify.rewards import lookup
from runs import use_devices

INPUTS = {"a": 3, "b": -7, "c": 11}


@pytest.mark.parametrize(("program", "value"), [
    ("ab+", -4), ("ab-2*", 20), ("7", 7), ("c", 11), ("ab", None), ("+", None), ("a+", None), ("", None),
    ("a b+", None), ("ax+", None), ("9" + "9*" * 20, None), ("a" * 80, None), ("__import__('os')", None), ("٣", None),
])
def test_stack_machine(program, value):
    assert stack_programs.run_program(program, INPUTS) == value


def test_questions_that_stand_there_are_not_written_again(tmp_path):
    """Another run may be reading them. Others replace them."""
    path, rows = tmp_path / "made" / "train.jsonl", constraints.questions(3, seed=0)
    write_questions(path, rows)
    path.chmod(0o400)
    before = path.stat()
    write_questions(path, rows)
    assert path.stat() == before
    write_questions(path, rows[:2])
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:2]
    assert [each.name for each in path.parent.iterdir()] == ["train.jsonl"]


def test_expressions_mean_what_they_say():
    """Python reads the infix text as we do, and the postfix text computes it."""
    for problem, tree in islice(stack_programs.expressions("train", 0), 500):
        expected = eval(problem, {}, INPUTS)
        assert stack_programs.value(tree, INPUTS) == expected
        assert stack_programs.run_program(stack_programs.postfix(tree), INPUTS) == expected


def test_splits_are_disjoint_and_seeded():
    train, held_out = (stack_programs.questions(split, 300) for split in ("train", "heldout"))
    assert not {row["problem"] for row in train} & {row["problem"] for row in held_out}
    assert train == stack_programs.questions("train", 300)
    base = {problem for problem, _ in islice(stack_programs.attempts(0, False), 300)}
    assert not base & {row["problem"] for row in train + held_out}


def test_hidden_tests_tell_right_from_wrong():
    row = next(row for row in stack_programs.questions("train", 300) if row["problem"] == "9*(a-7)")
    score = lookup("stack-program")
    assert [score("", program, row["answer"]) for program in ("9a7-*", "a7-9*", "9a*63-", "a7-", "7a-9*")] \
        == [1, 1, 0, 0, 0]                                    # 63 is two instructions of a digit each


def test_attempts_are_right_or_not_as_asked():
    def share(imperfect):
        made = islice(stack_programs.attempts(1, imperfect), 400)
        return np.mean([stack_programs.run_program(program, INPUTS) == eval(problem, {}, INPUTS)
                        for problem, program in made])
    assert share(False) == 1 and 0.3 < share(True) < 0.7


def test_rules_of_a_question():
    question = "length 8, use 7+, end ;, word sum"
    assert constraints.read(question) == (8, "7+", ";", "sum")
    assert [lookup(name)(question, "sum7+12;", "") for name in constraints.RULES] == [1, 1, 1, 1]
    assert [lookup(name)(question, "7", "") for name in constraints.RULES] == [1 / 8, 1 / 2, 0, 0]
    assert lookup("constraints")(question, "sum7+12;", "") == 1.0
    assert lookup("constraints")(question, "7", "") == pytest.approx(0.3 / 8 + 0.15)
    assert lookup("has-word")("length 8, use 7, end ;", "", "") == 1 and lookup("constraints")(question, "", "") == 0


def test_rewards_of_experiments_run_in_workers():
    row = constraints.questions(1, seed=3)[0]
    with Verifier(VerifierConfig(reward="constraints")) as pool:
        found = pool.judge(["", "x" * 50], ["", ""], [row["problem"]] * 2)
    assert [each.outcome for each in found] == ["wrong", "wrong"] and 0 < found[1].reward < 1
    gold = json.dumps([[INPUTS, -4]])
    with Verifier(VerifierConfig(reward="experiments.nano.stack_programs:passes_tests")) as pool:
        assert [each.reward for each in pool.judge(["ab+", "ab-"], [gold] * 2)] == [1.0, 0.0]


def test_warm_up_learns():
    """A few updates make the shown responses likelier than before, and change nothing in the policy given."""
    policy = nft_jax.load("nano")
    before = jax.tree.map(np.asarray, policy.params)
    pairs = iter([("a+b", "ab+")] * 1000)
    warmed = warm_up(policy, lambda update: pairs, 8, rate=1e-3, examples=8, rows=4, row_length=32)
    answer = policy.tokenizer("ab+", add_special_tokens=False)["input_ids"]
    prompt = nft_jax.sample(policy, ["a+b"], max_new_tokens=3)[0]
    rollout = replace(prompt, tokens=np.asarray(answer, np.int32))
    assert nft_jax.logprobs(warmed, [rollout])[0].sum() > nft_jax.logprobs(policy, [rollout])[0].sum() + 1
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(policy.params),
                                                    strict=True))


def test_benchmark_prints_a_line_for_each_peer(capsys):
    """Tiny sizes: every field is there, and both peers agree on what is right. No speed is asserted."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores is None:
        pytest.skip("reads /proc")
    try:
        ours, theirs = lines(1, 1, questions=10, expressions=20)
    finally:
        os.sched_setaffinity(0, cores)
    assert (ours["peer"], theirs["peer"]) == ("nft_jax", "math-verify") and ours.keys() == theirs.keys()
    assert ours["verdicts"] == 80 and ours["right"] == theirs["right"] == pytest.approx(0.625, abs=0.03)
    assert ours["right_symbolic"] == 1.0


def test_a_soft_reward_trains(tmp_path, small_run, monkeypatch):
    """Fractions come through the loop: into the metrics, the rollouts' table, and the loss of both signs."""
    use_devices(monkeypatch)
    source = str(tmp_path / "data.jsonl")
    write_questions(tmp_path / "data.jsonl", constraints.questions(40, seed=0))
    config = small_run(tmp_path / "run", steps=1, data=DataConfig(source=source, max_prompt_tokens=48),
                       verifier=VerifierConfig(reward="constraints"),
                       batch=BatchConfig(updates_per_step=2, row_length=128, rows_per_micro_batch=8),
                       evaluation=EvaluationConfig(source=source, questions=4, samples=2, every=1))
    train(config, quiet=True)
    row = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    table = pq.read_table(tmp_path / "run" / "rollouts" / "step_000001.parquet")
    rewards = np.array(table["reward"].to_pylist())
    assert row["accuracy/all"] == pytest.approx(rewards.mean(), abs=1e-6) and len(set(rewards.tolist())) > 4
    assert ((rewards >= 0) & (rewards <= 1)).all() and row["loss/total"] != 0
    assert set(table["outcome"].to_pylist()) <= {"right", "wrong"} and all(table["reason"].to_pylist())
    assert "verdicts/strict_disagreement" not in row                        # that is a metric of maths
