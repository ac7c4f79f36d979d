"""A sweep: every combination of some fields' values, with several seeds.

    python -m experiments.sweep quickstart --grid loss.epsilon=0.1,1 --seeds 4 --steps 20
    python -m experiments.sweep experiments.harness.scales:NANO --grid objective=nft,grpo --seeds 3 --jobs 2

A field is given by its dotted name. Any other flag of a run (--steps 20) is for all runs; with --dry-run they are
listed, and none starts. Another objective begins with its own defaults. --seeds sets `seed`; the questions and their
order follow it unless the experiment sets data.seed.

A run is named by what sets it apart: WORKDIR/nft,epsilon=0.1,seed=0. The same command goes on where it was cut short,
and other values or seeds add runs. A run that fails is reported, the others go on, and the exit status is 1. Every
run's command and output are in its folder's log.txt.

Writes into WORKDIR results.parquet (a row for every run and step, with the fields swept, the seed and every metric),
and what `experiments.compare` makes of the finished runs: compare.md, compare.png, and the report compare.html.
"""
import itertools
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.harness.board import Board
from experiments.harness.results import read_run, tidy
from experiments.harness.runner import Job, places, run_all
from experiments.harness.variants import Names, command, flag, folder_of, vary, with_objective
from nft_jax.cli import Arguments, experiment, parse
from nft_jax.config import Config, flat
from nft_jax.config.differences import SEEDS, described, objective_label
from nft_jax.objectives.flags import objective_of
from nft_jax.runtime.files import replaced
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


@dataclass(frozen=True)
class Planned(Job):
    """A run of a sweep or a study: its arm, the fields that the arm sets, and its name in what is printed."""
    arm: str
    changes: dict[str, object]
    config: Config
    label: str

    @property
    def name(self) -> str:
        return self.label


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


def arms_of(base: Config, grid: Mapping[str, Sequence[str]],
            given: Sequence[str] = ()) -> dict[str, tuple[dict[str, object], Config]]:
    """Every combination, by what sets it apart: the fields with their values, and the configuration. `given` are
    flags for all of them.

    The texts are read as the command line of a run reads them: an unknown field or a wrong value
    ends the program.
    """
    before, found = flat(base.to_dict()), {}
    asked = objective_of(given) or base.objective
    for values in itertools.product(*grid.values()):
        texts = dict(zip(grid, values, strict=True))
        words = [word for name, text in texts.items() for word in flag(name, text, before.get(name))]
        start = with_objective(base, texts.get("objective", asked))
        parsed = parse(start, f"A sweep of {base.name}.", [*given, *words], f"python -m experiments.train {base.name}")
        refuse_flags(given, parsed)
        config = parsed.config
        fields = flat(config.to_dict())
        changes = {name: fields[name] for name in grid}
        apart = {name: objective_label(value) if name == "objective" else value for name, value in changes.items()
                 if len(grid[name]) > 1}
        name = described(apart) or base.name
        # Two files may have an objective of the same name.
        found[described(changes) if name in found else name] = changes, config
    return found


def refuse_flags(given: Sequence[str], arguments: Arguments) -> None:
    """Raises InputError for flags that a sweep sets for every run, or that have no meaning for several runs."""
    for word in given:
        field = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and field in (*SEEDS, "name"):
            raise InputError(f"{word} is a flag of one run: seeds are set by --seeds, and names by what is swept.")
    for name, told in (("fresh", "remove the sweep's folder, or give another --workdir."),
                       ("fork", "start the runs from another run's model with --policy.path RUN."),
                       ("profile", "record the timeline of one run with experiments.train.")):
        if getattr(arguments, name):
            raise InputError(f"--{name} is a flag of one run: {told}")


def plan(name: str, base: Config, arms: Mapping[str, Mapping[str, object]], seeds: int, root: Path) -> list[Planned]:
    """The runs of a study's arms, in folders named by what they compute, which studies share. Raises InputError for a
    number of seeds below 1."""
    configs = {arm: (dict(changes), vary(base, changes)) for arm, changes in arms.items()}
    return seeded(name, base, configs, seeds, lambda label, config: folder_of(root, base.name, config))


def seeded(name: str, base: Config, arms: Mapping[str, tuple[dict[str, object], Config]], seeds: int,
           folder: Callable[[str, Config], Path]) -> list[Planned]:
    """The runs of all arms, all arms of the first seed first: cut short, a study has as many arms as it can.
    `folder` tells a run's folder by its label and configuration. Raises InputError for a number of seeds below 1."""
    if seeds < 1:
        raise InputError(f"seeds is {seeds}: use 1 or more.")
    found = []
    for seed, (arm, (changes, config)) in itertools.product(range(seeds), arms.items()):
        config, label = replace(config, seed=seed), arm if seeds == 1 else f"{arm}, seed {seed}"
        place = folder(label, config)
        config = replace(config, workdir=str(place))
        found.append(Planned(place, tuple(command(name, base, config)), config.steps, arm, changes, config, label))
    return found


def run_planned(planned: Sequence[Planned], jobs: int) -> bool:
    """Makes the runs that are not finished, `jobs` of them side by side. Returns whether all reached their end."""
    at = places(jobs)
    with Board() as board:
        board.say(f"{len(planned)} runs, {len(at)} at a time")
        return not run_all(planned, at, board.say, board)


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
        given, flags = tyro.cli(Options, prog="python -m experiments.sweep", description=__doc__, args=arguments,
                                return_unknown_args=True)
        base = experiment(given.experiment)
        root = given.workdir or Path("runs/sweep") / base.name
        names, for_all = Names(root), [word for word in flags if word != "--dry-run"]
        planned = seeded(given.experiment, base, arms_of(base, grid_of(given.grid), for_all), given.seeds, names.folder)
        if "--dry-run" in flags:
            print(*(f"{each.name}: {each.folder}\n  {shlex.join(each.command[3:])}" for each in planned), sep="\n")
            return 0
        names.write()
        all_ended = run_planned(planned, given.jobs)
        write_results(planned, root)
        return 0 if all_ended else 1


def write_results(planned: Sequence[Planned], root: Path) -> None:
    """results.parquet: the table of the runs that have a row of metrics. And the comparison of the finished ones."""
    finished = [each for each in planned if each.finished]
    if not finished:
        return
    path = root / "results.parquet"
    with replaced(path) as partial:
        tidy((read_run(each.folder), {"arm": each.arm, **each.changes}) for each in finished).to_parquet(
            partial, compression="zstd")
    print(f"{path}: {len(finished)} runs of {len(planned)}", flush=True)
    if any(each.summary.get("final_accuracy") is not None for each in finished):
        # A process of its own: the report computes coefficients, and leaves the accelerators alone.
        subprocess.run([sys.executable, "-m", "experiments.compare", *(str(each.folder) for each in finished), "-o",
                        str(root)], check=False)


if __name__ == "__main__":
    sys.exit(main())
