"""Numbers of a step against numbers by hand; what is written can be read, and is cut where work is done again."""
import dataclasses
import json

import numpy as np
import pytest

from made import make_group
from nft_jax.config import Config, VerifierConfig
from nft_jax.record.metrics import (
    MetricsWriter,
    answer_metrics,
    decided_by,
    mismatch_metrics,
    read_metrics,
)
from nft_jax.rollout.evaluation import evaluation_metrics
from nft_jax.types import Verdict
from nft_jax.verify.maths.judge import SECOND_OPINION
from nft_jax.verify.rewards import Reward


@pytest.fixture
def groups():
    rng = np.random.default_rng(0)
    made = [make_group(0, [1, 0, 0, None], rng=rng), make_group(1, [1, 1, 0, 0], rng=rng)]
    verdicts = (*made[1].verdicts[:3], Verdict("timeout", 0.0))
    return [made[0], dataclasses.replace(made[1], verdicts=verdicts)]


def test_answers_are_counted_once_and_averaged_over_all(groups):
    found = answer_metrics(groups, "x/")
    answers = [(r, v) for g in groups for r, v in zip(g.rollouts, g.verdicts, strict=True)]
    assert found["x/accuracy/all"] == pytest.approx(3 / 7)        # the answer without a reward is left out
    right = [r for r, v in answers if v.outcome == "right"]
    wrong = [r for r, v in answers if v.outcome in ("wrong", "timeout")]
    assert found["x/length/right"] == pytest.approx(np.mean([len(r.tokens) for r in right]))
    assert found["x/length/wrong"] == pytest.approx(np.mean([len(r.tokens) for r in wrong]))
    assert found["x/entropy/wrong"] == pytest.approx(np.concatenate([r.entropies for r in wrong]).mean())
    assert [found[f"x/verdicts/{o}"] for o in ("right", "wrong", "timeout", "error")] == [3, 3, 1, 1]
    assert found["x/truncated_share"] == 0


def test_solutions_are_the_different_right_answers_of_a_question(groups):
    """Of question 0 one answer is right. Two of question 1 are right, which `parity` takes for two, `alike` for one."""
    def parity(prompt, response):
        return f"{prompt}: {int(response.split()[-1]) % 2}"

    def alike(prompt, response):
        return "the same"

    for solution, mean in ((parity, 1.5), (alike, 1.0)):
        found = evaluation_metrics({"": groups, "mine": groups[:1]}, Reward("any", parity, solution=solution))
        assert (found["evaluation/solutions@4"], found["evaluation/mine/solutions@4"]) == (mean, 1.0)
    assert not any("solutions" in name for name in evaluation_metrics({"": groups}, Reward("any", parity)))


def test_who_decided():
    """Of three answers with a verdict, one is right in mode equivalent only, by math-verify's word."""
    group = make_group(0, [1.0, 1.0, 0.0, None], rng=np.random.default_rng(0))
    for other in (VerifierConfig(mode="strict"), VerifierConfig(reward="boxed")):
        assert decided_by([group], other) == {}
    words = (True, False, False, True)
    reasons = "same string", SECOND_OPINION, "not equal", SECOND_OPINION
    verdicts = tuple(dataclasses.replace(v, strict=word, reason=reason)
                     for v, word, reason in zip(group.verdicts, words, reasons, strict=True))
    group = dataclasses.replace(group, verdicts=verdicts)
    assert decided_by([group], VerifierConfig()) == {"verdicts/second_opinion": pytest.approx(1 / 3)}
    assert decided_by([group], VerifierConfig(disagreement=True)) == {
        "verdicts/strict_disagreement": pytest.approx(1 / 3), "verdicts/only_equivalent": pytest.approx(1 / 3),
        "verdicts/only_strict": 0.0, "verdicts/second_opinion": pytest.approx(1 / 3)}


def test_means_over_nothing_are_left_out():
    group = make_group(0, [0, 0], rng=np.random.default_rng(0))
    found = answer_metrics([group])
    assert "length/right" not in found and found["accuracy/all"] == 0
    assert "accuracy/all" not in answer_metrics([])


def test_mismatch(groups):
    shifted = [dataclasses.replace(g, old_logprobs=tuple(r.logprobs + 0.2 for r in g.rollouts)) for g in groups]
    found = mismatch_metrics(shifted)
    assert found["mismatch/mean"] == pytest.approx(0.2, abs=1e-5) and found["mismatch/outside_10_percent"] == 1
    ratios = (0.89, 0.91, 1.09, 1.105)               # of all tokens of a group: the first and the last are outside
    shares = [mismatch_metrics([dataclasses.replace(
        groups[0], old_logprobs=tuple(r.logprobs + np.log(ratio) for r in groups[0].rollouts))])
        ["mismatch/outside_10_percent"] for ratio in ratios]
    assert shares == [1, 0, 0, 1]
    assert mismatch_metrics([]) == {}


def test_writer_cuts_what_is_done_again(tmp_path):
    writer = MetricsWriter(tmp_path, -1, Config())
    for step in range(4):
        writer.write(step, {"a": step + 0.1, "bad": float("nan")})
    writer.close()
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 4, "a": 1.')            # a kill in the middle of a line
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    writer = MetricsWriter(tmp_path, 2, Config())
    writer.write(3, {"a": 9.0})
    writer.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["a"]) for row in rows] == [(0, 0.1), (1, 1.1), (2, 2.1), (3, 9.0)]
    assert rows[0]["bad"] is None
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_second_row_of_a_step_adds_to_the_first(tmp_path):
    writer = MetricsWriter(tmp_path, -1, Config(writers=()))
    for step, metrics in ((1, {"loss/total": 0.5, "compiles": 1}),
                          (1, {"evaluation/accuracy/all": 0.25, "compiles": 0}), (2, {"loss/total": 0.75})):
        writer.write(step, metrics)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss/total": 0.5, "evaluation/accuracy/all": 0.25, "compiles": 1}, {"step": 2, "loss/total": 0.75}]
