"""How runs look: the one place for the colours of objectives and verdicts, and for the style of every figure.

curves.png, the figures of studies and comparisons and the page of `nft_jax.report` are drawn with it. An objective has
one hue and one dash wherever it stands. Several runs of one objective are shades of its hue, so that a figure is read
in grey too. Curves carry their names at their ends: no legend hides
them."""
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from nft_jax.config.differences import objective_label

BACKS = ("#ffffff", "#14171a")          # of figures and the light page; of the dark page
# Of every line to its background. WCAG 2 asks 3 of graphics and 4.5 of text: names have their curves' colours.
CONTRAST = 4.5
# On white and on black: Okabe and Ito's colours, darkened or lightened to that contrast.
HUES = (("#0072b2", "#56b4e9"), ("#c04f00", "#ff9152"), ("#00805c", "#33cfa0"), ("#b0508a", "#e79ac4"),
        ("#8a6d00", "#e8d34a"), ("#3f4750", "#c9d0d6"))
OWN = ("#7a55c7", "#b9a2f2")             # of objectives of one's own
# The hue is that of the place modulo 6, the dash that of the place divided by 6.
OBJECTIVES = ("nft", "rft", "grpo", "dr_grpo", "dapo", "dpo", "nft_clip", "naive_contrast", "reinforce", "maxrl",
              "cispo", "gspo", "sapo", "topr", "psr", "nsr", "w_reinforce")
OUTCOMES = {"right": ("#00805c", "#33cfa0"), "wrong": ("#c04f00", "#ff9152"), "copied": ("#7a55c7", "#b9a2f2"),
            "no_answer": ("#6b7480", "#a2abb5"), "timeout": ("#8a6d00", "#e8d34a"), "too_large": ("#b0508a", "#e79ac4"),
            "error": ("#3f4750", "#e4e7ea")}
TEXT, QUIET, AXIS, GRID = "#1c2126", "#59636e", "#c3c9d0", "#e6e9ec"
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
MARKERS = "os^DvPX"
LABEL = 8.5                             # size of a curve's name and of the ticks, in points
DPI = 200                               # a figure of 9 inches is 1,800 pixels wide: twice what a page shows
MOST_MARKED = 25                        # points of a curve that are all marked


class Look(NamedTuple):
    """How a curve is drawn: its colours on white and on black, a place in `DASHES` and one in `MARKERS`."""
    light: str
    dark: str
    dash: int = 0
    marker: int = 0


def looks(objectives: Sequence[str]) -> list[Look]:
    """A look for every experiment of a figure, by the name of its objective."""
    own = list(dict.fromkeys(name for name in objectives if name not in OBJECTIVES))
    found = []
    for index, name in enumerate(objectives):
        # Shades tell apart the experiments of an objective, and the objectives of one's own.
        alike = [other for other in objectives if other == name or {name, other} <= {*own}]
        before = sum(other == name or {name, other} <= {*own} for other in objectives[:index])
        place = OBJECTIVES.index(name) if name in OBJECTIVES else 0
        hue = len(HUES) if name in own else place % len(HUES)
        light, dark = OWN if name in own else HUES[hue]
        if len(alike) > 1:
            light, dark = (_shade(colour, before, len(alike), back)
                           for colour, back in zip((light, dark), BACKS, strict=True))
        found.append(Look(light, dark, (place // len(HUES) + before) % len(DASHES), (hue + before) % len(MARKERS)))
    return found


def _shade(colour: str, place: int, count: int, back: str) -> str:
    """The shade of a colour at a place among `count`, ever farther from the background.

    The last is half of the way from the colour to black or white, where the hue is still seen. Of two the first is the
    colour itself. The first of many is as near to the background as `CONTRAST` allows."""
    far = "#000000" if luminance(back) > 0.5 else "#ffffff"
    near = max(amount / 40 for amount in range(30) if contrast(_mixed(colour, back, amount / 40), back) >= CONTRAST)
    near *= 1 - 2 / count
    amount = near - place / (count - 1) * (near + 0.5)
    return _mixed(colour, back, amount) if amount > 0 else _mixed(colour, far, -amount)


def _parts(colour: str) -> list[int]:
    return [int(colour[place:place + 2], 16) for place in (1, 3, 5)]


def _mixed(colour: str, other: str, amount: float) -> str:
    pairs = zip(_parts(colour), _parts(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * amount):02x}" for a, b in pairs)


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1] of "#rrggbb" (WCAG 2)."""
    parts = [part / 255 for part in _parts(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722],
                        [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# ---- figures ---------------------------------------------------------------------------------------------------


class Picture(Figure):
    """A figure that needs no window. A notebook shows it, and `save` writes it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.save(buffer)
        return buffer.getvalue()

    def save(self, file: Path | io.BytesIO) -> None:
        """Writes a PNG of 256 colours, which is a third of the usual size."""
        from PIL import Image
        raw = io.BytesIO()
        self.savefig(raw, dpi=DPI, format="png")
        image = Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        image.save(file, format="png", optimize=True, dpi=(DPI, DPI))


def canvas(rows: int, columns: int, size: tuple[float, float], title: str = "", *,
           sharey: bool = False) -> tuple[Picture, list[Axes]]:
    """An empty figure of `size` inches and its panels, row by row."""
    figure = Picture(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.05)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=TEXT)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels:
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(AXIS)
        axes.tick_params(length=0, labelsize=LABEL, labelcolor=QUIET, pad=4)
        axes.grid(axis="y", color=GRID, lw=0.9)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
    return figure, panels


def describe(axes: Axes, title: str, unit: str = "", x: str = "") -> None:
    """What a panel shows, in bold, with its unit beside it, and the name of the x axis."""
    heading = axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=TEXT)
    if unit:
        axes.annotate(unit, (1, 0), xycoords=heading, xytext=(6, 0), textcoords="offset points", fontsize=9,
                      va="bottom", color=QUIET, annotation_clip=False)
    if x:
        axes.set_xlabel(x, fontsize=9, color=QUIET)


def whole_ticks(axis: Axis, share: bool = False) -> None:
    """Ticks at whole numbers, or at whole per cent of a share. The labels have no decimals: they would round 2.5%."""
    axis.set_major_locator(MaxNLocator(integer=not share, nbins=10 if share else 8, steps=[1, 2, 5, 10]))
    if share:
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def scale(axes: Axes, share: bool = False, steps: bool = True) -> None:
    """Whole steps; shares in per cent; from 0, so that a small change looks small.

    An axis of shares spans at least 10 points. Values below 0 keep matplotlib's own limits."""
    if steps:
        whole_ticks(axes.xaxis)
    # Of the curves: the band of a value that cannot be negative may reach below 0.
    low = min((np.min(line.get_ydata()) for line in axes.get_lines() if len(line.get_ydata())), default=np.nan)
    high = axes.dataLim.ymax
    if np.isfinite([low, high]).all() and low >= 0:
        axes.set_ylim(0, max(high * 1.06, 0.1 if share else 1e-9))
        if share and high <= 1 and high * 1.06 > 1:
            axes.set_ylim(0, 1.015)
    if share:
        whole_ticks(axes.yaxis, share=True)


def curve(axes: Axes, x: Sequence[float], y: Sequence[float], look: Look, label: str, *,
          half: np.ndarray | None = None, marked: bool = True, width: float = 1.8) -> None:
    """A curve, labelled at its end, with a band of `half` the interval above and below it. A long one has eight
    marks. Not `marked`: a function's curve, which has no measured points."""
    axes.plot(x, y, label=label, color=look.light, ls=DASHES[look.dash], lw=width,
              marker=MARKERS[look.marker] if marked else None, ms=3.5, solid_capstyle="round",
              markevery=1 if len(x) <= MOST_MARKED else len(x) // 8)
    if half is not None and np.any(half):
        axes.fill_between(x, y - half, y + half, color=look.light, alpha=0.14, lw=0)


def labelled(axes: Axes) -> list[Line2D]:
    """The curves that have a name and finite points."""
    return [line for line in axes.get_lines()
            if not str(line.get_label()).startswith("_") and np.isfinite(line.get_xydata()).all(1).any()]


def widen_covered(axes: Axes) -> None:
    """Draws a curve wider for every later one that lies upon all of it, so that each of them is seen."""
    lines, places = labelled(axes), _in_points(axes)
    for index, (line, (x, y)) in enumerate(zip(lines, places, strict=True)):
        where = np.linspace(x.min(), x.max(), 50)
        own = np.interp(where, x, y)
        later = [np.interp(where, *other, np.nan, np.nan) for other in places[index + 1:]]
        covers = sum(bool(np.mean(np.abs(each - own) < 1.5) > 0.8) for each in later)
        line.set(linewidth=line.get_linewidth() + 1.8 * covers, markersize=line.get_markersize() + 1.8 * covers)


def label_ends(axes: Axes) -> None:
    """Writes each curve's name beside its end, in its colour. Names that would overlap move apart.

    The name of a curve that ends early stands in the panel, where no other curve passes. A panel with one curve needs
    no name. The layout makes room for the texts."""
    lines, places = labelled(axes), _in_points(axes)
    if len({line.get_label() for line in lines}) < 2:
        return
    width, height = np.array(axes.get_window_extent().size) / axes.figure.dpi * 72
    ends = np.array([place[:, -1] for place in places]).clip(0, [width, height])
    gap, space = 1.25 * LABEL, 8
    inside = np.empty(len(lines), bool)
    for index, (line, end) in enumerate(zip(lines, ends, strict=True)):
        # A letter is about 0.6 of its height wide.
        where = end[0] + space + np.linspace(0, 0.6 * LABEL * len(line.get_label()), 20)
        passing = [np.interp(where, *other, np.nan, np.nan) for other in places[:index] + places[index + 1:]]
        inside[index] = where[-1] < width and not any((np.abs(each - end[1]) < gap / 2).any() for each in passing)
    heights = ends[:, 1].copy()
    for column in (inside, ~inside):
        order = np.flatnonzero(column)[np.argsort(heights[column], kind="stable")]
        rank = np.arange(len(order))
        heights[order] = np.clip(apart(heights[order], gap), rank * gap, height - rank[::-1] * gap)
    beside = axes.transAxes + ScaledTranslation(space / 72, 0, axes.figure.dpi_scale_trans)
    # Thin and grey, unlike a curve.
    leader = {"arrowstyle": "-", "color": QUIET, "lw": 0.7, "ls": (0, (1, 1.5)), "relpos": (0, 0.5), "shrinkA": 1,
              "shrinkB": 0}
    for line, (x, y), place, within in zip(lines, ends, heights, inside, strict=True):
        left = x if within else width
        far = abs(place - y) > LABEL / 2 or left - x > space
        name = axes.annotate(line.get_label(), (x / width, y / height), (left / width, place / height), "axes fraction",
                             beside, leader if far else None, annotation_clip=False, va="center", fontsize=LABEL,
                             color=line.get_color())
        name.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _in_points(axes: Axes) -> list[np.ndarray]:
    """The finite points [2, n] of every curve with a name, in 1/72 inch from the panel's lower left corner."""
    axes.figure.draw_without_rendering()
    corner, inch = axes.get_window_extent().min, axes.figure.dpi
    points = [line.get_xydata() for line in labelled(axes)]
    return [(axes.transData.transform(each[np.isfinite(each).all(1)]) - corner).T / inch * 72 for each in points]


def apart(places: Sequence[float], gap: float) -> np.ndarray:
    """Ascending places, moved as little as possible (least squares) until neighbours are `gap` apart.

    The places less i * gap must not fall: neighbours that fall are pooled at their mean."""
    blocks: list[list[float]] = []                # [mean, number]
    for index, place in enumerate(places):
        blocks.append([place - index * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * count) / (blocks[-1][1] + count),
                          blocks[-1][1] + count]
    means = [mean for mean, count in blocks for _ in range(int(count))]
    return np.array([mean + index * gap for index, mean in enumerate(means)])


# ---- one run ---------------------------------------------------------------------------------------------------

_ALL = Look("#3f4750", "#c9d0d6", 2, 3)
_KINDS: Mapping[str, Look] = {"all": _ALL, "right": Look(*OUTCOMES["right"]), "wrong": Look(*OUTCOMES["wrong"], 1, 1)}


def draw_curves(rows: Sequence[dict], path: Path, name: str, objective: str) -> None:
    """Writes curves.png: accuracy, entropy, gradient norm and lengths over the steps of a run."""
    # Not the loss: on-policy it is 0.
    (own,) = looks([objective])
    panels = [
        ("Accuracy", "", {"evaluation/accuracy/all": ("held-out", own), "accuracy/all": ("training", _ALL)}),
        ("Entropy", "nats per token", {f"entropy/{kind}": (kind, look) for kind, look in _KINDS.items()}),
        ("Gradient norm", "of the step's updates",
         {"grad_norm/max": ("largest", _ALL), "grad_norm/mean": ("mean", own)}),
        ("Answer length", "tokens", {f"length/{kind}": (kind, look) for kind, look in _KINDS.items()}),
    ]
    figure, found = canvas(2, 2, (9, 6), f"{name}: {objective_label(objective)}")
    for axes, (title, unit, curves) in zip(found, panels, strict=True):
        for key, (label, look) in curves.items():
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                curve(axes, *zip(*points, strict=True), look, label)
        describe(axes, title, unit, "step")
        scale(axes, share=title == "Accuracy")
        label_ends(axes)
    figure.save(path)
