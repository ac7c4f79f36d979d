"""A sweep: every combination of some fields' values, with several seeds.

    python -m experiments.sweep quickstart --grid loss.epsilon=0.1,1 --grid objective=nft --seeds 4
    python -m experiments.sweep experiments.harness.scales:NANO --grid objective=nft,grpo --seeds 3 --jobs 2

A field is given by its dotted name. Another objective begins with its own defaults. --seeds sets `seed`; the
questions and their order follow it unless the experiment sets data.seed.

The same command goes on where it was cut short. A run that fails is reported, the others go on, and
the exit status is 1. Every run's command and output are in its folder's log.txt.

Writes WORKDIR/results.parquet: a row for every run and step, with the fields swept, the seed and
every metric.
"""
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from experiments.harness.results import read_run, tidy
from experiments.harness.runner import Job, places, run_all
from experiments.harness.variants import command, described, flag, folder_of, vary, with_objective
from nft_jax.cli import experiment, parse
from nft_jax.config import Config, flat
from nft_jax.config.differences import SEEDS
from nft_jax.runtime.files import replaced
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


@dataclass(frozen=True)
class Planned(Job):
    """A run of a sweep or a study: its arm, and the fields that the arm sets."""
    arm: str
    changes: dict[str, object]
    config: Config


def grid_of(texts: Sequence[str]) -> dict[str, list[str]]:
    """["loss.epsilon=0.1,1"] -> {"loss.epsilon": ["0.1", "1"]}. Raises InputError for a text that is no grid."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.removeprefix("--").partition("=")
        field = name.replace("-", "_")
        for wrong, told in (
                (not equals or not values, "write field=value,value,... such as loss.epsilon=0.1,1."),
                (field in SEEDS, "seeds are set by --seeds."),
                (field in ("name", "workdir"), f"{field} is set by the sweep for every run."),
                (field in found, f"{field} is given twice; give all its values at once.")):
            if wrong:
                raise InputError(f"grid is {text!r}: {told}")
        found[field] = list(dict.fromkeys(values.split(",")))
    return found


def arms_of(base: Config, grid: Mapping[str, Sequence[str]]) -> dict[str, dict[str, object]]:
    """Every combination, by its description: the fields with their values.

    The texts are read as the command line of a run reads them: an unknown field or a wrong value
    ends the program.
    """
    before, found = flat(base.to_dict()), {}
    for values in itertools.product(*grid.values()):
        texts = dict(zip(grid, values, strict=True))
        words = [word for name, text in texts.items() for word in flag(name, text, before.get(name))]
        start = with_objective(base, texts.get("objective", base.objective))
        parsed = parse(start, f"A sweep of {base.name}.", words, f"python -m experiments.train {base.name}")
        config = flat(parsed.config.to_dict())
        changes = {name: config[name] for name in grid}
        found[described(changes)] = changes
    return found


def plan(name: str, base: Config, arms: dict[str, dict[str, object]], seeds: int, root: Path) -> list[Planned]:
    """The runs of all arms, all arms of the first seed first: cut short, a study has as many arms as it can.
    Raises InputError for a number of seeds below 1."""
    if seeds < 1:
        raise InputError(f"seeds is {seeds}: use 1 or more.")
    found = []
    for seed, (arm, changes) in itertools.product(range(seeds), arms.items()):
        config = vary(base, {**changes, "seed": seed})
        folder = folder_of(root, base.name, config)
        config = replace(config, workdir=str(folder))
        found.append(Planned(folder, tuple(command(name, base, config)), config.steps, arm, changes, config))
    return found


def run_planned(planned: Sequence[Planned], jobs: int) -> bool:
    """Makes the runs that are not finished, `jobs` of them side by side. Returns whether all reached their end."""
    at = places(jobs)
    print(f"{len(planned)} runs, {len(at)} at a time", flush=True)
    return not run_all(planned, at, partial(print, flush=True))


@dataclass(frozen=True)
class Options:
    experiment: Annotated[str, tyro.conf.Positional]
    """A preset's name, package.module:NAME or file.py:NAME."""
    grid: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=A,B,...; several times for several fields."""
    seeds: int = 1
    """Seeds 0 .. SEEDS-1."""
    jobs: int = 0
    """Runs side by side; cores or GPUs are divided among them (0: one on CPUs, one for every GPU)."""
    workdir: Path | None = None
    """Folder of all runs (runs/sweep/NAME of the experiment)."""


def main(arguments: Sequence[str] | None = None) -> int:
    with one_paragraph_errors("the same command goes on"):
        given = tyro.cli(Options, prog="python -m experiments.sweep", description=__doc__, args=arguments)
        base = experiment(given.experiment)
        root = given.workdir or Path("runs/sweep") / base.name
        planned = plan(given.experiment, base, arms_of(base, grid_of(given.grid)), given.seeds, root)
        all_ended = run_planned(planned, given.jobs)
        write_results(planned, root / "results.parquet")
        return 0 if all_ended else 1


def write_results(planned: Sequence[Planned], path: Path) -> None:
    """The table of the runs that have a row of metrics."""
    runs = [(read_run(each.folder), {"arm": each.arm, **each.changes}) for each in planned if each.finished]
    if runs:
        with replaced(path) as partial:
            tidy(runs).to_parquet(partial, compression="zstd")
        print(f"{path}: {len(runs)} runs of {len(planned)}")


if __name__ == "__main__":
    sys.exit(main())
