"""Command lines: `nft-jax COMMAND`, and a run as a preset that is overridden field by field.

1. `parse` answers `--help` and mistakes, before jax is imported.
2. `run` starts the verifier's workers, and only then jax, which trains.
3. `print_summary` tells what came out.

`main` is the console command `nft-jax`. An installed package has no presets: they stand in the checkout. There
`nft-jax train` trains your model on your questions (`LOCAL`), or a Config of your own. In a checkout it takes presets
too.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from nft_jax.config import (
    BatchConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
)
from nft_jax.config.foreign import refuse_foreign
from nft_jax.data.templates import BOXED
from nft_jax.objectives.flags import command_line
from nft_jax.runtime.distributed import ends_together, is_first
from nft_jax.runtime.names import experiment, load
from nft_jax.runtime.terminal import duration, one_paragraph_errors, output_guarded
from nft_jax.types import InputError

__all__ = ["LOCAL", "Arguments", "experiment", "main", "parse", "print_summary", "run"]

LOCAL = Config(
    name="local",
    steps=100,
    # Both are left to the user: a run that trained something else in silence would be a trap.
    policy=PolicyConfig(path=""),
    data=DataConfig(source="", template=BOXED, max_prompt_tokens=512),
    rollout=RolloutConfig(prompts_per_step=32, samples_per_prompt=8, max_new_tokens=512, slots=64, block_size=16),
    batch=BatchConfig(updates_per_step=4, rows_per_micro_batch=4),
    optimizer=OptimizerConfig(learning_rate=1e-6, warmup_updates=40),
    evaluation=EvaluationConfig(questions=128, samples=4, every=20),
)
"""A model folder and a question file of your own, on one machine: set --policy.path and --data.source."""

PRESETS_COMMAND = "experiments.train:main"       # of the checkout that one starts in
COMMANDS = {
    "train": ("", "a model on questions: --policy.path MODEL --data.source FILE; in a checkout also a preset"),
    "sample": ("nft_jax.rollout.generate", "answers to the questions of a file"),
    "evaluate": ("nft_jax.rollout.evaluate", "what a run or a model scores"),
    "verify": ("nft_jax.verify.__main__", "judge the answers of a file"),
    "report": ("nft_jax.report.__main__", "one page on one or several runs"),
    "preflight": ("nft_jax.preflight.__main__", "whether a run fits devices that are not there"),
    "doctor": ("nft_jax.preflight.doctor", "versions, devices, kernels, sandbox, disk: what a bug report needs"),
}

WRITTEN = {"summary.json": "these numbers", "metrics.jsonl": "every step", "curves.png": "curves",
           "tensorboard": "TensorBoard events", "rollouts": "every answer with its verdict, a parquet file a step",
           "checkpoints": "to continue",
           "answers.parquet": "the stored answers, judged, with their old log-probs",
           "model": "the trained model, Hugging Face layout",
           "objective.py": "your objective, a file that runs by itself", "config.json": "the resolved configuration",
           "skipped.json": "rows that were left out"}


class Arguments(NamedTuple):
    """A parsed command line."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    fresh: bool = False
    """Start over: remove what an earlier run wrote there."""
    fork: str = ""
    """Folder of another run: start from its newest checkpoint (parameters, optimizer, order of the questions), in a
    workdir of its own, with any other fields."""
    dry_run: bool = False
    """Print the resolved configuration, the batch arithmetic, a memory estimate and what is in the run folder, and
    exit."""
    profile: bool = False
    """Record a timeline of two steps (after the first) into the run's folder profile/, for xprof or Perfetto."""


def parse(preset: Config, description: str, arguments: Sequence[str] | None = None,
          prog: str | None = None) -> Arguments:
    """The command line: every field of `preset` as a flag, and every setting of an objective of one's own. A mistake
    says what to write, and exits with status 2. `prog`: the command, as messages name it."""
    with one_paragraph_errors():
        refuse_foreign(sys.argv[1:] if arguments is None else arguments)
        return command_line(Arguments(preset), arguments, prog=prog, description=description)


def print_summary(config: Config, summary: dict) -> None:
    """A small table of what a run did, and the paths of what it wrote."""
    from rich.console import Console
    from rich.table import Table

    def share(accuracy: float | None) -> str:
        return "-" if accuracy is None else f"{accuracy:.1%}"

    table = Table(title=f"{config.name}: {summary['objective']}, {summary['steps']} steps")
    for column in ("held-out before", "held-out after", "time", "tokens generated", "tokens kept"):
        table.add_column(column, justify="right")
    table.add_row(share(summary["base_accuracy"]), share(summary["final_accuracy"]),
                  duration(summary["seconds"]), f"{summary['tokens_generated']:,}",
                  f"{summary['tokens_kept']:,}")
    console = Console()
    console.print(table)
    folder = Path(config.folder)
    for name, what in WRITTEN.items():
        path = folder / name
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            console.print(f"  {path}  [dim]{what}[/dim]", soft_wrap=True)
    if not summary["finished"]:
        console.print("stopped early; the same command continues the run")


def run(arguments: Arguments, show: Callable[[Config, dict], None] = print_summary) -> dict | None:
    """Train as the command line says; returns the summary, which `show` has told the user. None after --dry-run."""
    with one_paragraph_errors("the same command goes on from the newest checkpoint"), ends_together():
        if arguments.dry_run:
            from nft_jax.preflight.dry_run import describe
            from nft_jax.train.opening import preview
            from nft_jax.train.plan import settle
            config = settle(arguments.config)
            model, lines = preview(config, fresh=arguments.fresh, fork=arguments.fork)
            print(describe(config, model), *lines, sep="\n")
            return None
        from nft_jax.verify import Verifier
        # The verifier's processes start before jax does: they must not inherit its threads.
        with Verifier(arguments.config.verifier) as verifier:
            from nft_jax.train.loop import train
            summary = train(arguments.config, fresh=arguments.fresh, fork=arguments.fork, verifier=verifier,
                            profile=arguments.profile)
        if is_first():
            show(arguments.config, summary)
        return summary


def train_command(arguments: list[str], prog: str) -> None:
    """`nft-jax train [EXPERIMENT] [--field value]`. Without EXPERIMENT, `LOCAL`; "package.module:NAME" or
    "file.py:NAME" is a Config; any other name is a preset of the checkout that one starts in."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if name in ("", LOCAL.name):
        run(parse(LOCAL, train_command.__doc__ or "", arguments[1:] if name else arguments, prog))
    elif ":" in name:
        with one_paragraph_errors():
            config = experiment(name)
        run(parse(config, f"The experiment {name}.", arguments[1:], f"{prog} {name}"))
    else:
        with one_paragraph_errors():
            try:
                presets = load(PRESETS_COMMAND, "EXPERIMENT")
            except InputError as error:
                raise InputError(f"EXPERIMENT is {name!r}: presets stand in the checkout of nft_jax, and this folder "
                                 "is none. Start there, leave the name out and give --policy.path and --data.source, "
                                 "or write file.py:NAME of a Config.") from error
        presets(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The console command `nft-jax COMMAND ...`. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments else ""
    if command not in COMMANDS:
        import nft_jax
        lines = [f"  {name:10} {what}" for name, (_, what) in COMMANDS.items()]
        text = "\n".join([f"nft_jax {nft_jax.__version__}. usage: nft-jax COMMAND [--help]", "", *lines])
        if command in ("-h", "--help", "--version"):
            with output_guarded():
                print(f"nft_jax {nft_jax.__version__}" if command == "--version" else text)
            return 0
        print(f"there is no command {command!r}\n\n{text}" if command else text, file=sys.stderr)
        return 2
    # As `python -m` does: modules and presets are found from the folder that one starts in.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    prog, rest = f"nft-jax {command}", arguments[1:]
    if command == "train":
        train_command(rest, prog)
        return 0
    return import_module(COMMANDS[command][0]).main(rest, prog=prog) or 0
