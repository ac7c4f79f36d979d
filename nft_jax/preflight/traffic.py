"""What a TPU's program moves between HBM and its cores, read from the text of the compiled program (`hbm_bytes`).

The text has every instruction in the order in which it runs, with the memory of each array: `S(1)` in a layout is
VMEM, and no `S` is HBM. Counted, for each array in HBM:

- An instruction reads each operand and writes each result once. Sizes include the padding of the layout's tiles.
- A slice or a gather reads what it takes, also inside a fusion.
- A dynamic-update-slice writes the tiles that it changes, and also reads those that it changes in part. The rest of its
  array stays in place: where it cannot, the compiler writes a copy that is counted as such.
- An asynchronous copy (prefetch into VMEM, or back from it) counts where it starts.
- A kernel moves the bytes that its `pl.CostEstimate` declares, or else its operands and results. Attention declares
  each block of its queries, rings and results once, as if all slots were full (`model/ring_kernels.py`). It fetches
  less where they are not, but how much is known to the run alone.

Not seen: an operand that a product reads several times, a gather's rows that share no burst, what a kernel does inside,
and time, since reads may wait for each other or for the cores. So the bytes are a floor, and no speed.
"""
import math
import re
from typing import NamedTuple

from nft_jax.preflight.hlo import BITS, branches_of, computations_of, group_of, trip_count

ARRAY = re.compile(r"([a-z]+\d\w*|pred)\[([\d,]*)\](?:\{([\d,]*)(?::([^{}]*))?\})?")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?(\S+) = ")
NAME = re.compile(r"%([\w.\-]+)")
# Instructions that give a name to what is there.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "opt-barrier", "partition-id",
        "replica-id"}
RENAMES = {"bitcast", "get-tuple-element"}
TAKES = {"slice", "dynamic-slice", "gather"}


class Array(NamedTuple):
    """One array of an instruction's type."""
    item: float                   # bytes of an element
    sizes: tuple[int, ...]        # the largest stride first
    tile: tuple[int, ...]         # of the last axes
    in_hbm: bool

    @property
    def bytes(self) -> float:
        """In its memory, with the padding of the last tiles."""
        return self.item * math.prod(self.tiled(self.sizes))

    @property
    def elements(self) -> float:
        """Bytes without padding."""
        return self.item * math.prod(self.sizes)

    def tiled(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """`sizes`, rounded up to whole tiles of this array."""
        padded = (1,) * (len(self.tile) - len(sizes)) + sizes
        tile = (1,) * (len(padded) - len(self.tile)) + self.tile
        return tuple(-(-size // step) * step for size, step in zip(padded, tile, strict=True))

    def changed(self, part: "Array") -> float:
        """Bytes moved when `part` overwrites as much of this array in place."""
        axes = list(zip(part.sizes, self.sizes, strict=True))[-len(self.tile):] if self.tile else []
        whole = all(size % step == 0 or size == all_of_it
                    for (size, all_of_it), step in zip(axes, self.tile[-len(axes):], strict=True))
        return self.in_hbm * self.item * math.prod(self.tiled(part.sizes)) * (1 if whole else 2)


class Instruction(NamedTuple):
    name: str
    is_root: bool
    arrays: list[Array]           # of its result; several of a tuple
    opcode: str
    operands: list[str]
    rest: str                     # the operands as they are written, and the attributes

    @property
    def in_hbm(self) -> float:
        """Bytes of the result in HBM."""
        return sum(array.bytes for array in self.arrays if array.in_hbm)

    def called(self, role: str) -> str:
        """The computation that it calls in this role: `calls` of a fusion, `body` of a loop."""
        return group_of(rf"{role}=%?([^\s,)}}]+)", self.rest)


Computation = dict[str, Instruction]


def hbm_bytes(text: str, steps: int = 1) -> float:
    """Bytes that one device moves to and from its HBM in one call. `text`: `compiled.as_text()` of a program for TPU.

    A loop counts as often as it runs, and `steps` times where the text does not say: a block of decode steps. Of a
    conditional's branches the largest counts.
    """
    program = Program(text, steps)
    return program.total(program.entry)


class Program:
    """The computations of a compiled program, each parsed when it is first needed."""

    def __init__(self, text: str, steps: int):
        self.lines, self.entry = computations_of(text)
        self.steps = steps
        self.parsed: dict[str, Computation] = {}

    def computation(self, name: str) -> Computation:
        if name not in self.parsed:
            found = filter(None, map(_instruction, self.lines.get(name, ())))
            self.parsed[name] = {each.name: each for each in found}
        return self.parsed[name]

    def total(self, name: str) -> float:
        """Bytes that the computation `name` moves when it runs once."""
        here = self.computation(name)
        return sum(self.moved(each, here) for each in here.values())

    def moved(self, each: Instruction, here: Computation) -> float:
        """Bytes that an instruction of the computation `here` moves, with those of the computations that it calls."""
        code, operands = each.opcode, [here[name] for name in each.operands if name in here]
        if code in FREE or code.endswith("-done") or 'custom_call_target="ConcatBitcast"' in each.rest:
            return 0
        if code == "while":
            return self.total(each.called("body")) * trip_count(each.rest, self.lines, self.steps)
        if code == "conditional":
            return max(map(self.total, branches_of(each.rest)), default=0)
        if code == "call":
            return self.total(each.called("to_apply"))
        if code == "slice-start":
            source, taken = each.arrays[0], each.arrays[-2]
            return source.in_hbm * taken.elements + taken.in_hbm * taken.bytes
        if code.endswith("-start"):
            # The type holds operands and results.
            return each.in_hbm
        if code == "dynamic-update-slice":
            return each.arrays[0].changed(operands[1].arrays[0]) + operands[1].in_hbm
        if code in TAKES:
            return any(array.in_hbm for array in operands[0].arrays) * each.arrays[0].elements + each.in_hbm
        if code == "custom-call" and (declared := group_of(r'"bytes_accessed":"?(\d+)', each.rest)):
            return float(declared)
        if code == "fusion":
            inside = self.computation(each.called("calls"))
            return written(each, inside) + sum(min(operand.in_hbm, self.read(inside, place))
                                               for place, operand in enumerate(operands) if operand.in_hbm)
        return sum(operand.in_hbm for operand in operands) + each.in_hbm

    def read(self, inside: Computation, place: int) -> float:
        """Bytes that a fusion reads of its operand at `place`; infinite where it reads all of it."""
        return self.read_of(inside, next(each.name for each in inside.values()
                                         if each.opcode == "parameter" and each.rest.startswith(f"({place})")))

    def read_of(self, inside: Computation, name: str) -> float:
        """Bytes that a fusion's computation reads of the array `name`."""
        total = 0.0
        for user in inside.values():
            if name not in user.operands:
                continue
            first = user.operands[0] == name and name not in user.operands[1:]
            if user.opcode in TAKES and first:
                total += user.arrays[0].elements
            elif user.opcode in RENAMES:
                total += self.read_of(inside, user.name)
            elif user.opcode == "fusion":
                called = self.computation(user.called("calls"))
                total += sum(self.read(called, place) for place, operand in enumerate(user.operands) if operand == name)
                if all(each.opcode in ("parameter", "bitcast") for each in called.values()):
                    total += self.read_of(inside, user.name)
            elif not (user.opcode == "dynamic-update-slice" and first):
                return math.inf
        return total


def written(fusion: Instruction, inside: Computation) -> float:
    """Bytes that a fusion writes; of a result that is an update in place, the update."""
    root = next(instruction for instruction in inside.values() if instruction.is_root)
    names = root.operands if root.opcode == "tuple" else [root.name] * len(fusion.arrays)
    total = 0.0
    for name, array in zip(names, fusion.arrays, strict=True):
        made = inside[name]
        while made.opcode == "bitcast":
            made = inside[made.operands[0]]
        if made.opcode == "dynamic-update-slice" and array.in_hbm:
            total += made.arrays[0]._replace(in_hbm=True).changed(inside[made.operands[1]].arrays[0])
        else:
            total += array.in_hbm * array.bytes
    return total


def _instruction(line: str) -> Instruction | None:
    """The instruction in a line of text; None for other lines."""
    start = INSTRUCTION.match(line)
    if not start:
        return None
    begin = start.end()
    end = _closing(line, begin) if line[begin] == "(" else line.index(" ", begin)
    code = re.match(r" ([a-z][\w\-]*)\(", line[end:])
    if not code:
        return None
    open_ = end + code.end() - 1
    close = _closing(line, open_)
    return Instruction(start[2], bool(start[1]), _arrays(line[begin:end]), code[1], NAME.findall(line[open_:close]),
                       line[open_:])


def _arrays(written: str) -> list[Array]:
    """The arrays of a type, in their order; those of tuples inside it too."""
    found = []
    for dtype, sizes, order, more in ARRAY.findall(written):
        if dtype in BITS:
            shape = [int(size) for size in sizes.split(",") if size]
            # The layout names the axis of the smallest stride first.
            axes = [int(axis) for axis in order.split(",") if axis][::-1] or range(len(shape))
            tile = group_of(r"^T\(([\d,]+)\)", more)
            found.append(Array(BITS[dtype] / 8, tuple(shape[axis] for axis in axes),
                               tuple(int(size) for size in tile.split(",") if size),
                               not re.search(r"S\([1-9]\d*\)", more)))
    return found


def _closing(line: str, begin: int) -> int:
    """The place behind the parenthesis that closes the one at `begin`."""
    depth = 0
    for place in range(begin, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if not depth:
            return place + 1
    return len(line)
