"""Why a run falls behind: its answers by kind of question, and its steps replayed with the policy after them."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import nft_jax
from experiments.nano import constraints
from experiments.studies import failures, kinds
from made import make_run
from model_folders import NANO
from nft_jax.data.arithmetic import generate
from nft_jax.record.rollouts import groups_to_table, table_to_groups
from refusal import refused

KINDS = {0: "sum_equation", 1: "sum_equation", 2: "equation"}


@pytest.fixture
def run(tmp_path):
    """Two equal steps of three groups: 1 of 4 right and 0 of 4 of one kind, 3 of 4 of another."""
    folder = make_run(tmp_path / "run", rewards=((1, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 0)), vocabulary=100, steps=2,
                      data__source="arithmetic-hard", batch__updates_per_step=1)
    problems = {kind: [q.problem for q in generate("train", 200, 0, "arithmetic-hard") if q.kind == kind]
                for kind in set(KINDS.values())}
    for path in (folder / "rollouts").glob("step_*.parquet"):
        groups = table_to_groups(pq.read_table(path))
        told = [replace(group, prompt=replace(group.prompt, problem=problems[KINDS[i]][i]),
                        rollouts=tuple(replace(r, prompt=replace(group.prompt, problem=problems[KINDS[i]][i]))
                                       for r in group.rollouts)) for i, group in enumerate(groups)]
        pq.write_table(groups_to_table(told, frozenset(g.prompt.index for g in told if g.has_signal)), path)
    return folder


def test_answers_are_counted_by_kind(run, tmp_path):
    found = kinds.by_kind(run).set_index(["step", "kind"]).sort_index()
    assert found.loc[(1, "sum_equation")].to_dict() == {"answers": 8, "right": 1, "groups": 2, "mixed": 1}
    assert found.loc[(2, "equation")].to_dict() == {"answers": 4, "right": 3, "groups": 1, "mixed": 1}
    (tmp_path / "other").mkdir()
    with refused("RUN", tmp_path / "other"):
        kinds.by_kind(tmp_path / "other")


def test_answers_scored_by_rules_are_counted_by_rule(tmp_path):
    """A group of four answers to a question with a word, and one to a question without: scores are added up."""
    folder = make_run(tmp_path / "run", rewards=((1, 0, 0, 0), (0, 0, 0, 0)), vocabulary=100, steps=1,
                      verifier__reward=constraints.CONSTRAINTS.verifier.reward)
    told = (("length 8, use 7+, end ;, word sum", ("sum7+12;", "7+7+7+7;", "7", "")),
            ("length 4, use 7, end }", ("12}", "12}", "7777", "7777")))
    path = folder / "rollouts" / "step_000001.parquet"
    groups = [replace(group, prompt=(asked := replace(group.prompt, problem=problem)),
                      rollouts=tuple(replace(r, prompt=asked, text=text)
                                     for r, text in zip(group.rollouts, texts, strict=True)))
              for group, (problem, texts) in zip(table_to_groups(pq.read_table(path)), told, strict=True)]
    pq.write_table(groups_to_table(groups, frozenset()), path)
    found = kinds.by_kind(folder).set_index("kind")
    assert found["answers"].to_dict() == {"right-length": 8, "uses-characters": 8, "right-end": 8, "all rules": 8,
                                          "has-word": 4}
    assert found["right"].to_dict() == pytest.approx({
        "right-length": 1 + 1 + 1 / 8 + 0 + 3 / 4 + 3 / 4 + 1 + 1, "uses-characters": 1 + 1 + 1 / 2 + 0 + 2,
        "right-end": 4, "all rules": 1, "has-word": 1})


def test_a_replayed_step_meets_the_policy_after_it(run, monkeypatch):
    asked, policy = [], nft_jax.load(NANO)
    monkeypatch.setattr(nft_jax, "load", lambda folder, step: asked.append((folder, step)) or policy)
    found = failures.replayed(run).set_index(["step", "kind", "reward"])
    assert asked == [(run, 1), (run, 2)]
    # The group without a right answer was not trained on.
    assert found.loc[(1, "sum_equation", 0.0), "answers"] == 3
    table = nft_jax.replay(run / "rollouts" / "step_000001.parquet", policy=policy).table()
    one = table[(table["prompt_index"] == 10) & (table["reward"] == 1)]
    assert found.loc[(1, "sum_equation", 1.0), "log_ratio"] == pytest.approx(np.log(one["ratio"]).sum(), rel=1e-5)


def test_the_tables_tell_which_kind_sets_runs_apart(run):
    once = kinds.by_kind(run)
    better = once.assign(right=np.where(once["kind"] == "sum_equation", 6, once["right"]))
    frame = pd.concat([each.assign(arm="grpo 32", seed=seed, heldout=accuracy)
                       for seed, (each, accuracy) in enumerate(((once, 0.5), (better, 0.6)))])
    text = failures.text_of(frame, None)
    assert "| grpo 32 | 0 | 50.0 | 75 | 12 | 50% |" in text and "| grpo 32 | 1 | 60.0 | 75 | 75 | 50% |" in text
    assert "| sum_equation | 44.2 | +1.00 | 100% |" in text and "| equation | 0.0 | - | 0% |" in text
    # Made again on another machine the seeds 0 and 1 change places; seed 2 is the same, and says nothing.
    same = once.assign(arm="grpo 32", seed=2, heldout=0.7)
    text = failures.text_of(pd.concat([frame, same]), None, pd.concat([frame.assign(seed=1 - frame["seed"]), same]))
    first = frame["step"].min()
    assert f"| grpo 32 | 0, 1 | {first}, {first} | 50, 60 | 60, 50 | 12, 75 | 75, 12 |" in text
    assert "-1.00 over 2 runs." in text
    assert failures.text_of(frame, None, frame) == failures.text_of(frame, None)


def test_a_stored_run_keeps_the_counts_of_the_first_machine(run, tmp_path, monkeypatch):
    once = kinds.by_kind(run).assign(arm="grpo 32", heldout=0.5, objective="grpo")
    here = pd.concat([once.assign(seed=seed, right=0) for seed in (0, 1)], ignore_index=True)
    monkeypatch.setattr(failures, "FIGURES", tmp_path)
    monkeypatch.setattr(failures, "collected", lambda arms, workdir: here)
    pd.testing.assert_frame_equal(failures.runs_with_many_updates(tmp_path), here)
    once.assign(seed=0).to_parquet(tmp_path / failures.KINDS)
    both = pd.concat([once.assign(seed=0), here[here["seed"] == 1]], ignore_index=True)
    pd.testing.assert_frame_equal(failures.runs_with_many_updates(tmp_path), both)


def test_a_study_tells_which_kinds_set_its_seeds_apart(run):
    once = kinds.by_kind(run)
    better = once.assign(right=np.where(once["kind"] == "sum_equation", 6, once["right"]))
    frame = pd.concat([each.assign(arm=arm, seed=seed, heldout=accuracy) for arm, each, seed, accuracy in (
        ("nft", once, 0, 0.5), ("nft", better, 1, 0.6), ("rft", better, 0, 0.6), ("rft", better, 1, 0.6))])
    text = kinds.text_of("main_table", frame)
    assert "| nft | 2 | 55 (50 to 60) | 75 (75 to 75) | 44 (12 to 75) |" in text
    assert "| rft | 2 | 60 (60 to 60) | 75 (75 to 75) | 75 (75 to 75) |" in text
    # One run has 1 of 8 right at its first step, three have 6 of 8.
    assert "| first step |  |  | 75 | 59 |" in text
    # Between the arms the kind differs too; only what sets an arm's own seeds apart counts.
    assert "| sum_equation | 25.5 | +1.00 | 100% |" in text
    # The other kind is steady: 3 of 4 right in every run.
    assert "| rft | 75.0 ± 0.0 | +0.0 ± 0.0 | 2 |" in text and "Mean accuracy of equation:" in text


def test_a_run_that_breaks_down_leaves_the_steady_kinds_as_they_are():
    """Two of three arms agree on additions, no arm on equations."""
    ends = pd.DataFrame({"heldout": 0.5, "sum": [0.8, 0.8, 0.8, 0.82, 0.8, 0.0], "equation": [0.2, 0.8] * 3},
                        index=pd.MultiIndex.from_product([("nft", "grpo", "nsr"), (0, 1)]))
    steady, table = kinds.steady_table(ends, ends - ends.groupby(level=0).transform("mean"))
    assert steady == ["sum"]
    assert "| nft | 80.0 ± 0.0 |" in table and "| grpo | 81.0 ± 12.7 | +1.0 ± 12.7 | 2 |" in table


def test_runs_of_different_lengths_are_counted_over_the_steps_that_all_have():
    frame = pd.DataFrame([{"arm": arm, "seed": 0, "step": step} for arm, end in (("short", 20), ("long", 40))
                          for step in range(1, end + 1)])
    steps = kinds.last_steps(frame).groupby("arm")["step"].agg(["min", "max"])
    assert (steps == [20 - kinds.LAST + 1, 20]).all(axis=None)


def test_runs_on_stored_answers_are_left_out_and_counted_runs_serve(tmp_path, monkeypatch, run):
    """Of two finished runs, the one that sampled its own answers counts."""
    monkeypatch.setattr(kinds, "FIGURES", tmp_path)
    base = kinds.SCALES["nano"].config
    arms = {"sampled": {}, "stored": {"rollout.answers": "answers.parquet"}}
    for each in kinds.plan(kinds.SCALES["nano"].experiment, base, arms, 1, tmp_path / "study"):
        shutil.copytree(run, each.folder)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        (each.folder / "metrics.jsonl").write_text("".join(
            json.dumps(row | {"evaluation/accuracy/all": 0.5}) + "\n" for row in rows))
        (each.folder / "summary.json").write_text(json.dumps({"finished": True, "steps": base.steps}))
    found = kinds.collected(arms, tmp_path / "study")
    assert set(found["arm"]) == {"sampled"} and set(found["kind"]) == {"sum_equation", "equation"}

    # The counts serve on a machine without the folder, under the name that an arm of another study has there.
    found.to_parquet(tmp_path / "kinds_other.parquet")
    again = kinds.collected({"here": {}, "never ran": {"objective": "rft"}}, tmp_path / "empty")
    pd.testing.assert_frame_equal(again.assign(arm="sampled"), found)
    assert set(again["arm"]) == {"here"}
