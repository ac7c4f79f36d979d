"""The tables of a file of results: ours against other libraries' on the same kind of device and the same machine, the
shares of an accelerator's rates, memory, start-up, and the targets."""
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
LEAST_SHARE = {"bandwidth_share": 0.60, "step_mfu": 0.45, "score_mfu": None}      # on an accelerator


def read_lines(path: Path) -> list[dict]:
    """Results, one JSON object a line; lines that report an error are left out."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [line for line in lines if "value_cpu" in line]


class Place(NamedTuple):
    """Where a line was measured. The other libraries' scripts name no platform: they run on the CPU."""
    platform: str
    machine: str

    @classmethod
    def of(cls, line: Mapping) -> Place:
        return cls(line.get("platform", "cpu"), line.get("machine", ""))

    def meets(self, other: Place) -> bool:
        """Whether the two may be compared: one platform, and one machine where both name it."""
        unnamed = not (self.machine and other.machine)
        return self.platform == other.platform and (unnamed or self.machine == other.machine)


def medians(lines: Iterable[Mapping]) -> dict[tuple[str, str, str, str], dict]:
    """(model, task, peer, variant) -> medians over its lines of value_cpu, compile_s, peak_rss_mb and the shares of a
    device, whether a compilation cache was on, and how many lines."""
    found = defaultdict(list)
    for line in lines:
        found[line["model"], line["task"], line["peer"], line["variant"]].append(line)
    return {key: {"lines": len(same), "cached": any(line.get("compilation_cache") for line in same)}
            | {name: statistics.median(line[name] for line in same)
               for name in ("value_cpu", "compile_s", "peak_rss_mb", *LEAST_SHARE) if name in same[0]}
            for key, same in found.items()}


def best(table: Mapping, model: str, task: str, peer: str) -> tuple[str, dict] | None:
    """A peer's fastest variant on a workload: (variant, medians)."""
    variants = [(key[3], value) for key, value in table.items() if key[:3] == (model, task, peer)]
    return max(variants, key=lambda pair: pair[1]["value_cpu"], default=None)


def compare(lines: Sequence[Mapping]) -> str:
    """Markdown: for each place where ours was measured, the tables of what may be compared there."""
    places = list(dict.fromkeys(Place.of(line) for line in lines if line["peer"] == OURS))
    return "\n\n".join(
        "\n\n".join([f"{place.machine} ({place.platform})"] * bool(place.machine) + tables(
            [line for line in lines if (Place.of(line) == place if line["peer"] == OURS
                                        else Place.of(line).meets(place))]))
        for place in places)


def tables(lines: Sequence[Mapping]) -> list[str]:
    """A row for each (model, task) and peer that both sides measured; then shares of a device, memory and start-up."""
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
        other += limits_of(model, task, ours[1])
    found = [markdown(("workload", "peer", "peer, tokens per CPU-s", "ours", "ratio", "target"), rows)] * bool(rows)
    return found + [markdown(("workload", "what", "ours", "target"), other)] * bool(other)


def limits_of(model: str, task: str, ours: Mapping) -> list[tuple[str, str, str, str]]:
    """Rows of what has a limit of its own, without a peer."""
    rows = []
    for what, least in LEAST_SHARE.items():
        if what in ours:
            rows.append((f"{model} {task}", what, f"{ours[what]:.3f}",
                         "" if least is None else f"≥ {least:g}, {verdict(ours[what] >= least)}"))
    for what, limits, unit in (("peak_rss_mb", MOST_MEGABYTES, "MB"), ("compile_s", MOST_COMPILE_SECONDS, "s")):
        limit = limits.get((model, task))
        if limit is not None and not any(what in ours for what in LEAST_SHARE):
            cached = ", from a compilation cache" * (what == "compile_s" and ours["cached"])
            rows.append((f"{model} {task}", what + cached, f"{ours[what]:,.1f} {unit}",
                         f"≤ {limit:,g} {unit}, {verdict(ours[what] <= limit)}"))
    return rows


def verdict(met: bool) -> str:
    return "met" if met else "not met"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
