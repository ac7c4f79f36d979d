"""Runs on stored answers: the first step of the run that sampled them, epochs, resume, objectives, refusals."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import nft_jax
from nft_jax.config import DataConfig, EvaluationConfig, RolloutConfig, TermsConfig
from nft_jax.record.metrics import read_metrics
from nft_jax.record.rollouts import table_to_groups
from nft_jax.report.data import page_data
from nft_jax.train import loop, stored_groups
from nft_jax.train.opening import preview
from nft_jax.train.plan import settle
from refusal import refused
from runs import EVERY_OTHER, Judge, assert_same_run

GROUPS = 4
# The seed whose first permutation of the groups leaves them where they are.
IN_ORDER = next(seed for seed in range(1000)
                if np.random.default_rng([seed, 0]).permutation(GROUPS).tolist() == [*range(GROUPS)])
NOT_ASKED = Judge(lambda i, text, gold: pytest.fail("a stored reward was judged again"))


@pytest.fixture(scope="module")
def config(small_run):
    """`config(workdir, **changes)`: a run without evaluation; `answers` takes the sampler's place."""
    def make(workdir, answers="", steps=1, seed=None, choice="trainer", **changes):
        source = "" if answers else "arithmetic"
        return small_run(
            workdir, steps=steps, data=DataConfig(source=source, max_prompt_tokens=24, seed=seed),
            rollout=RolloutConfig(answers=str(answers), prompts_per_step=GROUPS, samples_per_prompt=4,
                                  max_new_tokens=32, slots=16, block_size=8, old_logprobs=choice),
            evaluation=EvaluationConfig(questions=1, samples=1, every=0), **changes)
    return make


@pytest.fixture(scope="module")
def sampled(config, compiled_once, tmp_path_factory):
    """A step of a run that samples, with two updates."""
    folder = tmp_path_factory.mktemp("sampled")
    nft_jax.train(config(folder), verifier=EVERY_OTHER, quiet=True)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Questions with answers as text and a gold; two of the six groups teach nothing."""
    rows = [{"prompt": f"{i}+{i}", "response": f"{answer}" if i % 3 else "same", "answer": f"{2 * i}"}
            for i in range(6) for answer in (2 * i, 7, 2 * i + 1)]
    file = tmp_path_factory.mktemp("texts") / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


BY_GOLD = Judge(lambda i, text, gold: float(text == gold))


@pytest.fixture(scope="module")
def trained(config, compiled_once, texts, tmp_path_factory):
    """Three steps on the texts, three epochs of four groups."""
    folder = tmp_path_factory.mktemp("trained")
    nft_jax.train(config(folder, texts, steps=3), verifier=BY_GOLD, quiet=True)
    return folder


def test_the_first_step_on_a_runs_answers_is_that_runs(config, sampled, tmp_path):
    """Bit by bit: same groups, rewards, old log-probs and deal. Stored rewards are not judged again."""
    folder = tmp_path / "run"
    nft_jax.train(config(folder, sampled, seed=IN_ORDER, choice="sampler"), verifier=NOT_ASKED, quiet=True)
    for path in (sampled / "model").iterdir():
        assert (folder / "model" / path.name).read_bytes() == path.read_bytes(), path.name
    row, expected = (read_metrics(each / "metrics.jsonl")[1] for each in (folder, sampled))
    for name in ("loss/total", "grad_norm/max", "ratio/max_negative", "accuracy/kept", "tokens/kept",
                 "ratio/effective_sample_size", "share/clamped"):
        assert row[name] == expected[name], name
    assert row["answers/epoch"] == 1 and "rollout/occupancy" not in row and "mismatch/mean" not in row
    a, b = (pq.read_table(each / "rollouts" / "step_000001.parquet").to_pylist() for each in (folder, sampled))
    assert a == b


def test_text_is_judged_and_scored_once(trained, texts):
    """Verdicts by the run's verifier, r of all answers of a group, pi_old the model that the run starts from."""
    groups = table_to_groups(pq.read_table(trained / "answers.parquet"))
    assert [group.prompt.problem for group in groups] == ["1+1", "2+2", "4+4", "5+5"]
    assert all(group.accuracy == pytest.approx(1 / 3) for group in groups)
    policy = nft_jax.load("nano")
    for group in groups:
        for old, new in zip(group.old_logprobs, nft_jax.logprobs(policy, group.rollouts), strict=True):
            np.testing.assert_allclose(old, new, atol=1e-5)
    skipped = json.loads((trained / "skipped.json").read_text())["rollout.answers"]
    assert (skipped["used"], skipped["unjudged"], skipped["tokenised"]) == (18, 18, 18)
    rows = read_metrics(trained / "metrics.jsonl")[1:]
    assert [row["answers/epoch"] for row in rows] == [1, 2, 3] and {row["groups/kept"] for row in rows} == {4}
    # All of them were sampled before the first step, groups that are left out too.
    assert [row["tokens/generated"] for row in rows] == [skipped["tokens"], 0, 0]
    assert {row["compiles"] for row in rows[1:]} == {0} and rows[0]["ratio/mean_positive"] == pytest.approx(1, abs=0.05)


def test_the_report_says_what_was_read(trained, texts):
    """Of answers without log-probs and entropies too."""
    page = page_data([trained], 12)
    assert str(texts) in page["runs"][0]["stored"] and "3.0 epochs" in page["runs"][0]["stored"]
    assert len(page["rollouts"]["rows"]) == 12 and "ratio/effective_sample_size" in page["series"][0]


def test_an_epoch_has_every_group_once_in_the_order_of_the_seed(trained):
    asked = [sorted({row["problem"] for row in pq.read_table(path).to_pylist()})
             for path in sorted((trained / "rollouts").iterdir())]
    assert asked == [["1+1", "2+2", "4+4", "5+5"]] * 3
    table = pq.read_table(trained / "rollouts" / "step_000003.parquet")
    first = [table["problem"][i].as_py() for i in range(0, len(table), 3)]
    order = np.random.default_rng([0, 2]).permutation(4)
    assert first == [("1+1", "2+2", "4+4", "5+5")[i] for i in order]


def test_a_killed_run_ends_like_a_whole_one(config, texts, trained, tmp_path, monkeypatch):
    """Killed while it scores, and in the second epoch. Then nothing is judged or scored again."""
    record = loop.record

    def kill(run, state, progress, metrics):
        record(run, state, progress, metrics)
        if progress.step == 2:
            raise KeyboardInterrupt

    def cut(run, part, params):
        raise KeyboardInterrupt

    # While the answers are scored: their table is whole or absent.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stored_groups, "_with_old", cut)
        nft_jax.train(config(tmp_path / "run", texts, steps=3), verifier=BY_GOLD, quiet=True)
    assert not (tmp_path / "run" / "answers.parquet").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "record", kill)
        nft_jax.train(config(tmp_path / "run", texts, steps=3), verifier=BY_GOLD, quiet=True)
    nft_jax.train(config(tmp_path / "run", texts, steps=3), verifier=NOT_ASKED, quiet=True)
    assert_same_run(tmp_path / "run", trained)


def test_a_fork_keeps_pi_old(config, texts, trained, tmp_path):
    """Of the same answers; a fork on others starts from its own parameters."""
    longer = config(tmp_path / "fork", texts, steps=4)
    nft_jax.train(longer, verifier=NOT_ASKED, quiet=True, fork=str(trained))
    assert (tmp_path / "fork" / "answers.parquet").read_bytes() == (trained / "answers.parquet").read_bytes()
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(texts.read_text().splitlines(keepends=True)[:12]))
    nft_jax.train(config(tmp_path / "other", cut, steps=4), verifier=BY_GOLD, quiet=True, fork=str(trained))
    first, now = (np.concatenate([np.concatenate(group.old_logprobs) for group in table_to_groups(pq.read_table(
        tmp_path / name / "answers.parquet")) if group.prompt.problem in ("1+1", "2+2")]) for name in ("fork", "other"))
    # These differ from the first model's as far as three steps take it.
    assert first.shape == now.shape and np.abs(first - now).max() > 0.1


def test_what_changed_since_the_run_began_is_refused(config, texts, trained, tmp_path):
    folder, changed = tmp_path / "run", tmp_path / "answers.jsonl"
    shutil.copytree(trained, folder)
    again = config(folder, texts, steps=4)
    (folder / "answers.parquet").unlink()
    with refused("workdir", str(folder), "answers.parquet"):
        nft_jax.train(again, verifier=BY_GOLD, quiet=True)
    shutil.copy(trained / "answers.parquet", folder)
    before = texts.read_text()
    changed.write_text(before)
    texts.write_text(before.replace('"response": "7"', '"response": "77"'))
    with refused("workdir", "stored answers"):
        nft_jax.train(again, verifier=BY_GOLD, quiet=True)
    texts.write_text(before)
    with refused("rollout.answers", str(texts), str(changed)):
        nft_jax.train(config(folder, changed, steps=4), verifier=BY_GOLD, quiet=True)
    with refused("rollout.answers", str(folder), "lies in the run folder"):
        nft_jax.train(config(folder, folder / "rollouts", steps=4), verifier=BY_GOLD, quiet=True)


def test_without_unequal_rewards_a_run_is_refused(config, texts, compiled_once, tmp_path):
    with refused("rollout.answers", str(texts), "6 all wrong"):
        nft_jax.train(config(tmp_path / "run", texts), verifier=Judge(lambda *_: 0.0), quiet=True)


def test_another_objective_on_the_same_answers(config, texts, compiled_once, tmp_path):
    """One of whole groups, with stored masks, in a group of which one answer is too long, and a KL term."""
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    rows += [{"prompt_tokens": [5, 6], "response_tokens": ids, "mask": mask, "reward": reward}
             for ids, mask, reward in (([7, 8, 9], [1, 0, 1], 1), ([7, 9], [1, 1], 0), ([7] * 40, None, 1))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = config(tmp_path / "run", tmp_path / "a.jsonl", steps=2, terms=TermsConfig(kl_weight=0.1))
    run = replace(run, objective="dpo")
    nft_jax.train(run, verifier=BY_GOLD, quiet=True)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert all(row["nonfinite/skipped"] == 0 and row["grad_norm/mean"] > 0 for row in rows)
    groups = table_to_groups(pq.read_table(tmp_path / "run" / "answers.parquet"))
    assert groups[-1].accuracy == pytest.approx(2 / 3) and [r.trained for r in groups[-1].rollouts] == [2, 2, 0]
    assert any(row["mask"] == [True, False, True] for path in (tmp_path / "run" / "rollouts").iterdir()
               for row in pq.read_table(path).to_pylist() if "mask" in row)
    assert nft_jax.replay(tmp_path / "run").metrics["loss/total"] == pytest.approx(rows[1]["loss/total"], abs=0.5)


def test_a_dry_run_says_what_is_read(config, texts, tmp_path):
    _, lines = preview(settle(config(tmp_path / "run", texts)))
    told, = (line for line in lines if line.startswith("rollout.answers: "))
    assert "18 answers in 6 groups" in told and "18 have a gold and no reward" in told
    assert not (tmp_path / "run").exists()
