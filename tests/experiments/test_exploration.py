"""The study of exploration on runs that are made up: where arms are looked at, its tables, its figure, its page."""
import numpy as np
import pandas as pd
import pytest

from experiments.harness import study
from experiments.harness.results import ACCURACY, BESIDE, Measures, kept, read_run
from experiments.harness.scales import SCALES
from experiments.nano import countdown_base, write_questions
from experiments.studies import exploration
from experiments.studies.exploration import PASS, STUDY
from experiments.sweep import plan
from nft_jax.config import DataConfig, EvaluationConfig
from nft_jax.preflight.devices import Topology
from nft_jax.rollout.estimators import pass_at_k
from nft_jax.train.loop import train
from runs import use_devices

STEPS = np.array([0, 10, 20])
# Accuracy of each arm at the steps. Its right answers are of so many kinds, of 8.
CURVES = {"nft": ([0.30, 0.50, 0.70], [8, 8, 8]), "rft": ([0.30, 0.70, 0.80], [8, 4, 2]),
          "grpo": ([0.30, 0.50, 0.65], [8, 7, 6]), "naive_contrast": ([0.30, 0.40, 0.20], [8, 8, 1])}


def made_up(seed: int, arm: str) -> pd.DataFrame:
    """A run whose questions are all alike: pass@k is what k draws of 64 answers give."""
    accuracies, solutions = CURVES[arm]
    right = np.round(64 * (np.array(accuracies) + seed / 64))
    return pd.DataFrame({
        "run": f"{arm}{seed}", "arm": arm, "seed": seed, "objective": arm, "step": STEPS, "tokens": 1000 * STEPS,
        ACCURACY: right / 64, **{f"evaluation/pass@{k}": pass_at_k(right, np.full(3, 64), k) for k in PASS if k > 1},
        BESIDE["solutions"]: solutions, BESIDE["entropy right"]: [0.9, 0.6, 0.5],
        BESIDE["entropy wrong"]: [1.2, 1.0, 0.8], "entropy/all": [1.0, 0.8, 0.6], "seconds/step": 2.0})


@pytest.fixture(scope="module")
def table():
    return kept(pd.concat([made_up(seed, arm) for seed in (0, 1) for arm in CURVES], ignore_index=True))


def cells(text: str, heading: str) -> dict[str, list[str]]:
    """Arm -> its cells, of the table under a heading."""
    part = text.partition(heading)[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
    return {row[0]: row[1:] for row in rows[2:]}


def test_tables_at_equal_steps_and_at_equal_accuracy(table):
    measures = Measures.of(table)
    assert measures.level == 42 / 64
    text = exploration.tables(measures)
    equal = cells(text, "after 20 steps")
    assert list(equal) == ["base", *CURVES]
    assert equal["base"][:2] == ["2", "0.0 ± 0.0"] and equal["nft"][1] == "20.0 ± 0.0"
    # 45 and 46 of 64 answers are right: 70.3 and 71.9, whose interval has 12.7 standard errors.
    assert equal["nft"][2] == "71.1 ± 9.9"
    assert equal["nft"][3].startswith(f"{100 * pass_at_k(np.array([45, 46]), np.full(2, 64), 2).mean():.1f} ± ")
    assert equal["rft"][9] == "2.00 ± 0.00" and equal["base"][9] == "8.00 ± 0.00"
    assert equal["rft"][10:] == ["0.500 ± 0.000", "0.800 ± 0.000"]
    # The worse seed of GRPO is right in 42 of 64. The contrast gains less than half of what RFT does.
    level = cells(text, f"where {42 / 64:.1%} is reached")
    assert level["naive_contrast"][:3] == ["0", "-", "-"] and "base" not in level
    for arm in ("nft", "rft", "grpo"):
        assert level[arm][0] == "2" and level[arm][2] == "65.6 ± 0.0"
    assert float(level["rft"][1].split()[0]) < 10 < float(level["nft"][1].split()[0])


def test_claims_read_the_same_numbers(table):
    measures = Measures.of(table)
    found = {(claim.arm, claim.than, claim.measure): claim.of(measures) for claim in STUDY.claims}
    assert found["nft", "rft", "solutions"].value == 6
    assert found["nft", "rft", "entropy wrong"].value == 0
    # RFT is right in 42 of 64 on its way from 8 to 4 solutions.
    shares = [(42 - start) / (end - start) for start, end in ((19, 45), (20, 46))]
    assert found["nft", "rft", "solutions level"].value == pytest.approx(4 * np.mean(shares), abs=1e-4)
    assert found["rft", "", "pass@64"].count == 2 and found["nft", "", "pass@64"].value == 0


def test_the_page_and_its_figures(table, tmp_path, capsys):
    study.report(STUDY, "countdown", table, tmp_path)
    text = (tmp_path / "exploration_countdown.md").read_text()
    assert text == capsys.readouterr().out and text.count("## pass@k") == 2
    assert text.count("| `") == len(STUDY.claims)
    assert (tmp_path / "exploration_countdown.png").stat().st_size > 10_000
    assert (tmp_path / "exploration_countdown_more.png").stat().st_size > 10_000


def test_a_run_measures_what_the_study_reads(tmp_path, small_run, monkeypatch):
    """End to end at a tiny size: an untrained base is never right, so it knows no solution."""
    use_devices(monkeypatch)
    source = str(tmp_path / "data.jsonl")
    write_questions(tmp_path / "data.jsonl", [{"problem": "2,3,5,7=24", "answer": ""}])
    config = small_run(tmp_path / "run", steps=1, data=DataConfig(source=source, max_prompt_tokens=24),
                       verifier=countdown_base.COUNTDOWN.verifier,
                       evaluation=EvaluationConfig(source=source, questions=1, samples=2, every=1))
    train(config, quiet=True)
    rows = read_run(tmp_path / "run").rows
    assert [row["evaluation/solutions@2"] for row in rows] == [0, 0] and rows[1]["evaluation/pass@2"] == 0
    assert rows[0]["evaluation/entropy/wrong"] > 0 and "evaluation/entropy/right" not in rows[0]


def test_a_dry_run_needs_no_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scale = SCALES["countdown"]
    planned = plan(scale.experiment, scale.config, STUDY.arms_of(scale.config), 1, tmp_path)
    text = study.dry_run("countdown", Topology.parse(scale.topology), scale.config, planned)
    assert all(f"\n  {arm} " in text for arm in STUDY.arms) and "5 runs" in text


def test_runs_without_their_measures_leave_gaps(table):
    """Tables that were stored before these metrics were kept, and arms that learnt nothing."""
    flat = Measures.of(table[table["step"] == 0])
    assert "where" not in exploration.tables(flat) and "no equal accuracy" in exploration.tables(flat)
    old = Measures.of(table.drop(columns=[*BESIDE.values(), *(name for k, name in PASS.items() if k > 1)]))
    assert cells(exploration.tables(old), "after 20 steps")["nft"][3:] == ["-"] * 9
    assert next(claim for claim in STUDY.claims if claim.measure == "solutions").of(old).count == 0
