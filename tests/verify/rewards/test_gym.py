"""reasoning-gym's tasks, right only at exactly 1 or soft; nothing the model writes is evaluated."""
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.config import DataConfig, VerifierConfig
from nft_jax.data.sources import read_source
from nft_jax.verify import Verifier
from nft_jax.verify.rewards import gym, lookup
from nft_jax.verify.rewards.gym import SCORERS, final_answer, read_expression, read_gold, score
from refusal import refused


@pytest.mark.parametrize(("response", "expected"), [
    ("so \\boxed{42}.", "42"), ("<answer> 42\n</answer>", "42"), ("<answer>1</answer><answer>2</answer>", "2"),
    ("  42 ", "42"), ("<answer>1</answer> \\boxed{2}", "2"), ("<answer>", "<answer>"),
    ("<think>\\boxed{1}</think> 42", "42"), ("<think> so \\boxed{42}", ""),
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


BOARD = ["_Q__", "___Q", "Q___", "__Q_"]


def board(rows, between=" "):
    return "\n".join(between.join(row) for row in rows)


@pytest.mark.parametrize(("answer", "expected"), [
    (board(BOARD), 1), (board(BOARD, ""), 1), (board(BOARD) + "\n", 1),
    # The queens of the puzzle are in other places.
    (board(BOARD[::-1]), 0), (board([row[::-1] for row in BOARD]), 0),
    # A row without a queen, an attack along a column and along a diagonal, two queens in a row.
    (board(["_Q__", "___Q", "Q___", "____"]), 0), (board(["_Q__", "___Q", "Q___", "_Q__"]), 0),
    (board(["_Q__", "___Q", "Q___", "___Q"]), 0), (board(["__Q_", "___Q", "Q___", "_Q__"]), 0),
    (board(["_Q__", "___Q", "Q___", "_QQ_"]), 0),
    # No board of this size, or no board.
    (board(BOARD[:3]), 0), (board([*BOARD, "____"]), 0), (board([*BOARD[:3], "__Q"]), 0), (str(BOARD), 0),
    (board(BOARD).replace("_", "."), 0), (" ".join(BOARD), 0), ("Q _ " * 300_000, 0), ("", 0),
    ("[open('x', 'w') for _ in 'Q']", 0),
])
def test_queens(answer, expected):
    puzzle = [list(row) for row in ["____", "___Q", "Q___", "____"]]
    assert SCORERS["n_queens"](answer, {"metadata": {"puzzle": puzzle}}) == expected


@pytest.mark.parametrize("task", sorted(gym.EVALUATING_TASKS | gym.CHANGING_TASKS))
def test_refused_tasks(task):
    """With any other reward all are refused by name; with reasoning-gym, those for which no safe scorer is here."""
    for reward in ("math", "code"):
        with refused("data.source", f"'reasoning-gym:{task}'"):
            read_source(DataConfig(source=f"reasoning-gym:{task}"), reward=reward)
    if task not in SCORERS:
        with refused("evaluation.source", f"'reasoning-gym:{task}'", "Choose another"):
            read_source(DataConfig(source=f"reasoning-gym:{task}"), "evaluation", "reasoning-gym")
        with refused(f"'reasoning-gym:{task}'"):
            score("1", json.dumps({"task": task, "size": 1, "seed": 0, "index": 0}))


def test_every_evaluating_task_has_a_scorer_or_is_refused():
    assert len(gym.EVALUATING_TASKS) == 9 and len(gym.ALGEBRA_TASKS) == 3
    assert not SCORERS.keys() & gym.ALGEBRA_TASKS and SCORERS.keys() >= gym.EVALUATING_TASKS - gym.ALGEBRA_TASKS


def test_rows_of_other_sources_have_no_gold():
    with refused("data.source", "reasoning-gym:TASK", kind=ValueError):
        read_gold({"question": "1+1", "answer": "2"})
    assert lookup("reasoning-gym").read_gold is read_gold


def rows(task: str, count: int = 4, reward: str = "reasoning-gym") -> list[dict]:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    return [row for _, row in read_source(DataConfig(source=f"reasoning-gym:{task}", limit=count), reward=reward).rows]


@pytest.mark.parametrize("task", ["chain_sum", "countdown", "puzzle24", "spiral_matrix", "binary_matrix",
                                  "string_insertion", "spell_backward", "n_queens"])
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
