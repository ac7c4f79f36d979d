"""A study: one result of the paper, as runs that differ in few fields, with claims to check.

1. `Study.arms` names the arms and the fields that each of them sets.
2. `experiments.sweep.plan` makes a run of every arm and seed, and `experiments.harness.runner` runs it.
3. `report` writes NAME_SCALE.parquet (a row for every run and step), .png and .md to experiments/figures. With
   --arms they go to the folder of the runs.

Exit status: 0; 1 when a run failed or a number is outside its claimed range; 2 for bad input.
"""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from experiments.harness.scales import SCALES
from experiments.harness.variants import described, resolved
from experiments.sweep import Planned, plan, run_planned
from nft_jax.config import Config
from nft_jax.config.differences import SEEDS, differences
from nft_jax.preflight.devices import Topology
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError

if TYPE_CHECKING:
    import pandas as pd

    from experiments.harness.results import Mean, Measures

FIGURES = Path(__file__).parents[1] / "figures"
COLUMNS = ("difference", "measured", "expected", "verdict")
MEASURED = {"steps": "accuracy at equal steps", "tokens": "accuracy at equal tokens",
            "entropy": "entropy at equal steps"}


@dataclass(frozen=True)
class Claim:
    """The mean over seeds of `measure` of one arm, less the other arm's, seed by seed.

    than: the other arm; "" compares the arm with its own start.
    measure: a key of MEASURED.
    ranges: scale -> (lowest, highest), stated before the runs: points of accuracy (per cent), or nats of entropy.
        Only where a result could fall outside; at other scales the difference is reported and not judged by a range.
    source: where the range comes from.
    """
    arm: str
    than: str
    measure: str
    source: str = ""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, measures: Measures) -> Mean:
        """The difference; its count is 0 where an arm was not run."""
        start = "entropy start" if self.measure == "entropy" else "start"
        return measures.paired(self.measure, self.arm, self.than or self.arm, self.measure if self.than else start)


@dataclass(frozen=True)
class Study:
    """paper: what the paper says, with its numbers.
    arms: name -> the fields that this arm sets, by dotted names. A value that is a function is called with the
        scale's base configuration.
    """
    name: str
    title: str
    paper: str
    arms: Mapping[str, Mapping[str, object]]
    claims: tuple[Claim, ...]

    def arms_of(self, base: Config, names: str = "") -> dict[str, dict[str, object]]:
        """The arms of `names` ("a,b"; "" is all) with their values for `base`. Raises InputError for an unknown arm."""
        wanted = [name.strip() for name in names.split(",") if name.strip()] or list(self.arms)
        for name in wanted:
            if name not in self.arms:
                raise InputError(f"arms is {names!r}: {self.name} has no arm {name!r}; choose from "
                                 f"{', '.join(self.arms)}.")
        return {arm: {name: value(base) if callable(value) else value for name, value in fields.items()}
                for arm, fields in self.arms.items() if arm in wanted}


def updates(count: int) -> dict[str, object]:
    """`count` optimizer updates per step; the warm-up takes as many steps as the base's."""
    def warmup(base: Config) -> int:
        return max(1, round(base.optimizer.warmup_updates * count / base.batch.updates_per_step))
    return {"batch.updates_per_step": count, "optimizer.warmup_updates": warmup}


@dataclass(frozen=True)
class Options:
    """The command line of a study."""
    scale: Literal["nano", "gsm8k", "7b"] = "nano"
    """The base configuration: experiments/harness/scales.py."""
    seeds: int = 3
    """Seeds 0 .. SEEDS-1 of every arm."""
    jobs: int = 0
    """Runs side by side (0: one on CPUs, one for every GPU)."""
    arms: str = ""
    """Only these arms: A,B."""
    workdir: Path = Path("runs/study")
    """Folder of all runs."""
    draw: bool = False
    """Report again what is stored; no runs."""
    dry_run: bool = False
    """What each arm changes, and the estimated time; no runs."""


def main(study: Study, documentation: str, arguments: Sequence[str] | None = None) -> int:
    """The command line of a study; its exit status."""
    with one_paragraph_errors("the same command goes on"):
        given = tyro.cli(Options, prog=f"python -m experiments.studies.{study.name}", args=arguments,
                         description=f"{documentation}\nThe paper: {study.paper}",
                         config=(tyro.conf.FlagCreatePairsOff,))
        if given.draw:
            return report(study, given.scale, stored(study, given.scale), FIGURES)
        scale = SCALES[given.scale]
        base = scale.config
        arms = study.arms_of(base, given.arms)
        topology = Topology.parse(scale.topology)
        if given.dry_run:
            # Before jax is imported: the topology decides which devices jax shows.
            topology.prepare()
        planned = plan(scale.experiment, base, arms, given.seeds, given.workdir)
        if given.dry_run:
            print(dry_run(given.scale, topology, base, planned))
            return 0
        all_ended = run_planned(planned, given.jobs)
        table, folder = collect(planned), given.workdir if given.arms else FIGURES
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / f"{study.name}_{given.scale}.parquet", compression="zstd")
        status = report(study, given.scale, table, folder)
        return status if all_ended else 1


def run(study: Study, documentation: str) -> None:
    sys.exit(main(study, documentation))


def dry_run(scale: str, topology: Topology, base: Config, planned: Sequence[Planned]) -> str:
    """The fields in which each arm is not the base, and the time by preflight's arithmetic."""
    from nft_jax.model.hf import config_of
    from nft_jax.preflight.report import estimate_of
    lines = [f"base: {SCALES[scale].experiment}, {base.steps} steps"]
    configs = {each.arm: each.config for each in planned}
    for arm, config in configs.items():
        told = differences(resolved(base), resolved(config), ignore=SEEDS)
        lines.append(f"  {arm:24} {described({name: now for name, (_, now) in told.items() if now is not None})}")
    model = config_of(base.policy.path)
    sketch = estimate_of(base, model, topology)
    assumed, found = sketch.assumed, sketch.estimate
    hours = {arm: estimate_of(config, model, topology).estimate.device_hours for arm, config in configs.items()}
    return "\n".join([
        *lines, "",
        f"estimate for {topology.name}, no measurement: nothing compiled, the devices' exchange not counted,",
        f"  answers of {assumed.answer_tokens:,.0f} tokens on average, {assumed.accepted_share:.0%} of the prompts "
        "with right and wrong answers",
        f"estimate: a run of the base {found.device_hours / sketch.plan.mesh.size:,.1f} hours = "
        f"{found.device_hours:,.1f} device-hours; "
        f"a step = rollout {found.rollout:,.0f} + score {found.score:,.0f} + train {found.train:,.0f} s",
        f"estimate: {len(planned)} runs = {sum(hours[each.arm] for each in planned):,.1f} device-hours"])


def collect(planned: Sequence[Planned]) -> pd.DataFrame:
    """The tidy table of the finished runs. Raises InputError when there is none."""
    from experiments.harness.results import kept, read_run, tidy
    runs = [(read_run(each.folder), {"arm": each.arm}) for each in planned if each.finished]
    if not runs:
        raise InputError(f"none of the {len(planned)} runs is finished, so there is nothing to draw: run the study.")
    if len(runs) < len(planned):
        print(f"{len(planned) - len(runs)} of {len(planned)} runs are not finished and are left out")
    return kept(tidy(runs))


def stored(study: Study, scale: str) -> pd.DataFrame:
    """The table that an earlier report kept. Raises InputError when there is none."""
    import pandas as pd
    path = FIGURES / f"{study.name}_{scale}.parquet"
    if not path.exists():
        raise InputError(f"scale is {scale!r}: there are no stored results, {path} is missing. Run the study.")
    return pd.read_parquet(path)


def report(study: Study, scale: str, table: pd.DataFrame, folder: Path) -> int:
    """Draws, prints and checks the results. Returns 1 when a number is outside its range, else 0."""
    from experiments.harness.plots import draw
    from experiments.harness.results import Measures, accuracy_table, markdown
    measures = Measures.of(table)
    path, title = folder / f"{study.name}_{scale}.png", f"{study.title} ({scale})"
    draw(measures, path, title)
    rows, outside = check(study, scale, measures)
    hours = measures.numbers["minutes"].sum() / 60
    text = "\n\n".join([
        f"# {title}",
        accuracy_table(measures),
        "Accuracy in per cent on held-out questions, mean ± standard error over seeds. Entropy in nats per token.\n"
        f"{len(measures.numbers)} runs, {hours:.1f} hours of training and evaluation in all.",
        markdown(COLUMNS, rows),
        f"Written by `python -m experiments.studies.{study.name} --scale {scale} --draw`."])
    path.with_suffix(".md").write_text(text + "\n")
    print(text)
    return 1 if outside else 0


def check(study: Study, scale: str, measures: Measures) -> tuple[list[list[str]], bool]:
    """A row of cells for every claim, and whether a number of an arm that was run is outside its range."""
    rows, any_outside = [], False
    for claim in study.claims:
        mean = claim.of(measures)
        what = f"`{claim.arm}` less {f'`{claim.than}`' if claim.than else 'its start'}, {MEASURED[claim.measure]}"
        if not mean.count:
            rows.append([what, "not measured", "", ""])
            continue
        value, number = (mean.value, mean.text(3, 1, sign=True) + " nats") if claim.measure == "entropy" else \
                        (100 * mean.value, mean.text(sign=True) + " points")
        if scale not in claim.ranges:
            rows.append([what, number, claim.source, judged(mean)])
            continue
        low, high = claim.ranges[scale]
        inside = low <= value <= high
        any_outside |= not inside
        rows.append([what, number, f"{low:g} to {high:g} ({claim.source})", "inside" if inside else "**outside**"])
    return rows, any_outside


def judged(difference: Mean) -> str:
    """Whether a difference is more than two standard errors. (Of three seeds: an interval of about 80%.)"""
    if not difference.error > 0:
        return "no standard error"
    if abs(difference.value) <= 2 * difference.error:
        return "within two standard errors"
    return "higher" if difference.value > 0 else "lower"
