"""The report of preflight as it is printed: the run, a table of its programs, the verdict, and estimated times."""
from rich.console import Console
from rich.table import Table

from nft_jax.model.decoder import told_parameters
from nft_jax.preflight.estimate import BANDWIDTH, LINKS, UTILISATION
from nft_jax.preflight.report import Report
from nft_jax.runtime.devices import GiB
from nft_jax.runtime.terminal import duration

MiB = 2**20
ORIGIN = {
    "tpu": "compiled for it",
    "cpu": "compiled for virtual CPU devices",
    "gpu": "arguments and collectives from programs compiled for virtual CPU devices, temporaries by arithmetic",
}
COLUMNS = ("program", "beside", "arguments", "temporaries", "peak", "of usable", "TFLOP", "received", "variants",
           "compiled in")


def text(report: Report) -> str:
    return "\n".join([*_head(report), "", *_table(report), *_traffic(report), "", *_verdict(report), "",
                      *_times(report)])


def _head(r: Report) -> list[str]:
    config, device, mesh = r.plan.config, r.topology.device, r.plan.mesh
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1) or "one device"
    adapter = config.adapter
    adapters = f", adapters of rank {adapter.rank} on a base in {adapter.base_dtype}" if adapter.rank else ""
    lines = [
        f"{config.name}: {config.policy.path}, {told_parameters(r.plan.model)}, "
        f"{config.policy.compute_dtype}, remat {config.policy.remat}, {r.attention} attention{adapters}",
        f"{r.topology.name}: {mesh.size} devices of {device.memory / GiB:.2f} GiB ({device.usable:.0%} usable = "
        f"{r.usable / GiB:.2f} GiB), mesh {axes}",
        f"{r.plan.longest.rows} rows of {config.row_length:,} tokens in a micro-batch, {r.sampler.slots} slots of "
        f"{r.sampler.buckets[-1]:,} entries",
        ORIGIN[r.topology.platform],
    ]
    if r.topology.platform == "gpu":
        lines.append(f"start with XLA_PYTHON_CLIENT_MEM_FRACTION={device.usable} (JAX takes 0.75 of a GPU by default)")
    return lines


def _table(r: Report) -> list[str]:
    name, unit = ("GiB", GiB) if max(line.peak for line in r.lines) > GiB else ("MiB", MiB)

    def size(value: float) -> str:
        return f"{value / unit:.2f}"

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "program" else "right")
    for line in r.lines:
        table.add_row(
            line.kind, size(line.beside), size(line.arguments), "refused" if line.refusal else size(line.temporaries),
            size(line.peak), f"{line.peak / r.usable:.0%}", f"{line.flops / 1e12:.3g}", size(line.received),
            str(line.variants), f"{line.seconds:.0f} s")
    console = Console(width=200, color_system=None)
    with console.capture() as drawn:
        console.print(table)
    return [
        *(row.rstrip() for row in drawn.get().splitlines()), "",
        f"{name} on one device, for each program's largest variant. beside: what else is in memory meanwhile.",
        f"TFLOP by arithmetic, and {name} received in collectives: one device, for one micro-batch, block of",
        f"decode steps or prefill. The run compiles {sum(line.variants for line in r.lines)} variants (lengths of "
        "rows, prompts, rings).",
    ]


def _traffic(r: Report) -> list[str]:
    """What a decode step moves, where the compiled program tells."""
    if not r.decode.moved:
        return []
    step, ring = r.decode.moved / r.plan.config.rollout.block_size, r.sampler.buckets[-1]
    lines = [f"A decode step of the longest ring moves {step / GiB:.2f} GiB to and from HBM, by the compiled program:",
             f"{r.excess(ring):.2f} times the weights and all {ring:,} entries of each slot"]
    if len(r.sampler.buckets) > 1:
        fewest = r.sampler.buckets[-2] + 1
        lines.append(f"{r.excess(fewest):.2f} times the weights and {fewest:,} entries, the fewest that need this ring"
                     + (" (less by the kernel, which is counted as if slots were full)" if r.reads_by_kernel else ""))
    return ["", *lines]


def _verdict(r: Report) -> list[str]:
    room = r.usable - r.decode.beside - r.decode.temporaries - r.memory.weights
    slot = r.memory.cache / r.sampler.slots * r.plan.mesh.size
    lines = [
        f"keys and values: room for {max(0, room) / GiB:.2f} GiB on each device; a slot of the longest answer takes "
        f"{slot / MiB:,.1f} MiB over all of them",
        f"largest that fit, each with the other as asked for: batch.rows_per_micro_batch {r.most_rows}, "
        f"rollout.slots {r.most_slots} (asked for: {r.plan.longest.rows} and {r.sampler.slots})",
    ]
    for line in r.too_large:
        over = f"the compiler says: {line.refusal}" if line.refusal else \
            f"{(line.peak - r.usable) / GiB:.2f} GiB too much on each device"
        lines.append(f"DOES NOT FIT: {line.kind}, {over}")
    if r.fits:
        lines.append("it fits")
    elif not (r.most_rows and r.most_slots):
        lines.append("no size fits this mesh, even a row or slot for each device: divide the model over more devices "
                     "(mesh.fsdp, mesh.tensor), or use policy.compute_dtype bfloat16 and policy.remat block")
    return lines


def _times(r: Report) -> list[str]:
    e, a, config = r.estimate, r.assumed, r.plan.config
    of_devices = f"{e.device_hours:,.0f}" if e.device_hours >= 10 else f"{e.device_hours:.2g}"
    lines = [
        f"estimate, no measurement: answers of {a.answer_tokens:,.0f} tokens and prompts of {a.prompt_tokens:,.0f} on "
        "average,",
        f"  {a.accepted_share:.0%} of the prompts with right and wrong answers; {UTILISATION:.0%} of peak FLOP/s, "
        f"{BANDWIDTH:.0%} of memory's and {LINKS:.0%} of links' peak bandwidth; the verifier not counted",
        f"estimate: a decode step {e.decode_step * 1e3:,.1f} ms",
        f"estimate: a step {e.step:,.0f} s = rollout {e.rollout:,.0f} + score {e.score:,.0f} + train {e.train:,.0f}",
        f"estimate: the run of {config.steps} steps {duration(3600 * e.device_hours / r.plan.mesh.size)} = "
        f"{of_devices} device-hours",
    ]
    if config.evaluation.source:
        lines[-1] += f", evaluations of {e.evaluation:,.0f} s among them"
    return lines
