"""From a source to rendered questions: every kind of source, every row accounted for, every refusal by name."""
import copy
import datetime
import json
import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nft_jax.config import DataConfig, EvaluationConfig
from nft_jax.data import templates
from nft_jax.data.arithmetic import questions
from nft_jax.data.prompts import DIRECTIVES, dated, load_questions, opening, prompt_lines, render, token_ids
from nft_jax.types import InputError, Unreachable
from refusal import refused

CHAT = ("{% for m in messages %}{% if m['role'] not in ['system', 'user'] %}{{ raise_exception('unknown role') }}"
        "{% endif %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}"
        "{% endif %}")


@pytest.fixture(scope="module")
def tokenizer():
    """A token per character; begins texts with a special token unless told not to."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    vocabulary = {"<s>": 0, "<end>": 1, "?": 2} | {chr(c): c - 29 for c in range(32, 127) if chr(c) != "?"}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="?", chat_template=CHAT)


def write(path: Path, *rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def load(tokenizer, source: str, **fields):
    return load_questions(DataConfig(source=source, **fields), tokenizer)


def test_jsonl_rows_are_used_repeated_or_skipped_with_their_line(tokenizer, tmp_path):
    source = write(
        tmp_path / "q.jsonl", {"problem": "1+1", "answer": "2"}, {"question": "1+2", "answer": "3"}, "",
        {"prompt": [{"role": "user", "content": "1+1"}], "answer": "2"}, {"problem": "1+1", "answer": "2"},
        {"problem": "1+1", "answer": "3"}, {"problem": "no answer"}, {"answer": "5"}, "{broken", "[1, 2]",
        {"problem": "x" * 90, "answer": "1"}, {"prompt": [{"role": "tool", "content": "a"},
                                                          {"role": "user", "content": "b"}], "answer": "1"},
        {"problem": "2+2", "answer": "{"})
    used, report = load(tokenizer, source, max_prompt_tokens=60)
    assert [(q.problem, q.gold) for q in used] == [("1+1", "2"), ("1+2", "3"), ("1+1", "2")]
    assert (report.rows, report.used, report.repeats, report.conflicting_repeats) == (12, 3, 2, 1)
    assert [(row["row"], row["reason"]) for row in report.to_json()["skipped"]] == [
        (7, "no_answer"), (8, "no_question"), (9, "unreadable"), (10, "unreadable"), (11, "too_long"),
        (12, "bad_chat"), (13, "bad_gold")]
    assert report.rows == report.used + report.repeats + len(report.skipped)
    written = json.loads(json.dumps(report.to_json()))
    assert written["counts"]["unreadable"] == 2 and len(written["skipped"]) == 7
    assert "3 questions from 12 rows" in str(report) and "2 repeats dropped (1 with another answer)" in str(report)


def test_placeholders_are_counted_and_a_repeated_word_is_said(tokenizer, tmp_path):
    golds = ["proof"] * 3 + ["Yes"] * 3 + [r"\text{Not enough data}"] * 3 + ["7"] * 5 + ["A"] * 1
    source = write(tmp_path / "q.jsonl", *({"problem": f"{i}+1", "answer": gold} for i, gold in enumerate(golds)))
    _, report = load(tokenizer, source)
    assert report.counts == {"placeholder": 3} and report.used == 12 and "3 skipped: placeholder" in str(report)
    assert report.repeated_golds == {"Yes": 0.25, r"\text{Not enough data}": 0.25}
    assert "25% of the golds are 'Yes'" in str(report) and "'7'" not in str(report)
    _, report = load(tokenizer, source, limit=1)
    assert report.repeated_golds == {} and "golds" not in str(report)


def test_rows_that_look_like_golds(tokenizer, data_folder):
    _, report = load(tokenizer, str(data_folder / "cases" / "rows.jsonl"))
    assert {row.row: row.reason for row in report.skipped} == dict.fromkeys(range(1, 7), "placeholder")
    assert report.used + report.repeats == 3


def test_the_text_is_the_rendered_template_and_gets_no_second_special_token(tokenizer, tmp_path):
    source = write(tmp_path / "q.jsonl", {"problem": "1+{1}", "answer": "2"},
                   {"prompt": [{"role": "user", "content": "raw"}], "answer": "2"})
    (one, chat), _ = load(tokenizer, source, template="{problem}=\\boxed{?}", system="Be brief.", thinking=False)
    assert one.text == "[system]Be brief.[user]1+{1}=\\boxed{?}[assistant]False"
    assert chat.text == "[user]raw[assistant]False" and chat.problem == "raw"
    assert one.tokens.dtype == np.int32 and one.tokens[0] == tokenizer.convert_tokens_to_ids("[")
    assert tokenizer.decode(one.tokens).replace(" ", "") == one.text.replace(" ", "")
    assert render(tokenizer, "3*3") == "[user]3*3[assistant]"
    with refused("chat template", "critic", "data.system"):
        render(tokenizer, [{"role": "critic", "content": "?"}])


@pytest.fixture(scope="module")
def plain(tokenizer):
    """Without a chat template; it ends texts with a special token too."""
    from tokenizers import processors
    one = copy.deepcopy(tokenizer)
    one.chat_template = None
    one.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A <end>", special_tokens=[("<s>", 0), ("<end>", 1)])
    return one


def test_without_a_chat_template_the_template_is_the_whole_prompt(tokenizer, plain, tmp_path):
    source = write(tmp_path / "q.jsonl", {"problem": "1+1", "answer": "2"},
                   {"prompt": [{"role": "user", "content": "2+2"}], "answer": "4"},
                   {"prompt": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "answer": "4"})
    template = "Q: 3*3\nA: 9\n\nQ: {problem}\nA:"
    found, report = load(plain, source, template=template)
    assert [q.text for q in found] == [template.replace("{problem}", asked) for asked in ("1+1", "2+2")]
    assert [(row.row, row.reason) for row in report.skipped] == [(3, "bad_chat")]
    for question in found:
        # transformers' own ids, by a tokenizer that ends nothing.
        assert question.tokens.tolist() == tokenizer(question.text)["input_ids"] and question.tokens[0] == 0
    assert [q.problem for q in found] == ["1+1", "2+2"]
    line, = prompt_lines(plain)
    assert "data.template" in line and "'<s>' (0)" in line and prompt_lines(tokenizer) == []
    for field, value in (("system", "Be brief."), ("thinking", False)):
        with refused(f"data.{field}", repr(value), "data.template"):
            load(plain, source, **{field: value})


@pytest.mark.parametrize(("opens", "expected"), [("<s> $A", [0]), ("<s> $A <end>", [0]), ("$A <end>", []), (None, [])])
def test_what_a_tokenizer_puts_before_a_text_begins_a_whole_prompt_once(opens, expected, tokenizer):
    from tokenizers import processors
    one = copy.deepcopy(tokenizer)
    one.add_special_tokens({"bos_token": "<s>"})
    one.backend_tokenizer.post_processor = processors.TemplateProcessing(
        opens or "$A", special_tokens=[("<s>", 0), ("<end>", 1)])
    ids = one("12", add_special_tokens=False)["input_ids"]
    assert opening(one) == expected
    assert token_ids(one, ["12", "<s>12"], raw=True) == [expected + ids, [0, *ids]]
    assert token_ids(one, ["12"], raw=False) == [ids]


def test_a_template_without_the_question_is_refused():
    for template in ("Solve it.", "{ problem }", ""):
        with refused("data.template", repr(template), "{problem}"):
            DataConfig(template=template, chat_template="none")
    for template in (templates.BOXED, templates.DAPO, templates.R1_ZERO, templates.FEW_SHOT):
        assert DataConfig(template=template) and "\\boxed{" in template


DATES = {
    "at once": ("{{ strftime_now('%Y-%m-%d') }}", "2026-03-02"),
    "unless it is given (Llama 3.1)": ("{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set "
                                       "date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 "
                                       "Jul 2024' %}{%- endif %}{%- endif %}{{ date_string }}", "02 Mar 2026"),
    "in a macro": ("{% macro day() %}{{ strftime_now('%A') }}{% endmacro %}{{ day() }}", "Monday"),
    "in a loop of a macro": ("{% macro day() %}{% for i in range(2) %}{{ strftime_now('%d') }}{% endfor %}"
                             "{% endmacro %}{{ day() }}", "0202"),
    "to the second": ("{{ strftime_now('%H:%M:%S') }}", "00:00:00"),
    "in a format that is made": ("{% set f = '%-d' ~ '. %B' %}{{ strftime_now(f) ~ strftime_now('%%d 100%') }}",
                                 "2. March%d 100%")}


@pytest.mark.parametrize("kind", DATES)
def test_a_template_writes_the_date_that_it_is_given(tokenizer, tmp_path, kind):
    """Whatever day it is, and however the template asks for it."""
    writes, expected = DATES[kind]
    one = copy.deepcopy(tokenizer)
    # Whitespace at the start of a template, and before its first block, is cut as before.
    one.chat_template = f"\n  {{% if true %}}<{writes}>{{% endif %}}" + CHAT
    assert render(one, "1+1", date="2026-03-02") == f"\n<{expected}>[user]1+1[assistant]"
    source = write(tmp_path / "q.jsonl", {"problem": "1+1", "answer": "2"})
    config = dated(DataConfig(source=source), one, "2026-03-02")
    (question,), _ = load_questions(config, one)
    assert config.date == "2026-03-02" and question.text.startswith(f"\n<{expected}>")
    assert dated(replace(config, date="2025-01-01"), one, "2026-03-02").date == "2025-01-01"
    assert dated(DataConfig(), tokenizer, "2026-03-02") == DataConfig()          # this one writes no date
    with refused("data.date", "March 2"):
        DataConfig(date="March 2")


# Directives that stand alone: E and O ask for another letter behind them.
WHOLE = [name for name in DIRECTIVES if datetime.datetime(2026, 3, 2).strftime(name) != name]


@settings(max_examples=100, deadline=None, database=None, phases=[Phase.generate])
@given(st.lists(st.sampled_from([*WHOLE, "%%", "d", " ", "ß", "'", "\\"]), max_size=8).map("".join), st.dates())
def test_a_format_gives_what_strftime_gives(tokenizer, form, day):
    one = copy.copy(tokenizer)
    one.chat_template = "{{ strftime_now(messages[0].content) }}|"
    day = day.replace(year=max(day.year, 1000))              # years of less digits: the C library pads or not
    wanted = datetime.datetime(day.year, day.month, day.day).strftime(form)
    assert render(one, form, date=day.isoformat()) == f"{wanted}|"


@pytest.mark.parametrize(("chat_template", "said"), [
    ("{{ 1 / 0 }}", "ZeroDivisionError"), ("{% for i in range(10 ** 9) %}x{% endfor %}", "OverflowError"),
    ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"), ("{{ messages[9].role }}", "UndefinedError"),
    ("{{ 'a' + 1 }}", "TypeError"), ("{{ {}['a'].b }}", "UndefinedError"), ("{% for", "TemplateSyntaxError"),
    ("{{ ''.__class__.__mro__ }}", "SecurityError"), ("{{ raise_exception('no such role') }}", "no such role"),
    ("{{ '%d' % 'a' }}", "TypeError"), ("{{ '{'.format() }}", "ValueError"),
    ("{% include '/etc/passwd' %}", "TypeError"), ("{% if false %}x{% endif %}  ", "nothing")])
def test_a_template_that_fails_is_named_whatever_it_raises(chat_template, said, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", chat_template)
    with refused("chat template", "user", said):
        render(tokenizer, "1+1")


BROKEN = "half \\ud83d of a pair"


@pytest.mark.parametrize(("line", "reason"), [
    (f'{{"problem": "{BROKEN}", "answer": "2"}}', "unreadable"),
    (f'{{"problem": "1", "answer": "{BROKEN}"}}', "bad_gold"),
    (f'{{"prompt": [{{"role": "user", "content": "{BROKEN}"}}], "answer": "2"}}', "unreadable"),
    (f'{{"prompt": [{{"role": "{BROKEN}", "content": "1"}}, {{"role": "user", "content": "1"}}], "answer": "2"}}',
     "bad_chat"),
    (f'{{"problem": "1", "answer": {"7" * 5000}}}', "unreadable"),
    (f'{{"problem": "1", "answer": "2", "x": {"[" * 3000}{"]" * 3000}}}', "unreadable"),
    (f'{{"problem": "1", "answer": {"[" * 1000000}{"]" * 1000000}}}', "unreadable"),
])
@pytest.mark.parametrize("reward", ["math", "boxed", "code"])
def test_one_bad_row_among_good_ones_is_counted_and_named(tokenizer, tmp_path, line, reward, reason):
    gold = '{"tests": [{"stdin": "1", "expected": "1"}]}' if reward == "code" else "7"
    good = {"problem": "3+4", "answer": gold}
    line = line.replace('"2"', json.dumps(gold))
    source = write(tmp_path / "q.jsonl", good, line, good | {"problem": "7"})
    used, report = load_questions(DataConfig(source=source), tokenizer, reward=reward)
    assert [(q.problem, q.gold) for q in used] == [("3+4", gold), ("7", gold)]
    assert [(row.row, row.reason) for row in report.skipped] == [(2, reason)] and len(report.skipped[0].detail) <= 300
    json.dumps(report.to_json()).encode()


@pytest.mark.parametrize("answer", [
    "[" * 3000, "[" * 1_000_000, "{" * 100_000, "9" * 5000, "\\boxed{" * 1000, "1e999", "'" + "[" * 1000, "-" * 20_000])
@pytest.mark.parametrize("reward", ["math", "boxed", "code", "reasoning-gym"])
def test_no_gold_ends_the_reading(tokenizer, tmp_path, answer, reward):
    """JSON and expressions within the text of an answer are as deep and as long as they like."""
    source = write(tmp_path / "q.jsonl", {"problem": "1", "answer": answer}, {"problem": "2", "answer": answer})
    try:
        _, report = load_questions(DataConfig(source=source), tokenizer, reward=reward)
    except InputError as error:
        assert source in str(error) and len(str(error)) < 2000
    else:
        assert report.rows == 2


@pytest.mark.parametrize("name", ["surrogate", "long_integer", "deep"])
def test_the_shared_cases_skip_their_bad_row(tokenizer, data_folder, name):
    used, report = load(tokenizer, str(data_folder / "cases" / f"{name}.jsonl"))
    assert [q.gold for q in used] == ["7"] and [row.row for row in report.skipped] == [1]


def test_long_questions_are_skipped_before_they_are_tokenised(tokenizer, tmp_path, monkeypatch):
    """By their characters: no text costs the tokenizer more than the longest prompt allows, or many more than a chunk
    has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nft_jax.data import prompts
    monkeypatch.setattr(prompts, "CHUNK_CHARACTERS", 1200)
    calls = []
    original = type(tokenizer).__call__
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, texts, **options: (
        calls.append(texts), original(self, texts, **options))[1])
    problems = [f"{i}" + "x" * size for i, size in enumerate([50, 0, 100_000, 60, 1_000_000] * 8)]
    pq.write_table(pa.table({"problem": problems, "answer": ["1"] * len(problems)}), tmp_path / "q.parquet")
    used, report = load(tokenizer, str(tmp_path / "q.parquet"), max_prompt_tokens=100)
    assert [q.problem for q in used] == [text for text in problems if len(text) < 80]
    assert report.counts == {"too_long": 16} and "characters" in report.skipped[0].detail
    longest = 2 * 100 * len("<end>")
    assert all(len(text) <= longest for texts in calls for text in texts)
    assert max(sum(map(len, texts)) for texts in calls) < 1200 + longest


def test_a_token_of_many_characters_does_not_make_a_prompt_too_long(tmp_path):
    """What the tokenizer finds short enough is used, however many characters it has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    backend = Tokenizer(models.WordLevel({"x" * 50: 0, "?": 1}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wide = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?",
                                   chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    fits, too_long = " ".join(["x" * 50] * 10), " ".join(["x" * 50] * 11)
    source = write(tmp_path / "q.jsonl", {"problem": fits, "answer": "1"}, {"problem": too_long, "answer": "1"})
    used, report = load(wide, source, max_prompt_tokens=10)
    assert [q.problem for q in used] == [fits] and report.counts == {"too_long": 1}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
@pytest.mark.parametrize(("columns", "answer"), [
    ("problem=instruction,answer=final", "3"), ("answer=final", "3"), ("problem=instruction", "4"),
    ("problem=instruction, answer=extra.short", "5"),
])
def test_columns_of_other_names(tokenizer, tmp_path, kind, columns, answer):
    row = {"instruction": "1+2", "final": "3", "extra": {"short": "5"}, "problem": "old", "question": "older",
           "answer": "4", "solution": "4", "image": "x"}
    used, report = load(tokenizer, stored(tmp_path, kind, [row, row | {"instruction": None, "problem": "new"}]),
                        columns=columns)
    assert (used[0].problem, used[0].gold) == ("1+2" if "problem" in columns else "old", answer)
    # A column that is named has no stand-in.
    assert report.counts == ({"no_question": 1} if "problem" in columns else {})


def stored(tmp_path: Path, kind: str, rows: list[dict]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset
    path = tmp_path / f"q.{kind}"
    if kind == "jsonl":
        write(path, *rows)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        Dataset.from_list(rows).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_missing_columns_are_named_with_the_flag(tokenizer, tmp_path, kind):
    source = stored(tmp_path, kind, [{"instruction": "1+2", "final": "3"}])
    for columns, told in (("", ("problem, question, prompt", "instruction, final", "--data.columns problem=NAME")),
                          ("problem=instruction", ("final_answer", "--data.columns answer=NAME")),
                          ("problem=instruct,answer=final", ("'instruct'", "--data.columns problem=NAME"))):
        with refused("data.source", source, *told):
            load(tokenizer, source, columns=columns)
    for field, flag in (("evaluation", "--evaluation.columns"), ("evaluation/mine", "--evaluation.columns"),
                        ("prompts", " --columns"), ("math500", " --columns")):
        with refused(f"{field}.source", f"{flag} problem=NAME"):
            load_questions(DataConfig(source=source), tokenizer, field=field)


def test_a_missing_answer_is_not_blamed_where_none_is_wanted(tokenizer, tmp_path):
    source = write(tmp_path / "q.jsonl", {"problem": "x" * 900})
    with refused("too long", "prompts.max_prompt_tokens = 10") as caught:
        load_questions(DataConfig(source=source, max_prompt_tokens=10), tokenizer, field="prompts", answers=False)
    assert "columns" not in str(caught.value)


def test_many_columns_make_a_short_message(tokenizer, tmp_path):
    source = write(tmp_path / "q.jsonl", dict.fromkeys((f"c{i}" for i in range(100_000)), 1))
    with refused("c0, c1", "99,990 more") as caught:
        load(tokenizer, source)
    assert len(str(caught.value)) < 1000
    many = dict.fromkeys(f"c{i}" for i in range(100_000))
    source = write(tmp_path / "q.jsonl", {"problem": "1", "answer": "1"}, many)
    assert len(json.dumps(load(tokenizer, source)[1].to_json())) < 1000


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_stored_answers_are_no_questions(tokenizer, tmp_path, kind):
    rows = [{"problem": "1+2", "answer": "3", "response": "so \\boxed{3}", "tokens": [1, 2], "reward": 1.0}]
    source = stored(tmp_path, kind, rows)
    with refused("data.source", source, "response, tokens, reward", "nft_jax.verify", "--data.columns"):
        load(tokenizer, source)
    with refused("evaluation/mine.source", "--evaluation.columns problem=NAME"):
        load_questions(DataConfig(source=source), tokenizer, field="evaluation/mine")
    assert load(tokenizer, source, columns="problem=problem,answer=answer")[1].used == 1
    # Where only questions are wanted, a table of answers has them too.
    assert load_questions(DataConfig(source=source), tokenizer, answers=False)[1].used == 1
    for more in ("response", "reward", "tokens"):
        rest = [{name: value for name, value in row.items() if name != "response" and name not in ("tokens", "reward")}
                | {more: rows[0][more]} for row in rows]
        (tmp_path / more).mkdir()
        assert load(tokenizer, stored(tmp_path / more, kind, rest))[1].used == 1


def test_the_tables_of_a_run_are_stored_answers():
    from nft_jax.data.sources import RESPONSE_COLUMNS, SAMPLED_COLUMNS
    from nft_jax.record.rollouts import ANSWERS, SCHEMA
    for schema in (ANSWERS, SCHEMA):
        assert set(RESPONSE_COLUMNS) & set(schema.names) and set(SAMPLED_COLUMNS) & set(schema.names)


@pytest.mark.parametrize("columns", ["instruction", "problem", "problem=", "=x", "question=x", "problem=a,problem=b",
                                     ","])
def test_columns_that_name_nothing_are_refused(columns):
    for config in (DataConfig, EvaluationConfig):
        with refused(f"{config.prefix}columns", repr(columns), "problem=NAME"):
            config(columns=columns)


def test_folders_that_datasets_cannot_load(tokenizer, tmp_path):
    from datasets import Dataset
    for name, content in (("empty", None), ("list", "[]"), ("object", "{}"), ("text", "no json"), ("pipe", "pipe")):
        folder = tmp_path / name
        Dataset.from_list([{"problem": "1", "answer": "1"}]).save_to_disk(folder)
        (folder / "state.json").unlink()
        if content == "pipe":
            os.mkfifo(folder / "state.json")
        elif content is not None:
            (folder / "state.json").write_text(content)
        with refused("data.source", repr(str(folder))):
            load(tokenizer, str(folder))


@pytest.mark.parametrize("name", ["loop", "loop.txt", "pipe", "x\0y.txt"])
def test_sources_that_are_no_files(tokenizer, tmp_path, name):
    path = tmp_path / name
    if "loop" in name:
        path.symlink_to(path)
    elif name == "pipe":
        os.mkfifo(path)
    with refused("data.source", repr(str(path))):
        load(tokenizer, str(path))


def test_limit_stops_reading(tokenizer, tmp_path):
    rows = [{"problem": f"{i}+1", "answer": str(i + 1)} if i % 2 else {"problem": f"{i}+1"} for i in range(50)]
    used, report = load(tokenizer, write(tmp_path / "q.jsonl", *rows), limit=10)
    assert len(used) == 10 and report.rows == 20 and report.counts == {"no_answer": 10}


def test_parquet_arrow_and_jsonl_give_the_same(tokenizer, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset, DatasetDict
    rows = [{"prompt": [{"role": "user", "content": f"{i}*2"}], "other": i,
             "reward_model": {"ground_truth": str(2 * i), "style": "rule"}} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:3])}).save_to_disk(tmp_path / "two")
    expected, _ = load(tokenizer, write(tmp_path / "q.jsonl", *rows))
    assert [q.gold for q in expected] == [str(2 * i) for i in range(20)]
    for name in ("q.parquet", "one", "two"):
        found, report = load(tokenizer, str(tmp_path / name))
        assert [(q.text, q.gold) for q in found] == [(q.text, q.gold) for q in expected] and report.rows == 20
    assert len(load(tokenizer, str(tmp_path / "two"), split="test")[0]) == 3
    with refused("data.split", "dev", "train, test"):
        load(tokenizer, str(tmp_path / "two"), split="dev")


def test_sources_that_cannot_be_used(tokenizer, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.table({"input": ["a"], "target": ["b"]}), tmp_path / "columns.parquet")
    pq.write_table(pa.table({"problem": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "notes.txt").write_text("a")
    (tmp_path / "folder").mkdir()
    told = {"notes.txt": ".jsonl or .parquet", "folder": "save_to_disk", "columns.parquet": "input, target"}
    for name in ("missing.jsonl", "missing.parquet", "broken.parquet", "empty.parquet", *told):
        with refused("data.source", repr(str(tmp_path / name)), told.get(name, "")) as caught:
            load(tokenizer, str(tmp_path / name))
        assert "\n" not in str(caught.value)
    for rows, words in (((), "no rows"), (({"problem": "a", "target": "b"},), "final_answer"),
                        (({"text": "a"},), "question"), (("nonsense",), "row 1"),
                        (({"problem": "a" * 99, "answer": "1"},), "data.max_prompt_tokens = 40")):
        with refused("data.source", "q.jsonl", words):
            load(tokenizer, write(tmp_path / "q.jsonl", *rows), max_prompt_tokens=40)
    with refused("evaluation.source", "gone.jsonl"):
        load_questions(DataConfig(source="gone.jsonl"), tokenizer, field="evaluation")


def test_hub_names(tokenizer, monkeypatch):
    import datasets
    asked = []

    def load_dataset(repository, split, **options):
        asked.append((repository, options, split))
        if split != "train":
            raise ValueError(f'Unknown split "{split}".')
        return datasets.Dataset.from_list([{"question": "1+1", "answer": "#### 2", "other": 1}])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load(tokenizer, "openai/gsm8k:main")[0][0].gold == "2"
    assert load(tokenizer, "some/set")[1].rows == 1
    assert load(tokenizer, "some/set:part/file.parquet")[1].rows == 1
    assert asked == [("openai/gsm8k", {"name": "main"}, "train"), ("some/set", {"name": None}, "train"),
                     ("some/set", {"data_files": "part/file.parquet"}, "train")]
    with refused("data.source", "some/set", "dev", "Unknown split", kind=Unreachable):
        load(tokenizer, "some/set", split="dev")


def test_generator_source(tokenizer):
    used, report = load(tokenizer, "arithmetic", split="heldout", limit=30, seed=4)
    assert [(q.problem, q.gold) for q in used] == questions("heldout", 30, 4) and report.repeats == 0
    with refused("split", "test"):
        load(tokenizer, "arithmetic", split="test")


def test_reasoning_gym(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with refused("data.source", "reasoning-gym:chain_sum", "pip install reasoning-gym"):
        load(tokenizer, "reasoning-gym:chain_sum")

    def create_dataset(task, size, seed):
        if task != "chain_sum":
            raise ValueError(f"Dataset '{task}' not registered")
        return [{"question": f"{seed}+{i}", "answer": str(seed + i)} for i in range(size)]
    monkeypatch.setitem(sys.modules, "reasoning_gym", types.SimpleNamespace(create_dataset=create_dataset))
    train, _ = load(tokenizer, "reasoning-gym:chain_sum", limit=40, seed=2)
    heldout, _ = load(tokenizer, "reasoning-gym:chain_sum", limit=40, seed=2, split="heldout")
    assert len(train) == len(heldout) == 40
    assert not {q.problem for q in train} & {q.problem for q in heldout}
    assert all(sum(map(int, q.problem.split("+"))) == int(q.gold) for q in train)
    with refused("data.source", "reasoning-gym:nothing", "not registered"):
        load(tokenizer, "reasoning-gym:nothing")
    with refused("data.split", "base", "train and heldout"):
        load(tokenizer, "reasoning-gym:chain_sum", split="base")


def test_dapo_sample_with_the_qwen3_tokenizer(data_folder):
    from transformers import AutoTokenizer
    qwen3 = AutoTokenizer.from_pretrained(str(data_folder / "tokenizers" / "qwen3"))
    source = str(data_folder / "data" / "dapo_schema_sample.parquet")
    used, report = load(qwen3, source)
    assert (report.rows, report.used, report.repeats, report.conflicting_repeats) == (80, 64, 16, 0)
    assert used[0].gold == "18" and used[0].problem.startswith("Solve the following math problem")
    assert used[0].text == f"<|im_start|>user\n{used[0].problem}<|im_end|>\n<|im_start|>assistant\n"
    assert qwen3.decode(used[0].tokens) == used[0].text
    assert (used[0].tokens == qwen3.convert_tokens_to_ids("<|im_start|>")).sum() == 2
    off, _ = load(qwen3, source, thinking=False, limit=1)
    assert off[0].text == used[0].text + "<think>\n\n</think>\n\n"
    short, report = load(qwen3, source, max_prompt_tokens=120)
    assert report.used + report.counts["too_long"] == 64 and max(len(q.tokens) for q in short) <= 120


def test_gsm8k_and_math500_are_almost_all_usable(tokenizer, data_folder):
    for name, rows, lost in (("gsm8k_test.jsonl", 1319, 0), ("math500.jsonl", 500, 5)):
        used, report = load(tokenizer, str(data_folder / "data" / name), max_prompt_tokens=10**6)
        assert report.rows == rows and len(used) >= rows - lost and len(report.skipped) <= lost
