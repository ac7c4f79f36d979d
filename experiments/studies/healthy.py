"""What a healthy run looks like: the curves and the ranges of `what_you_should_see.md`, from the main table's runs.

    python -m experiments.studies.healthy  draws figures/healthy.png and writes the table between the page's markers

It reads figures/main_table_nano.parquet, which `python -m experiments.studies.main_table --scale nano` writes.
"""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError

HERE = Path(__file__).parents[1]
PAGE, FIGURES = HERE / "what_you_should_see.md", HERE / "figures"
ARMS = ("nft", "rft", "grpo")
SHOWN = {"evaluation/accuracy/all": "held-out accuracy", "accuracy/all": "accuracy of the training answers",
         "groups/accepted_share": "share of groups that teach", "entropy/all": "entropy (nats per token)",
         "grad_norm/mean": "gradient norm", "length/all": "answer length (tokens)",
         "truncated_share": "share of answers cut", "share/clamped": "wrong tokens at NFT's clamp",
         "ratio/p95_positive": "95% of the ratios, right answers", "ratio/p95_negative": "the same, wrong answers"}
PANELS = ("evaluation/accuracy/all", "entropy/all", "grad_norm/mean", "length/all", "groups/accepted_share",
          "share/clamped")


def ranges(curves: Sequence, arm: str, metric: str) -> list[str]:
    """Mean over seeds at the first and at the last measurement, and the smallest and largest value of any run; [] where
    it was not measured."""
    measured = [values for curve in curves if curve.arm == arm
                for _, values in [curve.points(metric)] if len(values)]
    if not measured:
        return []
    ends = [np.mean([values[place] for values in measured]) for place in (0, -1)]
    return [f"{value:.3g}" for value in (*ends, min(map(np.min, measured)), max(map(np.max, measured)))]


def table(curves: Sequence) -> str:
    """A row for every metric of `nft`."""
    from experiments.harness.results import markdown
    rows = [(f"`{metric}`", name, ranges(curves, "nft", metric)) for metric, name in SHOWN.items()]
    found = [(metric, name, *cells) for metric, name, cells in rows if cells]
    return markdown(("metric", "", "first", "last", "smallest", "largest"), found)


def draw(curves: Sequence, path: Path) -> None:
    """Six panels, a line with its band for each of three objectives."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from experiments.harness.plots import band
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        for arm in ARMS:
            where, mean, error = band([curve for curve in curves if curve.arm == arm], metric, "steps")
            axes.plot(where, mean, label=arm, lw=1.6)
            axes.fill_between(where, mean - error, mean + error, alpha=0.18, lw=0)
        axes.set_title(f"{SHOWN[metric]}\n{metric}", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    import pyarrow.parquet as pq

    from experiments.harness.results import curves_of
    from experiments.harness.study import write_between
    source = FIGURES / "main_table_nano.parquet"
    with one_paragraph_errors():
        if not source.exists():
            raise InputError(f"{source} is missing: run `python -m experiments.studies.main_table --scale nano` first.")
        curves = [curve for curve in curves_of(pq.read_table(source)) if curve.arm in ARMS]
        draw(curves, FIGURES / "healthy.png")
        write_between(PAGE, "healthy", table(curves))


if __name__ == "__main__":
    sys.exit(main())
