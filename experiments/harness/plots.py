"""Figures of studies and comparisons: means over seeds, with bands of one standard error."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.harness.results import ACCURACY, ENTROPY, Curve, Measures, by_arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curve_figure(rows: int, columns: int, size: tuple[float, float], title: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of `size` inches, drawn without a window, and its panels, row by row, each with a grid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure, panels


def band(curves: Sequence[Curve], metric: str, axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, mean over the runs, standard error (0 for one run).

    The places are those measured in any run, within what all runs have measured.
    """
    measured = [curve.points(metric, axis)[0] for curve in curves]
    measured = [places for places in measured if len(places)]
    if not measured:
        return (np.empty(0),) * 3
    where = np.unique(np.concatenate(measured))
    where = where[(where <= min(places[-1] for places in measured)) & (where >= max(p[0] for p in measured))]
    values = np.array([[curve.at(metric, place, axis) for place in where] for curve in curves])
    values = values[np.isfinite(values).all(axis=1)]
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(where))
    return where, values.mean(axis=0), error


def draw_bands(axes: Axes, arms: Mapping[str, Sequence[Curve]], metric: str, axis: str = "steps") -> None:
    """A line with its band for every arm; tokens in millions."""
    for index, (arm, curves) in enumerate(arms.items()):
        where, mean, error = band(curves, metric, axis)
        where = where / 1e6 if axis == "tokens" else where
        axes.plot(where, mean, label=arm, color=f"C{index}", lw=1.6)
        axes.fill_between(where, mean - error, mean + error, color=f"C{index}", alpha=0.18, lw=0)


def draw(measures: Measures, path: Path, title: str) -> None:
    """Accuracy over steps and over generated tokens, entropy over steps, and every arm's accuracy at equal tokens."""
    arms = by_arm(measures.curves)
    figure, panels = curve_figure(2, 2, (11, 7.5), title)
    shown = (("held-out accuracy", ACCURACY, "steps", "step"),
             ("held-out accuracy", ACCURACY, "tokens", "million tokens generated for training"),
             ("entropy of the training answers (nats per token)", ENTROPY, "steps", "step"))
    for axes, (name, metric, axis, label) in zip(panels, shown, strict=False):
        draw_bands(axes, arms, metric, axis)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(label)
    axes = panels[3]
    for index, arm in enumerate(arms):
        for place, measure, marker in ((-0.12, "steps", "o"), (0.12, "tokens", "s")):
            mean = measures.of_arm(measure, arm)
            axes.errorbar(index + place, mean.value, 0 if np.isnan(mean.error) else mean.error, fmt=marker, ms=5,
                          color=f"C{index}", capsize=3, mfc=f"C{index}" if measure == "steps" else "white")
    axes.set_xticks(range(len(arms)), list(arms), rotation=30, ha="right", fontsize=8)
    axes.set_title(f"accuracy at step {measures.step:.0f} (full) and at {measures.tokens / 1e6:.2f} M tokens (open)",
                   fontsize=10)
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
