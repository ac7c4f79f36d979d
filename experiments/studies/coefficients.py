"""How hard each objective pushes a token, against how far the policy has moved since it was sampled.

    python -m experiments.studies.coefficients            prints the table of experiments/README.md
    python -m experiments.studies.coefficients --draw     and draws experiments/figures/coefficients.png

The coefficient c = -d(token loss) / d(log-prob), by autodiff in float64, of a one-token answer with ratio
R = pi / pi_old, from a group of K answers of which a share r is right; the other answers' ratios are 1 (dpo looks at
them). Defaults of every objective; reductions are left out.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nft_jax.objectives.registry import OBJECTIVES, coefficients

K = 8
ACCURACIES = (1 / 8, 1 / 2, 7 / 8)
RIGHT, WRONG = (0.5, 1.0, 2.0), (0.1, 0.5, 0.9, 1.0, 1.5, 4.0)
FIGURE = Path(__file__).parents[1] / "figures" / "coefficients.png"
DRAWN = ("nft", "nft_clip", "grpo", "cispo", "sapo", "topr", "reinforce", "dpo")


def curve(objective: str, reward: float, accuracy: float, ratios: np.ndarray) -> np.ndarray:
    """[n] float64: the coefficient of the first answer of a group with this reward, for each of its ratios [n]."""
    rewards = np.array([reward] + [1.0] * round(accuracy * K - reward) + [0.0] * round((1 - accuracy) * K - 1 + reward))
    n = len(ratios)
    logprobs = np.zeros((n, K))
    logprobs[:, 0] = np.log(ratios)
    column = (n * K, 1)
    extras = {"group_ids": np.repeat(np.arange(n), K)}
    found = coefficients(objective, logprobs.reshape(column), np.zeros(column), np.ones(column), np.tile(rewards, n),
                         np.full(n * K, accuracy), extras=extras)
    return np.asarray(found).reshape(n, K)[:, 0]


def number(value: float) -> str:
    """Three digits; rounded twice, so that a tie does not hang on the last bit of exp."""
    return f"{round(float(value), 9):.3g}".replace("-", "−") if value else "0"


def table() -> str:
    """The coefficients as Markdown, one table for each accuracy."""
    lines = []
    for accuracy in ACCURACIES:
        heads = [f"right, R = {x:g}" for x in RIGHT] + [f"wrong, {x:g}" for x in WRONG]
        lines += [f"r = {accuracy:g}:", "", "| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for name in OBJECTIVES:
            values = [*curve(name, 1.0, accuracy, np.array(RIGHT)), *curve(name, 0.0, accuracy, np.array(WRONG))]
            lines.append(f"| `{name}` | " + " | ".join(map(number, values)) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(path: Path = FIGURE) -> None:
    """Coefficients over their size at R = 1, for wrong and for right answers of a group with r = 3/4."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    ratios = np.linspace(0.02, 4, 400)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, reward, title in zip(figure.subplots(1, 2), (0.0, 1.0), ("wrong answers", "right answers"), strict=True):
        for place, name in enumerate(DRAWN):
            size = abs(curve(name, reward, 0.75, np.ones(1))[0])
            axes.plot(ratios, curve(name, reward, 0.75, ratios) / size, label=name, lw=4 - 0.45 * place,
                      ls="--" if place % 2 else "-")
        axes.set(title=f"{title}, r = 3/4", xlabel="R = π / π_old")
        axes.set_ylim(*((-4.2, 0.2) if reward == 0 else (-0.2, 2.6)))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("coefficient / |coefficient at R = 1|")
    figure.axes[0].legend(fontsize=7, loc="lower left")
    figure.savefig(path, dpi=90)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="draw the figure too")
    options = parser.parse_args(argv)
    print(table())
    if options.draw:
        draw()


if __name__ == "__main__":
    main()
