"""What a healthy run looks like: the curves and ranges of `experiments/what_you_should_see.md`.

    python -m experiments.studies.healthy       writes figures/healthy.png and figures/healthy.md

Both are drawn from the main table's runs, in figures/main_table_nano.parquet
(`python -m experiments.studies.main_table --scale nano`).
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from experiments.harness.plots import curve_figure, draw_bands
from experiments.harness.results import Curve, curves_of, markdown

FIGURES = Path(__file__).parents[1] / "figures"
ARMS = ("nft", "rft", "grpo")
SHOWN = {"evaluation/accuracy/all": "held-out accuracy", "accuracy/all": "accuracy of the training answers",
         "groups/accepted_share": "share of groups that teach", "entropy/all": "entropy (nats per token)",
         "grad_norm/mean": "gradient norm", "length/all": "answer length (tokens)",
         "truncated_share": "share of answers cut", "share/clamped": "wrong tokens at NFT's clamp",
         "ratio/p95_positive": "95% of the ratios, right answers", "ratio/p95_negative": "the same, wrong answers"}
PANELS = ("evaluation/accuracy/all", "entropy/all", "grad_norm/mean", "length/all", "groups/accepted_share",
          "share/clamped")


def ranges(curves: Sequence[Curve], arm: str, metric: str) -> list[str]:
    """Mean over seeds at the first and at the last measurement; smallest and largest value of any step and seed.

    [] where the metric was not measured.
    """
    measured = [values for curve in curves if curve.arm == arm
                for _, values in [curve.points(metric)] if len(values)]
    if not measured:
        return []
    ends = [np.mean([values[place] for values in measured]) for place in (0, -1)]
    return [f"{value:.3g}" for value in (*ends, min(map(np.min, measured)), max(map(np.max, measured)))]


def table(curves: Sequence[Curve]) -> str:
    """A row for every metric of `nft`."""
    rows = [(f"`{metric}`", name, *cells) for metric, name in SHOWN.items()
            if (cells := ranges(curves, "nft", metric))]
    return markdown(("metric", "", "first", "last", "smallest", "largest"), rows)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Six panels, a line with its band for each of three objectives."""
    figure, panels = curve_figure(2, 3, (11, 5.6))
    for axes, metric in zip(panels, PANELS, strict=True):
        draw_bands(axes, {arm: [curve for curve in curves if curve.arm == arm] for arm in ARMS}, metric)
        axes.set_title(f"{SHOWN[metric]}\n{metric}", fontsize=9)
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    curves = curves_of(pq.read_table(FIGURES / "main_table_nano.parquet"))
    draw(curves, FIGURES / "healthy.png")
    (FIGURES / "healthy.md").write_text(table(curves) + "\n")


if __name__ == "__main__":
    main()
