"""How hard each objective pushes a token, against how far the policy has moved since it was sampled.

    python -m experiments.studies.coefficients            prints the tables
    python -m experiments.studies.coefficients --draw     writes figures/coefficients.md and figures/coefficients.png

The coefficient is c = -d(token loss) / d(log-prob), by autodiff in float64, with every objective's
defaults. The token is a one-token answer with ratio R = pi / pi_old, from a group of K answers of
which a share r is right. The other answers' ratios are 1 (dpo looks at them). Reductions are left out.
"""
import argparse
from pathlib import Path

import numpy as np

from nft_jax.objectives.registry import OBJECTIVES, coefficients
from nft_jax.record.pictures import canvas, describe, label_ends, looks
from nft_jax.record.pictures import curve as draw_curve
from nft_jax.runtime.terminal import markdown

K = 8
ACCURACIES = (1 / 8, 1 / 2, 7 / 8)
RIGHT, WRONG = (0.5, 1.0, 2.0), (0.1, 0.5, 0.9, 1.0, 1.5, 4.0)
FIGURES = Path(__file__).parents[1] / "figures"
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


def tables() -> str:
    """The coefficients as Markdown, one table for each accuracy."""
    ratios, n = np.array(RIGHT + WRONG), len(RIGHT)
    head = ["", *(f"right, R = {x:g}" for x in RIGHT), *(f"wrong, {x:g}" for x in WRONG)]
    parts = []
    for accuracy in ACCURACIES:
        rows = [[f"`{name}`", *map(number, curve(name, 1.0, accuracy, ratios)[:n]),
                 *map(number, curve(name, 0.0, accuracy, ratios)[n:])] for name in OBJECTIVES]
        parts += [f"r = {accuracy:g}:", markdown(head, rows)]
    return "\n\n".join(parts)


def draw(path: Path) -> None:
    """Coefficients over their size at R = 1, for wrong and for right answers of a group with r = 3/4."""
    ratios = np.linspace(0.02, 4, 400)
    figure, panels = canvas(1, 2, (11, 4.4))
    for axes, reward, title in zip(panels, (0.0, 1.0), ("Wrong answers", "Right answers"), strict=True):
        for place, (name, look) in enumerate(zip(DRAWN, looks(DRAWN), strict=True)):
            one, *found = curve(name, reward, 0.75, np.array([1.0, *ratios]))
            # Curves that coincide stay visible: the later, the thinner.
            draw_curve(axes, ratios, np.array(found) / abs(one), look, name, marked=False, width=3.6 - 0.35 * place)
        axes.set_ylim(*((-4.2, 0.2) if reward == 0 else (-0.2, 2.6)))
        describe(axes, title, "coefficient / |coefficient at R = 1|, r = 3/4", "R = π / π_old")
        label_ends(axes)
    figure.save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.studies.coefficients", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="write the tables and the figure")
    text = tables()
    if parser.parse_args(arguments).draw:
        (FIGURES / "coefficients.md").write_text(text + "\n")
        draw(FIGURES / "coefficients.png")
    print(text)


if __name__ == "__main__":
    main()
