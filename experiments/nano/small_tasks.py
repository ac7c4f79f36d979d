"""What the embedded model's other tasks share: question files, and the figure of a run. Imports no jax."""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_questions(path: Path, rows: Sequence[dict]) -> None:
    """A .jsonl file for data.source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw_run(path: Path, title: str, folder: Path, curves: Mapping[str, str], ylabel: str) -> None:
    """Curves (metric -> label) over the steps of the run in `folder`; values in [0, 1]."""
    # Here, since presets import this module and must not load jax.
    from experiments.harness.plots import curve_figure
    from nft_jax.record.metrics import read_metrics
    rows = read_metrics(folder / "metrics.jsonl")
    figure, (axes,) = curve_figure(1, 1, (6, 3.6))
    for key, label in curves.items():
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 20 else None, ms=4)
    axes.set(title=title, xlabel="step", ylabel=ylabel, ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=120)
