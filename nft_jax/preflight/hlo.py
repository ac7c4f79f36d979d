"""What the devices send each other, read from the text of a compiled program."""
from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32,
        "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}
COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{\s*$")
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|"
                        r"collective-permute|collective-broadcast)(-start)?\(")
ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:body|calls|to_apply)=%?([^\s,)}]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[^\s,)}]+)")
BRANCH = re.compile(r"[^\s,%]+")


class Transfer(NamedTuple):
    """A kind of collective in one call of a program."""
    kind: str
    count: int                        # executions
    bytes: int                        # that each device receives


def collectives(text: str, devices: int) -> list[Transfer]:
    """The collectives of one call, by kind: `text` is `compiled.as_text()`, of a program over `devices` devices.

    Bytes are those that a device receives when every other member of its group (n in all) sends its part once: the
    result times (n-1)/n for all-gather and all-to-all, twice that for all-reduce, n-1 results for reduce-scatter, the
    result for a permutation. What stands in a loop counts as often as the loop runs where its text tells (scans over
    layers and chunks); a loop of unknown length, which is the walk over micro-batches, counts once. Of a
    conditional's branches the one that receives most counts, as if it were always taken.
    """
    computations, entry = _computations(text)
    totals: dict[str, list[int]] = {}

    def walk(name: str, times: int, scope: str, totals: dict[str, list[int]], seen: set) -> None:
        for line in computations.get(name, ()):
            match = COLLECTIVE.search(line)
            if match:
                kind, size = _received(match, line, name, devices)
                # An asynchronous one is written several times (start, beside the work it overlaps, done): its channel
                # and shape tell that it is the same.
                identity = (scope, kind, size, _group(r"channel_id=(\d+)", line))
                if identity not in seen:
                    seen.add(identity)
                    total = totals.setdefault(kind, [0, 0])
                    total[0] += times
                    total[1] += times * size
            if " while(" in line:
                body = _group(r"body=%?([^\s,)]+)", line)
                walk(body, times * _trip_count(line, computations), body, totals, seen)
            elif not match:
                for called in CALLED.findall(line):
                    walk(called, times, scope, totals, seen)
                most: dict[str, list[int]] = {}
                for branch in BRANCH.findall(" ".join(map(" ".join, BRANCHES.findall(line)))):
                    found: dict[str, list[int]] = {}
                    walk(branch, times, scope, found, set(seen))
                    most = max(most, found, key=lambda kinds: sum(size for _, size in kinds.values()))
                for kind, (count, size) in most.items():
                    total = totals.setdefault(kind, [0, 0])
                    total[0] += count
                    total[1] += size

    walk(entry, 1, entry, totals, set())
    return [Transfer(kind, *total) for kind, total in sorted(totals.items())]


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name -> lines of each computation, and the name of the one that starts."""
    found, entry, lines = {}, "", []
    for line in text.splitlines():
        start = COMPUTATION.match(line)
        if start and " = " not in line.split("(", 1)[0]:
            lines = found.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        else:
            lines.append(line)
    return found, entry


def _group(pattern: str, line: str) -> str:
    match = re.search(pattern, line)
    return match[1] if match else ""


def _trip_count(line: str, computations: dict[str, list[str]]) -> int:
    """How often a while loop runs: noted by the CPU compiler, else the constant that its condition compares with."""
    known = _group(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', line)
    if known:
        return int(known)
    condition = computations.get(_group(r"condition=%?([^\s,)]+)", line), [])
    constants = dict(re.findall(r"%(\S+) = s32\[\]\S* constant\((\d+)\)", "\n".join(condition)))
    for other in condition:
        compared = re.search(r"compare\(%?\S+?, %?([^\s)]+)\), direction=LT", other)
        if compared and compared[1] in constants:
            return int(constants[compared[1]])
    return 1


def _received(match: re.Match, line: str, computation: str, devices: int) -> tuple[str, int]:
    shapes, kind, start = match[1], match[2], bool(match[3])
    sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) * BITS[dtype] // 8
             for dtype, dims in ARRAY.findall(shapes) if dtype in BITS]
    size = max(sizes) if start and kind != "all-reduce" else sum(sizes)      # a start's result holds operands too
    group = _group_size(line, devices)
    others = group - 1
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        return "reduce-scatter", size * others // group                      # fused: only a slice is kept
    if kind == "reduce-scatter":
        return kind, size * others if not start else size * others // group
    if kind == "all-reduce":
        return kind, 2 * size * others // group
    if kind in ("all-gather", "all-to-all", "ragged-all-to-all"):
        return kind, size * others // group
    return kind, size


def _group_size(line: str, devices: int) -> int:
    explicit = _group(r"replica_groups=\{\{([\d,]+)\}", line)
    if explicit:
        return len(explicit.split(","))
    iota = _group(r"replica_groups=\[\d+,(\d+)\]", line)
    if iota:
        return int(iota)
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    if mesh:                               # 'axis_0'=4,'axis_1'=16 and the axes that a group spans, perhaps in part
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return int(np.prod([int(part) if part else sizes[name] for name, part in parts]))
    return devices
