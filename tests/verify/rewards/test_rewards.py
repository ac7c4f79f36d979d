"""Any reward: registered by name, composed, run in workers that may be killed."""
import os
import subprocess
import sys
import time
from pathlib import Path

import my_rewards
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made import make_group
from nft_jax.config import VerifierConfig
from nft_jax.verify import Verifier
from nft_jax.verify.maths.extract import SCANNED_CHARACTERS
from nft_jax.verify.processes import Worker
from nft_jax.verify.rewards.registry import Reward, all_of, gated, lookup, plain_gold, register, resolve, weighted_sum
from refusal import refused


def judged(reward: str, responses, golds=None, prompts=None, **settings):
    golds = ["1"] * len(responses) if golds is None else golds
    with Verifier(VerifierConfig(reward=reward, **settings)) as pool:
        return pool.judge(responses, golds, prompts)


def test_a_soft_reward_of_a_worker():
    found = judged("short", ["", "12345", "x" * 20])
    assert [each.reward for each in found] == [1.0, 0.5, 0.0]
    assert [each.outcome for each in found] == ["right", "wrong", "wrong"]         # right is 1 and nothing less
    assert "short" in found[1].reason


def test_prompt_and_gold_come_along():
    found = judged("echo", ["0.25", "1"], ["g", "g"], ["p", "p"])
    assert [each.reward for each in found] == [0.25, 1.0]
    assert judged("echo", ["1"], ["g"], [""])[0].outcome == "error"                # its assertion: no reward


@pytest.mark.parametrize("response", ["1.5", "-0.1", "nan", "inf", "2"])
def test_outside_0_and_1_is_an_error_naming_the_reward(response):
    with refused("'echo'", float(response)):
        judged("echo", ["0.5", response, "1"], ["g"] * 3, ["p"] * 3)


def test_an_open_thought_hides_the_box_from_rewards_too():
    """Also one that a prompt opened, and one that began a million characters ago."""
    box, long = r"\boxed{1}", "a" * SCANNED_CHARACTERS
    found = judged("boxed", [box, box, "<think>" + long + box, "<think>" + long + "</think>" + box, long + box],
                   prompts=["Q<think>\n", "Q", "Q", "Q", "Q"])
    assert [each.reward for each in found] == [0.0, 1.0, 0.0, 1.0, 1.0]


def test_the_maths_of_a_composition_sees_copies_too():
    found = judged("both", [r"\boxed{17+25-8}", r"\boxed{34}"], ["34"] * 2, ["17+25-8="] * 2)
    assert [each.reward for each in found] == [0.0, 1.0]


def test_a_batch_reward_sees_the_whole_group():
    found = judged("lengths", ["a", "bbbb", "cc"])
    assert [each.reward for each in found] == [0.25, 1.0, 0.5]
    assert judged("lengths", []) == []
    with refused("'one-too-few'", "2 values", "3 answers"):
        judged("one-too-few", ["a", "b", "c"])


def test_hangs_and_crashes_cost_their_own_answer_only():
    found = judged("moody", ["fine", "hang", "crash", "raise", "fine"], deadline=1.0)
    assert [each.outcome for each in found] == ["right", "timeout", "error", "error", "right"]
    assert [each.reward for each in found] == [1.0, 0.0, None, None, 1.0]
    assert "no idea" in found[3].reason


@pytest.mark.parametrize(("starved", "outcome"), [(True, "right"), (False, "timeout")])
def test_a_starved_worker_gets_more_time(monkeypatch, starved, outcome):
    """On a busy machine the deadline passes over a worker that could not run; over one that could, it does not."""
    monkeypatch.setattr(Worker, "is_starved", lambda self, seconds: starved)
    assert [each.outcome for each in judged("sleepy", ["a"], deadline=0.3)] == [outcome]


@pytest.mark.parametrize(("state", "used", "extensions", "starved"), [
    ("R", 0.2, 0, True), ("R", 0.9, 0, False), ("S", 0.2, 0, False), ("R", 0.2, 9, False), ("", 0.0, 0, False),
])
def test_only_a_runnable_worker_without_cpu_is_starved(monkeypatch, state, used, extensions, starved):
    worker = Worker(None, 1, extensions=extensions, cpu_before=5.0)
    monkeypatch.setattr(Worker, "_cpu", lambda self: (state, 5.0 + used))
    assert worker.is_starved(0.5) is starved


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_cpu_of_a_process():
    state, used = Worker(None, os.getpid())._cpu()
    assert state == "R" and 0 < used <= time.process_time() + 0.1
    assert Worker(None, 2**22 + 1)._cpu() == ("", 0.0)                   # no such process


def test_by_module_and_by_file():
    assert [v.reward for v in judged("my_rewards:plain", ["1", "2"])] == [1.0, 0.0]
    assert resolve("my_rewards", "short").function is my_rewards.short


def test_by_file(tmp_path):
    """A file may also register names, which workers then load from that file."""
    path = tmp_path / "rules.py"
    path.write_text("from nft_jax.verify.rewards import register\n\n@register('half-of-file')\n"
                    "def half(prompt, response, gold):\n    return 0.5\n")
    assert [v.reward for v in judged(f"{path}:half", ["1"])] == [0.5]
    assert lookup("half-of-file").home == str(path)
    assert [v.reward for v in judged("half-of-file", ["1"])] == [0.5]
    assert [v.reward for v in judged(f"{path}:half-of-file", ["1"])] == [0.5]


@pytest.mark.parametrize(("name", "told"), [
    ("nothing-like-it", "known: "), ("no_such_module:f", "No module named"),
    ("my_rewards:missing", "no function 'missing'"),
])
def test_unknown_rewards(name, told):
    with refused("verifier.reward", name.partition(":")[0], told):
        Verifier(VerifierConfig(reward=name))


def test_names_of_the_package_are_taken():
    for name in ("math", "code", "a:b"):
        with refused("name", repr(name)):
            register(name, my_rewards.plain)


def test_a_reward_of_a_notebook_is_refused_with_the_way_out():
    code = ("from nft_jax.verify.rewards import register\nfrom nft_jax.verify import Verifier\n"
            "from nft_jax.config import VerifierConfig\n"
            "register('mine', lambda prompt, response, gold: 1.0)\nVerifier(VerifierConfig(reward='mine'))")
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parents[3])
    assert "Write it to a file" in done.stderr


def test_a_reward_of_a_script_runs_in_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from nft_jax.config import VerifierConfig\nfrom nft_jax.verify import Verifier\n"
        "from nft_jax.verify.rewards import register\n\n"
        "@register('half')\ndef half(prompt, response, gold):\n    return 0.5\n\n"
        "if __name__ == '__main__':\n    with Verifier(VerifierConfig(reward='half')) as pool:\n"
        "        print(pool.judge(['a'], ['b'])[0].reward)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "/usr/bin:/bin"})
    assert done.stdout.strip() == "0.5", done.stderr


def test_a_module_that_imports_jax_is_refused(tmp_path):
    path = tmp_path / "heavy.py"
    path.write_text("import sys, types\nsys.modules.setdefault('jax', types.ModuleType('jax'))\n"
                    "def reward(prompt, response, gold):\n    return 1.0\n")
    with refused(str(path), "jax"):
        judged(f"{path}:reward", ["a"])


def test_composition_in_workers():
    right, wrong = r"\boxed{1}", "1"
    assert [v.reward for v in judged("mixed", [right, wrong])] == pytest.approx([0.75 + 0.25 * 0.1, 0.25 * 0.9])
    assert [v.reward for v in judged("both", [right, r"\boxed{2}", wrong])] == [1.0, 0.0, 0.0]
    assert [v.reward for v in judged("behind-a-gate", [right, wrong])] == pytest.approx([0.1, 0.0])
    assert judged("mixed", [r"\boxed{\sqrt{3+2\sqrt{2}}}"], [r"1+\sqrt{2}"])[0].reward == 0.75      # sympy is at hand


numbers = st.floats(0, 1)


@given(st.lists(st.tuples(numbers, st.floats(0.01, 1)), min_size=1, max_size=6))
def test_a_weighted_sum_stays_within_0_and_1(pairs):
    total = sum(weight for _, weight in pairs)
    parts = {lambda p, r, g, value=value: value: weight / total for value, weight in pairs}
    found = weighted_sum(parts)("p", "r", "g")
    assert 0 <= found <= 1
    assert (found == 1) == all(value == 1 for value, _ in pairs)
    assert found == pytest.approx(sum(value * weight / total for value, weight in pairs))


@given(numbers, numbers)
def test_all_of_and_gate(a, b):
    one, two = (lambda p, r, g: a), (lambda p, r, g: b)
    assert all_of(one, two)("", "", "") == float(a == 1 and b == 1)
    assert gated(one, two)("", "", "") == (b if a == 1 else 0.0)


def test_a_composition_tells_solutions_apart_as_its_part_does():
    def same(prompt, response):
        return response.strip()

    telling = Reward("telling", my_rewards.plain, solution=same)
    for made in (gated("boxed", telling), all_of("boxed", telling), weighted_sum({"boxed": 0.5, telling: 0.5})):
        assert made.solution is same
    assert all_of("boxed").solution is None


def test_compositions_refuse_nonsense():
    with refused("weights", 0.5):
        weighted_sum({"short": 0.5})
    with refused("weights", 1.5, -0.5):
        weighted_sum({"short": 1.5, "echo": -0.5})
    with refused("all_of"):
        all_of()


def test_golds_of_rewards_are_read_as_they_are():
    assert plain_gold({"answer": "a long\ntext"}) == "a long\ntext"
    assert plain_gold({"answer": {"tests": [1]}}) == '{"tests": [1]}'
    assert plain_gold({"reward_model": {"ground_truth": 7}}) == "7"
    assert plain_gold({"question": "q"}) == ""


def test_rewards_flow_into_a_group():
    """The mean reward is the accuracy, fractions are trained on as they are, and equal fractions are no signal."""
    import numpy as np

    from nft_jax.config import ObjectiveConfig
    from nft_jax.train.batch import examples_of
    group = make_group(0, [0.25, 1.0, None, 0.5], rng=np.random.default_rng(0))
    assert group.accuracy == pytest.approx(1.75 / 3) and group.has_signal
    made = examples_of(group, ObjectiveConfig(), 12)
    assert [each.reward for each in made] == [0.25, 1.0, 0.5]
    assert [each.group_accuracy for each in made] == pytest.approx([1.75 / 3] * 3)
    assert not make_group(0, [0.5, 0.5], rng=np.random.default_rng(0)).has_signal


def test_lookup_takes_functions_and_rewards():
    reward = lookup(my_rewards.plain)
    assert reward("p", "1", "1") == 1.0 and lookup(reward) is reward
