"""What the page shows of runs, from small folders made by hand, against the numbers that they were made of."""
import base64

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made import make_run
from nft_jax.config import Config
from nft_jax.model.hf.tokenizer import pieces
from nft_jax.objectives.registry import resolve
from nft_jax.record.folder import read_run
from nft_jax.report import rollouts
from nft_jax.report.__main__ import main
from nft_jax.report.data import heading, histogram, page_data, phases, series

LOSS, NATS = Config().loss, rollouts.NATS


def unpacked(text):
    return np.frombuffer(base64.b64decode(text), "<i2")


def test_curves_are_means_over_the_runs_that_have_the_step(tmp_path):
    rows = [[{"step": 0, "a": 1.0, "b": None}, {"step": 1, "a": 3.0, "flag": True}, {"step": 2, "a": 5.0}],
            [{"step": 0, "a": 2.0}, {"step": 1, "a": 7.0, "only": 4.0}]]
    runs = [read_run(make_run(tmp_path / str(i), rows=each, seed=i, steps=0)) for i, each in enumerate(rows)]
    (tmp_path / "1" / "metrics.jsonl").open("a").write('{"step": 2, "a": 9')            # it is writing that row
    assert series([runs[0], read_run(tmp_path / "1")]) == {
        "a": [[0, 1, 2], [1.5, 5.0, 5.0], [1.0, 3.0, 5.0], [2.0, 7.0, 5.0], [2, 2, 1]],
        "only": [[1], [4.0], [4.0], [4.0], [1]]}
    assert series(runs[:1]) == {"a": [[0, 1, 2], [1.0, 3.0, 5.0]]}


def test_phases_are_seconds_of_a_step(tmp_path):
    rows = [{"step": 0, "seconds/step": 99.0}, {"step": 1, "seconds/step": 4.0, "seconds/train": 3.0},
            {"step": 2, "seconds/step": 6.0, "seconds/train": 3.0, "seconds/evaluate": 1.0}]
    assert phases([read_run(make_run(tmp_path / "a", rows=rows, steps=0))]) == {
        "step": 5.0, "train": 3.0, "evaluate": 0.5}


def test_histogram_counts_each_group_once(tmp_path):
    rewards = ((1, 0, 0, 0), (1, 0, 0, 0), (1, 1, 1, 1), (0, 0, 0, None), (None, None), (1, 1, 1, 0))
    runs = [read_run(make_run(tmp_path / str(i), rewards=rewards, steps=3, seed=i)) for i in range(2)]
    found = histogram(runs)
    assert found["columns"] == [[1, 1], [2, 2], [3, 3]]
    assert found["counts"] == [[2, 0, 4, 0, 0, 0, 2, 0, 0, 2]] * 3       # 0, 1/4 (twice), 3/4, 1; one has no verdicts
    for step in range(4, 101):
        (tmp_path / "0" / "rollouts" / f"step_{step:06d}.parquet").hardlink_to(runs[0].tables[1])
    many = histogram([read_run(tmp_path / "0")])
    assert len(many["columns"]) == 40 and many["columns"][0] == [1, 3] and many["columns"][-1] == [99, 100]
    assert np.sum(many["counts"]) == 500


@pytest.mark.parametrize(("summary", "told"), [
    (None, "running, or killed"), ('{"steps": 2, "finished": true}', "finished"),
    ('{"steps": 2, "finished": false}', "stopped"), ('{"steps": 1, "finished": false}', "running, or killed"),
    ('{"steps": ', "running, or killed")])
def test_a_run_tells_how_far_it_is(tmp_path, summary, told):
    folder = make_run(tmp_path / "a")
    if summary is not None:
        (folder / "summary.json").write_text(summary)
    assert read_run(folder).state == told


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model_type": "qwen3"}'])
def test_a_folder_that_is_no_run_is_named(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "-o", str(tmp_path / "page.html")])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: RUN is") and told.count("\n") == 1 and not (tmp_path / "page.html").exists()


def test_whatever_a_folder_lacks_is_left_out(tmp_path):
    """A run that has just begun; one whose answers are from an older version; one with a broken table."""
    bare = make_run(tmp_path / "bare", steps=0, rows=[])
    (bare / "metrics.jsonl").unlink()
    (bare / "rollouts").rmdir()
    old = make_run(tmp_path / "old", seed=1, steps=1)
    path = old / "rollouts" / "step_000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(
        ["truncated_logprobs", "old_logprobs", "kept", "prompt_tokens", "entropies"]), path)
    broken = make_run(tmp_path / "broken", seed=2, steps=2)
    (broken / "rollouts" / "step_000001.parquet").write_bytes(b"PAR1 and no more")
    data = page_data([bare, old, broken, bare], 1000)
    assert len(data["runs"]) == 3 and [(group["name"], group["runs"]) for group in data["groups"]] == [
        ("run", [0, 1, 2])]
    shown = data["rollouts"]
    assert [sum(row[0] == run for row in shown["rows"]) for run in range(3)] == [0, 12, 12]
    assert shown["notes"] == [[0, "no answers are in its folder"]]
    of_old = [row for row in shown["rows"] if row[0] == 1]
    assert all(row[14] and row[15] is None and row[16] is None and row[9] is None for row in of_old)


def test_the_sample_is_whole_groups_spread_over_steps_and_always_the_same(tmp_path):
    runs = [read_run(make_run(tmp_path / str(i), steps=steps, seed=i)) for i, steps in enumerate((5, 2))]
    chosen, total = rollouts.choose(runs, 32)
    assert total == 12 * 7 and sum(map(len, chosen.values())) == 32 and len(chosen) == 7
    assert sorted(map(len, chosen.values())) == [4, 4, 4, 4, 4, 4, 8]                   # 32 answers are 7 + 1 groups
    for rows in chosen.values():
        assert rows == sorted(set(rows)) and {row // 4 for row in rows} == {rows[0] // 4, rows[-1] // 4}
    assert chosen == rollouts.choose(runs, 32)[0] == rollouts.choose(runs, 29)[0]       # never a part of a group
    assert {key: len(rows) for key, rows in rollouts.choose(runs, 1000)[0].items()} == dict.fromkeys(chosen, 12)
    assert rollouts.choose(runs, 0)[0] == {}
    # The same step of two runs shows the same places of the table: the same questions, where the order is the same.
    assert chosen[0, 1][:4] == chosen[1, 1][:4] and len(rollouts.choose(runs, 4)[0]) == 1
    for step in range(6, 101):
        (tmp_path / "0" / "rollouts" / f"step_{step:06d}.parquet").hardlink_to(runs[0].tables[1])
    few, _ = rollouts.choose([read_run(tmp_path / "0")], 40)                            # 10 of 100 steps
    gaps = np.diff(sorted(step for _, step in few))
    assert len(few) == 10 and gaps.min() >= 5 and gaps.max() <= 16


def test_tokens_come_with_their_texts_and_numbers(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=1))
    text = run.text
    shown = rollouts.sample_of([run], 100)
    written = pq.read_table(run.tables[1]).to_pylist()
    assert len(shown["rows"]) == shown["total"] == len(written) == 12 and shown["notes"] == []
    for row, one in zip(shown["rows"], written, strict=True):
        assert row[12] == text(one["tokens"]) and row[11] == len(one["tokens"])
        assert unpacked(row[13]).tolist() == [rollouts.utf16(text([token])) for token in one["tokens"]]
        for place, values in ((14, -np.array(one["logprobs"])), (15, np.array(one["entropies"]))):
            np.testing.assert_allclose(unpacked(row[place]) * NATS, np.clip(values, None, 32.767), atol=NATS / 2 + 1e-6)
        assert shown["problems"][row[2]] == (one["problem"], "1") and row[3] == one["sample"]
        assert row[4:6] == [one["outcome"], one["reward"]] and row[9] is one["kept"]


def test_without_a_tokenizer_the_answers_text_is_shown_uncoloured(tmp_path):
    run = read_run(make_run(tmp_path / "a", steps=1, policy__path=str(tmp_path / "nowhere")))
    shown = rollouts.sample_of([run], 5)
    assert "have no colours" in shown["notes"][0][1]
    assert all(row[12].startswith("answer ") and row[13:17] == [None] * 4 for row in shown["rows"])


@pytest.mark.parametrize(("objective", "push"), [
    ("nft", lambda s, r: (1 - r) * s - r * (1 - s)), ("rft", lambda s, r: s), ("dr_grpo", lambda s, r: s - r),
    ("grpo", lambda s, r: (s - r) / np.sqrt(r * (1 - r))),
    ("dpo", lambda s, r: LOSS.beta * (s / (4 * r) - 1 / 4) + LOSS.nll_weight * s / (4 * r))])
def test_coefficients_are_those_of_the_first_update(tmp_path, objective, push):
    """At ratio 1, by hand: NFT with omega = 1 - r pushes right answers by 1 - r and wrong ones by -r."""
    run = read_run(make_run(tmp_path / "a", steps=1, objective=objective))
    picked, examples = rollouts.read_answers(run, {1: list(range(12))}, LOSS)     # groups with r = 1/4, 3/4 and 0
    found = rollouts.answer_coefficients(objective, resolve(objective, LOSS), examples)
    assert len(picked) == 12 and set(found) == {(1, group, sample) for group in (10, 11) for sample in range(4)}
    expected = {}
    for (_, group, sample), (values, _) in found.items():
        s, r = {10: ((1, 0, 0, 0)[sample], 0.25), 11: ((1, 1, 1, 0)[sample], 0.75)}[group]
        np.testing.assert_allclose(values, push(s, r), rtol=1e-5)
        count = len(examples[1, group, sample].response)
        assert len(values) == count
        # GRPO takes the mean of each answer's tokens; the others add up tokens.
        expected[group, sample] = push(s, r) * (1 if objective == "grpo" else count)
    for (_, group, sample), (_, share) in found.items():
        whole = sum(abs(value) for (other, _), value in expected.items() if other == group)
        assert share == pytest.approx(expected[group, sample] / whole, abs=2e-5)


@pytest.mark.parametrize(("fields", "told"), [({"objective": "theirs"}, "objective is 'theirs'"),
                                              ({"loss__epsilon": -1.0}, "loss.epsilon is -1.0")])
def test_what_another_version_knew_costs_the_coefficients_only(tmp_path, fields, told):
    run = read_run(make_run(tmp_path / "a", steps=1, **fields))
    shown = rollouts.sample_of([run], 100)
    assert len(shown["rows"]) == 12 and all(row[14] is not None and row[16] is None for row in shown["rows"])
    ((_, note),) = shown["notes"]
    assert note.startswith(f"no coefficients: {told}")
    assert rollouts.sample_of([run], 0)["rows"] == rollouts.sample_of([run], 0)["notes"] == []


def test_numbers_are_packed():
    found = rollouts.packed(np.array([0, 0.0014, 32.767, np.inf, np.nan, -1]), NATS)
    assert unpacked(found).tolist() == [0, 1, 32767, 32767, 0, -1000]
    assert rollouts.packed_coefficients(np.full(3, 0.5)) == [0.5]
    unit, text = rollouts.packed_coefficients(np.array([-1.0, 0.25, 0.0], np.float32))
    np.testing.assert_allclose(unpacked(text) * unit, [-1, 0.25, 0], atol=unit / 2)


def test_a_character_of_several_tokens_stands_with_the_last():
    """A byte is a token: the text of an incomplete character ends with U+FFFD."""
    def text(ids):
        return bytes(ids).decode("utf-8", "replace")

    for word in ("añ😀b", "plain", "", "\ufffd!"):
        parts = pieces(list(word.encode()), text)
        assert "".join(parts) == word and len(parts) == len(word.encode())
    assert pieces([97, *"😀".encode()], text) == ["a", "", "", "", "😀"]
    assert "".join(pieces([97, 0xF0, 0x9F], text)) == text([97, 0xF0, 0x9F])
    assert rollouts.utf16("😀") == 2 and rollouts.utf16("\ud800") == 1


def test_tables_are_read_without_the_columns_they_lack(tmp_path):
    pq.write_table(pa.table({"prompt_index": [1]}), tmp_path / "t.parquet")
    folder = make_run(tmp_path / "a", steps=0)
    (tmp_path / "t.parquet").rename(folder / "rollouts" / "step_000001.parquet")
    run = read_run(folder)
    assert histogram([run]) is None
    (row,) = rollouts.sample_of([run], 5)["rows"]
    assert row[11:] == [0, "", None, None, None, None, None, 1]


def test_what_an_answer_out_of_the_loss_contributes_is_nothing(tmp_path):
    """mask_truncated leaves it out of the loss, not out of the group's accuracy."""
    folder = make_run(tmp_path / "a", steps=1, terms__mask_truncated=True)
    path = folder / "rollouts" / "step_000001.parquet"
    table = pq.read_table(path)
    ends = ["length" if i == 0 else "stop" for i in range(len(table))]
    pq.write_table(table.set_column(table.column_names.index("finish_reason"), "finish_reason", pa.array(ends)), path)
    rows = rollouts.sample_of([read_run(folder)], 100)["rows"]
    assert rows[0][10] and rows[0][17] is None and rows[0][16] is None
    assert sum(abs(row[17]) for row in rows[1:4]) == pytest.approx(1, abs=1e-4)
    assert all(row[17] < 0 for row in rows[1:4]) and all(row[17] is None for row in rows[8:])


def test_groups_are_told_apart_by_what_their_objectives_read(tmp_path):
    """GRPO does not read epsilon, and an objective of one's own reads what its source names."""
    own = make_run(tmp_path / "d", objective="my_losses.py:forks", loss__epsilon=0.5, steps=0)
    (own / "objective.py").write_text(
        "# objective my_losses.py:forks, sha256 of the rest 1\ndef forks(logprobs, old_logprobs, mask, rewards, "
        "group_accuracy, config, extras):\n    return -config.beta * logprobs, {}\n")
    runs = [make_run(tmp_path / "a", steps=0), make_run(tmp_path / "b", steps=0, loss__epsilon=0.1),
            make_run(tmp_path / "c", steps=0, objective="grpo", loss__epsilon=0.7), own]
    data = page_data(runs, 0)
    assert [group["name"] for group in data["groups"]] == [run["name"] for run in data["runs"]] == ["a", "b", "c", "d"]
    fields = dict(data["fields"])
    assert fields["loss.epsilon"] == [1.0, 0.1, None, None] and fields["loss.beta"] == [None, None, None, 0.1]
    assert {"objective", "loss.epsilon"} <= set(data["different"]) and "loss.beta" in data["partly"]
    seeds = page_data([*runs, make_run(tmp_path / "e", steps=0, seed=1)], 0)
    assert heading(seeds) == "nft, epsilon 1 · nft, epsilon 0.1 · grpo · forks"
    assert len({tuple(group["colours"]) for group in data["groups"]}) == 4
    assert heading(page_data(runs[:1], 0)) == "a" and heading(page_data(runs[:1], 0, ["mine"])) == "mine"


def test_full_colour_is_at_the_deepest_tokens_of_the_page():
    values = [np.linspace(0, 1, 101), np.array([np.nan])]
    assert rollouts.deepest(values) == 0.99 and rollouts.deepest([]) == 5.0
    assert rollouts.deepest([np.zeros(9)]) == 0.25 and rollouts.deepest([np.full(9, 40.0)]) == 5.0


def test_the_source_of_an_objective_of_one_s_own_is_on_the_page(tmp_path):
    """As the run keeps it; a run on an objective of the package has none, whatever lies in its folder."""
    source = "# objective mine.py:f\ndef f(): return '</script>'\n"
    runs = [make_run(tmp_path / name, steps=1, objective=name) for name in ("grpo", "mine.py:f", "gone.py:f")]
    for run in runs[:2]:
        (run / "objective.py").write_text(source)
    assert [run["objective"] for run in page_data(runs, 0)["runs"]] == [None, source, None]
