"""The report of preflight: what each program needs, whether it fits, what would, and how long a run may take."""
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from nft_jax.config import Config
from nft_jax.model.config import Attention, ModelConfig
from nft_jax.model.entries import heads_in_row
from nft_jax.model.kernels import choose_attention
from nft_jax.preflight.compiled import Compiled, compile_programs, demanded
from nft_jax.preflight.devices import Topology
from nft_jax.preflight.estimate import Assumptions, Estimate, estimate, flops
from nft_jax.preflight.memory import Model, Split, analytic
from nft_jax.rollout.cache import cached_kinds
from nft_jax.rollout.engine import ADMISSIONS, PREFILLS, TAIL_KINDS, Sampler, prefills_of
from nft_jax.runtime.compilation import largest
from nft_jax.runtime.mesh import data_parallel_size
from nft_jax.train.plan import Plan, make_plan
from nft_jax.train.programs import FORWARD, programs_of

# Kinds of programs whose memory grows with rows, with slots, and with neither.
ROWS = ("train step", *FORWARD)
SLOTS = ("empty cache", *PREFILLS, *ADMISSIONS, "decode", "decode, truncated", "grow", *FORWARD)
UNSIZED = ("cast", "average")


@dataclass(frozen=True, kw_only=True)
class Line(Compiled):
    """One kind of program in its largest variant. Temporaries may be of the memory model (`_line`)."""
    kind: str
    variants: int                     # that the run compiles: lengths of rows, prompts and rings
    beside: float                     # on the device but no argument: the train state while answers are sampled
    flops: float                      # operations of one call

    @property
    def peak(self) -> float:
        return self.beside + self.arguments + self.temporaries + self.results


@dataclass(frozen=True)
class Sketch:
    """What arithmetic alone tells of a run. Memory is of one device, in bytes."""
    plan: Plan
    sampler: Sampler
    topology: Topology
    attention: Attention              # the kernel of the run, on the topology's own devices
    memory: Model
    assumed: Assumptions
    estimate: Estimate

    @property
    def usable(self) -> float:
        """Bytes of a device that programs may take."""
        return self.topology.device.memory * self.topology.device.usable

    @property
    def fullest(self) -> float:
        """Bytes of a device in the fullest moment, by the memory model: in a train step, or while all slots decode."""
        memory, slots = self.memory, self.sampler.slots
        training = memory.temporaries["train step"].at(self.plan.longest.rows)
        decoding = memory.weights + memory.cache + memory.entries + memory.temporaries["decode"].at(slots)
        return memory.parameters + memory.moments + memory.base + memory.reference + max(training, decoding)


@dataclass(frozen=True)
class Report(Sketch):
    """A sketch whose programs have been compiled."""
    lines: list[Line]
    most_rows: int                    # of a micro-batch that fits, with the slots as asked for
    most_slots: int                   # that fit, with the rows as asked for

    @property
    def too_large(self) -> list[Line]:
        return [line for line in self.lines if line.refusal or line.peak > self.usable]

    @property
    def fits(self) -> bool:
        return not self.too_large

    @property
    def decode(self) -> Line:
        """A block of decode steps over the longest ring."""
        return next(line for line in self.lines if line.kind.startswith("decode"))

    @property
    def reads_by_kernel(self) -> bool:
        """Whether a decode step reads of each slot no more than it has (`model.entries.attend_cache`)."""
        plan = self.plan
        return plan.compute.attention == "splash" and plan.config.rollout.kv_dtype == "compute" and all(
            heads_in_row(plan.model, plan.mesh, kind) for kind in cached_kinds(plan.model))

    def excess(self, entries: int) -> float:
        """Bytes that a decode step over the longest ring moves, as a multiple of what it needs (`Model.needed`) when
        each slot has `entries` valid entries. 0 where the compiler does not tell."""
        step = self.decode.moved / self.plan.config.rollout.block_size
        return step / self.memory.needed(entries / self.sampler.buckets[-1])


def estimate_of(config: Config, model: ModelConfig, topology: Topology,
                assumed: Assumptions | None = None) -> Sketch:
    """Time and memory of a run without compiling. What the devices send each other is then not known, and not
    counted.

    `Topology.prepare` must be called before jax is imported. Raises InputError as the run would:
    `make_plan`, `choose_attention`.
    """
    policy = config.policy
    if policy.attention == "auto" and not topology.device.bfloat16:
        # An absent GPU cannot be asked, and cuDNN's kernel takes 16 bits only.
        policy = replace(policy, attention="xla")
    attention, _ = choose_attention(policy.attention, topology.platform, policy.compute_dtype, model.head_dim,
                                    present=False)
    if topology.platform == "gpu":
        # The stand-ins for GPUs are CPU devices, which have no kernel.
        config = replace(config, policy=replace(policy, attention="auto"))
    free = int(topology.device.memory * topology.device.usable)
    plan = make_plan(config, model, topology.devices(), free=free)
    sampler = plan.sampler()
    memory, assumed = analytic(plan, sampler, attention), assumed or Assumptions.of(config)
    return Sketch(plan, sampler, topology, attention, memory, assumed,
                  estimate(plan, sampler, memory, topology.device, assumed, received={}))


def preflight(config: Config, model: ModelConfig, topology: Topology, assumed: Assumptions | None = None,
              progress: Callable[[str], object] = str) -> Report:
    """Compile the programs of a run for `topology`, each kind in its largest variant, and weigh them.

    GPU programs are compiled for as many virtual CPU devices. Arguments and collectives are read from these
    programs. Temporaries depend on the kernels, so they come from the memory model. Errors as `estimate_of`.
    """
    sketch = estimate_of(config, model, topology, assumed)
    plan, sampler = sketch.plan, sketch.sampler
    # A tail's programs are those of all slots, with fewer.
    programs = [program for program in programs_of(plan, sampler) if program.kind not in TAIL_KINDS]
    kinds, variants, work = largest(programs), Counter(program.kind for program in programs), flops(plan, sampler)
    compiled = compile_programs(list(kinds.values()), plan.mesh.size, progress,
                                plan.config.rollout.block_size if topology.platform == "tpu" else 0)
    lines = [_line(sketch, kind, variants[kind], work.get(kind, 0.0) / plan.mesh.size, one)
             for kind, one in zip(kinds, compiled, strict=True)]
    times = estimate(plan, sampler, sketch.memory, topology.device, sketch.assumed,
                     {line.kind: line.received for line in lines})
    return Report(**vars(sketch) | {"estimate": times}, lines=lines, most_rows=_most_rows(sketch, lines),
                  most_slots=_most_slots(sketch, lines))


def _line(sketch: Sketch, kind: str, variants: int, operations: float, compiled: Compiled) -> Line:
    count = sketch.plan.longest.rows if kind in ROWS else sketch.sampler.slots
    modelled = sketch.memory.temporaries[kind].at(count)
    if compiled.refusal:
        # The sizes are unknown, except for what the compiler says the program would take.
        temporaries = demanded(compiled.refusal) or modelled
    elif sketch.topology.platform == "gpu":
        temporaries = modelled
    else:
        temporaries = compiled.temporaries
    return Line(**vars(compiled) | {"temporaries": temporaries}, kind=kind, variants=variants,
                beside=sketch.memory.beside(kind), flops=operations)


def calibrated(split: Split, temporaries: float, count: int) -> Split:
    """The model's split of a program's temporaries, scaled to agree with the `temporaries` compiled for
    `count`. What grows is scaled. Where even the fixed part is more than was compiled, all of it is scaled."""
    grown = temporaries - split.fixed
    if grown > 0 and split.each > 0:
        return Split(split.fixed, grown / count)
    scale = temporaries / split.at(count) if split.at(count) else 0.0
    return Split(split.fixed * scale, split.each * scale)


def _most_rows(sketch: Sketch, lines: list[Line]) -> int:
    """Rows of the largest micro-batch that fits, and that an optimizer step can fill. Temporaries grow from
    what was found at the rows asked for."""
    config, mesh, memory, rows = sketch.plan.config, sketch.plan.mesh, sketch.memory, sketch.plan.longest.rows
    parallel = data_parallel_size(mesh)
    sequences = config.sequences_per_update
    arrays = 9 if config.terms.kl_weight else 8                                     # of a batch, [M, R, T] each
    row = arrays * 4 * config.row_length / parallel / mesh.shape["context"]

    def peak(line: Line, count: int) -> float:
        # Where the compiler refused, what it says includes the arguments.
        included = 0 if line.arguments else memory.parameters + memory.base \
            + memory.moments * (line.kind == "train step")
        split = calibrated(memory.temporaries[line.kind], line.temporaries - included, rows)
        padding = -(-sequences // count) * count - -(-sequences // rows) * rows
        return line.peak + split.each * (count - rows) + row * padding

    return _most(lines, peak, rows, sketch.usable, ROWS, parallel, -(-sequences // parallel))


def _most_slots(sketch: Sketch, lines: list[Line]) -> int:
    """Most slots that fit, with their caches and what sampling needs beside them; no more than a step has answers."""
    memory, sampler, parallel = sketch.memory, sketch.sampler, data_parallel_size(sketch.plan.mesh)
    slots, rollout = sampler.slots, sketch.plan.config.rollout
    state = memory.parameters + memory.moments + memory.base

    def peak(line: Line, count: int) -> float:
        more = count / slots
        prompts = max(prefills_of(count, sizes[-1], parallel) / now for now, sizes in sampler.prefilled.values())
        if line.kind in FORWARD:
            return line.peak + memory.cache * (more - 1)
        if line.kind in PREFILLS:
            together = line.temporaries + line.results
            return line.peak + memory.cache * (more - 1) + together * (prompts - 1)
        fixed = state + memory.reference + memory.weights
        return fixed + memory.entries * prompts + (line.peak - fixed - memory.entries) * more

    answers = rollout.prompts_per_step * rollout.samples_per_prompt
    return _most(lines, peak, slots, sketch.usable, SLOTS, parallel, -(-answers // parallel))


def _most(lines: list[Line], peak: Callable[[Line, int], float], now: int, limit: float, depend: tuple[str, ...],
          step: int, most: int) -> int:
    """The largest multiple of `step`, at most `most` times it, at which the kinds in `depend` fit by `peak`. It
    is less than `now`, what was asked for, if the compiler refused one. It is 0 if no multiple fits, or if a
    program is too large that no size changes."""
    for line in lines:
        if line.kind in depend and line.refusal:
            most = min(most, (now - 1) // step)
        if line.kind in UNSIZED and (line.refusal or line.peak > limit):
            return 0
    return step * bisect_left(range(1, most + 1), True, key=lambda k: any(
        peak(line, k * step) > limit for line in lines if line.kind in depend))
