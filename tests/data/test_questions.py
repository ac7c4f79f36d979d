"""From a row to a question and its gold: every layout that data sets use, and every reason to skip a row."""
import pytest

from nft_jax.config import DataConfig
from nft_jax.data.questions import Unusable, read_gold, read_question
from nft_jax.data.sources import read_source
from refusal import refused


@pytest.mark.parametrize(("row", "gold"), [
    ({"answer": "42"}, "42"), ({"answer": 42}, "42"), ({"answer": 0}, "0"), ({"answer": 0.5}, "0.5"),
    ({"answer": ["7"]}, "7"), ({"answer": 142.0}, "142"),
    ({"final_answer": ["$2$", "$-1$"], "solution": ["Long.", "Text."]}, "$2$, $-1$"),
    ({"answer": str(["x" * 150, "y" * 150])}, str(["x" * 150, "y" * 150])),
    ({"answer": "She has 3 + 4 = <<3+4=7>>7 eggs.\n#### 7"}, "7"),
    ({"answer": "first #### 8\n#### 1,234 "}, "1,234"),
    ({"solution": "So \\boxed{3}, no: $\\boxed{\\frac{1}{2}}$."}, "\\frac{1}{2}"),
    ({"answer": None, "solution": "12"}, "12"),
    ({"answer": " ", "reward_model": {"ground_truth": "34", "style": "rule"}}, "34"),
    ({"answer": "5", "solution": "\\boxed{6}"}, "5"),
    ({"answer": "<answer>8</answer>"}, "8"), ({"solution": "<answer>7</answer> <answer> \\boxed{8}</answer>."}, "8"),
    ({"solution": "... $x=\\boxed 2$."}, "2"), ({"answer": "none"}, "none"),
    ({"answer": r"\text{None}"}, r"\text{None}"),
    ({"solution": "so \\boxed{None}"}, "None"), ({"answer": "no solution"}, "no solution"),
    ({"prompt": "Q", "reward_model": {"ground_truth": '["36"]'}}, '["36"]'),
])
def test_gold_layouts(row, gold):
    assert read_gold(row) == gold


@pytest.mark.parametrize(("row", "reason"), [
    ({}, "no_answer"), ({"answer": None}, "no_answer"), ({"answer": float("nan")}, "no_answer"),
    ({"reward_model": {"style": "rule"}}, "no_answer"), ({"answer": "#### "}, "bad_gold"),
    ({"answer": float("inf")}, "bad_gold"), ({"answer": float("-inf")}, "bad_gold"),
    ({"answer": True}, "bad_gold"), ({"answer": ["1", "2"]}, "bad_gold"), ({"answer": {"value": 3}}, "bad_gold"),
    ({"solution": "We argue\nat length, without a box."}, "bad_gold"), ({"answer": "{1"}, "bad_gold"),
    ({"solution": "not closed \\boxed{3"}, "bad_gold"), ({"solution": "so \\boxed \\frac12"}, "bad_gold"),
    *[({"answer": value, "solution": "so \\boxed{7}"}, "placeholder") for value in (
        "proof", "Proof", "notfound", "not found", "None", "N/A", "n/a", "nan", "NaN", "null", " proof ", "<NA>",
        "<answer>None</answer>")],
    ({"reward_model": {"ground_truth": "notfound"}}, "placeholder"),
])
def test_unusable_golds(row, reason):
    with refused(reason, kind=Unusable) as caught:
        read_gold(row)
    assert len(caught.value.args[1]) > 5


@pytest.mark.parametrize("row", [
    {}, {"question": ""}, {"question": "  "}, {"question": 3}, {"prompt": []}, {"prompt": ["text"]},
    {"prompt": [{"role": "user"}]}, {"prompt": [{"role": "user", "content": " "}]},
    {"prompt": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]},
])
def test_unusable_questions(row):
    with refused("no_question", kind=Unusable):
        read_question(row)


def test_byte_order_mark_and_flat_ground_truth(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('\ufeff{"problem": "1+1", "reward_model.ground_truth": "2"}\n', encoding="utf-8")
    rows = dict(read_source(DataConfig(source=str(path))).rows)
    assert read_gold(rows[1]) == "2"
