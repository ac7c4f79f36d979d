"""The command: counts on the screen, a table beside the file."""
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nft_jax.verify.__main__ import main

ROWS = [{"response": r"so \boxed{0.5}", "gold": r"\frac{1}{2}"}, {"response": r"\boxed{2}", "gold": "3"},
        {"response": "no idea", "gold": "1"}, {"response": r"\boxed{\sqrt{3+2\sqrt{2}}}", "gold": r"1+\sqrt{2}"},
        {"response": "\\boxed{9^{9^{9^9}}}", "gold": "1"}]
OUTCOMES = ["right", "wrong", "no_answer", "right", "too_large"]


@pytest.fixture(params=["jsonl", "parquet"])
def file(request, tmp_path):
    path = tmp_path / f"answers.{request.param}"
    if request.param == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:                                            # as a run's rollouts name the columns
        pq.write_table(pa.table({"text": [r["response"] for r in ROWS], "gold": [r["gold"] for r in ROWS],
                                 "tokens": [[1, 2]] * len(ROWS)}), path)
    return path


def test_table_and_counts(file, capsys):
    main([str(file)])
    out = capsys.readouterr().out
    table = pq.read_table(file.with_suffix(".verdicts.parquet"))
    assert table.column_names == ["response", "extracted", "gold", "verdict", "reward", "reason"]
    assert table["verdict"].to_pylist() == OUTCOMES and table["reward"].to_pylist() == [1, 0, 0, 1, 0]
    assert table["extracted"].to_pylist()[:3] == ["0.5", "2", None] and all(table["reason"].to_pylist())
    counts = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert counts["right"] == "2" and counts["timeout"] == "0" and counts["all"] == "5"
    assert "mean reward 0.4000" in out and "answers.verdicts.parquet" in out


def test_a_prompt_that_opened_the_thought(tmp_path):
    rows = [{"problem": "Q", "prompt": prompt, "text": text, "gold": "7"} for prompt, text in (
        ("Q<think>\n", r"perhaps \boxed{7}"), ("Q<think>\n", r"hm</think>\boxed{7}"), ("Q", r"\boxed{7}"))]
    path = tmp_path / "answers.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    main([str(path)])
    table = pq.read_table(path.with_suffix(".verdicts.parquet"))
    assert table["verdict"].to_pylist() == ["no_answer", "right", "right"]
    assert table["response"].to_pylist() == [row["text"] for row in rows]


def test_an_answer_that_repeats_its_question(tmp_path, capsys):
    path = tmp_path / "answers.jsonl"
    row = {"question": "What is 17+25-8?", "response": r"\boxed{17 + 25 - 8}", "gold": "34"}
    path.write_text(json.dumps(row) + "\n")
    main([str(path)])
    assert "copied            1  100.0%" in capsys.readouterr().out


def test_strict_mode_and_output(file, tmp_path):
    main(["--mode", "strict", "--output", str(tmp_path / "t.parquet"), str(file)])
    assert pq.read_table(tmp_path / "t.parquet")["reward"].to_pylist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(("content", "told"), [
    ('{"response": "x"}\n', "no column of golds"), ('{"gold": "x"}\n', "no column of responses"),
    ("{", "row 1, not JSON"), ("", "no rows"), (None, "no such file"),
    ('{"response": "x", "gold": "1"}\n\n{"response": null, "gold": "1"}\n',
     "response in 1 of its 2 rows: the first is row 3"),
    ('{"response": "x", "gold": "1"}\n{"response": "x"}\n', "gold in 1 of its 2 rows: the first is row 2"),
    ('{"response": "x", "gold": "1"}\n{"response": "x", "gold": NaN}\n', "gold in 1 of its 2 rows: the first is row 2"),
    ('{"response": "x", "gold": "1"}\n[1]\n', "1 of its 2 rows cannot be read. The first: row 2"),
    ('{"response": null, "gold": "1"}\n', "response in 1 of its 1 rows"),
    ('{"response": "x", "gold": "1"}\n{"response": ["x", "y"], "gold": "1"}\n', "response of row 2"),
    ('{"response": "x", "gold": ' + "9" * 5000 + "}\n", "row 1"),
    ('{"response": "x", "gold": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}\n", "row 1"),
    ('{"question": "x", ' + ", ".join(f'"c{i}": 1' for i in range(1000)) + "}", "991 more"),
], ids=lambda value: repr(value)[:30])
def test_files_that_cannot_be_judged(tmp_path, capsys, content, told):
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main([str(path)])
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_table_without_a_place_is_refused_before_anything_is_judged(file, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    for place in (tmp_path / "taken", tmp_path / "gone" / "t.parquet", file):
        with pytest.raises(SystemExit) as ended:
            main([str(file), "--output", str(place)])
        assert ended.value.code == 2 and repr(str(place)) in capsys.readouterr().err


@pytest.mark.parametrize("gold", ["2\u2028", "2\x85", "2\x0c"])
def test_line_breaks_of_unicode_are_part_of_a_row(tmp_path, gold):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"response": r"\boxed{2}", "gold": gold}, ensure_ascii=False) + "\n")
    main([str(path)])
    assert pq.read_table(path.with_suffix(".verdicts.parquet"))["verdict"].to_pylist() == ["right"]


def test_golds_of_other_types(tmp_path):
    path = tmp_path / "answers.parquet"
    pq.write_table(pa.table({"output": [r"\boxed{1.5}"], "answer": [decimal.Decimal("1.5")]}), path)
    main([str(path)])
    assert pq.read_table(path.with_suffix(".verdicts.parquet"))["verdict"].to_pylist() == ["right"]
