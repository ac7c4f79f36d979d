"""What a healthy run looks like: the curves and ranges of `experiments/what_you_should_see.md`.

    python -m experiments.studies.healthy       writes figures/healthy.png and figures/healthy.md

Both are drawn from the main table's runs, in figures/main_table_nano.parquet
(`python -m experiments.studies.main_table --scale nano`).
"""
from pathlib import Path

import pandas as pd

from experiments.harness.plots import draw_bands
from experiments.harness.results import Measures
from nft_jax.record.pictures import canvas, describe, label_ends, scale
from nft_jax.runtime.terminal import markdown

FIGURES = Path(__file__).parents[1] / "figures"
ARMS = ("nft", "rft", "grpo")
SHOWN = {"evaluation/accuracy/all": "held-out accuracy", "accuracy/all": "accuracy of the training answers",
         "groups/accepted_share": "share of groups that teach", "entropy/all": "entropy (nats per token)",
         "grad_norm/mean": "gradient norm", "length/all": "answer length (tokens)",
         "truncated_share": "share of answers cut", "share/clamped": "wrong tokens at NFT's clamp",
         "ratio/p95_positive": "95% of the ratios, right answers", "ratio/p95_negative": "the same, wrong answers"}
PANELS = {"evaluation/accuracy/all": "Held-out accuracy", "entropy/all": "Entropy", "grad_norm/mean": "Gradient norm",
          "length/all": "Answer length", "groups/accepted_share": "Groups that teach",
          "share/clamped": "Wrong tokens clamped"}
SHARES = ("evaluation/accuracy/all", "groups/accepted_share", "share/clamped")


def ranges(frame: pd.DataFrame, arm: str, metric: str) -> list[str]:
    """First and last measurement, means over seeds; smallest and largest of all. [] where nothing was measured."""
    seeds = frame[frame["arm"] == arm].dropna(subset=metric).sort_values("step").groupby("seed")[metric]
    if not len(seeds):
        return []
    values = seeds.first().mean(), seeds.last().mean(), seeds.min().min(), seeds.max().max()
    return [f"{value:.3g}" for value in values]


def draw(frame: pd.DataFrame, path: Path) -> None:
    runs = Measures.of(frame).runs
    figure, panels = canvas(2, 3, (13, 6.4))
    for axes, metric in zip(panels, PANELS, strict=True):
        draw_bands(axes, {arm: runs[arm] for arm in ARMS}, metric)
        describe(axes, PANELS[metric], metric, "step")
        scale(axes, share=metric in SHARES)
        label_ends(axes)
    figure.save(path)


def main() -> None:
    frame = pd.read_parquet(FIGURES / "main_table_nano.parquet").astype(dict.fromkeys(SHOWN, float))
    draw(frame, FIGURES / "healthy.png")
    rows = [(f"`{metric}`", name, *cells) for metric, name in SHOWN.items() if (cells := ranges(frame, "nft", metric))]
    table = markdown(("metric", "", "first", "last", "smallest", "largest"), rows)
    (FIGURES / "healthy.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
