"""What runs did, as one tidy table: a row for every step of every run. Tables and figures are made of it alone."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from nft_jax.record.folder import RunFolder
from nft_jax.record.folder import read_run as folder_reader
from nft_jax.types import InputError

ACCURACY = "evaluation/accuracy/all"
ENTROPY = "entropy/all"
KEYS = ("run", "arm", "seed", "objective", "step", "tokens")
# Of all metrics, those that are kept beside the figures.
KEPT = (ACCURACY, "accuracy/all", ENTROPY, "length/all", "truncated_share", "grad_norm/mean", "share/clamped",
        "share/clipped", "groups/accepted_share", "ratio/p95_positive", "ratio/p95_negative", "seconds/step")


def read_run(folder: Path) -> RunFolder:
    """The run in `folder`. Raises InputError where there is no run with at least one row."""
    run = folder_reader(folder, "the run folder")
    if not run.rows:
        raise InputError(f"the run folder is {str(folder)!r}, whose metrics.jsonl has no row yet: leave it out.")
    return run


def tidy(runs: Iterable[tuple[RunFolder, Mapping[str, object]]]) -> pa.Table:
    """A row for every (run, step): the columns `KEYS`, the labels given with each run (`arm`, and others), and every
    metric. `tokens` are those generated up to and with the step for training; evaluation is not counted."""
    rows = []
    for run, labels in runs:
        tokens = 0
        for row in run.rows:
            tokens += int(row.get("tokens/generated") or 0)
            rows.append({"run": run.folder.name, "arm": run.folder.name, "seed": run.fields.get("seed", 0),
                         "objective": run.fields.get("objective", ""), **labels, "tokens": tokens, **row})
    names = dict.fromkeys(name for row in rows for name in row)
    order = [*KEYS, *sorted(name for name in names if name not in KEYS)]
    return pa.table({name: _column([row.get(name) for row in rows]) for name in order})


def _column(values: list) -> pa.Array:
    """Whole numbers and text as they are; where kinds are mixed, text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if len(kinds) > 1 or kinds & {list, tuple, dict}:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array(values)


def kept(table: pa.Table) -> pa.Table:
    """The columns that figures and tables need, floats in 32 bits."""
    columns = [name for name in (*KEYS, *KEPT) if name in table.column_names]
    chosen = table.select(columns)
    return chosen.cast(pa.schema([(field.name, pa.float32() if pa.types.is_floating(field.type) else field.type)
                                  for field in chosen.schema]))


@dataclass(frozen=True)
class Curve:
    """One run of the table: [N] steps and generated tokens, and [N] values of each metric, NaN where it has none."""
    arm: str
    seed: int
    steps: np.ndarray
    tokens: np.ndarray
    metrics: Mapping[str, np.ndarray]

    def points(self, metric: str, axis: str = "steps") -> tuple[np.ndarray, np.ndarray]:
        """Places on the axis ("steps" or "tokens") and values, where the metric was measured."""
        values = self.metrics.get(metric, np.full(len(self.steps), np.nan))
        there = np.isfinite(values)
        return getattr(self, axis)[there].astype(float), values[there].astype(float)

    def end(self, metric: str, axis: str = "steps") -> float:
        """The last place on the axis where the metric was measured; -inf without any."""
        places, _ = self.points(metric, axis)
        return float(places[-1]) if len(places) else -math.inf

    def at(self, metric: str, place: float, axis: str = "steps") -> float:
        """The metric there, linear between two measurements; NaN without any."""
        places, values = self.points(metric, axis)
        return float(np.interp(place, places, values)) if len(places) else math.nan


def curves_of(table: pa.Table) -> list[Curve]:
    """The runs of a table, in the order of their first rows."""
    columns = {name: table[name].to_pylist() for name in ("arm", "seed", "run")}
    numbers = {name: table[name].to_numpy(zero_copy_only=False).astype(float) for name in table.column_names
               if pa.types.is_floating(table[name].type) or pa.types.is_integer(table[name].type)}
    places: dict[tuple, list[int]] = {}
    for index, key in enumerate(zip(columns["arm"], columns["seed"], columns["run"], strict=True)):
        places.setdefault(key, []).append(index)
    found = []
    for (arm, seed, _), rows in places.items():
        rows = np.array(rows)[np.argsort(numbers["step"][rows], kind="stable")]
        metrics = {name: values[rows] for name, values in numbers.items() if name not in ("seed", "step", "tokens")}
        found.append(Curve(str(arm), int(seed), numbers["step"][rows], numbers["tokens"][rows], metrics))
    return found


def by_arm(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.arm, []).append(curve)
    return found


@dataclass(frozen=True)
class Mean:
    """Mean over seeds and its standard error (NaN for a single seed)."""
    value: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        values = np.array([value for value in values if math.isfinite(value)])
        if not len(values):
            return cls(math.nan, math.nan, 0)
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
        return cls(float(values.mean()), error, len(values))

    def text(self, digits: int = 1, scale: float = 100.0, sign: bool = False) -> str:
        """As a percentage (`scale` 100) with its error; "-" where nothing was measured."""
        if not self.count:
            return "-"
        value = f"{self.value * scale:{'+' if sign else ''}.{digits}f}"
        return value if math.isnan(self.error) else f"{value} ± {self.error * scale:.{digits}f}"


@dataclass(frozen=True)
class Measures:
    """Numbers of every run, on common ground: `step` is the last that all runs have evaluated, `tokens` the least that
    any run had generated by its last evaluation."""
    curves: Sequence[Curve]
    step: float
    tokens: float

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> Measures:
        """Raises InputError where a run was never evaluated: it has nothing to be compared by."""
        for curve in curves:
            if not math.isfinite(curve.end(ACCURACY)):
                raise InputError(f"the run {curve.arm!r}, seed {curve.seed}, has no {ACCURACY}: set evaluation.source.")
        return cls(curves, min(curve.end(ACCURACY) for curve in curves),
                   min(curve.end(ACCURACY, "tokens") for curve in curves))

    def value(self, measure: str, curve: Curve) -> float:
        """start; steps: accuracy at the common step; tokens: accuracy at the common number of tokens; best: up to the
        common step; area: mean over the steps up to it; entropy, entropy start, length: of the training answers."""
        steps, values = curve.points(ACCURACY)
        inside = values[steps <= self.step]
        if measure == "area":
            where = np.append(steps[steps < self.step], self.step)
            heights = np.interp(where, steps, values)
            width = max(where[-1] - where[0], 1e-9)
            return float(np.trapezoid(heights, where) / width) if len(where) > 1 else float(heights[0])
        return {"start": lambda: float(values[0]), "best": lambda: float(inside.max()),
                "steps": lambda: curve.at(ACCURACY, self.step),
                "tokens": lambda: curve.at(ACCURACY, self.tokens, "tokens"),
                "entropy": lambda: curve.at(ENTROPY, self.step), "entropy start": lambda: curve.at(ENTROPY, 0),
                "length": lambda: curve.at("length/all", self.step),
                "clamped": lambda: float(np.nanmean(curve.metrics.get("share/clamped", [math.nan]))),
                }[measure]()

    def of_arm(self, measure: str, arm: str) -> Mean:
        return Mean.of(self.value(measure, curve) for curve in self.curves if curve.arm == arm)

    def paired(self, measure: str, arm: str, than: str, its: str = "") -> Mean:
        """Differences by seed, `arm` less `than`, over the seeds that both have; `its`: another measure of `than`."""
        others = {curve.seed: curve for curve in self.curves if curve.arm == than}
        return Mean.of(self.value(measure, curve) - self.value(its or measure, others[curve.seed])
                       for curve in self.curves if curve.arm == arm and curve.seed in others)

    @property
    def arms(self) -> list[str]:
        return list(by_arm(self.curves))

    def seconds(self, curve: Curve) -> float:
        return float(np.nansum(curve.metrics.get("seconds/step", np.zeros(1))))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows))


def accuracy_table(measures: Measures, first: str = "arm") -> str:
    """Accuracy in per cent, mean ± standard error over seeds: before, at equal steps, at equal generated tokens."""
    rows = []
    for arm, curves in by_arm(measures.curves).items():
        def cell(measure: str, arm=arm, **options) -> str:
            return measures.of_arm(measure, arm).text(**options)
        minutes = np.mean([measures.seconds(curve) for curve in curves]) / 60
        made = np.mean([curve.end(ACCURACY, "tokens") for curve in curves]) / 1e6
        rows.append([arm, str(len(curves)), cell("start"), cell("steps"), cell("tokens"), cell("best"), cell("area"),
                     cell("entropy", digits=3, scale=1), f"{made:.2f}", f"{minutes:.1f}"])
    return markdown([first, "seeds", "before", f"step {measures.step:.0f}", f"{measures.tokens / 1e6:.2f} M tokens",
                     "best", "mean of the curve", "entropy", "M tokens in all", "minutes"], rows)
