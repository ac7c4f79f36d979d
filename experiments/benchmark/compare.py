"""The tables of a file of results: ours beside other libraries', shares of a device's rates, memory, targets."""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nft_jax.runtime.terminal import markdown

OURS = "nft_jax"

# (model, task, peer) -> at least so many times the peer's tokens per CPU-second. The order is the table's.
TARGETS = {
    ("nano", "rollout", "hf"): 3.0, ("nano", "rollout_var", "hf"): 6.0, ("nano", "train", "hf"): 1.5,
    ("nano", "train_var", "hf"): 1.5, ("nano", "e2e", "hf"): 2.0, ("nano", "e2e_var", "trl"): 5.0,
    ("mini", "rollout", "hf"): 2.0, ("mini", "train", "hf"): 1.15, ("mini", "train_var", "hf"): 1.3,
    ("half", "rollout", "tunix"): 1.5, ("half", "train", "hf"): 1.2,
}
# Beside a Xeon's wide vectors less is left to win than on the EPYC that the others are for.
TARGETS_ON = {"Xeon": {("nano", "e2e", "hf"): 1.5}}
MOST_MEGABYTES = {("half", "train"): 10_000}           # peak resident memory
MOST_COMPILE_SECONDS = {("nano", "rollout"): 4.0, ("nano", "train"): 13.0}
LEAST_SHARE = {"bandwidth_share": 0.60, "step_mfu": 0.45, "score_mfu": None}      # on an accelerator
NUMBERS = ("value_cpu", "compile_s", "peak_rss_mb", *LEAST_SHARE)


def read_lines(path: Path) -> list[dict]:
    """Results, one JSON object a line. Lines that report an error are left out."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [line for line in lines if "value_cpu" in line]


def place(line: Mapping) -> tuple[str, str]:
    """Platform and machine of a line. The other libraries' scripts name no platform: they run on the CPU."""
    return line.get("platform", "cpu"), line.get("machine", "")


def compare(lines: Sequence[Mapping]) -> str:
    """Markdown: for each place where ours was measured, the tables of what may be compared there.

    A peer's line may be: of the same platform, and the same machine where both name it.
    """
    found = []
    for here in dict.fromkeys(place(line) for line in lines if line["peer"] == OURS):
        platform, machine = here
        if machine:
            found.append(f"{machine} ({platform})")
        peers = {(platform, other) for _, other in map(place, lines) if not (machine and other) or other == machine}
        found += tables([line for line in lines if place(line) in ({here} if line["peer"] == OURS else peers)])
    return "\n\n".join(found)


def fastest(lines: Sequence[Mapping]) -> dict[tuple[str, str], dict[str, dict]]:
    """(model, task) -> peer -> medians of NUMBERS over the lines of the peer's fastest variant.

    The workloads are in the order of TARGETS, others behind. `cached`: whether a compilation cache
    was on.
    """
    frame = pd.DataFrame([line | {"cached": bool(line.get("compilation_cache"))} for line in lines])
    frame = frame.reindex(columns=["model", "task", "peer", "variant", "cached", *NUMBERS])
    order = list(dict.fromkeys(key[:2] for key in TARGETS))
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for (model, task, peer, variant), same in frame.groupby(["model", "task", "peer", "variant"], sort=False):
        medians = {**same[[*NUMBERS]].median(), "variant": variant, "cached": same["cached"].any()}
        peers = found.setdefault((model, task), {})
        if peer not in peers or medians["value_cpu"] > peers[peer]["value_cpu"]:
            peers[peer] = medians
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def tables(lines: Sequence[Mapping]) -> list[str]:
    """Of one machine: a row for each workload and peer that both sides measured; then shares of a device, memory and
    start-up."""
    targets = TARGETS | next((own for name, own in TARGETS_ON.items() if name in lines[0].get("machine", "")), {})
    rows, other = [], []
    for (model, task), peers in fastest(lines).items():
        ours = peers.pop(OURS, None)
        if ours is None:
            continue
        for peer, theirs in sorted(peers.items()):
            ratio, target = ours["value_cpu"] / theirs["value_cpu"], targets.get((model, task, peer))
            rows.append((f"{model} {task}", f"{peer} ({theirs['variant']})", f"{theirs['value_cpu']:,.0f}",
                         f"{ours['value_cpu']:,.0f}", f"{ratio:.2f} ×",
                         "" if target is None else f"≥ {target:g} ×, {verdict(ratio >= target)}"))
        other += limits_of(model, task, ours)
    found = []
    if rows:
        found.append(markdown(("workload", "peer", "peer, tokens per CPU-s", "ours", "ratio", "target"), rows))
    if other:
        found.append(markdown(("workload", "what", "ours", "target"), other))
    return found


def limits_of(model: str, task: str, ours: Mapping) -> list[tuple[str, str, str, str]]:
    """Rows of what has a limit of its own, without a peer."""
    rows = [(f"{model} {task}", what, f"{ours[what]:.3f}",
             "" if least is None else f"≥ {least:g}, {verdict(ours[what] >= least)}")
            for what, least in LEAST_SHARE.items() if pd.notna(ours[what])]
    # Memory and start-up of the host say little about an accelerator.
    if not rows:
        cached = ", from a compilation cache" if ours["cached"] else ""
        for what, limits, unit, how in (("peak_rss_mb", MOST_MEGABYTES, "MB", ""),
                                        ("compile_s", MOST_COMPILE_SECONDS, "s", cached)):
            if limit := limits.get((model, task)):
                rows.append((f"{model} {task}", what + how, f"{ours[what]:,.1f} {unit}",
                             f"≤ {limit:,g} {unit}, {verdict(ours[what] <= limit)}"))
    return rows


def verdict(met: bool) -> str:
    return "met" if met else "not met"
