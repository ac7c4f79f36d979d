"""Run folders as plain values that JSON can hold, for the page.

Nothing here needs a whole run: what a folder lacks (a summary, answers, some metrics) is left out
of the page. Seeds of one experiment are a group of runs: one line, one colour, a band."""
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nft_jax.config.differences import MISSING, SAME, SEEDS, differences
from nft_jax.record.folder import ACCURACY, RunFolder, read_run
from nft_jax.record.labels import experiments_named, folder_names
from nft_jax.record.pictures import looks
from nft_jax.report.rollouts import read_table, sample_of

HIDDEN = ("name", "workdir", *SEEDS)     # fields that the table of runs shows instead of the table of fields
# Bins of group accuracies: exactly 0, eight equal ranges, exactly 1.
BINS = ("0", *(f"{i / 8:.3g} to {(i + 1) / 8:.3g}" for i in range(8)), "1")
COLUMNS = 40                 # most columns of a histogram over the steps


def page_data(folders: Sequence[Path], rollouts: int, labels: Sequence[str] = ()) -> dict[str, Any]:
    """The contents of the page, with about `rollouts` answers. A group's first run gives the value of a field; a
    setting that its objective does not read is null. `labels`: what each run is called, "" for its folder's name."""
    labels = labels or [""] * len(folders)
    unique = {folder.resolve(): (folder, label) for folder, label in zip(folders, labels, strict=True)}.values()
    runs = [read_run(folder) for folder, _ in unique]
    groups = experiments_named(runs, [label for _, label in unique])
    # A run that is a group by itself has the group's name.
    names_of = folder_names(runs)
    for name, members in groups:
        if len(members) == 1:
            names_of[members[0]] = name
    firsts = [runs[members[0]] for _, members in groups]
    of_group = [[runs[i] for i in members] for _, members in groups]
    names = dict.fromkeys(name for run in firsts for name in run.told if name not in HIDDEN)
    styles = looks([run.fields["objective"] for run in firsts])
    return {
        "groups": [{"name": name, "runs": members, "colours": [look.light, look.dark], "dash": look.dash}
                   for (name, members), look in zip(groups, styles, strict=True)],
        "runs": [{"name": name} | overview(run) for name, run in zip(names_of, runs, strict=True)],
        "fields": [[name, [run.told.get(name) for run in firsts]] for name in names],
        **differing([run.told for run in firsts]),
        "series": [series(members) for members in of_group],
        "histograms": [histogram(members) for members in of_group], "bins": BINS,
        "phases": [phases(members) for members in of_group], "rollouts": sample_of(runs, rollouts)}


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """`different`: fields with several values among the settings that have them. `partly`: fields with one value,
    which some settings lack: their objective does not read them."""
    found = differences(*settings, ignore=SAME)
    partly = [name for name, values in found.items() if MISSING in values
              and all(a == b for a, b in pairwise(value for value in values if value is not MISSING))]
    return {"different": [name for name in found if name not in partly], "partly": partly}


def heading(data: dict[str, Any]) -> str:
    """A title for the page: the run, or the experiments that it compares."""
    names = [group["name"] for group in data["groups"]] if len(data["groups"]) > 1 else [
        run["name"] for run in data["runs"]]
    return " · ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def series(runs: Sequence[RunFolder]) -> dict[str, list[list[float]]]:
    """Metric -> [steps, means]; for several runs also [smallest, largest, number of runs]. A mean
    is over the runs that have the metric at the step. Nulls are left out."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for row in run.rows:
            for key, value in row.items():
                if key != "step" and is_number(value):
                    found.setdefault(key, {}).setdefault(row["step"], []).append(value)
    out = {}
    for key, at in sorted(found.items()):
        steps = sorted(at)
        out[key] = [steps, [rounded(sum(at[s]) / len(at[s])) for s in steps]]
        if len(runs) > 1:
            out[key] += [[rounded(min(at[s])) for s in steps], [rounded(max(at[s])) for s in steps],
                         [len(at[s]) for s in steps]]
    return out


def histogram(runs: Sequence[RunFolder]) -> dict | None:
    """Group accuracies over the steps: `columns` of steps [first, last], and for each column the
    `counts` of groups in `BINS`. None if no table has them."""
    found: dict[int, np.ndarray] = {}
    for run in runs:
        for step, path in run.tables.items():
            table = read_table(path, ("prompt_index", "group_accuracy"))
            if table is None or table.num_columns < 2:
                continue
            _, first = np.unique(table["prompt_index"].to_numpy(), return_index=True)
            values = table["group_accuracy"].to_numpy()[first]
            places = np.where(values <= 0, 0, np.where(values >= 1, 9, np.ceil(values * 8)))
            counts = np.bincount(places[np.isfinite(values)].astype(int), minlength=len(BINS))
            found[step] = found.get(step, 0) + counts
    if not found:
        return None
    parts = np.array_split(np.array(sorted(found)), min(COLUMNS, len(found)))
    return {"columns": [[int(part[0]), int(part[-1])] for part in parts],
            "counts": [sum(found[step] for step in part.tolist()).tolist() for part in parts]}


def phases(runs: Sequence[RunFolder]) -> dict[str, float]:
    """Phase -> its seconds per step of training: the sum over steps and runs, divided by their number of steps."""
    total, steps = Counter(), 0
    for row in (row for run in runs for row in run.rows if row["step"] > 0):
        steps += 1
        total.update({key.removeprefix("seconds/"): value for key, value in row.items()
                      if key.startswith("seconds/") and is_number(value)})
    return {name: rounded(value / steps) for name, value in total.items()}


def overview(run: RunFolder) -> dict[str, Any]:
    """The run's line in the table of runs."""
    rows, summary = run.rows, run.summary or {}
    accuracy = [row[ACCURACY] for row in rows if is_number(row.get(ACCURACY))]
    seconds = sum(row["seconds/step"] for row in rows if is_number(row.get("seconds/step")))
    return {"seed": [run.fields["seed"], run.fields["data.seed"]], "status": run.state,
            "step": run.step, "steps": run.fields["steps"],
            "before": accuracy[0] if accuracy and ACCURACY in rows[0] else None,
            "after": accuracy[-1] if accuracy else None, "seconds": rounded(seconds),
            "tokens": sum(row["tokens/generated"] for row in rows if is_number(row.get("tokens/generated"))),
            "command": summary.get("command"), "objective": run.source or None, "stored": stored(run)}


def stored(run: RunFolder) -> str | None:
    """What a run on stored answers read; None of a run that sampled."""
    path, epochs = run.fields["rollout.answers"], [row["answers/epoch"] for row in run.rows if "answers/epoch" in row]
    if not path:
        return None
    return f"trained on stored answers, {path}, {max(epochs, default=0):.1f} epochs; its tokens generated are theirs"
