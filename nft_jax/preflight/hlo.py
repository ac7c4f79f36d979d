"""What the devices send each other, read from the text of a compiled program (`collectives`). What `traffic` needs of
that text too stands here."""
import re
from collections import Counter
from collections.abc import Iterator

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


def collectives(text: str, devices: int) -> Counter[str]:
    """Bytes that each device receives in one call, by kind of collective. `text`: `compiled.as_text()` of a program
    over `devices` devices.

    Bytes are counted as if each member of a group sent its part to every other once (`_received`). A loop
    counts as often as it runs, or once where the text does not say (the walk over micro-batches). Of a
    conditional's branches only the one that receives most counts, as if it were always taken.
    """
    computations, entry = computations_of(text)

    def walk(name: str, times: int, scope: str, seen: set) -> Iterator[tuple[str, int]]:
        for line in computations.get(name, ()):
            match = COLLECTIVE.search(line)
            if match:
                kind, size = _received(match, line, name, devices)
                # An asynchronous collective is written several times: its start, the work it
                # overlaps, its end. Its channel and shape tell that it is the same.
                identity = (scope, kind, size, group_of(r"channel_id=(\d+)", line))
                if identity not in seen:
                    seen.add(identity)
                    yield kind, times * size
            if " while(" in line:
                body = group_of(r"body=%?([^\s,)]+)", line)
                yield from walk(body, times * trip_count(line, computations), body, seen)
            elif not match:
                for called in CALLED.findall(line):
                    yield from walk(called, times, scope, seen)
                branches = [list(walk(branch, times, scope, set(seen))) for branch in branches_of(line)]
                yield from max(branches, key=lambda found: sum(size for _, size in found), default=())

    received: Counter[str] = Counter()
    for kind, size in walk(entry, 1, entry, set()):
        received[kind] += size
    return received


def computations_of(text: str) -> tuple[dict[str, list[str]], str]:
    """Name -> lines of each computation, and the name of the entry computation."""
    found, entry, lines = {}, "", []
    for line in text.splitlines():
        start = COMPUTATION.match(line)
        if start and " = " not in line.split("(", 1)[0]:
            lines = found.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        else:
            lines.append(line)
    return found, entry


def branches_of(line: str) -> list[str]:
    """The computations of a conditional's branches; none for another instruction."""
    return BRANCH.findall(" ".join(map(" ".join, BRANCHES.findall(line))))


def group_of(pattern: str, line: str) -> str:
    """The pattern's group in the line, or ""."""
    match = re.search(pattern, line)
    return match[1] if match else ""


def trip_count(line: str, computations: dict[str, list[str]], unknown: int = 1) -> int:
    """How often a while loop runs; `unknown` if the text does not tell. The CPU compiler notes the number. Otherwise it
    is the constant that the loop's condition compares with."""
    known = group_of(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', line)
    if known:
        return int(known)
    condition = computations.get(group_of(r"condition=%?([^\s,)]+)", line), [])
    constants = dict(re.findall(r"%(\S+) = s32\[\]\S* constant\((\d+)\)", "\n".join(condition)))
    for other in condition:
        compared = re.search(r"compare\(%?\S+?, %?([^\s)]+)\), direction=LT", other)
        if compared and compared[1] in constants:
            return int(constants[compared[1]])
    return unknown


def _received(match: re.Match, line: str, computation: str, devices: int) -> tuple[str, int]:
    """Kind of the collective that was matched, and the bytes that a device receives in a group of n: the result
    times (n-1)/n for all-gather and all-to-all, twice that for all-reduce, n-1 results for reduce-scatter, the
    result for a permutation."""
    shapes, kind, start = match[1], match[2], bool(match[3])
    sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) * BITS[dtype] // 8
             for dtype, dims in ARRAY.findall(shapes) if dtype in BITS]
    # The result of a start holds the operands too, except for an all-reduce.
    size = max(sizes) if start and kind != "all-reduce" else sum(sizes)
    group = _group_size(line, devices)
    others = group - 1
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        # A fusion that keeps only a slice of the sum.
        return "reduce-scatter", size * others // group
    if kind == "reduce-scatter":
        return kind, size * others if not start else size * others // group
    if kind == "all-reduce":
        return kind, 2 * size * others // group
    if kind in ("all-gather", "all-to-all", "ragged-all-to-all"):
        return kind, size * others // group
    return kind, size


def _group_size(line: str, devices: int) -> int:
    """Devices of the collective's groups, written in one of three ways; all devices where none is written."""
    explicit = group_of(r"replica_groups=\{\{([\d,]+)\}", line)
    if explicit:
        return len(explicit.split(","))
    iota = group_of(r"replica_groups=\[\d+,(\d+)\]", line)
    if iota:
        return int(iota)
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
    if mesh:
        # Sizes of the axes, 'axis_0'=4,'axis_1'=16, and then the axes that a group spans, perhaps in part.
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return int(np.prod([int(part) if part else sizes[name] for name, part in parts]))
    return devices
