"""The workloads that every library runs: the very numbers, and the tools around them."""
import importlib
import json
import sys
import zlib
from argparse import Namespace

import numpy as np
import pytest

from experiments.peers import common
from experiments.peers.common import MODELS, TASKS, WORKLOADS, Seconds, Timed, repeat


def checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


# (tokens, attention, response, advantages, lengths) of train and train_var
TRAIN = {
    "nano": ([305180332, 4152495996, 1821894439, 3121679285, 4180926209],
             [2247736403, 177904290, 1174740782, 3121679285, 1443431714]),
    "mini": ([3768314957, 4152495996, 1821894439, 3121679285, 4180926209],
             [2054982659, 177904290, 1174740782, 3121679285, 1443431714]),
    "half": ([2011541612, 1562025538, 588635873, 3860166201, 859968824],
             [1405139190, 3939819309, 3917951120, 3860166201, 4133194692]),
}
PROMPTS = {"nano": 4089341546, "mini": 3919995561, "half": 1288227405}


@pytest.mark.parametrize("model", MODELS)
def test_the_workloads_never_change(model):
    """Every number measured so far was measured on these."""
    shape, work = MODELS[model], WORKLOADS[model]
    assert checksum(common.prompt_tokens(shape, work)) == PROMPTS[model]
    for varied, expected in zip((False, True), TRAIN[model], strict=True):
        assert [checksum(array) for array in common.train_arrays(shape, work, varied)] == expected


@pytest.mark.parametrize(("count", "longest", "total", "expected"), [
    (128, 128, 4107, 290956563), (16, 64, 509, 3427512204), (8, 128, 295, 1211512362)])
def test_answer_lengths(count, longest, total, expected):
    lengths = common.answer_lengths(count, longest)
    assert checksum(lengths) == expected and lengths.sum() == total
    assert lengths.max() == longest and lengths.min() >= 1 and abs(lengths.mean() - 32) < 5


def test_a_result_is_the_median_of_the_steady_repetitions():
    timed = Timed([Seconds(9.0, 8.0)], [Seconds(2.0, 1.0), Seconds(4.0, 2.0), Seconds(40.0, 4.0)])
    options = Namespace(model="nano", task="rollout", threads=1)
    line = common.result("hf", "eager", options, timed, tokens=100, versions={"torch": "2"}, extra=1)
    assert (line["value"], line["value_cpu"], line["compile_s"], line["contention"]) == (25.0, 50.0, 6.0, 2.0)
    assert line["extra"] == 1 and line["peak_rss_mb"] > 0 and json.dumps(line)


def test_repetitions_are_counted_apart(capsys, monkeypatch):
    calls = []
    timed = repeat(calls.append, Namespace(warmup=2, reps=3, max_seconds=60.0), "label")
    assert calls == [0, 1, 2, 3, 4] and (len(timed.first), len(timed.steady)) == (2, 3)
    assert "label 4" in capsys.readouterr().err
    assert len(repeat(calls.append, Namespace(warmup=0, reps=5, max_seconds=0.0), "").steady) == 1
    # The warm-up is not counted as time spent.
    walls = iter([100.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(Seconds, "since", lambda self, start: Seconds(next(walls), 0.0))
    assert len(repeat(calls.append, Namespace(warmup=1, reps=5, max_seconds=2.5), "").steady) == 3


def test_rewards():
    assert common.even_share([2, 4, 5, 7]) == 0.5 and common.even_share([]) == 0
    advantages = common.rewards_to_advantages(np.array([0.0, 1.0, 0.5, 0.5]), 2)
    np.testing.assert_allclose(advantages, [-1, 1, 0, 0], atol=1e-3)


@pytest.mark.parametrize(("name", "tasks"), [
    ("hf", TASKS), ("trl_grpo", ("e2e", "e2e_var")), ("tunix", ("rollout", "rollout_var"))])
def test_the_peers_scripts_answer_without_their_libraries(name, tasks, monkeypatch, capsys):
    script = importlib.import_module(f"experiments.peers.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 0 and "{" + ",".join(tasks) + "}" in capsys.readouterr().out
