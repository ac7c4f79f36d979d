"""Command lines of a run: a preset, overridden field by field.

1. `parse` answers `--help` and mistakes, before jax is imported.
2. `run` starts the verifier's workers, and only then jax, which trains.
3. `print_summary` tells what came out.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from nft_jax.config import Config
from nft_jax.objectives.flags import command_line
from nft_jax.runtime.distributed import ends_together, is_first
from nft_jax.runtime.names import experiment
from nft_jax.runtime.terminal import one_paragraph_errors

__all__ = ["Arguments", "experiment", "parse", "print_summary", "run"]

WRITTEN = {"summary.json": "these numbers", "metrics.jsonl": "every step", "curves.png": "curves",
           "tensorboard": "TensorBoard events", "rollouts": "every answer with its verdict, a parquet file a step",
           "checkpoints": "to continue", "model": "the trained model, Hugging Face layout",
           "config.json": "the resolved configuration", "skipped.json": "rows that were left out"}


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
                  f"{summary['seconds'] / 60:.1f} min", f"{summary['tokens_generated']:,}",
                  f"{summary['tokens_kept']:,}")
    console = Console()
    console.print(table)
    folder = Path(config.folder)
    for name, what in WRITTEN.items():
        if (folder / name).exists():
            console.print(f"  {folder / name}  [dim]{what}[/dim]", soft_wrap=True)
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
