"""Run folders read into plain values that JSON can hold. Nothing here needs a whole run: what a folder lacks (a
summary, answers, some of the metrics) is left out.

Runs that differ in nothing but `SAME` are seeds of one group: one line, one colour, a band.
"""
from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nft_jax.config import flat
from nft_jax.record.metrics import read_metrics
from nft_jax.types import InputError

SAME = ("name", "workdir", "seed", "data.seed", "writers")
BINS = ("0", *(f"{i / 8:.3g} to {(i + 1) / 8:.3g}" for i in range(8)), "1")      # of group accuracies
COLUMNS = 40                 # most columns of a histogram over the steps
ACCURACY = "evaluation/accuracy/all"


def read_run(folder: Path) -> dict[str, Any]:
    """A run as it stands: `config` (nested), `fields` (flat, "rollout.slots"), `rows` of metrics in the order of their
    steps, `summary` (None while it runs), `tables` (a path for each step with answers).

    Raises InputError for a folder that is no run."""
    path = folder / "config.json"
    config = read_json(path)
    if config is None or "objective" not in config:
        what = "has no config.json" if not path.exists() else "has a config.json that is not that of a run"
        raise InputError(f"RUN is {str(folder)!r}, which {what}: give the folder of a run (its --workdir, or "
                         "runs/NAME), in which config.json and metrics.jsonl are.")
    metrics = folder / "metrics.jsonl"
    rows = [row for row in read_metrics(metrics) if "step" in row] if metrics.exists() else []
    return {"folder": folder, "config": config, "fields": flat(config),
            "rows": sorted(rows, key=lambda row: row["step"]), "summary": read_json(folder / "summary.json"),
            "tables": {int(path.stem.removeprefix("step_")): path
                       for path in sorted((folder / "rollouts").glob("step_*[0-9].parquet"))}}


def read_json(path: Path) -> dict | None:
    """The object in the file; None where there is none, or a write was cut short."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_table(path: Path, columns: Sequence[str]) -> pa.Table | None:
    """The columns that are there; None for a file that cannot be read (a disk that was full, a copy cut short)."""
    try:
        present = set(pq.read_schema(path).names)
        return pq.read_table(path, columns=[name for name in columns if name in present])
    except (OSError, pa.ArrowException):
        return None


# ---- groups ----------------------------------------------------------------------------------------------------


def group_runs(runs: Sequence[dict]) -> list[list[int]]:
    """Indices of the runs of each group, in the order of their first runs."""
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        fields = {key: value for key, value in run["fields"].items() if key not in SAME}
        groups.setdefault(json.dumps(fields, sort_keys=True), []).append(index)
    return list(groups.values())


def differing(runs: Sequence[dict]) -> list[str]:
    """Fields that have not the same value in all of these runs, `SAME` aside, in the configuration's order."""
    names = dict.fromkeys(name for run in runs for name in run["fields"])
    return [name for name in names if name not in SAME
            and len({json.dumps(run["fields"].get(name)) for run in runs}) > 1]


def group_names(firsts: Sequence[dict]) -> list[str]:
    """A name for each group, from as few fields as tell them apart: those first that tell most apart."""
    if len(firsts) == 1:
        return [str(firsts[0]["fields"].get("name", "run"))]
    left, chosen = differing(firsts), []

    def told_apart(names: list[str]) -> int:
        return len({json.dumps([run["fields"].get(name) for name in names]) for run in firsts})

    while told_apart(chosen) < len(firsts):
        best = max(left, key=lambda name: told_apart([*chosen, name]))       # the first of equals
        chosen.append(best)
        left.remove(best)
    return [", ".join(str(run["fields"].get(name)) if name == "objective" else
                      f"{name.rpartition('.')[2]} {run['fields'].get(name)}" for name in chosen) for run in firsts]


def run_names(runs: Sequence[dict]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart."""
    parts = [run["folder"].resolve().parts for run in runs]
    deepest = max(map(len, parts))
    for depth in range(1, deepest + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


# ---- what is shown of them -------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def series(runs: Sequence[dict]) -> dict[str, list[list[float]]]:
    """Of each metric of a group: steps, mean over the runs that have it at the step, and, where there are several
    runs, the smallest, the largest and the number of runs. Nulls are left out."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for row in run["rows"]:
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


def histogram(runs: Sequence[dict]) -> dict | None:
    """Group accuracies over the steps: `columns` of one or more steps [first, last], and `counts` of groups in `BINS`
    for each. None where no table says."""
    found: dict[int, np.ndarray] = {}
    for run in runs:
        for step, path in run["tables"].items():
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


def phases(runs: Sequence[dict]) -> dict[str, float]:
    """Seconds of each phase per step of training, mean over the steps (0 where a step has none) and the runs."""
    total, steps = Counter(), 0
    for row in (row for run in runs for row in run["rows"] if row["step"] > 0):
        steps += 1
        total.update({key.removeprefix("seconds/"): value for key, value in row.items()
                      if key.startswith("seconds/") and is_number(value)})
    return {name: rounded(value / steps) for name, value in total.items()}


def status(run: dict) -> str:
    summary, rows = run["summary"], run["rows"]
    last = rows[-1]["step"] if rows else 0
    if summary is None or summary.get("steps", 0) < last:
        return "running, or killed"
    return "finished" if summary.get("finished") else "stopped"


def overview(run: dict) -> dict[str, Any]:
    """The run's line in the table of runs."""
    rows, summary = run["rows"], run["summary"] or {}
    accuracy = [row[ACCURACY] for row in rows if is_number(row.get(ACCURACY))]
    seconds = sum(row["seconds/step"] for row in rows if is_number(row.get("seconds/step")))
    return {"seed": [run["fields"].get("seed"), run["fields"].get("data.seed")], "status": status(run),
            "step": rows[-1]["step"] if rows else 0, "steps": run["fields"].get("steps"),
            "before": accuracy[0] if accuracy and ACCURACY in rows[0] else None,
            "after": accuracy[-1] if accuracy else None, "seconds": rounded(seconds),
            "tokens": sum(row["tokens/generated"] for row in rows if is_number(row.get("tokens/generated"))),
            "command": summary.get("command")}
