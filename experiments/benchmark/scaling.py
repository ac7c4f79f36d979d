"""How speed falls as sizes grow.

    python -m experiments.benchmark.scaling        measures, and draws figures/scaling.png

Sampling (new tokens) and training (old log-probs and an optimizer update), on one core, with a
small model in float32. One size changes at a time.
"""
import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.benchmark.__main__ import pin, versions
from experiments.benchmark.compare import OURS
from experiments.peers.common import add_options, emit, repeat, result
from nft_jax.record.pictures import HUES, QUIET, Look, canvas, curve, describe, label_ends

FIGURES = Path(__file__).parents[1] / "figures"
TRAIN_TOKENS = 8192                    # of an optimizer step, at least one sequence
MICRO_BATCH_TOKENS = 2560


@dataclass(frozen=True)
class Point:
    """The sizes of one measurement; where not varied, the defaults."""
    slots: int = 16
    prompt: int = 64
    answer: int = 64
    vocabulary: int = 512


SWEEPS = {
    "slots": ("answers decoded at the same time", (8, 16, 32, 64, 128, 256)),
    "prompt": ("prompt length (tokens)", (64, 256, 1024, 4096)),
    "answer": ("answer length (tokens)", (64, 256, 1024, 4096)),
    "vocabulary": ("vocabulary", (512, 4096, 32_768, 151_936)),
}
CURVES = {"rollout": ("sampling", Look(*HUES[0])), "train": ("training", Look(*HUES[1], 1, 1))}


def points() -> Iterator[tuple[str, str, Point]]:
    """(sweep, task, sizes) of every measurement. Training has no slots."""
    for sweep, (_, sizes) in SWEEPS.items():
        for size in sizes:
            for task in ("rollout",) if sweep == "slots" else ("rollout", "train"):
                yield sweep, task, replace(Point(), **{sweep: size})


def case_of(point: Point):
    """The workload of these sizes, for either task: answers of one length, up to 8 answers to a prompt."""
    import numpy as np

    from experiments.benchmark.tasks import Case, model_config
    from experiments.peers.common import FIRST_ID, MODELS
    from nft_jax.model.config import Compute
    from nft_jax.train.batch import Example
    from nft_jax.types import Prompt
    rng, samples = np.random.default_rng(0), min(8, point.slots)
    length = point.prompt + point.answer
    model = replace(model_config(replace(MODELS["nano"], vocab=point.vocabulary)), max_positions=2 * length)
    prompts = tuple(Prompt(i, "", "", "", rng.integers(FIRST_ID, point.vocabulary, point.prompt).astype(np.int32))
                    for i in range(-(-point.slots // samples)))
    sequences = max(1, TRAIN_TOKENS // length)
    examples = tuple(
        Example(row[:point.prompt], row[point.prompt:], float(i % 2), 0.5, 0.5) for i, row in
        enumerate(rng.integers(FIRST_ID, point.vocabulary, (sequences, length)).astype(np.int32)))
    return Case(model, Compute(), prompts, np.full((len(prompts), samples), point.answer, np.int32),
                slots=point.slots, block_size=32, examples=examples, sequences=sequences,
                rows=min(sequences, max(1, MICRO_BATCH_TOKENS // length)), row_length=length)


def measure(sweep: str, task: str, point: Point, options: argparse.Namespace) -> dict:
    from experiments.benchmark.tasks import Rollouts, Training
    case = case_of(point)
    timing = argparse.Namespace(**vars(options) | {"model": "nano-like", "task": task})
    timed_task = (Rollouts if task == "rollout" else Training)(case)
    timed = repeat(timed_task.run, timing, f"{sweep} {point}")
    if task == "rollout":
        timed_task.check_lengths(timed_task.rollouts)
    return result(OURS, case.compute.dtype, timing, timed, tokens=timed_task.tokens, versions=versions(), sweep=sweep,
                  sizes=vars(point))


def draw(lines: list[dict], path: Path) -> None:
    """Four panels with logarithmic axes, a curve for sampling and one for training. CPU-seconds are counted."""
    base, first = Point(), lines[0]
    figure, panels = canvas(1, len(SWEEPS), (15, 4.2), sharey=True,
                            title="Tokens per second of one core (sampling: new ones; training: all)")
    for panel, (sweep, (label, sizes)) in zip(panels, SWEEPS.items(), strict=True):
        panel.loglog()
        for task, (name, look) in CURVES.items():
            pairs = sorted((line["sizes"][sweep], line["value_cpu"]) for line in lines
                           if (line["sweep"], line["task"]) == (sweep, task))
            if pairs:                                                # training has no slots
                curve(panel, *zip(*pairs, strict=True), look, name)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.margins(x=0.06)
        describe(panel, label[0].upper() + label[1:])
        label_ends(panel)
    told = (f"4 layers of width 128, float32, {first['machine']}, {first['date'][:10]}; where not varied: "
            f"{base.slots} slots, prompts and answers of {base.prompt} tokens, vocabulary {base.vocabulary}")
    figure.supxlabel(told, x=0.01, ha="left", fontsize=9, color=QUIET)
    figure.save(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmark.scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw-only", action="store_true", help="draw the measurements that are there")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of scaling.jsonl and scaling.png")
    add_options(parser).set_defaults(reps=5, max_seconds=5.0)           # the shortest take 20 milliseconds
    options = parser.parse_args(arguments)
    path = options.figures / "scaling.jsonl"
    if not options.draw_only:
        pin(options.threads, "cpu")
        lines = [measure(*point, options) for point in points()]
        path.write_text("")
        for line in lines:
            emit(line, path)
    draw([json.loads(line) for line in path.read_text().splitlines()], options.figures / "scaling.png")


if __name__ == "__main__":
    main()
