"""Sets by name: what is asked of each, the columns of every one in the layout of its home, and the real ones."""
import json

import pytest

from nft_jax.config import Config, DataConfig, EvaluationConfig
from nft_jax.data.benchmarks import PAPER, SETS, SUITES, answers_of, names_of, sets_of
from nft_jax.data.prompts import load_questions
from nft_jax.data.templates import BOXED, DAPO
from nft_jax.rollout.evaluation import read_held_out, read_set
from nft_jax.verify import Verifier
from refusal import refused

# A row of every set, with the columns that its home on the hub has, and its gold.
ROWS = {
    "aime24": ({"id": 60, "problem": "Aya goes for a walk. Find $m$.", "solution": "so $\\boxed{999}$", "answer": "204",
                "url": "https://artofproblemsolving.com", "year": "2024"}, "204"),
    "aime25": ({"problem": "Find the sum of all $b$.", "answer": "70", "id": "0"}, "70"),
    "amc23": ({"id": 0, "answer": 27.0, "url": "https://artofproblemsolving.com", "question": "How far?"}, "27"),
    "math500": ({"problem": "Convert $(0,3)$.", "solution": "We have $r = 3$.\n\nSo it is $\\boxed{(3, 1)}$.",
                 "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "subject": "Precalculus", "level": 2,
                 "unique_id": "test/807.json"}, "\\left( 3, \\frac{\\pi}{2} \\right)"),
    "olympiadbench": ({"id": 1606, "question": "Find all $x$.", "solution": ["Case 1", "Case 2"],
                       "final_answer": ["$-1$", "$2$"], "context": None, "is_multiple_answer": True, "unit": None},
                      "$-1$, $2$"),
    "minerva": ({"question": "Estimate the wavelength.", "answer": "9.6\n"}, "9.6"),
    "gsm8k": ({"question": "How many eggs?", "answer": "She has 3 + 4 = <<3+4=7>>7.\n#### 7"}, "7"),
}
LOCAL = {"aime24": "aime24", "amc23": "amc", "math500": "math500", "minerva": "minerva", "gsm8k": "gsm8k_test"}


class Plain:
    """Enough of a tokenizer to load questions."""
    chat_template = "of its own"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return "".join(message["content"] for message in messages)

    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [[ord(c) % 64 for c in text] for text in texts]}

    def get_vocab(self):
        return {chr(i): i for i in range(64)}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", SETS)
def test_the_columns_of_every_set(name, kind, tmp_path):
    row, gold = ROWS[name]
    path = tmp_path / f"{name}.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq
        pq.write_table(pa.Table.from_pylist([row]), path)
    one, = sets_of(EvaluationConfig(source=f"{name}={path}", samples=0), DataConfig(max_prompt_tokens=2000))
    assert one.samples == (32 if name in ("aime24", "aime25", "amc23") else 1)
    (question,), _ = load_questions(one.data, Plain(), field=name)
    assert question.gold == gold and question.problem == (row.get("problem") or row["question"])
    assert question.text.startswith("Solve the following") == (one.samples == 32)
    assert question.text.count("\\boxed{") == 1 and question.problem in question.text
    with Verifier() as verifier:
        verdicts = verifier.judge([f"so \\boxed{{{gold}}}", "so \\boxed{-77}"], [gold] * 2)
    assert [v.outcome for v in verdicts] == ["right", "wrong"]


def test_all_answers_of_olympiadbench_are_the_gold():
    with Verifier() as verifier:
        verdicts = verifier.judge(["\\boxed{2, -1}", "\\boxed{2}"], ["$-1$, $2$"] * 2)
    assert [v.outcome for v in verdicts] == ["right", "wrong"]


@pytest.mark.parametrize("name", LOCAL)
def test_real_sets_are_read_whole_and_their_golds_are_right(name, data_folder):
    path = data_folder / "data" / f"{LOCAL[name]}.jsonl"
    source = f"{name}={path}"
    one, = sets_of(EvaluationConfig(source=source, questions=2000), DataConfig(max_prompt_tokens=20_000))
    held, report = read_set(one, Plain(), name, "math")
    assert report.rows == report.used + report.repeats == {
        "aime24": 30, "amc23": 83, "math500": 500, "minerva": 272, "gsm8k": 1319}[name] and report.repeats <= 1
    golds = [prompt.gold for prompt in held.prompts]
    assert name != "aime24" or (all(gold == str(int(gold)) for gold in golds) and "33" in golds)
    with Verifier() as verifier:
        verdicts = verifier.judge([f"Answer: \\boxed{{{gold}}}" for gold in golds], golds)
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict.outcome != "right"] == []


def test_what_names_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names_of("math") == [(name, None) for name in SETS] and SUITES["paper"] == PAPER
    assert names_of("aime24, gsm8k=q_x.jsonl") == [("aime24", None), ("gsm8k", "q_x.jsonl")]
    for single in ("questions.jsonl", "openai/gsm8k:main", "arithmetic", "runs/lr=1/q.jsonl"):
        assert names_of(single) == []
    (tmp_path / "a,b.jsonl").write_text("")
    assert names_of("a,b.jsonl") == []
    for source, told in (("aime24,amc", "'amc'"), ("aime24,aime24=x", "twice")):
        with refused("evaluation.source", repr(source), told):
            names_of(source)
    with refused("evaluation.samples is 0", "'mine'", "aime24"):
        sets_of(EvaluationConfig(source="mine=q.jsonl", samples=0), DataConfig())


def test_a_single_source_is_asked_as_it_always_was():
    data = DataConfig(source="train.jsonl", template="Q: {problem}", system="s")
    evaluation = EvaluationConfig(source="held.jsonl", split="test", questions=7, samples=3)
    one, = sets_of(evaluation, data)
    assert (one.name, one.samples, one.stream) == ("", 3, 0)
    assert one.data == DataConfig(source="held.jsonl", template="Q: {problem}", system="s", split="test", limit=7)
    assert sets_of(EvaluationConfig(), data) == () and answers_of(EvaluationConfig()) == 0


def test_sets_keep_their_prompts_and_splits_and_have_streams_of_their_own():
    sets = sets_of(EvaluationConfig(source="paper", questions=1000, samples=0), DataConfig(template="mine: {problem}"))
    assert [one.name for one in sets] == list(PAPER) and len({one.stream for one in sets}) == 6
    assert {one.data.template for one in sets} == {BOXED, DAPO}
    assert next(one.data for one in sets if one.name == "aime24").split == "train"
    assert answers_of(EvaluationConfig(source="paper", questions=1000, samples=0)) == 32 * 100 + 500 + 675 + 272
    assert answers_of(EvaluationConfig(source="aime24,mine=q.jsonl", questions=20, samples=2)) == 80


def test_reports_and_errors_name_the_set(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "1+2"}\n')
    config = Config(evaluation=EvaluationConfig(source=f"aime24={tmp_path / 'q.jsonl'},mine={tmp_path / 'q.jsonl'}"))
    held_out, reports = read_held_out(config, Plain())
    assert [held.name for held in held_out] == ["aime24", "mine"] and held_out[1].prompts[0].text == "1+1"
    assert {room: report.counts for room, report in reports.items()} == {
        "evaluation/aime24": {"no_answer": 1}, "evaluation/mine": {"no_answer": 1}}
    with refused("evaluation/aime24.source", "'nowhere.jsonl'"):
        read_held_out(Config(evaluation=EvaluationConfig(source="aime24=nowhere.jsonl")), Plain())
