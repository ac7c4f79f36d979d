"""Rows of stored answers, whoever wrote them, become groups with the ids, rewards and log-probs that they say; a row
that cannot be used is named with its reason."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made import make_run
from nft_jax.config import Config, DataConfig, RolloutConfig, VerifierConfig
from nft_jax.model import hf
from nft_jax.record.rollouts import answers_to_table, groups_to_table, table_to_groups
from nft_jax.rollout.ends import Ends
from nft_jax.rollout.stored import StoredQuestion, read_stored
from nft_jax.rollout.stored_rows import NAMES, OF_SERVERS
from refusal import refused

FOLDER = hf.resolve_folder("nano")
TOKENIZER = hf.load_tokenizer(FOLDER, "")
EOS = hf.eos_token_ids(FOLDER, TOKENIZER)
SIZE = hf.read_config(FOLDER).vocab_size


def read(path, size=SIZE, limit=0, columns="", **rollout):
    config = Config(data=DataConfig(max_prompt_tokens=24, limit=limit, columns=columns),
                    rollout=RolloutConfig(answers=str(path), max_new_tokens=32, **rollout))
    return read_stored(config, TOKENIZER, EOS, size)


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def row(response, reward=None, prompt="1+2", **more):
    return {"prompt": prompt, "response": response} | ({} if reward is None else {"reward": reward}) | more


PAIR = row("3", 1.0), row("4", 0)


def test_text_is_rendered_as_a_question_and_ends_where_the_answer_ended(tmp_path):
    stored = read(written(tmp_path / "a.jsonl", *PAIR, row("33", 0, finish_reason="length"),
                          row("3<|end|>", True, prompt=[{"role": "user", "content": "1+2"}])))
    (members,), report = stored.groups, stored.report
    assert [answer.rollout.prompt.text for answer in members] == ["<|user|>1+2<|end|><|assistant|>"] * 4
    assert [answer.rollout.tokens.tolist() for answer in members] == [
        [*ids("3"), 1], [*ids("4"), 1], ids("33"), [*ids("3"), 1]]
    assert [answer.rollout.finish_reason for answer in members] == ["stop", "stop", "length", "stop"]
    assert [answer.verdict.reward for answer in members] == [1, 0, 0, 1]
    assert (report.tokenised, report.ended, report.alike) == (4, 2, 1)


def test_given_ids_are_never_made_again(tmp_path):
    """Ids that no tokenizer would make of their text stay, in prompt and answer; so does an answer without its end."""
    odd = [*ids("3"), *ids("+"), 0, *ids("3")]
    file = written(tmp_path / "a.jsonl", row(None, 1, prompt_tokens=odd, response_tokens=[5, 1]),
                   {"prompt_token_ids": odd, "token_ids": [6, 7], "reward": 0, "logprobs": [-0.5, -1.25]})
    (members,) = read(file, old_logprobs="sampler").groups
    assert [answer.rollout.prompt.tokens.tolist() for answer in members] == [odd, odd]
    assert [answer.rollout.tokens.tolist() for answer in members] == [[5, 1], [6, 7]]
    assert [answer.rollout.finish_reason for answer in members] == ["stop", "length"]
    assert members[0].old is None and members[1].old.tolist() == [-0.5, -1.25]


def test_an_answer_with_a_gold_waits_for_the_verifier(tmp_path):
    stored = read(written(tmp_path / "a.jsonl", row("3", answer="It is #### 3"), row("4", gold="3"),
                          row("5", 0.25, answer="proof")))
    (members,) = stored.groups
    assert [(a.rollout.prompt.gold, a.verdict and a.verdict.reward) for a in members] == [
        ("3", None), ("3", None), ("", 0.25)]
    assert stored.report.unjudged == 2 and members[2].verdict.outcome == "wrong"


def test_columns_of_other_names_are_those_that_are_named(tmp_path):
    rows = [{"q": "1+2", "info": {"gold": "3"}, "answer": "no gold", "response": text} for text in ("3", "4")]
    for name, write in (("a.jsonl", lambda path: written(path, *rows)),
                        ("b.parquet", lambda path: pq.write_table(pa.Table.from_pylist(rows), path))):
        write(tmp_path / name)
        (members,) = read(tmp_path / name, columns="problem=q,answer=info.gold").groups
        assert {(a.rollout.prompt.problem, a.rollout.prompt.gold) for a in members} == {("1+2", "3")}


def test_groups_are_of_a_prompt_or_of_an_id(tmp_path):
    rows = [row("3", 1), row("7", 1, prompt="3+4"), row("4", 0), row("8", 0, prompt="3+4")]
    assert [len(members) for members in read(written(tmp_path / "a.jsonl", *rows)).groups] == [2, 2]
    with_ids = [each | {"group": name} for each, name in zip(rows, (1, 2, 2, 1), strict=True)]
    stored = read(written(tmp_path / "b.jsonl", *with_ids))
    assert [[a.rollout.prompt.problem for a in members] for members in stored.groups] == [
        ["1+2", "3+4"], ["3+4", "1+2"]]
    assert len(read(tmp_path / "a.jsonl", limit=1).groups) == 1


def groups_of(path):
    """The groups of a made-up table, with texts that their ids say."""
    def said(rollout):
        return replace(rollout, text=TOKENIZER.decode(rollout.tokens))

    return [replace(group, rollouts=tuple(map(said, group.rollouts))) for group in table_to_groups(pq.read_table(path))]


def test_a_runs_rollouts_are_read_as_they_are(tmp_path):
    """Ids, verdicts, log-probs, and groups by their index; a group that waited a step counts once, as it was
    trained."""
    folder = make_run(tmp_path / "run", vocabulary=SIZE)
    tables = sorted((folder / "rollouts").iterdir())
    groups = [group for path in tables for group in groups_of(path)]
    untrained = [replace(groups[0], old_logprobs=None), *groups[1:3]]
    pq.write_table(groups_to_table(untrained), tables[0])
    pq.write_table(groups_to_table([groups[0], *groups[3:]]), tables[1])
    stored = read(folder, old_logprobs="sampler")
    assert [len(members) for members in stored.groups] == [4] * 6 and stored.report.counts == {"repeated": 4}
    for members, group in zip(stored.groups, groups, strict=True):
        for answer, rollout, verdict, old in zip(members, group.rollouts, group.verdicts,
                                                 group.old_logprobs or [None] * 4, strict=True):
            np.testing.assert_array_equal(answer.rollout.tokens, rollout.tokens)
            np.testing.assert_array_equal(answer.rollout.prompt.tokens, rollout.prompt.tokens)
            np.testing.assert_array_equal(answer.rollout.entropies, rollout.entropies)
            np.testing.assert_array_equal(answer.old, rollout.logprobs if old is None else old)
            assert [answer.rollout.text] == Ends(TOKENIZER, EOS, RolloutConfig(), SIZE).texts([rollout.tokens])
            assert answer.verdict == verdict and answer.rollout.finish_reason == rollout.finish_reason
    truncated = read(folder, old_logprobs="truncated").groups[0][0]
    np.testing.assert_array_equal(truncated.old, groups[0].rollouts[0].truncated_logprobs)
    assert read(folder).groups[0][0].old is None


def test_generated_answers_are_read_as_they_are(tmp_path):
    """Two tables of the same questions are one set of groups: the numbers of their samples are their own."""
    folder = make_run(tmp_path / "run", steps=1, vocabulary=SIZE)
    groups = groups_of(folder / "rollouts" / "step_000001.parquet")
    (tmp_path / "tables").mkdir()
    for name, part in (("a", slice(0, 2)), ("b", slice(2, 4))):
        pq.write_table(answers_to_table([group.rollouts[part] for group in groups]),
                       tmp_path / "tables" / f"{name}.parquet")
    stored = read(tmp_path / "tables")
    assert [len(members) for members in stored.groups] == [4] * 3 and stored.report.unjudged == 12
    assert [a.rollout.sample for a in stored.groups[0]] == [0, 1, 2, 3] and stored.report.files == 2
    shutil.copy(tmp_path / "tables" / "a.parquet", tmp_path / "tables" / "c.parquet")
    with refused("rollout.answers", "c.parquet", "a.parquet"):
        read(tmp_path / "tables")


# --- answers of an OpenAI-style server, as vLLM writes them


def chat(content, reason="stop", **more):
    return {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason, **more}


def logged(*pairs):
    return {"content": [{"token": token, "logprob": value, "bytes": None, "top_logprobs": []}
                        for token, value in pairs]}


def test_a_servers_batch_finds_its_requests(tmp_path):
    """The input and the output of `vllm run-batch` in one folder; the gold stands beside the request."""
    body = {"model": "m", "messages": [{"role": "user", "content": "1+2"}], "n": 3, "logprobs": True}
    written(tmp_path / "requests.jsonl", {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions",
                                          "body": body, "answer": "3"},
            {"custom_id": "q2", "method": "POST", "url": "/v1/completions", "body": {"prompt": "3+4="}, "answer": "7"})
    choices = [chat("3", token_ids=[*ids("3"), 1], logprobs=logged(("3", -0.1), ("", -0.2))),
               chat("4", logprobs=logged((f"token_id:{ids('4')[0]}", -2.0), ("token_id:1", -0.3))),
               chat("44", "length", logprobs=logged(("4", -1.0), ("4", -1.0)))]
    written(tmp_path / "answers.jsonl",
            {"id": "vllm-1", "custom_id": "q1", "error": None, "response": {
                "status_code": 200, "request_id": "r", "body": {"id": "chatcmpl-1", "choices": choices}}},
            {"id": "vllm-2", "custom_id": "q2", "error": None, "response": {"status_code": 200, "body": {
                "id": "cmpl-2", "choices": [{"index": 0, "text": "7", "finish_reason": "stop", "logprobs": {
                    "tokens": ["token_id:1"], "token_logprobs": [-0.5]}, "prompt_token_ids": [9, 8]},
                    {"index": 1, "text": "8", "finish_reason": "length", "logprobs": None}]}}},
            {"id": "vllm-3", "custom_id": "q3", "response": None, "error": {"message": "out of memory"}},
            {"id": "vllm-4", "custom_id": "q3", "response": {"status_code": 400, "body": None}, "error": None})
    stored = read(tmp_path, old_logprobs="sampler")
    first, ended, raw = stored.groups
    assert {a.rollout.prompt.text for a in first} == {"<|user|>1+2<|end|><|assistant|>"}
    assert [a.rollout.tokens.tolist() for a in first] == [[*ids("3"), 1], [*ids("4"), 1], ids("44")]
    np.testing.assert_array_equal(first[1].old, np.float32([-2.0, -0.3]))
    assert [a.rollout.finish_reason for a in first] == ["stop", "stop", "length"] and first[2].old is None
    assert {a.rollout.prompt.gold for a in first} == {"3"} and {a.verdict for a in first} == {None}
    assert ended[0].rollout.prompt.tokens.tolist() == [9, 8] and ended[0].rollout.tokens.tolist() == [1]
    # A completion's prompt is the text itself, and no question.
    assert raw[0].rollout.prompt.text == "3+4=" and raw[0].rollout.prompt.tokens.tolist() == ids("3+4=")
    assert stored.report.unplaced == 1 and stored.report.counts == {"failed": 2}


def test_a_response_with_columns_beside_it(tmp_path):
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [chat("3"), chat("4")]}
    asked = {"messages": [{"role": "user", "content": "1+2"}], "reward": [1, 0]}
    thought = {"id": "chatcmpl-2", "choices": [{**chat("3"), "message": {"content": "3", "reasoning_content": "so"}}]}
    stored = read(written(tmp_path / "a.jsonl", body | asked, {"response": body | {"id": "chatcmpl-3"}} | asked,
                          thought | asked, body | asked))
    (members,) = stored.groups
    assert [a.verdict.reward for a in members] == [1, 0, 1, 0]
    assert stored.report.counts == {"no_response": 1, "repeated": 2}
    assert str(members[3].place) == "a.jsonl, row 2, choice 1"


# --- masks


def test_masked_tokens_need_no_log_prob_and_long_answers_count_in_r_alone(tmp_path):
    given = {"prompt_tokens": [5, 6], "response_tokens": [7, 8, 9], "mask": [1, 0, 1]}
    (members,) = read(written(tmp_path / "a.jsonl", given | {"reward": 1, "logprobs": [-1, None, -2]},
                              given | {"reward": 0, "response_tokens": [7] * 40, "mask": None}),
                      old_logprobs="sampler").groups
    assert members[0].old.tolist() == [-1, 0, -2] and members[0].rollout.trained == 2
    assert members[1].rollout.trained == 0 and members[1].verdict.reward == 0


# --- bad input


TOKENS = {"prompt_tokens": [5, 6], "response_tokens": [7, 8], "reward": 1}


@pytest.mark.parametrize(("bad", "reason", "told"), [
    (TOKENS | {"logprobs": [-1.0]}, "bad_logprobs", "1 values for 2 tokens"),
    (TOKENS | {"logprobs": [-1.0, 0.5]}, "bad_logprobs", "0.5 at token 2"),
    (TOKENS | {"logprobs": [-1.0, float("-inf")]}, "bad_logprobs", "-inf at token 2"),
    (TOKENS | {"logprobs": [None, -1.0]}, "bad_logprobs", "nan at token 1"),
    (TOKENS | {"logprobs": "high"}, "bad_logprobs", "logprobs"),
    (TOKENS | {"reward": 1.5}, "bad_reward", "1.5"), (TOKENS | {"reward": -1}, "bad_reward", "-1"),
    (TOKENS | {"reward": "yes"}, "bad_reward", "'yes'"),
    (TOKENS | {"response_tokens": [7, SIZE]}, "bad_tokens", str(SIZE)),
    (TOKENS | {"prompt_tokens": [-1, 7]}, "bad_tokens", "-1"),
    (TOKENS | {"response_tokens": [0.5]}, "bad_tokens", "response_tokens"),
    (TOKENS | {"response_tokens": [[1], [2, 3]]}, "bad_tokens", "response_tokens"),
    (TOKENS | {"mask": [1]}, "bad_mask", "2 tokens"), (row("3", 1, mask=[1, 1]), "bad_mask", "response_tokens"),
    (TOKENS | {"prompt_tokens": [5] * 25}, "too_long", "25"), (row("3"), "no_answer", "no reward"),
    (row("3", answer="proof"), "placeholder", "proof"), (row("", 1), "no_response", "response"),
    ({"response": "3", "reward": 1}, "no_prompt", "prompt"), (row({"a": 1}, 1), "failed", "server"),
    (row("3", 1, prompt=[{"role": "assistant", "content": "x"}]), "no_question", "user"), ("[1]", "unreadable", "list"),
])
def test_a_row_that_cannot_be_used_is_named(tmp_path, bad, reason, told):
    file = tmp_path / "a.jsonl"
    file.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in (*PAIR, bad)))
    report = read(file, old_logprobs="sampler").report
    (skipped,) = report.skipped
    assert (skipped["row"], skipped["reason"]) == ("a.jsonl, row 3", reason) and told in skipped["detail"]
    assert report.used == 2 and report.to_json()["counts"] == {reason: 1} and reason.replace("_", " ") in str(report)


JUNK = st.recursive(st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        ["role", "content", "choices", "body", "message", "logprobs", "token_ids", "token", "tokens",
                         "messages", "id", "text"]), inner, max_size=3), max_leaves=6)
COLUMNS = sorted({*OF_SERVERS, *(name for names in NAMES.values() for name in names), "answer"})


@settings(max_examples=80)
@given(rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS), JUNK, max_size=7), min_size=1, max_size=3))
def test_no_row_takes_the_others_with_it(tmp_path_factory, rows):
    """Rows of anything: each is an answer, or skipped with a reason, and the rows around it stay."""
    path = tmp_path_factory.mktemp("junk") / "a.jsonl"
    with_ids = [{**each, "group": "ours", "id": None} for each in PAIR]
    report = read(written(path, with_ids[0], *rows, with_ids[1]), old_logprobs="sampler", samples_per_prompt=99).report
    assert report.used + len(report.skipped) == report.rows and report.used >= 2
    assert all(skipped["reason"] and skipped["row"].startswith("a.jsonl, row ") for skipped in report.skipped)
    json.dumps(report.to_json())


def test_a_sample_that_comes_twice_is_skipped_and_equal_samples_are_not(tmp_path):
    file = written(tmp_path / "a.jsonl", *(each | {"sample": i} for i, each in enumerate((*PAIR, PAIR[0]))),
                   PAIR[0] | {"sample": 1})
    stored = read(file)
    assert len(stored.groups[0]) == 3 and stored.report.alike == 1
    (skipped,) = stored.report.skipped
    assert skipped["reason"] == "repeated" and skipped["row"] == "a.jsonl, row 4" and "row 2" in skipped["detail"]


def test_ids_of_another_tokenizer_are_refused(tmp_path):
    with refused("rollout.answers", "a.jsonl, row 1", "another tokenizer"):
        read(written(tmp_path / "a.jsonl", *(TOKENS | {"response": f"answer {i}", "reward": i} for i in (0, 1))))


@pytest.mark.parametrize(("rows", "told"), [
    ([], "0 rows"), ([row("3")], "row 1"), ([row("3", 1)], "1 one answer"),
    ([row("3", 1), row("3", 1), row("7", 0, prompt="3+4"), row("8", 0, prompt="3+4")], "1 all right, 1 all wrong")])
def test_a_file_without_a_usable_group_is_refused(tmp_path, rows, told):
    with refused("rollout.answers", "a.jsonl", told):
        read(written(tmp_path / "a.jsonl", *rows))


def test_places_and_sizes_are_refused_by_name(tmp_path):
    for path in ("missing.jsonl", "model.safetensors"):
        with refused("rollout.answers", path):
            read(tmp_path / path)
    with refused("rollout.answers", str(tmp_path)):
        read(tmp_path)
    with refused("rollout.samples_per_prompt", 2, "use 3"):
        read(written(tmp_path / "a.jsonl", *PAIR, row("5", 0)), samples_per_prompt=2)
    with refused("terms.mismatch", "rollout.answers"):
        config = Config(rollout=RolloutConfig(answers="a.jsonl"))
        replace(config, terms=replace(config.terms, mismatch="token"))
    with refused("rollout.ema", "rollout.answers"):
        RolloutConfig(answers="a.jsonl", ema=0.9)


def test_what_training_reads_is_in_the_digest(tmp_path):
    def digest(*rows):
        return read(written(tmp_path / "a.jsonl", *rows), old_logprobs="sampler").digest

    first = TOKENS | {"logprobs": [-1.0, -2.0], "group": 1}
    rest = TOKENS | {"response_tokens": [9], "reward": 0, "group": 1}
    known = {digest(first, rest)}
    for change in ({"logprobs": [-1.0, -2.5]}, {"reward": 0.5}, {"response_tokens": [7, 9]}, {"prompt_tokens": [5]},
                   {"mask": [1, 0]}, {"gold": "3"}, {"finish_reason": "stop"}, {"logprobs": None}):
        known.add(digest(first | change, rest))
    assert len(known) == 9 and digest(first | {"note": "not read"}, rest) in known


def test_a_stored_group_has_the_index_of_its_prompt(tmp_path):
    groups = table_to_groups(pq.read_table(make_run(tmp_path / "run") / "rollouts" / "step_000001.parquet"))
    prompt = StoredQuestion.of(groups[0]).prompt(77)
    assert {prompt.index, prompt.group.prompt.index, *(r.prompt.index for r in prompt.group.rollouts)} == {77}
    assert prompt.group.verdicts == groups[0].verdicts


def test_golds_of_other_rewards_are_read_from_any_column(tmp_path):
    table = pa.Table.from_pylist([row("a", tests=["t"]), row("b", tests=["t"])])
    pq.write_table(table, tmp_path / "a.parquet")
    config = Config(rollout=RolloutConfig(answers=str(tmp_path / "a.parquet"), max_new_tokens=32),
                    verifier=VerifierConfig(reward="code"))
    with refused("rollout.answers", "a.parquet, row 1"):
        read_stored(config, TOKENIZER, EOS, SIZE)
