"""Speed, one JSON line per result. The tasks, the fields of a line and the results: README.md beside this file.

    python -m experiments.benchmark --model nano --task rollout --threads 1 --reps 3
    python -m experiments.benchmark --device gpu --model half one_and_half --task rollout train --profile runs/profile
    python -m experiments.benchmark --compare results.jsonl

`value` is tokens (verdicts) per second of wall clock, `value_cpu` per CPU-second. Lines that train also have
`trained_tokens_per_s_device`, which NeMo-RL quotes: prompts and answers of the update, by the whole step's wall clock
and by devices (always one here). Where what was
timed differs from a plain forward pass, the line says so and the exit status is 1. `peak_rss_mb` is
of the whole process: ask for one task at a time where it matters.
"""
import argparse
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from experiments.benchmark.compare import OURS, compare, read_lines
from experiments.peers.common import MODELS, TASKS, add_options, emit, limit_threads, repeat, result

ACCELERATOR_MODELS = ("half", "one_and_half", "qwen3_0_6b")     # their shapes: `benchmark.device.MODELS`
ACCELERATOR_TASKS = ("rollout", "rollout_var", "train", "train_lora", "e2e")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m experiments.benchmark", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*TASKS, "train_lora", "verify"], nargs="+", default=[])
    parser.add_argument("--model", choices=sorted({*MODELS, *ACCELERATOR_MODELS}), nargs="+", default=["nano"])
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], default="cpu")
    parser.add_argument("--slots", type=int, default=0, help="answers decoded at the same time (0: the workload's)")
    parser.add_argument("--block-size", type=int, default=0,
                        help="decode steps between two looks of the host (0: the workload's)")
    parser.add_argument("--new-tokens", type=int, default=1024, help="of every answer, on an accelerator")
    parser.add_argument("--row-length", type=int, default=0, help="tokens of a train step's rows (0: the workload's)")
    parser.add_argument("--remat", default="none", help="what the backward pass recomputes, on an accelerator")
    parser.add_argument("--profile", type=Path, help="trace one more repetition into this folder; its largest costs")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print the ratios of a file of results")
    given = add_options(parser).parse_args(arguments)
    if not given.task and given.compare is None:
        parser.error("give --task or --compare")
    models, allowed = (MODELS, TASKS) if given.device == "cpu" else (ACCELERATOR_MODELS, ACCELERATOR_TASKS)
    tasks = [task for task in given.task if task != "verify"]
    for name, found, known in (("model", given.model if tasks else [], models), ("task", tasks, allowed)):
        unknown = [value for value in found if value not in known]
        if unknown:
            other = ", or add --device gpu" if name == "model" and given.device == "cpu" else ""
            parser.error(f"--device {given.device} has no {name} {' '.join(unknown)}: write --{name} "
                         f"{' or '.join(known)}{other}")
    return given


def pin(threads: int, device: str) -> None:
    """Keep this process, and XLA's thread pool with it, on its first `threads` cores. Before jax is imported."""
    if device != "cpu":
        os.environ.setdefault("JAX_PLATFORMS", f"{'cuda' if device == 'gpu' else device},cpu")
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    limit_threads(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"


def measure(model: str, task: str, options: argparse.Namespace) -> dict:
    """One result. Raises WrongResult when what was computed is wrong."""
    from experiments.benchmark.device import MODELS as LARGE
    from experiments.benchmark.device import ROW_LENGTHS, accelerator_case
    from experiments.benchmark.tasks import standard_case
    sizes = {"slots": options.slots, "micro": options.micro, "block_size": options.block_size}
    case = standard_case(model, task, **sizes) if options.device == "cpu" \
        else accelerator_case(LARGE[model], task, remat=options.remat, new_tokens=options.new_tokens,
                              row_length=options.row_length or ROW_LENGTHS.get(model, 0), **sizes)
    return measure_case(case, argparse.Namespace(**vars(options) | {"model": model, "task": task}))


def measure_case(case, options: argparse.Namespace) -> dict:
    """Times `options.task` on a `Case` and checks its output. Adds the device's shares, and the profile where asked."""
    import jax

    from experiments.benchmark.device import costs, shares
    from experiments.benchmark.tasks import TASK_CLASSES
    task = TASK_CLASSES[options.task.partition("_")[0]](case)
    timed = repeat(task.run, options, f"{OURS} {options.model} {options.task}")
    more = {}
    if options.profile is not None:
        folder = options.profile / f"{options.model}_{options.task}"
        with jax.profiler.trace(str(folder)):
            task.run(0)
        more["profile"] = costs(folder)
    if task.trained:
        more["trained_tokens_per_s_device"] = round(task.trained / median(took.wall for took in timed.steady), 3)
    if options.device != "cpu":
        more |= shares(task, timed, options)
    line = result(OURS, case.compute.dtype, options, timed, tokens=task.tokens, versions=versions(),
                  platform=jax.devices()[0].device_kind, slots=case.slots, block_size=case.block_size, rows=case.rows,
                  row_length=case.row_length, compilation_cache=bool(jax.config.jax_compilation_cache_dir), **more)
    # After the line, so that its peak memory is of the timed work alone.
    return line | {"check": task.check()}


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}


def results(options: argparse.Namespace) -> Iterator[dict]:
    """A line for every model and task. A task that fails gives a line with `error`, and the others go on."""
    if "verify" in options.task:
        from experiments.benchmark.verify import lines
        yield from lines(options.threads, options.reps)
    for model, task in ((model, task) for model in options.model for task in options.task if task != "verify"):
        try:
            yield measure(model, task, options)
        except (RuntimeError, ValueError) as error:          # out of memory, a wrong result, a missing workload
            yield {"peer": OURS, "model": model, "task": task, "error": f"{type(error).__name__}: {error}"[:2000]}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    lines = []
    if options.task:
        pin(options.threads, options.device)
        for line in results(options):
            emit(line, options.out)
            lines.append(line)
    if options.compare is not None:
        print(compare([*read_lines(options.compare), *(line for line in lines if "value_cpu" in line)]))
    return 1 if any("error" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
