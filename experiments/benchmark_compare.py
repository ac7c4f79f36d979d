"""The table of ratios: our results against a file of other libraries' results, and the targets."""
from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

OURS = "nft_jax"


class Target(NamedTuple):
    """At least so many times the peer's tokens per CPU-second, on a model and task."""
    model: str
    task: str
    peer: str
    ratio: float


TARGETS = (
    Target("nano", "rollout", "hf", 3.0), Target("nano", "rollout_var", "hf", 6.0),
    Target("nano", "train", "hf", 1.5), Target("nano", "train_var", "hf", 1.5),
    Target("nano", "e2e", "hf", 2.0), Target("nano", "e2e_var", "trl", 5.0),
    Target("mini", "rollout", "hf", 2.0), Target("mini", "train", "hf", 1.15), Target("mini", "train_var", "hf", 1.3),
    Target("half", "rollout", "tunix", 1.5), Target("half", "train", "hf", 1.2),
)
MOST_MEGABYTES = {("half", "train"): 10_000}           # peak resident memory
MOST_COMPILE_SECONDS = {("nano", "rollout"): 4.0, ("nano", "train"): 13.0}


def read_lines(path: Path) -> list[dict]:
    """Results, one JSON object a line; lines that report an error are left out."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [line for line in lines if "value_cpu" in line]


def medians(lines: Iterable[Mapping]) -> dict[tuple[str, str, str, str], dict]:
    """(model, task, peer, variant) -> medians over its lines of value_cpu, compile_s and peak_rss_mb, and how many."""
    found = defaultdict(list)
    for line in lines:
        found[line["model"], line["task"], line["peer"], line["variant"]].append(line)
    return {key: {"lines": len(same)} | {name: statistics.median(line[name] for line in same)
                                         for name in ("value_cpu", "compile_s", "peak_rss_mb")}
            for key, same in found.items()}


def best(table: Mapping, model: str, task: str, peer: str) -> tuple[str, dict] | None:
    """A peer's fastest variant on a workload: (variant, medians)."""
    variants = [(key[3], value) for key, value in table.items() if key[:3] == (model, task, peer)]
    return max(variants, key=lambda pair: pair[1]["value_cpu"], default=None)


def compare(lines: Sequence[Mapping]) -> str:
    """Markdown: a row for each (model, task) and peer that both sides measured, then memory and start-up."""
    table = medians(lines)
    targets = {target[:3]: target.ratio for target in TARGETS}
    workloads = list(dict.fromkeys((model, task) for model, task, *_ in table))
    order = {task: i for i, task in enumerate(dict.fromkeys(target[:2] for target in TARGETS))}
    rows, other = [], []
    for model, task in sorted(workloads, key=lambda pair: order.get(pair, len(order))):
        ours = best(table, model, task, OURS)
        if ours is None:
            continue
        for peer in sorted({key[2] for key in table if key[:2] == (model, task)} - {OURS}):
            variant, theirs = best(table, model, task, peer)
            ratio, target = ours[1]["value_cpu"] / theirs["value_cpu"], targets.get((model, task, peer))
            rows.append((f"{model} {task}", f"{peer} ({variant})", f"{theirs['value_cpu']:,.0f}",
                         f"{ours[1]['value_cpu']:,.0f}", f"{ratio:.2f} ×",
                         "" if target is None else f"≥ {target:g} ×, {verdict(ratio >= target)}"))
        for what, limits, unit in (("peak_rss_mb", MOST_MEGABYTES, "MB"), ("compile_s", MOST_COMPILE_SECONDS, "s")):
            limit = limits.get((model, task))
            if limit is not None:
                other.append((f"{model} {task}", what, f"{ours[1][what]:,.1f} {unit}",
                              f"≤ {limit:,g} {unit}, {verdict(ours[1][what] <= limit)}"))
    text = markdown(("workload", "peer", "peer, tokens per CPU-s", "ours", "ratio", "target"), rows)
    if other:
        text += "\n\n" + markdown(("workload", "what", "ours", "target"), other)
    return text


def verdict(met: bool) -> str:
    return "met" if met else "not met"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
