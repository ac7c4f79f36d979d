"""Figures of studies and comparisons: means over seeds, with bands of 95% (Student's t)."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.results import ACCURACY, ENTROPY, Mean, Measures, at


def curve_figure(rows: int, columns: int, size: tuple[float, float], title: str = "",
                 sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `size` inches, drawn without a window, and its panels, row by row, each with a grid."""
    figure = Figure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(title)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure, panels


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


def draw_bands(axes: Axes, arms: Mapping[str, Sequence[pd.DataFrame]], metric: str, axis: str = "step") -> None:
    """A line with its band for every arm (name -> runs); tokens in millions."""
    for index, (arm, runs) in enumerate(arms.items()):
        where, mean, half = band(runs, metric, axis)
        where = where / 1e6 if axis == "tokens" else where
        axes.plot(where, mean, label=arm, color=f"C{index}", lw=1.6)
        axes.fill_between(where, mean - half, mean + half, color=f"C{index}", alpha=0.18, lw=0)


def draw(measures: Measures, path: Path, title: str) -> None:
    """Accuracy over steps and over generated tokens, entropy over steps, and every arm's accuracy at equal tokens."""
    figure, panels = curve_figure(2, 2, (11, 7.5), title)
    shown = (("held-out accuracy", ACCURACY, "step", "step"),
             ("held-out accuracy", ACCURACY, "tokens", "million tokens generated for training"),
             ("entropy of the training answers (nats per token)", ENTROPY, "step", "step"))
    for axes, (name, metric, axis, label) in zip(panels, shown, strict=False):
        draw_bands(axes, measures.runs, metric, axis)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(label)
    axes = panels[3]
    for index, arm in enumerate(measures.runs):
        for place, measure, marker in ((-0.12, "steps", "o"), (0.12, "tokens", "s")):
            mean = measures.of_arm(measure, arm)
            axes.errorbar(index + place, mean.value, np.nan_to_num(mean.half), fmt=marker, ms=5,
                          color=f"C{index}", capsize=3, mfc=f"C{index}" if measure == "steps" else "white")
    axes.set_xticks(range(len(measures.runs)), list(measures.runs), rotation=30, ha="right", fontsize=8)
    axes.set_title(f"accuracy at step {measures.step:.0f} (full) and at {measures.tokens / 1e6:.2f} M tokens (open)",
                   fontsize=10)
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
