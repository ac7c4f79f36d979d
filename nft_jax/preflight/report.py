"""The report of preflight: what each program needs, whether it fits, what would, and how long a run may take."""
from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from jax.sharding import Mesh

from nft_jax.config import Config
from nft_jax.model.config import Attention, ModelConfig
from nft_jax.model.decoder import count_parameters
from nft_jax.model.kernels import choose_attention
from nft_jax.preflight.compiled import Compiled, compile_programs, demanded
from nft_jax.preflight.devices import GiB, Topology
from nft_jax.preflight.estimate import BANDWIDTH, UTILISATION, Assumptions, Estimate, estimate, flops
from nft_jax.preflight.memory import Model, Split, analytic, kind, largest, rows_of
from nft_jax.rollout.engine import Sampler, prefills_of
from nft_jax.runtime.mesh import data_parallel_size, make_mesh
from nft_jax.train.batch import shapes_of
from nft_jax.train.programs import SCORES, compute_of, programs_of, sampler_of, settle_on

# Programs whose memory grows with rows, and those for which it grows with rows or slots.
ROWS = ("train step", *SCORES)
SIZED = (*ROWS, "empty cache", "prefill", "admit", "decode", "decode, truncated", "grow", "rollout key")


@dataclass(frozen=True)
class Line:
    """One kind of program, in its largest variant, on one device: bytes, operations of one call, seconds to compile."""
    name: str
    variants: int                     # that the run compiles: lengths of rows, prompts and rings
    beside: float                     # lies there and is no argument: the train state while answers are sampled
    arguments: int
    temporaries: float
    results: int
    flops: float
    received: int
    seconds: float
    refusal: str

    @property
    def peak(self) -> float:
        return self.beside + self.arguments + self.temporaries + self.results


@dataclass(frozen=True)
class Report:
    """Everything that preflight prints. Memory is of one device, in bytes."""
    config: Config
    model: ModelConfig
    topology: Topology
    mesh: dict[str, int]
    attention: Attention
    lines: list[Line]
    memory: Model
    entries: int                      # of a slot's cache: the longest prompt and answer
    rows: int
    slots: int
    most_rows: int
    most_slots: int
    assumed: Assumptions
    estimate: Estimate

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def usable(self) -> float:
        return self.topology.device.memory * self.topology.device.usable

    @property
    def too_large(self) -> list[Line]:
        return [line for line in self.lines if line.refusal or line.peak > self.usable]

    @property
    def fits(self) -> bool:
        return not self.too_large


def preflight(config: Config, model: ModelConfig, topology: Topology, *, answer_tokens: int = 0,
              accepted_share: float = 0.5, every_variant: bool = False,
              progress: Callable[[str], None] | None = None) -> Report:
    """Compile the programs of the settled `config` for `topology`, each in its largest variant or in every one, and
    weigh them. `Topology.prepare` comes before jax is imported.

    GPU programs are compiled for as many virtual CPU devices: arguments and collectives are read from these, while
    temporaries, which depend on the kernels, are the analytic model's. Raises InputError as the run would: `make_mesh`,
    `settle_on`, `choose_attention`.
    """
    config, attention, mesh, sampler, programs, memory = _laid_out(config, model, topology)
    limit = topology.device.memory * topology.device.usable
    names = largest(programs)
    found = compile_programs(programs if every_variant else {name: programs[name] for name in names.values()},
                             mesh.size, progress)
    rows, slots, entries = rows_of(config, mesh), sampler.slots, sampler.buckets[-1]
    work = flops(config, model, rows=rows, slots=slots, entries=entries,
                 prompts=(sampler.prefills, sampler.prompt_buckets[-1]))
    lines = [_line(what, [name for name in programs if kind(name) == what], found, name, memory,
                   rows if what in ROWS else slots, work.get(what, 0.0) / mesh.size, topology)
             for what, name in names.items()]
    assumed = Assumptions.of(config, answer_tokens, accepted_share)
    return Report(
        config, model, topology, dict(mesh.shape), attention, lines, memory, entries, rows, slots,
        _most_rows(config, lines, memory, rows, limit, mesh), _most_slots(config, lines, memory, sampler, limit, mesh),
        assumed, estimate(config, model, topology.device, mesh.size, assumed, rows=rows, slots=slots,
                          weights=memory.weights, cache=memory.cache, entries=entries,
                          received={line.name: line.received for line in lines}))


def _laid_out(config: Config, model: ModelConfig, topology: Topology):
    """The configuration to compile with, the attention kernel of the run, mesh, sampler, programs and memory model."""
    mesh = make_mesh(config.mesh, topology.devices())
    limit = int(topology.device.memory * topology.device.usable)
    config, attention = _attention(settle_on(config, model, mesh, limit), model, topology)
    compute, _ = compute_of(config, model, mesh, "cpu" if topology.platform == "gpu" else topology.platform)
    sampler = sampler_of(config, model, mesh, compute)
    programs = programs_of(config, model, mesh, compute, sampler, shapes_of(config, data_parallel_size(mesh), model))
    return config, attention, mesh, sampler, programs, analytic(config, model, mesh, sampler, programs,
                                                                attention=attention)


class Sketch(NamedTuple):
    """What arithmetic alone tells of a run."""
    assumed: Assumptions
    estimate: Estimate
    devices: int
    mesh: dict[str, int]
    memory: Model
    rows: int                         # of a micro-batch, and slots: as settled for this mesh
    slots: int


def estimate_of(config: Config, model: ModelConfig, topology: Topology, *, answer_tokens: int = 0,
                accepted_share: float = 0.5) -> Sketch:
    """Time and memory of a settled `config` without compiling: what the devices send each other is not known then and
    not counted. Errors as `preflight`."""
    config, _, mesh, sampler, _, memory = _laid_out(config, model, topology)
    assumed, rows = Assumptions.of(config, answer_tokens, accepted_share), rows_of(config, mesh)
    found = estimate(config, model, topology.device, mesh.size, assumed, rows=rows, slots=sampler.slots,
                     weights=memory.weights, cache=memory.cache, entries=sampler.buckets[-1], received={})
    return Sketch(assumed, found, mesh.size, dict(mesh.shape), memory, rows, sampler.slots)


def _attention(config: Config, model: ModelConfig, topology: Topology) -> tuple[Config, Attention]:
    """The configuration to compile with (GPU programs with what the CPU has), and the attention kernel of the run."""
    policy = config.policy
    attention, _ = choose_attention(policy.attention, topology.platform, policy.compute_dtype, model.head_dim,
                                    present=False)
    if topology.platform == "gpu":
        config = replace(config, policy=replace(policy, attention="auto"))
    return config, attention


def _line(what: str, variants: list[str], found: dict[str, Compiled], name: str, memory: Model, count: int,
          operations: float, topology: Topology) -> Line:
    compiled = found[name]
    temporaries = compiled.temporaries
    if topology.platform == "gpu":
        temporaries = memory.temporaries[what].at(count)
    refused = [found[other].refusal for other in variants if other in found and found[other].refusal]
    if compiled.refusal:              # then its sizes are unknown, beyond what the compiler says it would take
        temporaries = demanded(compiled.refusal) or memory.temporaries[what].at(count)
    return Line(what, len(variants), memory.beside(what), compiled.arguments, temporaries, compiled.results, operations,
                compiled.received, sum(found[other].seconds for other in variants if other in found),
                refused[0] if refused else "")


def calibrated(split: Split, temporaries: float, count: int) -> Split:
    """The model's split of a program's temporaries, made to agree with what was compiled for `count`: what grows is
    scaled, or all of it where even the fixed part is more than was compiled."""
    grown = temporaries - split.fixed
    if grown > 0 and split.each > 0:
        return Split(split.fixed, grown / count)
    scale = temporaries / split.at(count) if split.at(count) else 0.0
    return Split(split.fixed * scale, split.each * scale)


def _most_rows(config: Config, lines: list[Line], memory: Model, rows: int, limit: float, mesh: Mesh) -> int:
    """Rows of the largest micro-batch that fits, by the temporaries found at `rows`; no more than can ever fill."""
    parallel = data_parallel_size(mesh)
    sequences = config.groups_per_update * config.rollout.samples_per_prompt
    fields = 9 if config.terms.kl_weight else 8                                     # of a batch
    row = fields * 4 * config.row_length / parallel / mesh.shape["context"]

    def peak(line: Line, count: int) -> float:
        demanded = 0 if line.arguments else memory.parameters + memory.moments * (line.name == "train step")
        split = calibrated(memory.temporaries[line.name], line.temporaries - demanded, rows)
        padding = -(-sequences // count) * count - -(-sequences // rows) * rows
        return line.peak + split.each * (count - rows) + row * padding

    return _most(lines, peak, rows, limit, ROWS, parallel, -(-sequences // parallel))


def _most_slots(config: Config, lines: list[Line], memory: Model, sampler: Sampler, limit: float, mesh: Mesh) -> int:
    """Slots that fit, their caches and what sampling needs beside them; no more than a step has answers."""
    slots, parallel = sampler.slots, data_parallel_size(mesh)
    state = memory.parameters + memory.moments

    def peak(line: Line, count: int) -> float:
        more, prompts = count / slots, prefills_of(count, sampler.prompt_buckets[-1], parallel) / sampler.prefills
        if line.name in SCORES:
            return line.peak + memory.cache * (more - 1)
        if line.name == "prefill":
            together = line.temporaries + line.results
            return line.peak + memory.cache * (more - 1) + together * (prompts - 1)
        fixed = state + memory.reference + memory.weights
        return fixed + memory.entries * prompts + (line.peak - fixed - memory.entries) * more

    answers = config.rollout.prompts_per_step * config.rollout.samples_per_prompt
    return _most(lines, peak, slots, limit,
                 ("empty cache", "prefill", "admit", "decode", "decode, truncated", "grow", *SCORES), parallel,
                 -(-answers // parallel))


def _most(lines: list[Line], peak: Callable[[Line, int], float], now: int, limit: float, depend: tuple[str, ...],
          step: int, most: int) -> int:
    """The largest multiple of `step`, up to `most` times it, at which the lines that `depend` on it fit (`peak`): fewer
    than `now` where the compiler refused one of them. 0 where none does, or a line is too large that no size changes.
    """
    for line in lines:
        if line.name in depend and line.refusal:
            most = min(most, (now - 1) // step)
        if line.name not in SIZED and (line.refusal or line.peak > limit):
            return 0
    return step * bisect_left(range(1, most + 1), True, key=lambda k: any(
        peak(line, k * step) > limit for line in lines if line.name in depend))


def text(report: Report) -> str:
    """The report as it is printed."""
    return "\n".join([*_head(report), "", *_table(report), "", *_verdict(report), "", *_times(report)])


def _head(r: Report) -> list[str]:
    c, device = r.config, r.topology.device
    axes = " x ".join(f"{name} {size}" for name, size in r.mesh.items() if size > 1) or "one device"
    origin = {"tpu": "compiled for it", "cpu": "compiled for virtual CPU devices",
              "gpu": "arguments and collectives from programs compiled for virtual CPU devices, temporaries by "
                     "arithmetic"}[r.topology.platform]
    lines = [
        f"{c.name}: {c.policy.path}, {count_parameters(r.model):,} parameters, {c.policy.compute_dtype}, "
        f"remat {c.policy.remat}, {r.attention} attention",
        f"{r.topology.name}: {r.devices} devices of {device.memory / GiB:.2f} GiB ({device.usable:.0%} usable = "
        f"{r.usable / GiB:.2f} GiB), mesh {axes}",
        f"{r.rows} rows of {c.row_length:,} tokens in a micro-batch, {r.slots} slots of {r.entries:,} entries",
        origin,
    ]
    if r.topology.platform == "gpu":
        lines.append(f"start with XLA_PYTHON_CLIENT_MEM_FRACTION={device.usable} (JAX takes 0.75 of a GPU by default)")
    return lines


def _table(r: Report) -> list[str]:
    head = ("program", "beside", "arguments", "temporaries", "peak", "of usable", "TFLOP", "received", "variants",
            "compiled in")
    name, unit = ("GiB", GiB) if max(line.peak for line in r.lines) > GiB else ("MiB", 2**20)

    def size(value: float) -> str:
        return f"{value / unit:.2f}"

    rows = [(line.name, size(line.beside), size(line.arguments), "refused" if line.refusal else size(line.temporaries),
             size(line.peak), f"{line.peak / r.usable:.0%}", f"{line.flops / 1e12:.3g}", size(line.received),
             str(line.variants), f"{line.seconds:.0f} s") for line in r.lines]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def show(row):
        return "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                     zip(row[1:], widths[1:], strict=True))])
    return [show(head), *map(show, rows), "",
            f"{name} on one device, for each program's largest variant; beside: what else lies there meanwhile;",
            f"TFLOP by arithmetic, and {name} received in collectives: one device, for one micro-batch, block of",
            f"decode steps or prefill. The run compiles {sum(line.variants for line in r.lines)} variants (lengths of "
            "rows, prompts, rings)."]


def _verdict(r: Report) -> list[str]:
    decode = next(line for line in r.lines if line.name.startswith("decode"))
    room = r.usable - decode.beside - decode.temporaries - r.memory.weights
    lines = [f"keys and values: room for {max(0, room) / GiB:.2f} GiB on each device, and a slot of the longest answer "
             f"takes {r.memory.cache / r.slots * r.devices / 2**20:,.1f} MiB over all of them",
             f"largest that fit, each with the other as asked for: batch.rows_per_micro_batch {r.most_rows}, "
             f"rollout.slots {r.most_slots} (asked for: {r.rows} and {r.slots})"]
    for line in r.too_large:
        over = f"the compiler says: {line.refusal}" if line.refusal else \
            f"{(line.peak - r.usable) / GiB:.2f} GiB too much on each device"
        lines.append(f"DOES NOT FIT: {line.name}, {over}")
    if r.fits:
        lines.append("it fits")
    elif not (r.most_rows and r.most_slots):
        lines.append("no size fits this mesh, even a row or slot for each device: divide the model over more devices "
                     "(mesh.fsdp, mesh.tensor), or use policy.compute_dtype bfloat16 and policy.remat block")
    return lines


def _times(r: Report) -> list[str]:
    e, a, c = r.estimate, r.assumed, r.config
    lines = [
        f"estimate, no measurement: answers of {a.answer_tokens:,.0f} tokens and prompts of {a.prompt_tokens:,.0f} on "
        f"average,",
        f"  {a.accepted_share:.0%} of the prompts with right and wrong answers; {UTILISATION:.0%} of peak FLOP/s, "
        f"{BANDWIDTH:.0%} of peak bandwidths; the verifier not counted",
        f"estimate: a decode step {e.decode_step * 1e3:,.1f} ms",
        f"estimate: a step {e.step:,.0f} s = rollout {e.rollout:,.0f} + score {e.score:,.0f} + train {e.train:,.0f}",
        f"estimate: the run of {c.steps} steps {e.device_hours / r.devices:,.1f} hours = {e.device_hours:,.0f} "
        f"device-hours",
    ]
    if c.evaluation.source:
        lines[-1] += f", evaluations of {e.evaluation:,.0f} s among them"
    return lines
