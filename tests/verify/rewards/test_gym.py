"""reasoning-gym's tasks, right only at exactly 1 or soft; nothing the model writes is evaluated."""
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.config import DataConfig, VerifierConfig
from nft_jax.data.sources import EVALUATING_TASKS, read_rows
from nft_jax.types import InputError
from nft_jax.verify import Verifier
from nft_jax.verify.rewards import lookup
from nft_jax.verify.rewards.gym import SCORERS, final_answer, read_expression, read_gold, score


@pytest.mark.parametrize(("response", "expected"), [
    ("so \\boxed{42}.", "42"), ("<answer> 42\n</answer>", "42"), ("<answer>1</answer><answer>2</answer>", "2"),
    ("  42 ", "42"), ("<answer>1</answer> \\boxed{2}", "2"), ("<answer>", "<answer>"),
])
def test_final_answer(response, expected):
    assert final_answer(response) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("42*(30 - 4 - 23)", (126, [42, 30, 4, 23])), ("9*3*8/9", (24, [9, 3, 8, 9])), ("-3+4", (1, [3, 4])),
    ("1/3*3", (1, [1, 3, 3])), ("2**3", None), ("7//2", None), ("1/0", None), ("(1", None), ("", None),
    ("__import__('os')", None), ("1 if 2 else 3", None), ("9**9**9**9", None), ("(" * 150 + "1" + ")" * 150, None),
    ("1,2", None), ("1e3", None), ("1" * 300, None),
])
def test_expressions_are_read_not_evaluated(text, expected):
    assert read_expression(text) == expected


@given(st.recursive(st.integers(0, 99).map(str),
                    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({''.join(t)})"),
                    max_leaves=8))
def test_expressions_against_python(text):
    assert read_expression(text)[0] == Fraction(eval(text))


def test_golds_that_ask_for_a_refused_scorer(monkeypatch):
    monkeypatch.delitem(SCORERS, "n_queens")             # its own scorer must not step in
    for task in ("n_queens", "list_functions"):
        with pytest.raises(InputError, match=f"reasoning-gym:{task} is not offered"):
            score("1", json.dumps({"task": task, "size": 1, "seed": 0, "index": 0}))


def test_every_evaluating_task_has_a_scorer():
    assert SCORERS.keys() >= EVALUATING_TASKS


def test_rows_of_other_sources_have_no_gold():
    with pytest.raises(ValueError, match=r"data\.source is reasoning-gym:TASK"):
        read_gold({"question": "1+1", "answer": "2"})
    assert lookup("reasoning-gym").read_gold is read_gold


def rows(task: str, count: int = 4, reward: str = "reasoning-gym") -> list[dict]:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    return [row for _, row in read_rows(DataConfig(source=f"reasoning-gym:{task}", limit=count), reward=reward)]


@pytest.mark.parametrize("task", ["chain_sum", "countdown", "puzzle24", "spiral_matrix", "binary_matrix",
                                  "string_insertion", "spell_backward"])
def test_oracles_are_right_and_junk_is_not(task):
    for row in rows(task):
        gold = read_gold(row)
        assert score(f"<answer>{row['answer']}</answer>", gold) == 1
        assert score(f"{row['answer']} or so", gold) < 1 and score("", gold) == 0
        assert score("__import__('os').system('true')", gold) < 1


def test_the_reward_is_exact_or_soft():
    golds = [read_gold(row) for row in rows("spell_backward", 2)]
    answers = [json.loads(gold)["answer"] for gold in golds]
    responses = [answers[0], answers[1][:-1] + "_"]
    for name, soft in (("reasoning-gym", False), ("reasoning-gym-soft", True)):
        with Verifier(VerifierConfig(reward=name)) as pool:
            first, second = pool.judge(responses, golds)
        assert first.reward == 1 and first.outcome == "right" and second.outcome == "wrong"
        assert (second.reward > 0) == soft


@pytest.mark.parametrize("task", sorted(EVALUATING_TASKS))
def test_evaluated_tasks_need_our_scorers(task):
    for reward in ("math", "code"):
        with pytest.raises(InputError, match=r"set verifier\.reward to reasoning-gym"):
            next(read_rows(DataConfig(source=f"reasoning-gym:{task}", limit=1), reward=reward))
