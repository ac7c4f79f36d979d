"""What a notebook shows of a replay: the answers of a group with coloured tokens, and x at every token of an answer."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from nft_jax.record.pictures import HUES, LABEL, OUTCOMES, QUIET, Picture, canvas, describe
from nft_jax.report.tokens import FLAGS, Answer
from nft_jax.types import InputError

# What tokens are coloured by: the value, and where there is no colour. Above it is blue, below it orange.
COLOURS = {"coefficient": (lambda answer: answer.coefficient, 0.0), "ratio": (lambda answer: answer.ratio, 1.0),
           "x": (lambda answer: answer.x, 1.0), "entropy": (lambda answer: answer.entropies, 0.0)}
UP, DOWN = "0 114 178", "230 120 20"              # --up and --down of the report's page
MOST_TOKENS = 60                                  # of an answer in a figure


def chosen_group(every: Sequence[Answer], prompt_index: int | None) -> list[Answer]:
    """The answers to a question; None is the question whose tokens moved most. Raises InputError for another number."""
    groups: dict[int, list[Answer]] = {}
    for answer in every:
        groups.setdefault(answer.prompt_index, []).append(answer)
    if prompt_index is None:
        def moved(answers: Sequence[Answer]) -> float:
            return float(np.mean(np.abs(np.concatenate([a.logprobs - a.old_logprobs for a in answers]))))
        return max(groups.values(), key=moved)
    if prompt_index not in groups:
        raise InputError(f"prompt_index is {prompt_index!r}, which this step did not train on: use one of "
                         f"{', '.join(map(str, sorted(groups)))}.")
    return groups[prompt_index]


def both_kinds(answers: Sequence[Answer], most: int) -> list[Answer]:
    """Up to `most` answers, the better first: as many right (reward >= 1/2) as wrong ones, more of one kind where the
    other has few."""
    ranked = sorted(answers, key=lambda answer: (-answer.reward, answer.sample))
    right = [answer for answer in ranked if answer.reward >= 0.5]
    wrong = [answer for answer in ranked if answer.reward < 0.5]
    first = min(len(right), max(most - most // 2, most - len(wrong)))
    return right[:first] + wrong[:most - first]


@dataclass(frozen=True)
class GroupView:
    """Answers to a question for a notebook, which shows them as HTML; `repr` is plain text.

    answers: shown, right ones first; count: answers of the group in the loss; colour: a key of `COLOURS`."""
    answers: tuple[Answer, ...]
    count: int
    colour: str
    objective: str

    @classmethod
    def of(cls, every: Sequence[Answer], objective: str, prompt_index: int | None, colour: str, most: int) -> GroupView:
        """Raises InputError for an unknown colour, group, or a number of answers below 2."""
        if colour not in COLOURS:
            raise InputError(f"colour is {colour!r}: use one of {', '.join(COLOURS)}.")
        if most < 2:
            raise InputError(f"most is {most!r}: use 2 or more, for a right and a wrong answer.")
        group = chosen_group(every, prompt_index)
        return cls(tuple(both_kinds(group, most)), len(group), colour, objective)

    def __repr__(self) -> str:
        lines = (f"  {answer.reward:g}  {''.join(answer.tokens)!r}" for answer in self.answers)
        return "\n".join([self.heading, *lines])

    @property
    def heading(self) -> str:
        first = self.answers[0]
        return (f"{self.objective}, prompt {first.prompt_index}: r = {first.group_accuracy:.3g}, "
                f"{len(self.answers)} of {self.count} answers, by {self.colour}")

    def _repr_html_(self) -> str:
        value, middle = COLOURS[self.colour]
        largest = max(float(np.abs(value(answer) - middle).max()) for answer in self.answers)
        rows = "".join(
            f"<tr><td style='color: {OUTCOMES['right' if answer.reward >= 0.5 else 'wrong'][0]}; text-align: right'>"
            f"{answer.reward:g}</td><td style='text-align: left'><code style='white-space: pre-wrap'>"
            f"{_spans(answer, value(answer) - middle, largest)}</code></td></tr>" for answer in self.answers)
        told = (f"Blue is above {middle:g}, orange below, deepest at {middle + largest:.3g}. Underlined: clamped or "
                "clipped. Point at a token for its numbers.")
        return (f"<b>{escape(self.heading)}</b><table><tr><th>reward</th><th></th></tr>{rows}</table>"
                f"<small>{told}</small>")


def _spans(answer: Answer, values: np.ndarray, largest: float) -> str:
    """The tokens as HTML, each with its numbers as its title."""
    parts = []
    for i, text in enumerate(answer.tokens):
        depth = float(np.clip(abs(values[i]) / max(largest, 1e-9), 0, 1))
        flags = [name for name in FLAGS if getattr(answer, name)[i]]
        numbers = (("R", answer.ratio), ("x", answer.x), ("coefficient", answer.coefficient),
                   ("entropy", answer.entropies))
        title = ", ".join([*(f"{name} {each[i]:.3f}" for name, each in numbers), *flags])
        line = "underline 2px" if {"clamped", "clipped"} & {*flags} else "none"
        parts.append(f"<span title='{escape(title)}' style='background: rgb({UP if values[i] > 0 else DOWN} / "
                     f"{0.6 * depth:.2f}); text-decoration: {line}'>{escape(text)}</span>")
    return "".join(parts)


def draw_x(every: Sequence[Answer], epsilon: float, prompt_index: int | None = None) -> Picture:
    """x = pi_minus / pi_old over the tokens of a wrong answer: 1 is an unchanged token, epsilon the clamp.

    The answer is the one whose x falls lowest, of the group or, with None, of the step. Raises InputError if there is
    no wrong answer."""
    pool = every if prompt_index is None else chosen_group(every, prompt_index)
    wrong = [answer for answer in pool if answer.reward < 0.5]
    if not wrong:
        raise InputError(f"prompt_index is {prompt_index!r}, which has no wrong answer: choose another group.")
    answer = min(wrong, key=lambda each: float(each.x.min()))
    # The tokens around the lowest x.
    start = max(0, min(int(answer.x.argmin()) - MOST_TOKENS // 2, len(answer.x) - MOST_TOKENS))
    shown = slice(start, start + MOST_TOKENS)
    values, clamped = answer.x[shown], answer.clamped[shown]
    figure, (axes,) = canvas(1, 1, (min(4 + 0.22 * len(values), 14), 3.6))
    place = np.arange(len(values))
    for chosen, colour, name in ((~clamped, HUES[0][0], "x"), (clamped, HUES[1][0], "at the clamp")):
        if chosen.any():
            axes.vlines(place[chosen], 1, values[chosen], color=colour, lw=1.6)
            axes.plot(place[chosen], values[chosen], "o" if name == "x" else "s", color=colour, ms=5, label=name)
    # With the paper's epsilon of 1 both lines are one.
    lines = {1.0: "x = 1: unchanged"} | {epsilon: "x = 1: unchanged, and the clamp" if epsilon == 1 else
                                         f"ε = {epsilon:g}: the clamp"}
    for height, text in lines.items():
        axes.axhline(height, color=QUIET, lw=0.9, ls="-" if height == 1 else (0, (4, 3)))
        axes.annotate(text, (1, height), xycoords=axes.get_yaxis_transform(), xytext=(6, 0), fontsize=LABEL,
                      textcoords="offset points", va="center", color=QUIET)
    texts = [text.replace("$", r"\$").replace("\n", "↵").strip() or "·" for text in answer.tokens[shown]]
    axes.set_xticks(place, texts, rotation=60, ha="right", rotation_mode="anchor", family="monospace")
    share = f", {clamped.mean():.0%} at the clamp (squares)" if clamped.any() else ""
    describe(axes, "x = π⁻ / π_old", f"a wrong answer of a group with r = {answer.group_accuracy:.3g}{share}")
    return figure
