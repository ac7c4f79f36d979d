"""Do wrong answers keep a policy exploring? pass@k, different right answers and entropy, on countdown.

A question has several right expressions, and the base was taught all of them in four styles of working
(`experiments.nano.countdown_base`, which makes it). At every evaluation 64 answers to each held-out question tell the
unbiased pass@k for k = 1 to 64, and how many different right answers (solutions) are among them. Arms are compared
after equal steps, and where each first reaches an accuracy that all arms reach which learn: there a higher pass@k is
not a higher accuracy.
"""
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments.harness.plots import draw_bands, looks_of
from experiments.harness.results import ACCURACY, BESIDE, POWERS, Mean, Measures, at, reached
from experiments.harness.study import Claim, Study, run
from experiments.nano import countdown_base
from nft_jax.record.pictures import Look, canvas, curve, describe, label_ends, scale
from nft_jax.runtime.terminal import markdown

PASS = {1: ACCURACY} | {k: f"evaluation/pass@{k}" for k in POWERS}
BASE = Look("#3f4750", "#c9d0d6", 2, 3)           # of the base's curve
Place = Callable[[pd.DataFrame], float]           # run -> the step at which it is looked at


def at_level(measures: Measures) -> Place:
    """The step at which a run first reaches the common accuracy; NaN for one that never does."""
    return lambda run: reached(run.dropna(subset=ACCURACY), measures.level, "step")


def arms_at(measures: Measures, place: Place) -> dict[str, list[pd.DataFrame]]:
    """The runs of every arm that come to their place."""
    return {arm: [run for run in runs if place(run) == place(run)] for arm, runs in measures.runs.items()}


def base_runs(measures: Measures) -> list[pd.DataFrame]:
    """A run of every seed: before the first step all arms are the base, and their answers are the same."""
    return list({run["seed"].iloc[0]: run for runs in measures.runs.values() for run in runs}.values())


def mean_at(runs: list[pd.DataFrame], metric: str, place: Place) -> Mean:
    """Over the runs, linear between their evaluations."""
    return Mean.of(pd.Series([at(run, metric, place(run)) for run in runs], dtype=float))


def table(measures: Measures, place: Place, with_base: bool) -> str:
    """A row for every arm: pass@k in per cent, solutions per question, entropies in nats per token."""
    chosen = ({"base": (base_runs(measures), lambda run: 0)} if with_base else {}) | {
        arm: (runs, place) for arm, runs in arms_at(measures, place).items()}
    rows = []
    for arm, (runs, where) in chosen.items():
        rows.append([arm, f"{len(runs)}", mean_at(runs, "step", where).text(1, 1),
                     *(mean_at(runs, metric, where).text() for metric in PASS.values()),
                     mean_at(runs, BESIDE["solutions"], where).text(2, 1),
                     *(mean_at(runs, BESIDE[name], where).text(3, 1) for name in ("entropy right", "entropy wrong"))])
    head = ["arm", "seeds", "step", *(f"pass@{k}" for k in PASS), "solutions", "entropy, right", "entropy, wrong"]
    return markdown(head, rows)


def tables(measures: Measures) -> str:
    """pass@k and what stands beside it, after equal steps and, where an arm learns, at equal accuracy."""
    equal = [f"## pass@k where {measures.level:.1%} is reached", table(measures, at_level(measures), False)]
    return "\n\n".join([
        f"## pass@k after {measures.step:.0f} steps", table(measures, lambda run: measures.step, True),
        *(equal if math.isfinite(measures.level) else ["No arm is better than its start: there is no equal accuracy."]),
        "pass@k is unbiased, in per cent, from 64 answers to a question. Solutions are the different right answers\n"
        "among them, mean over all questions. Entropies are in nats per token of held-out answers. The\n"
        "second table has the runs that reach the accuracy: all runs of the arms that learn."])


def draw(measures: Measures, path: Path) -> None:
    """pass@k by k, after equal steps and at equal accuracy; solutions by accuracy; entropy of wrong answers."""
    figure, panels = canvas(2, 2, (11, 7.4), STUDY.title)
    styles = looks_of(measures.runs)
    for axes, place, name in ((panels[0], lambda run: measures.step, f"pass@k after {measures.step:.0f} steps"),
                              (panels[1], at_level(measures), f"pass@k where {measures.level:.1%} is reached")):
        draw_powers(axes, base_runs(measures), lambda run: 0, BASE, "base")
        for arm, runs in arms_at(measures, place).items():
            draw_powers(axes, runs, place, styles[arm], arm)
        axes.set_xscale("log", base=2)
        axes.set_xticks([*PASS], [*map(str, PASS)])
        describe(axes, name, "", "answers to a question, k")
        scale(axes, share=True, steps=False)
        label_ends(axes)
    for arm, runs in measures.runs.items():
        evaluated = pd.concat(runs).dropna(subset=ACCURACY).groupby("step")[[ACCURACY, BESIDE["solutions"]]].mean()
        curve(panels[2], 100 * evaluated[ACCURACY], evaluated[BESIDE["solutions"]], styles[arm], arm)
    describe(panels[2], "Solutions among 64 answers", "per question", "held-out accuracy, %")
    scale(panels[2], steps=False)
    label_ends(panels[2])
    draw_bands(panels[3], measures.runs, BESIDE["entropy wrong"], bands=False)
    describe(panels[3], "Entropy of wrong answers", "nats per token", "step")
    scale(panels[3])
    label_ends(panels[3])
    figure.save(path)


def draw_powers(axes, runs: list[pd.DataFrame], place: Place, look: Look, label: str) -> None:
    """pass@k of an arm by k, with its band."""
    means = [mean_at(runs, metric, place) for metric in PASS.values()]
    if runs:
        half = pd.Series([mean.half for mean in means]).fillna(0).to_numpy()
        curve(axes, [*PASS], [mean.value for mean in means], look, label, half=half)


STUDY = Study(
    name="exploration",
    title="Do wrong answers keep a policy exploring?",
    paper="negatives make the policy explore: entropy falls under RFT, and does not under NFT.",
    arms={**{name: {"objective": name} for name in ("nft", "rft", "grpo", "naive_contrast")},
          # After the others had been run: NFT differs from RFT in its negatives and in its prompt weight.
          "nft 1": {"objective": "nft", "loss.prompt_weight": "1"}},
    claims=(
        Claim("nft", "rft", "steps", "above", "table 1: +3.4"),
        Claim("nft", "rft", "pass@64", "above", "negatives help exploration", paper="negatives help exploration"),
        Claim("nft", "rft", "pass@64 level", "above", "negatives help exploration",
              paper="negatives help exploration, at equal accuracy"),
        Claim("nft", "rft", "solutions", "above", "negatives help exploration"),
        Claim("nft", "rft", "solutions level", "above", "negatives help exploration"),
        Claim("nft", "rft", "entropy", "above", "figure: entropy falls under RFT, rises under NFT"),
        Claim("nft", "rft", "entropy right"),
        Claim("nft", "rft", "entropy wrong"),
        Claim("nft", "grpo", "pass@64", "alike", "on-policy the gradients are alike"),
        Claim("nft", "grpo", "solutions", "alike", "on-policy the gradients are alike"),
        Claim("nft", "naive_contrast", "pass@64", "above", "nothing bounds its push of a wrong answer"),
        Claim("nft", "", "pass@64"),
        Claim("rft", "", "pass@64", "below", "arXiv 2504.13837: pass@k of the trained falls below the base's"),
        Claim("grpo", "", "pass@64", "below", "arXiv 2504.13837: pass@k of the trained falls below the base's"),
        *(Claim("nft 1", than, measure, "", told) for than, told in (("rft", "the negatives"), ("nft", "the weight"))
          for measure in ("steps", "pass@64", "solutions", "entropy")),
    ),
    scale="countdown", prepare=countdown_base.prepare, more=tables, picture=draw,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
