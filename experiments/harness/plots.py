"""Figures of studies and comparisons: means over seeds, with bands of 95% (Student's t)."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.harness.results import ACCURACY, ENTROPY, Mean, Measures, at, tokens_text
from nft_jax.record.pictures import (
    GRID,
    TEXT,
    Look,
    canvas,
    curve,
    describe,
    label_ends,
    looks,
    scale,
    whole_ticks,
    widen_covered,
)

MOST_BANDS = 3           # bands of more arms hide each other; the panel of intervals has them


def band(runs: Sequence[pd.DataFrame], metric: str, axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, mean over the runs, half of its 95% interval (0 for one run).

    The places are those measured in any run, within what all runs have measured.
    """
    measured = [run[axis][run[metric].notna()] for run in runs if run[metric].notna().any()]
    if not measured:
        return (np.empty(0),) * 3
    where = np.unique(np.concatenate(measured))
    where = where[(where <= min(map(max, measured))) & (where >= max(map(min, measured)))]
    values = pd.DataFrame([[at(run, metric, place, axis) for place in where] for run in runs]).dropna()
    means = [Mean.of(values[place]) for place in values]
    return where, np.array([mean.value for mean in means]), np.nan_to_num([mean.half for mean in means])


def looks_of(arms: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, Look]:
    """The look of every arm, by the objective of its runs."""
    return dict(zip(arms, looks([str(runs[0]["objective"].iloc[0]) for runs in arms.values()]), strict=True))


def draw_bands(axes: Axes, arms: Mapping[str, Sequence[pd.DataFrame]], metric: str, axis: str = "step",
               bands: bool = True) -> None:
    """A line for every arm (name -> runs), with its band; tokens in millions."""
    styles = looks_of(arms)
    for arm, runs in arms.items():
        where, mean, half = band(runs, metric, axis)
        if len(where):
            curve(axes, where / 1e6 if axis == "tokens" else where, mean, styles[arm], arm,
                  half=half if bands else None, marked=axis == "step")


def draw(measures: Measures, path: Path, title: str, curves: Sequence[str] = ()) -> None:
    """Accuracy over steps and over generated tokens and entropy over steps, of the arms in `curves` (of all, where none
    of them was run), and every arm's accuracy at equal steps and at equal tokens, with its interval. Bands are drawn
    for up to `MOST_BANDS` curves."""
    drawn = {arm: runs for arm, runs in measures.runs.items() if arm in curves} or measures.runs
    bands = len(drawn) <= MOST_BANDS
    figure, panels = canvas(2, 2, (11, max(7.0, 4.6 + 0.3 * len(measures.runs))), title)
    shown = (("Held-out accuracy by step", "", ACCURACY, "step", "step"),
             ("Held-out accuracy by tokens", "", ACCURACY, "tokens", "million tokens generated for training"),
             ("Entropy of the training answers", "nats per token", ENTROPY, "step", "step"))
    for axes, (name, unit, metric, axis, label) in zip(panels, shown, strict=False):
        draw_bands(axes, drawn, metric, axis, bands)
        describe(axes, name, unit, label)
        scale(axes, share=metric == ACCURACY, steps=axis == "step")
        widen_covered(axes)
        label_ends(axes)
    draw_intervals(panels[3], measures, looks_of(measures.runs) | looks_of(drawn))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.save(path)


def draw_intervals(axes: Axes, measures: Measures, styles: Mapping[str, Look]) -> None:
    """A row for every arm, the first at the top: accuracy at equal steps (circle) and at equal tokens (diamond). A mark
    is open where a run of the arm has no evaluation: its accuracy is linear between two of them."""
    some_open = False
    for index, (arm, look) in enumerate(styles.items()):
        for shift, measure, marker in ((-0.14, "steps", "o"), (0.14, "tokens", "D")):
            mean, is_open = measures.of_arm(measure, arm), measures.interpolated(measure, arm)
            axes.errorbar(100 * mean.value, index + shift, xerr=100 * np.nan_to_num(mean.half), color=look.light,
                          fmt=marker, ms=5.5, mfc="white" if is_open else look.light, mew=1.4, elinewidth=1.4,
                          capsize=0)
            some_open |= is_open
    axes.set_yticks(range(len(styles)), list(styles), color=TEXT)
    axes.set_ylim(len(styles) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID, lw=0.9)
    whole_ticks(axes.xaxis)
    axes.xaxis.set_major_formatter("{x:.0f}%")
    axes.margins(x=0.08)
    describe(axes, "Held-out accuracy at equal steps and equal tokens",
             x=f"● at step {measures.step:.0f}    ◆ at {tokens_text(measures.tokens)} tokens"
               + "    open: between two evaluations" * some_open)
