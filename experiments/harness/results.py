"""What runs did: one tidy table with a row for every step of every run. Tables and figures are made of it alone."""
from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats

from nft_jax.record import folder as record
from nft_jax.record.folder import RunFolder
from nft_jax.runtime.terminal import markdown
from nft_jax.types import InputError

ACCURACY = "evaluation/accuracy/all"
ENTROPY = "entropy/all"
TARGET = 0.6       # the accuracy of the measure "until"
LEARNT = 0.5       # an arm learns that gains this share of what the best arm gains, mean over its seeds
POWERS = (2, 4, 8, 16, 32, 64)
# Measures of an evaluation beside accuracy: name -> metric.
BESIDE = {"pass@64": "evaluation/pass@64", "solutions": "evaluation/solutions@64",
          "entropy right": "evaluation/entropy/right", "entropy wrong": "evaluation/entropy/wrong"}
KEYS = ("run", "arm", "seed", "objective", "step", "tokens")
# The metrics that are kept beside the figures.
KEPT = (ACCURACY, "accuracy/all", ENTROPY, "length/all", "truncated_share", "grad_norm/mean", "share/clamped",
        "share/clipped", "share/saturated", "groups/accepted_share", "ratio/p95_positive", "ratio/p95_negative",
        "ratio/mean_positive", "ratio/mean_negative", "ratio/effective_sample_size", "answers/epoch", "seconds/step",
        "memory/peak_mb", *(f"evaluation/pass@{k}" for k in POWERS[:-1]), *BESIDE.values())


def read_run(folder: Path) -> RunFolder:
    """The run in `folder`. Raises InputError where there is no run with at least one row."""
    run = record.read_run(folder, "the run folder")
    if not run.rows:
        raise InputError(f"the run folder is {str(folder)!r}, whose metrics.jsonl has no row yet: leave it out.")
    return run


def tidy(runs: Iterable[tuple[RunFolder, Mapping[str, object]]]) -> pd.DataFrame:
    """A row for every run and step: `KEYS`, each run's labels (`arm`, ...), every metric.

    `tokens` were generated for training up to and with the step; evaluation is not counted.
    """
    rows = []
    for run, labels in runs:
        tokens = 0
        for row in run.rows:
            tokens += int(row.get("tokens/generated") or 0)
            rows.append({"run": run.folder.name, "arm": run.folder.name, "seed": run.fields.get("seed", 0),
                         "objective": run.fields.get("objective", ""), **labels, "tokens": tokens, **row})
    frame = pd.DataFrame(rows)
    # Parquet takes one type a column: what is neither number nor text, or mixed, becomes text.
    for name in frame:
        if frame[name].dtype == object:
            frame[name] = frame[name].map(str, na_action="ignore")
    return frame[[*KEYS, *sorted(set(frame) - set(KEYS))]]


def kept(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that figures and tables need, floats in 32 bits."""
    chosen = frame[[name for name in (*KEYS, *KEPT) if name in frame]]
    return chosen.astype(dict.fromkeys(chosen.select_dtypes(float), "float32"))


def at(run: pd.DataFrame, metric: str, place: float, axis: str = "step") -> float:
    """The metric of one run at a place of the axis ("step" or "tokens"), linear between measurements; NaN without."""
    places, values = run[axis].to_numpy(), run[metric].to_numpy()
    measured = run[metric].notna().to_numpy()
    return float(np.interp(place, places[measured], values[measured])) if measured.any() else math.nan


@dataclass(frozen=True)
class Mean:
    """Mean over seeds, and half the width of its 95% interval by Student's t (NaN for a single seed)."""
    value: float
    half: float
    count: int

    @classmethod
    def of(cls, values: pd.Series) -> Mean:
        count = int(values.count())
        return cls(float(values.mean()), float(values.sem()) * _quantile(count), count)

    @property
    def interval(self) -> tuple[float, float]:
        return self.value - self.half, self.value + self.half

    def with_seeds(self, count: int) -> Mean:
        """What `count` seeds would give, with the same mean and spread."""
        error = self.half / _quantile(self.count) * math.sqrt(self.count / count)
        return Mean(self.value, error * _quantile(count), count)

    def text(self, digits: int = 1, scale: float = 100.0, sign: bool = False) -> str:
        """As a percentage (`scale` 100) with half of its interval; "-" where nothing was measured."""
        if not self.count:
            return "-"
        value = f"{self.value * scale:{'+' if sign else ''}.{digits}f}"
        return value if math.isnan(self.half) else f"{value} ± {self.half * scale:.{digits}f}"


@cache
def _quantile(count: int) -> float:
    """Standard errors in half of a 95% interval of `count` values; NaN for fewer than two."""
    return float(scipy.stats.t.ppf(0.975, count - 1)) if count > 1 else math.nan


@dataclass(frozen=True)
class Measures:
    """The runs of a table, and numbers of every run on common ground.

    runs: arm -> its runs, each a table in the order of the steps.
    step: the last step at which every run was evaluated. Without one beyond step 0, it is where the shortest run ends,
        and the accuracy of other runs is linear between their evaluations.
    tokens: the least number of tokens that any run had generated by its last evaluation.
    level: the highest accuracy that every run reaches of the arms that learn (`LEARNT`); NaN where no arm does.
    numbers: a row for every run, by (arm, seed): `_numbers`.
    """
    runs: Mapping[str, Sequence[pd.DataFrame]]
    step: float
    tokens: float
    level: float
    numbers: pd.DataFrame

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Measures:
        """Raises InputError for a run that was never evaluated: there is nothing to compare it by."""
        frame = frame.reindex(columns=[*KEYS, *KEPT]).sort_values("step", kind="stable")
        frame = frame.astype(dict.fromkeys(("step", "tokens", *KEPT), float))
        runs = dict(iter(frame.groupby(["arm", "seed", "run"], sort=False)))
        for (arm, seed, _), run in runs.items():
            if run[ACCURACY].isna().all():
                raise InputError(f"the run {arm!r}, seed {seed}, has no {ACCURACY}: set evaluation.source.")
        measured = [run.dropna(subset=ACCURACY) for run in runs.values()]
        common = set.intersection(*(set(run["step"]) for run in measured)) - {0.0}
        step = max(common) if common else min(run["step"].iloc[-1] for run in measured)
        tokens = min(run["tokens"].iloc[-1] for run in measured)
        values = pd.DataFrame([{"arm": arm, "start": run[ACCURACY].iloc[0], "best": run[ACCURACY].max()}
                               for (arm, *_), run in zip(runs, measured, strict=True)]).groupby("arm")
        gains = values["best"].mean() - values["start"].mean()
        level = float(values["best"].min()[(gains > 0) & (gains >= LEARNT * gains.max())].min())
        numbers = pd.DataFrame([{"arm": arm, "seed": seed, **_numbers(run, step, tokens, level)}
                                for (arm, seed, _), run in runs.items()]).set_index(["arm", "seed"])
        return cls({arm: [run for key, run in runs.items() if key[0] == arm] for arm, *_ in runs}, step, tokens,
                   level, numbers)

    def of_arm(self, measure: str, arm: str) -> Mean:
        return Mean.of(self.numbers.loc[arm][measure])

    def interpolated(self, measure: str, arm: str) -> bool:
        """Whether `measure`, "steps" or "tokens", lies between two evaluations in a run of the arm."""
        return not self.numbers.loc[arm][f"{measure} measured"].all()

    def paired(self, measure: str, arms: Sequence[str], than: Sequence[str], its: str) -> Mean:
        """Differences by seed, the mean of `measure` over `arms` less that of `its` (a measure too) over `than`, of the
        seeds that all of them have. Equal tokens are the least of these arms' runs: no other arm counts."""
        if not {*arms, *than} <= set(self.runs):
            return Mean(math.nan, math.nan, 0)

        numbers = self.numbers
        if measure == "tokens":
            numbers = numbers.assign(tokens=self._at_equal_tokens({*arms, *than}))

        def mean(name: str, some: Sequence[str]) -> pd.Series:
            return numbers[name].unstack("arm")[list(some)].mean(axis=1, skipna=False)

        return Mean.of(mean(measure, arms) - mean(its, than))

    def _at_equal_tokens(self, arms: Collection[str]) -> pd.Series:
        """Accuracy by (arm, seed), at the least number of tokens that a run of these arms had generated."""
        runs = [run for arm in arms for run in self.runs[arm]]
        tokens = min(run.dropna(subset=ACCURACY)["tokens"].iloc[-1] for run in runs)
        return pd.Series({(run["arm"].iloc[0], run["seed"].iloc[0]): at(run, ACCURACY, tokens, "tokens")
                          for run in runs}).rename_axis(["arm", "seed"])


def _numbers(run: pd.DataFrame, step: float, tokens: float, level: float) -> dict[str, float]:
    """Of one run:

    start                       accuracy before
    best, best step             the best accuracy of the whole run, and the first step that has it
    steps, tokens               accuracy at the common step, and at the common number of tokens
    ... measured                whether the run was evaluated there
    area                        mean accuracy over the steps up to the common one
    entropy, entropy start      nats per token of the training answers, at the common step and first
    of BESIDE                   at the common step; "... start" before, "... level" where the accuracy first reached
                                the common level
    until, until minutes        natural logarithm of the tokens generated, and of the minutes, until the accuracy
                                reached TARGET; NaN if it never did, or was there at the start
    made, minutes               tokens generated up to the last evaluation, and time
    memory                      the most memory of the process or device, in GiB
    """
    seconds = run["seconds/step"]
    minutes = np.nancumsum(seconds) / 60 if seconds.notna().any() else np.full(len(run), math.nan)
    measured = run.assign(minutes=minutes).dropna(subset=ACCURACY)
    steps, values = measured["step"].to_numpy(), measured[ACCURACY].to_numpy()
    where = np.append(steps[steps < step], step)
    heights = np.interp(where, steps, values)
    area = np.trapezoid(heights, where) / (where[-1] - where[0]) if len(where) > 1 else heights[0]
    there = reached(measured, level, "step")
    beside = {f"{name}{when}": at(run, metric, place) for name, metric in BESIDE.items()
              for when, place in (("", step), (" start", 0), (" level", there))}
    return {"start": values[0], "best": values.max(), "best step": steps[values.argmax()],
            "steps": at(run, ACCURACY, step), "steps measured": step in steps,
            "tokens": at(run, ACCURACY, tokens, "tokens"), "tokens measured": tokens in measured["tokens"].to_numpy(),
            "area": area, "entropy": at(run, ENTROPY, step),
            "entropy start": at(run, ENTROPY, 0), "until": math.log(reached(measured, TARGET)),
            "until minutes": math.log(reached(measured, TARGET, "minutes")),
            "made": measured["tokens"].iloc[-1], "minutes": minutes[-1],
            **beside, "memory": run["memory/peak_mb"].max() / 1024}


def reached(measured: pd.DataFrame, accuracy: float, axis: str = "tokens") -> float:
    """The place of the axis where an evaluation of one run, or the line between two, reached the accuracy; NaN if it
    never did, or was there at the start."""
    places, values = measured[axis].to_numpy(float), measured[ACCURACY].to_numpy(float)
    first = int(np.argmax(values >= accuracy))
    if not first or values[first] < accuracy:
        return math.nan
    share = (accuracy - values[first - 1]) / (values[first] - values[first - 1])
    return float(places[first - 1] + share * (places[first] - places[first - 1]))


def tokens_text(count: float) -> str:
    """A number of generated tokens: 4,608, or 0.43 M."""
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,.0f}"


def accuracy_table(measures: Measures, first: str = "arm", marked: bool = False) -> str:
    """Accuracy in per cent: before, at equal steps, at equal generated tokens, and the best. Mean over seeds ± half of
    its 95% interval.

    marked: "~" stands before an accuracy that lies between two evaluations, and the best comes with its step."""
    head = [first, "seeds", "before", f"step {measures.step:.0f}", f"{tokens_text(measures.tokens)} tokens", "best",
            "mean of the curve", "entropy", "M tokens in all", "minutes"]
    # Tables that were stored before the memory was kept have none.
    with_memory = measures.numbers["memory"].notna().any()
    if with_memory:
        head.append("GiB at most")
    rows = []
    for arm, runs in measures.runs.items():
        numbers = measures.numbers.loc[arm]
        means = numbers.mean()
        shares = {name: measures.of_arm(name, arm).text() for name in ("start", "steps", "tokens", "best", "area")}
        if marked:
            for name in ("steps", "tokens"):
                shares[name] = "~" * measures.interpolated(name, arm) + shares[name]
            shares["best"] += f" ({steps_text(numbers['best step'])})"
        rows.append([arm, str(len(runs)), *shares.values(), measures.of_arm("entropy", arm).text(3, 1),
                     f"{means['made'] / 1e6:{'.2f' if means['made'] >= 1e5 else '.4f'}}", f"{means['minutes']:.1f}"])
        if with_memory:
            rows[-1].append(f"{means['memory']:.1f}")
    return markdown(head, rows)


def cost_table(measures: Measures) -> str:
    """What it took until TARGET: tokens generated and minutes, geometric means over the seeds that reached it, with the
    95% interval."""
    rows = []
    for arm, runs in measures.runs.items():
        found = measures.of_arm("until", arm)
        rows.append([arm, f"{found.count} of {len(runs)}", _power_text(found, 1e-6, 3),
                     _power_text(measures.of_arm("until minutes", arm), 1, 1), measures.of_arm("steps", arm).text()])
    return markdown(["arm", f"seeds that reached {TARGET:.0%}", "M tokens until then", "minutes until then",
                     f"accuracy at step {measures.step:.0f}"], rows)


def _power_text(found: Mean, scale: float, digits: int) -> str:
    """A mean of logarithms as the number itself, with its interval if there is one."""
    if not found.count:
        return "-"
    value, low, high = (f"{math.exp(each) * scale:.{digits}f}" for each in (found.value, *found.interval))
    return value if math.isnan(found.half) else f"{value} ({low} to {high})"


def steps_text(steps: pd.Series) -> str:
    """"step 10", or of several seeds "steps 5 to 12"."""
    low, high = steps.min(), steps.max()
    return f"step {low:.0f}" if low == high else f"steps {low:.0f} to {high:.0f}"
