"""Studies on run folders written by hand: tables, figures, claims with their verdicts, and every arm."""
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from experiments import compare
from experiments.harness import study
from experiments.harness.plots import draw, draw_intervals, looks_of
from experiments.harness.results import (
    ACCURACY,
    Mean,
    Measures,
    accuracy_table,
    cost_table,
    kept,
    reached,
    read_run,
    tidy,
)
from experiments.harness.scales import SCALES
from experiments.harness.study import Claim, Study
from experiments.studies import (
    ablate_clamp,
    ablate_negative_weight,
    ablate_optimizer,
    ablate_prompt_weight,
    ablate_ratio,
    ablate_rft,
    ablate_updates,
    budget,
    check,
    controls,
    exploration,
    factorial,
    hidden_tests,
    longer,
    main_table,
    offline,
    order,
    real_model,
    soft_rewards,
)
from experiments.sweep import plan
from nft_jax.cli import parse
from nft_jax.config import EvaluationConfig, VerifierConfig
from nft_jax.record.pictures import canvas
from refusal import refused


def write_run(folder: Path, accuracies, *, every=2, tokens=100, entropy=0.5, **config) -> Path:
    """A run folder: evaluations every so many steps, `tokens` generated in each."""
    folder.mkdir(parents=True)
    rooms = {"data": {"seed": 0}, "policy": {}, "rollout": {}, "optimizer": {}}
    (folder / "config.json").write_text(json.dumps({"seed": 0, "objective": "nft", "name": folder.name,
                                                    "workdir": str(folder), **rooms, **config}))
    steps = every * (len(accuracies) - 1)
    rows = [{"step": step, "seconds/step": 2.0} for step in range(steps + 1)]
    for row in rows[1:]:
        row |= {"tokens/generated": tokens, "entropy/all": entropy - 0.01 * row["step"], "length/all": 9.0}
    for index, accuracy in enumerate(accuracies):
        rows[index * every][ACCURACY] = accuracy
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps({"finished": True, "steps": steps, "base_accuracy": 0.1,
                                                     "final_accuracy": accuracies[-1] if accuracies else None}))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two arms, two seeds; rft generates twice the tokens of nft."""
    made = []
    for seed in (0, 1):
        made += [(read_run(write_run(tmp_path / f"nft{seed}", [0.1, 0.3, 0.5 + 0.02 * seed], seed=seed)),
                  {"arm": "nft"}),
                 (read_run(write_run(tmp_path / f"rft{seed}", [0.1, 0.2, 0.3], tokens=200, seed=seed,
                                     objective="rft", entropy=0.3)), {"arm": "rft"})]
    return made


def test_the_table_has_a_row_for_every_run_and_step(runs, tmp_path):
    table = tidy(runs)
    assert [*table][:6] == ["run", "arm", "seed", "objective", "step", "tokens"] and len(table) == 20
    rows = table[table["run"] == "rft1"]
    assert [*rows["tokens"]] == [0, 200, 400, 600, 800] and {*rows["seed"]} == {1}
    assert [*rows[ACCURACY].fillna(-1)] == [0.1, -1, 0.2, -1, 0.3]
    small = kept(table)
    assert small[ACCURACY].dtype == "float32" and "tokens/generated" not in small


def test_swept_values_of_several_kinds_are_kept_as_text(runs, tmp_path):
    labels = [{"loss.neg_weight": None}, {"loss.neg_weight": 0.5}, {"rollout.stop": ("a",)}, {"rollout.stop": 1}]
    tidy((run, more) for (run, _), more in zip(runs, labels, strict=True)).to_parquet(tmp_path / "table.parquet")
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert {*table["loss.neg_weight"].dropna()} == {0.5} and {*table["rollout.stop"].dropna()} == {"('a',)", "1"}


def test_measures_at_equal_steps_and_at_equal_tokens(runs):
    table = kept(tidy(runs))
    measures = Measures.of(table)
    assert (measures.step, measures.tokens) == (4, 400)
    assert measures.of_arm("steps", "nft").value == pytest.approx(0.51, abs=1e-6)
    assert measures.of_arm("tokens", "rft").value == pytest.approx(0.2, abs=1e-6)      # at half of its steps
    # The standard error of 0.50 and 0.52, times the 97.5% quantile of t with 1 degree of freedom.
    assert measures.of_arm("best", "nft").half == pytest.approx(0.01 * 12.7062, abs=1e-5)
    assert measures.of_arm("area", "rft").value == pytest.approx(0.2, abs=1e-6)
    assert measures.paired("tokens", ["nft"], ["rft"], "tokens").value == pytest.approx(0.31, abs=1e-6)
    assert measures.paired("steps", ["nft"], ["nft"], "start").value == pytest.approx(0.41, abs=1e-6)
    assert measures.paired("tokens", ["nft"], ["dapo"], "tokens").count == 0
    text = accuracy_table(measures)
    with_memory = accuracy_table(Measures.of(table.assign(**{"memory/peak_mb": 2560.0})))
    assert "GiB" not in text and with_memory.count("| 2.5 |") == 2
    assert "| nft | 2 | 10.0 ± 0.0 | 51.0 ± 12.7 | 51.0 ± 12.7 |" in text
    assert "| rft | 2 | 10.0 ± 0.0 | 30.0 ± 0.0 | 20.0 ± 0.0 |" in text
    other = pd.DataFrame({"run": "x", "arm": "x", "seed": 0, "step": [0, 2], "tokens": [0, 90], ACCURACY: [0.1, 0.9]})
    short = Measures.of(pd.concat([table, other]))
    assert (short.step, short.tokens) == (2, 90)


def test_runs_that_were_evaluated_at_other_steps():
    """The last step that all were evaluated at, though the shorter run goes on to step 12; else its end, marked."""
    def measured(*evaluated):
        return Measures.of(pd.concat([pd.DataFrame({
            "run": name, "arm": name, "seed": 0, "objective": name, "step": steps, "tokens": np.multiply(steps, times),
            ACCURACY: values}) for name, times, (steps, values) in zip(("nft", "rft"), (10, 20), evaluated,
                                                                      strict=True)]))
    shared = measured(([0, 5, 10, 12], [0.4, 0.7, 0.9, 0.6]), ([0, 5, 8, 15], [0.4, 0.5, 0.6, 0.7]))
    assert shared.step == 5 and not shared.interpolated("steps", "nft")
    assert shared.of_arm("steps", "nft").value == 0.7 and shared.interpolated("tokens", "rft")
    assert "| nft | 1 | 40.0 | 70.0 | 60.0 | 90.0 (step 10) |" in accuracy_table(shared, marked=True)
    assert "| rft | 1 | 40.0 | 50.0 | ~53.3 | 70.0 (step 15) |" in accuracy_table(shared, marked=True)
    assert "~" not in accuracy_table(shared)
    apart = measured(([0, 5, 10, 12], [0.4, 0.7, 0.9, 0.6]), ([0, 3], [0.4, 0.5]))
    assert apart.step == 3 and not apart.interpolated("steps", "rft")
    assert "| nft | 1 | 40.0 | ~58.0 | ~" in accuracy_table(apart, marked=True)
    draw_intervals(axes := canvas(1, 1, (4, 3))[1][0], apart, looks_of(apart.runs))
    faces = [line.get_markerfacecolor() for line in axes.get_lines() if line.get_marker() in ("o", "D")]
    assert [face == "white" for face in faces] == [True, True, False, False]


def test_curves_are_of_the_arms_that_a_study_names(tmp_path, monkeypatch):
    """Every arm has a row of intervals. An arm has one colour in all panels."""
    measures = Measures.of(pd.concat([pd.DataFrame({
        "run": arm, "arm": arm, "seed": 0, "objective": "nft", "step": [0, 1], "tokens": [0, 9],
        ACCURACY: [0.2, 0.6]}) for arm in "abcd"]))
    made = []
    monkeypatch.setattr("experiments.harness.plots.canvas", lambda *given: made.append(canvas(*given)) or made[-1])

    def colours(curves):
        """Panel of accuracy: arm -> colour of its curve. Panel of intervals: arm -> colours of its marks."""
        draw(measures, tmp_path / "figure.png", "", curves)
        lines, _, _, rows = made[-1][1]
        names = [text.get_text() for text in rows.get_yticklabels()]
        return ({line.get_label(): line.get_color() for line in lines.get_lines()},
                {names[round(line.get_ydata()[0])]: line.get_color() for line in rows.get_lines()
                 if line.get_marker() in ("o", "D")})

    drawn, marks = colours(("b", "d"))
    assert set(drawn) == {"b", "d"} and list(marks) == ["a", "b", "c", "d"]
    assert all(marks[arm] == colour for arm, colour in drawn.items())
    assert set(colours(())[0]) == set(colours(("not run",))[0]) == {*"abcd"}


def test_the_common_level_is_that_of_the_arms_that_learn():
    """The worst of their runs' best accuracies. An arm that gains less than half of the best arm's gain is left out."""
    def level(**curves):
        return Measures.of(pd.concat([pd.DataFrame({
            "run": f"{arm}{seed}", "arm": arm, "seed": seed, "objective": arm, "step": range(3), "tokens": range(3),
            ACCURACY: curve}) for arm, seeds in curves.items() for seed, curve in enumerate(seeds)])).level

    assert level(nft=[[0.2, 0.8, 0.7], [0.2, 0.5, 0.6]], rft=[[0.2, 0.6, 0.7]] * 2, dpo=[[0.2, 0.3, 0.1]] * 2) == 0.6
    assert level(nft=[[0.2, 0.6, 0.6]], rft=[[0.2, 0.4, 0.3]]) == 0.4
    assert math.isnan(level(nft=[[0.2, 0.2, 0.1]], rft=[[0.2, 0.1, 0.1]]))


def test_a_mean_has_an_interval_only_with_several_values():
    values = [1.0, 2.0, 4.0]
    found = Mean.of(pd.Series([*values, np.nan]))
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.value, found.count) == (np.mean(values), 3)
    assert found.interval == pytest.approx(tuple(interval))
    assert [Mean.of(pd.Series(each, dtype=float)).text() for each in ([0.25], [], [0.5, 0.5])] == [
        "25.0", "-", "50.0 ± 0.0"]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.integers(1, 4))
def test_more_seeds_with_the_same_spread(values, times):
    """The values `times` over have the same mean; their population variance is the same, too."""
    count = len(values)
    more = Mean.of(pd.Series(values)).with_seeds(times * count)
    exact = Mean.of(pd.Series(values * times))
    correction = np.sqrt((times * count - 1) / (times * (count - 1)))
    assert more.half == pytest.approx(exact.half * correction, abs=1e-9) and more.value == np.mean(values)


def claiming(*claims: Claim) -> Study:
    return Study("main_table", "A title", "", main_table.STUDY.arms, claims)


def test_a_report_has_a_row_for_every_claim(runs, tmp_path, capsys):
    claims = (Claim("nft", "rft", "tokens", "above", "why"), Claim("nft", "dapo", "tokens", "above", "why"),
              Claim("nft", "", "steps"))
    study.report(claiming(*claims), "nano", kept(tidy(runs)), tmp_path / "out")
    text = (tmp_path / "out" / "main_table_nano.md").read_text()
    assert text.startswith("# A title (nano)\n") and text == capsys.readouterr().out
    # Differences 0.30 and 0.32, of two seeds: ± 12.7 standard errors of a point.
    for row in ("| `nft` less `rft`, accuracy at equal tokens | +31.0 ± 12.7 points | 2 | yes | above: why | seen |",
                "| `nft` less `dapo`, accuracy at equal tokens | not measured | 0 |  | above: why |  |",
                "| `nft` less its start, accuracy at equal steps | +41.0 ± 12.7 points | 2 | yes |  | higher |"):
        assert row in text
    assert (tmp_path / "out" / "main_table_nano.png").stat().st_size > 10_000


@pytest.mark.parametrize(("value", "half", "expected", "verdict"), [
    (0.05, 0.04, "above", "seen"), (0.00, 0.01, "above", "not seen"), (-0.05, 0.04, "above", "not seen"),
    (-0.05, 0.04, "below", "seen"), (0.05, 0.04, "below", "not seen"), (0.00, 0.01, "below", "not seen"),
    (0.005, 0.01, "alike", "seen"), (0.05, 0.02, "alike", "not seen"), (-0.05, 0.02, "alike", "not seen"),
    (0.05, 0.04, "", "higher"), (-0.05, 0.04, "", "lower"), (0.00, 0.01, "", "alike"),
    (0.05, 0.06, "above", "cannot be told with 5 seeds"), (0.015, 0.02, "alike", "cannot be told with 5 seeds"),
    (0.03, 0.04, "", "cannot be told with 5 seeds"),
])
def test_a_verdict_is_what_the_interval_says(value, half, expected, verdict):
    assert study.judged(Mean(value, half, 5), expected, 0.02).startswith(verdict)


def test_a_verdict_says_how_many_seeds_would_tell():
    """The smallest number whose interval, of the same mean and spread, leaves 0 out."""
    found = Mean(0.05, 0.06, 5)
    spread = found.half / scipy.stats.t.ppf(0.975, 4) * np.sqrt(5)
    enough = next(n for n in range(6, 100) if scipy.stats.t.ppf(0.975, n - 1) * spread / np.sqrt(n) < 0.05)
    assert study.judged(found, "above", 0.02) == f"cannot be told with 5 seeds; {enough} would tell"
    assert study.judged(Mean(0.0201, 0.5, 3), "alike", 0.02).endswith("more than 1000 would tell")
    assert study.judged(Mean(0.05, float("nan"), 1), "above", 0.02) == "cannot be told with 1 seed"


@pytest.fixture
def two_arms(tmp_path, monkeypatch):
    """A study of two arms whose runs are finished in tmp_path/runs, and whose figures go to tmp_path/figures."""
    monkeypatch.setattr(study, "FIGURES", tmp_path / "figures")
    made = Study("two", "Two arms", "", {"nft": {}, "rft": {"objective": "rft"}},
                 (Claim("nft", "rft", "steps", "above", "why"),))
    scale = SCALES["nano"]
    for each in plan(scale.experiment, scale.config, made.arms_of(scale.config), 2, tmp_path / "runs"):
        curve = [0.1, 0.3, 0.5 if each.arm == "nft" else 0.4]
        write_run(each.folder, curve, every=each.config.steps // 2, seed=each.config.seed)
    return made


def test_a_study_from_finished_runs_and_drawn_again(two_arms, tmp_path, capsys):
    command = ["--seeds", "2", "--workdir", str(tmp_path / "runs")]
    assert study.main(two_arms, "", command) == 0
    first = capsys.readouterr().out
    assert first.count("finished before, 10.0% -> ") == 4 and "+10.0 ± 0.0 points | 2 | yes |" in first
    stored = tmp_path / "figures" / "two_nano.parquet"
    assert stored.stat().st_size < 200_000 and pq.read_table(stored).num_rows == 4 * 41
    table = (tmp_path / "figures" / "two_nano.md").read_text()
    for made in ("two_nano.png", "two_nano.md"):
        (tmp_path / "figures" / made).unlink()
    assert study.main(two_arms, "", ["--draw"]) == 0
    assert (tmp_path / "figures" / "two_nano.md").read_text() == table == capsys.readouterr().out
    assert (tmp_path / "figures" / "two_nano.png").exists()


def test_a_stored_run_is_not_made_again(two_arms, tmp_path, capsys, monkeypatch):
    """On another machine, without the folders of the runs, only the new seed is made."""
    assert study.main(two_arms, "", ["--seeds", "2", "--workdir", str(tmp_path / "runs")]) == 0
    before = pd.read_parquet(tmp_path / "figures" / "two_nano.parquet")
    asked = []
    monkeypatch.setattr(study, "run_planned", lambda planned, jobs: asked.extend(planned) or True)
    assert study.main(two_arms, "", ["--seeds", "3", "--workdir", str(tmp_path / "empty")]) == 0
    assert [(each.arm, each.config.seed) for each in asked] == [("nft", 2), ("rft", 2)]
    assert "4 of 6 runs are in the table" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "figures" / "two_nano.parquet"), before)


def test_fewer_seeds_take_none_out_of_the_table(two_arms, tmp_path):
    for seeds in ("2", "1"):
        assert study.main(two_arms, "", ["--seeds", seeds, "--workdir", str(tmp_path / "runs")]) == 0
        assert set(pd.read_parquet(tmp_path / "figures" / "two_nano.parquet")["seed"]) == {0, 1}


def test_a_study_that_was_stopped_keeps_its_finished_runs(two_arms, tmp_path, monkeypatch):
    def stopped(planned, jobs):
        raise KeyboardInterrupt
    monkeypatch.setattr(study, "run_planned", stopped)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        study.main(two_arms, "", ["--seeds", "3", "--workdir", str(tmp_path / "runs")])
    assert set(pd.read_parquet(tmp_path / "figures" / "two_nano.parquet")["seed"]) == {0, 1}


def test_some_arms_go_beside_the_runs(two_arms, tmp_path, capsys, monkeypatch):
    command = ["--seeds", "3", "--workdir", str(tmp_path / "runs"), "--arms", "rft"]
    monkeypatch.setattr(study, "run_planned", lambda planned, jobs: False)           # the third run fails
    assert study.main(two_arms, "", command) == 1
    assert "2 of 3 runs are in the table" in capsys.readouterr().out
    assert (tmp_path / "runs" / "two_nano.md").exists() and not (tmp_path / "figures").exists()


def test_nothing_is_drawn_of_runs_that_never_ended(two_arms, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "run_planned", lambda planned, jobs: False)
    assert study.main(two_arms, "", ["--workdir", str(tmp_path / "others")]) == 1
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(("arguments", "told"), [
    (["--arms", "grpo"], ("arms", "'grpo'", "nft, rft")),
    (["--scale", "gsm8k", "--draw"], ("scale", "'gsm8k'", "two_gsm8k.parquet")),
    (["--seeds", "0"], ("seeds is 0",)),
    (["--jobs", "-1"], ("jobs is -1",)),
])
def test_mistakes_are_one_paragraph(two_arms, tmp_path, capsys, arguments, told):
    with pytest.raises(SystemExit) as ended:
        study.main(two_arms, "", [*arguments, "--workdir", str(tmp_path / "nothing")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and all(words in error for words in told)


def test_a_run_that_was_never_evaluated_cannot_be_compared(runs):
    table = tidy(runs)
    with refused("'nft'", ACCURACY):
        Measures.of(table.drop(columns=ACCURACY))


# ---- every study ---------------------------------------------------------------------------------------------------

MODULES = (main_table, ablate_prompt_weight, ablate_clamp, ablate_negative_weight, ablate_ratio, ablate_updates,
           ablate_rft, ablate_optimizer, budget, controls, factorial, exploration, hidden_tests, longer, offline, order,
           real_model, soft_rewards)
# Scales of one study each. The preset of Gemma has too few prompts in a step for the other studies' many updates.
OWN = {"gemma": (real_model,), "countdown": (exploration,), "code": (hidden_tests,), "constraints": (soft_rewards,)}


@pytest.mark.parametrize("scale", SCALES)
def test_every_arm_of_every_study_is_a_run_that_its_command_makes(scale, tmp_path):
    """Resolved without complaint; different arms compute different things; the command line gives the configuration
    back."""
    base = SCALES[scale].config
    for module in OWN.get(scale, MODULES):
        planned = plan(SCALES[scale].experiment, base, module.STUDY.arms_of(base), 1, tmp_path)
        assert len({each.folder for each in planned}) == len(planned), module.STUDY.name
        for each in planned:
            command = each.command
            assert command[1:4] == ("-m", "experiments.train", SCALES[scale].experiment)
            if module in (controls, ablate_updates, order):         # these set fields of every kind
                assert parse(base, "", command[4:]).config == each.config
        known = {each.arm for each in planned}
        for claim in module.STUDY.claims:
            assert {*claim.arms, *claim.others} <= known and claim.measure in study.MEASURED


def test_studies_share_the_runs_that_are_the_same(tmp_path):
    base = SCALES["nano"].config

    def folder(module, arm):
        return plan("x", base, module.STUDY.arms_of(base, arm), 1, tmp_path)[0].folder

    nft = folder(main_table, "nft")
    assert {folder(ablate_rft, "nft"), folder(ablate_ratio, "token"), folder(ablate_negative_weight, "1"),
            folder(ablate_prompt_weight, "1-r"), folder(controls, "nft true")} == {nft}
    assert folder(main_table, "rft") == folder(ablate_rft, "rft 1")
    assert folder(ablate_negative_weight, "0") == folder(ablate_rft, "rft 1-r")


def test_the_factorial_study_adds_one_arm_to_the_others(tmp_path):
    base = SCALES["nano"].config
    made, known = ({each.folder for module in some for each in plan("x", base, module.STUDY.arms_of(base), 1, tmp_path)}
                   for some in ((factorial,), (main_table, ablate_rft, ablate_prompt_weight, ablate_negative_weight,
                                               ablate_updates, offline)))
    arms = factorial.STUDY.arms_of(base, "rft sqrt")
    assert made - known == {plan("x", base, arms, 1, tmp_path)[0].folder}


def test_main_effects_are_means_over_the_other_factor():
    """Of additive effects with noise by seed: what least squares on the design gives, with an interval of the noise."""
    rng, rows = np.random.default_rng(0), []
    negatives, weights, together = {"rft": 0.0, "nft": 0.02}, {"1": 0.0, "1-r": 0.01, "sqrt": -0.03}, 0.04
    noise = {(arm, seed): rng.normal(0, 0.01) for arm in (*factorial.RFT, *factorial.NFT) for seed in range(5)}
    for (arm, seed), error in noise.items():
        name, weight = arm.split()
        value = 0.5 + 0.05 * seed + negatives[name] + weights[weight] + together * (arm == "nft 1-r") + error
        rows.append(pd.DataFrame({"run": f"{arm}{seed}", "arm": arm, "seed": seed, "objective": name, "step": [0, 8],
                                  "tokens": [0, 10], ACCURACY: [0.1, value]}))
    measures = Measures.of(pd.concat(rows))
    found = {(claim.arms, claim.others): claim.of(measures) for claim in factorial.claims("steps")}
    error = np.array([[[noise[f"{name} {weight}", seed] for weight in weights] for name in negatives]
                      for seed in range(5)])
    gain = error[:, 1].mean(-1) - error[:, 0].mean(-1)
    effect = found[factorial.NFT, factorial.RFT]
    assert effect.value == pytest.approx(0.02 + together / 3 + gain.mean(), abs=1e-6) and effect.count == 5
    assert effect.interval == pytest.approx(tuple(scipy.stats.ttest_1samp(
        0.02 + together / 3 + gain, 0).confidence_interval(0.95)), abs=1e-6)
    both = found[("nft 1-r", "rft 1"), ("nft 1", "rft 1-r")]
    assert abs(both.value - together / 2) < 0.015


def test_an_arm_with_few_tokens_does_not_shorten_the_comparison_of_others():
    """Equal tokens are the least of the two arms that a claim compares."""
    slopes = {"a": (0.004, 100), "b": (0.002, 80), "short": (0.001, 10)}          # accuracy a token; tokens at the end
    measures = Measures.of(pd.concat([pd.DataFrame({
        "run": f"{arm}{seed}", "arm": arm, "seed": seed, "objective": "nft", "step": [0, 8], "tokens": [0, end],
        ACCURACY: [0.1, 0.1 + slope * end]}) for arm, (slope, end) in slopes.items() for seed in range(3)]))
    assert measures.tokens == 10
    assert Claim("a", "b", "tokens").of(measures).value == pytest.approx(80 * (0.004 - 0.002), abs=1e-6)
    assert Claim("a", "short", "tokens").of(measures).value == pytest.approx(10 * (0.004 - 0.001), abs=1e-6)
    assert Claim("a", "", "tokens").of(measures).value == pytest.approx(0.4, abs=1e-6)


def test_many_updates_keep_the_warm_up_in_steps():
    base = SCALES["nano"].config
    arms = ablate_updates.STUDY.arms_of(base)
    assert arms["nft 32"]["optimizer.warmup_updates"] == 4 * base.optimizer.warmup_updates
    assert controls.STUDY.arms_of(base)["nft box"]["evaluation.reward"] == base.verifier.reward == "math"


@pytest.mark.parametrize("module", MODULES)
def test_every_study_has_its_page(module):
    name, scale, studies = module.STUDY.name, module.STUDY.scale, Path(check.__file__).parent
    place = f"{name}/README.md" if module.__file__.endswith("__init__.py") else f"{name}.md"
    assert f"(studies/{place})" in (studies.parent / "README.md").read_text()
    page = (studies / place).read_text()
    assert f"experiments.studies.{name} --scale {scale}" in page
    if (study.FIGURES / f"{name}_{scale}.parquet").exists():
        up = "../" * (1 + place.count("/"))
        assert f"({up}figures/{name}_{scale}.md)" in page and f"({up}figures/{name}_{scale}.png)" in page
    else:
        assert "not run" in page.lower()


def test_pages_and_tables_say_what_the_stored_results_give():
    assert {each.name for each in check.all_studies()} == {module.STUDY.name for module in MODULES}
    assert check.differences() == []


def test_a_page_that_says_something_else_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "PAGES", tmp_path)
    quoted = next(cells for each, rows in check.rows_of("nano") if each.name == "main_table" for cells in rows)
    line = f"| {' | '.join(quoted)} |"
    (tmp_path / "README.md").write_text(check.with_paper_table("| the paper |\n\nThe end.\n", check.paper_table()))
    assert (tmp_path / "README.md").read_text().endswith("|\n\nThe end.\n")
    (tmp_path / "page.md").write_text(f"{line}\nnot a row: `nft` less `rft`\n")
    assert check.main([]) == 0
    (tmp_path / "page.md").write_text(line.replace("seen", "not seen"))
    assert check.main([]) == 1 and "page.md" in capsys.readouterr().out
    (tmp_path / "page.md").unlink()
    (tmp_path / "README.md").write_text((tmp_path / "README.md").read_text().replace("not seen", "seen"))
    assert check.main([]) == 1 and check.main(["--draw"]) == 0


# ---- controls ------------------------------------------------------------------------------------------------------


def test_a_random_reward_is_half_and_depends_on_question_and_answer():
    values = [controls.random_reward(f"{i}+1", f"answer {j}", "2") for i in range(40) for j in range(40)]
    assert set(values) == {0.0, 1.0} and abs(np.mean(values) - 0.5) < 0.04
    assert values[:3] == [controls.random_reward("0+1", f"answer {j}", "another gold") for j in range(3)]
    assert len({tuple(values[i::40]) for i in range(40)}) == 40 == len({tuple(values[40 * i:40 * i + 40])
                                                                        for i in range(40)})


def always(prompt: str, response: str, gold: str) -> float:
    """A reward that no answer misses."""
    return 1.0


def test_a_run_on_another_reward_is_measured_by_its_own(tmp_path, small_run, monkeypatch):
    # Here: workers import this file for `always`, and a module of a reward imports no jax.
    from nft_jax.train.loop import train
    from runs import use_devices
    use_devices(monkeypatch)
    config = small_run(tmp_path / "run", steps=1, verifier=VerifierConfig(
        reward="experiments.studies.controls:random_reward"), evaluation=EvaluationConfig(
            reward=f"{__file__}:always", questions=4, samples=2, every=1))
    with refused("evaluation.reward", "'nothing'"):
        train(replace(config, evaluation=replace(config.evaluation, reward="nothing")), quiet=True)
    train(config, quiet=True)
    rows = read_run(tmp_path / "run").rows
    table = pq.read_table(tmp_path / "run" / "rollouts" / "step_000001.parquet").to_pylist()
    assert all(row["reward"] == controls.random_reward(row["problem"], row["text"], "") for row in table)
    assert [row[ACCURACY] for row in rows] == [1.0, 1.0] and 0 < rows[1]["accuracy/all"] < 1


# ---- compare -------------------------------------------------------------------------------------------------------


@pytest.fixture
def four(tmp_path):
    """Two configurations, two seeds each; and in the same folder a run without an evaluation."""
    root = tmp_path / "sweep"
    write_run(root / "just begun", [], seed=5)
    return [write_run(root / f"{name}{seed}", [0.1, value + 0.02 * seed], seed=seed,
                      loss={"epsilon": epsilon, "beta": 7.0 * seed}, rollout={"slots": 8 + seed})
            for name, value, epsilon in (("a", 0.5, 1.0), ("b", 0.4, 0.5)) for seed in (0, 1)]


def test_compare_takes_seeds_together_and_tells_what_differs(four, tmp_path, capsys):
    """As run folders, as a pattern, and as the folder of a sweep: the same table, figure and report."""
    root, texts = tmp_path / "sweep", []
    for words, out in ((map(str, four), tmp_path / "out"), ([str(root / "[ab]*"), str(four[0])], tmp_path / "two")):
        compare.main([*words, "-o", str(out)])
        texts.append((out / "compare.md").read_text())
        assert capsys.readouterr().out.startswith(texts[-1])
    compare.main([str(root)])
    told = capsys.readouterr().out
    assert "left out: " in told and "just begun" in told
    assert texts[0] == texts[1] == (root / "compare.md").read_text()
    assert "| epsilon 1 | 2 | 10.0 ± 0.0 | 51.0 ± 12.7 |" in texts[0] and "| `loss.epsilon` | 1.0 | 0.5 |" in texts[0]
    # Neither what makes no other experiment, nor what NFT does not read.
    assert all(word not in texts[0].replace("| seeds |", "") for word in ("slots", "seed", "beta"))
    assert {path.suffix for path in root.glob("compare.*")} == {".md", ".png", ".parquet", ".html"}
    assert pq.read_table(root / "compare.parquet").num_rows == 12
    assert "<h1>epsilon 1 · epsilon 0.5</h1>" in (root / "compare.html").read_text()


def test_compare_calls_runs_as_it_is_told(four, tmp_path, capsys):
    root = tmp_path / "sweep"
    compare.main([f"full={root}/a*", f"half={four[2]}", "-o", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "| full | 2 | 10.0 ± 0.0 | 51.0 ± 12.7 |" in told and "| half | 1 | 10.0 | 40.0 |" in told
    assert "| field | full | half |" in told and "<h1>full · half</h1>" in (tmp_path / "out/compare.html").read_text()
    compare.main([str(four[0]), str(four[2]), "-o", str(tmp_path / "out")])          # each is one run: folders
    assert "| a0 | 1 | 10.0 | 50.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(("make", "told"), [
    (lambda path: path / "nothing", "no config.json"), (lambda path: path / "no*pattern", "no config.json"),
    (lambda path: write_run(path / "a", []), "metrics.jsonl"),
    (lambda path: write_run(path / "c" / "d", []).parent, "metrics.jsonl"),
])
def test_compare_refuses_what_is_no_run(make, told, tmp_path, capsys):
    folder = make(tmp_path)
    with pytest.raises(SystemExit) as ended:
        compare.main([str(folder), "-o", str(tmp_path / "out")])
    assert ended.value.code == 2 and told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_tokens_until_an_accuracy_lie_on_the_line_between_evaluations():
    run = pd.DataFrame({"tokens": [0, 100, 300, 400], ACCURACY: [0.2, 0.4, 0.8, 0.5]})
    assert reached(run, 0.6) == pytest.approx(200) and reached(run, 0.8) == 300
    assert math.isnan(reached(run, 0.9)) and math.isnan(reached(run, 0.1))


def test_the_cost_until_an_accuracy():
    """Of three seeds, two reach 60%: after 100 and 400 tokens, 2 and 8 minutes."""
    table = pd.concat([pd.DataFrame({
        "run": f"a{seed}", "arm": "a", "seed": seed, "objective": "nft", "step": [0, 1, 2], "seconds/step": 60.0 * rate,
        "tokens": np.multiply([0, 1, 2], 100 * rate), ACCURACY: curve})
        for seed, (rate, curve) in enumerate(((1, [0.2, 0.6, 0.7]), (4, [0.2, 0.6, 0.7]), (1, [0.2, 0.3, 0.4])))])
    told = cost_table(Measures.of(table))
    low, high = scipy.stats.ttest_1samp(np.log([2, 8]), 0).confidence_interval(0.95)
    minutes = f"4.0 ({np.exp(low):.1f} to {np.exp(high):.1f})"
    assert f"| a | 2 of 3 | 0.000 (0.000 to {50e-6 * np.exp(high):.3f}) | {minutes} | 60.0 ± " in told
    alone = cost_table(Measures.of(table[table["seed"] == 1].assign(tokens=lambda each: 1e4 * each["tokens"])))
    assert "| a | 1 of 1 | 4.000 | 8.0 | 70.0 |" in alone
    assert "| a | 0 of 1 | - | - | 40.0 |" in cost_table(Measures.of(table[table["seed"] == 2]))
