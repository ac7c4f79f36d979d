"""A study: one result of the paper, as runs that differ in few fields, with claims to check.

1. `Study.arms` names the arms and the fields that each of them sets.
2. `experiments.sweep.plan` makes a run of every arm and seed, and `experiments.harness.runner` runs it.
3. `report` writes NAME_SCALE.parquet (a row for every run and step), .png and .md to experiments/figures. With
   --arms they go to the folder of the runs.

A run whose rows are in a table of experiments/figures is not made again, on whatever machine it ran. Remove the
table to make its runs again.

Exit status: 0; 1 when a run failed; 2 for bad input.
"""
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro

from experiments.harness.plots import draw
from experiments.harness.results import TARGET, Mean, Measures, accuracy_table, cost_table, kept, read_run, tidy
from experiments.harness.scales import SCALES
from experiments.harness.variants import resolved
from experiments.sweep import Planned, plan, run_planned
from nft_jax.config import Config
from nft_jax.config.differences import SEEDS, differences
from nft_jax.preflight.devices import Topology
from nft_jax.runtime.files import make_folder
from nft_jax.runtime.terminal import duration, markdown, one_paragraph_errors
from nft_jax.types import InputError

FIGURES = Path(__file__).parents[1] / "figures"
COLUMNS = ("difference", "measured", "seeds", "excludes 0", "expected", "verdict")
MEASURED = {"steps": "accuracy at equal steps", "tokens": "accuracy at equal tokens",
            "entropy": "entropy at equal steps", "until": f"logarithm of the tokens until {TARGET:.0%}",
            "pass@64": "pass@64 at equal steps", "pass@64 level": "pass@64 at equal accuracy",
            "solutions": "solutions per question at equal steps",
            "solutions level": "solutions per question at equal accuracy",
            "entropy right": "entropy of right answers at equal steps",
            "entropy wrong": "entropy of wrong answers at equal steps"}


@dataclass(frozen=True)
class Claim:
    """The mean over seeds of `measure` of one arm, less the other arm's, seed by seed.

    arm: or several, whose mean counts: the main effects of a factorial study compare halves of its arms.
    than: the other arm, or several; "" compares the arm with its own start.
    measure: a key of MEASURED.
    expected: what the source says of the difference, stated before the runs; "" where it says nothing.
    source: who says so, with the number.
    paper: the paper's claim in words, for the table of its claims; "" where the paper does not make it.
    """
    arm: str | tuple[str, ...]
    than: str | tuple[str, ...]
    measure: str
    expected: Literal["above", "below", "alike", ""] = ""
    source: str = ""
    paper: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        return (self.arm,) if isinstance(self.arm, str) else self.arm

    @property
    def others(self) -> tuple[str, ...]:
        """The arms that it is compared with; its own where it is compared with its start."""
        return self.arms if not self.than else (self.than,) if isinstance(self.than, str) else self.than

    @property
    def what(self) -> str:
        arms, others = (", ".join(f"`{arm}`" for arm in some) for some in (self.arms, self.others))
        return f"{arms} less {others if self.than else 'its start'}, {MEASURED[self.measure]}"

    def of(self, measures: Measures) -> Mean:
        """The difference; its count is 0 where an arm was not run."""
        start = "start" if self.measure in ("steps", "tokens") else f"{self.measure} start"
        return measures.paired(self.measure, self.arms, self.others, self.measure if self.than else start)


@dataclass(frozen=True)
class Study:
    """paper: what the paper says, with its numbers.
    arms: name -> the fields that this arm sets, by dotted names. A value that is a function is called with the
        scale's base configuration.
    prepare: makes what the arms read, from the base configuration, before the first run starts.
    curves: the arms whose curves are drawn; empty is all. Every arm has its row in the panel of intervals.
    more: a part of the page beside the tables, from what was measured.
    picture: draws a second figure, NAME_SCALE_more.png.
    """
    name: str
    title: str
    paper: str
    arms: Mapping[str, Mapping[str, object]]
    claims: tuple[Claim, ...]
    scale: str = "nano"            # of its command, unless --scale says another
    prepare: Callable[[Config], None] | None = None
    curves: tuple[str, ...] = ()
    more: Callable[[Measures], str] | None = None
    picture: Callable[[Measures, Path], None] | None = None

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
    scale: Literal["nano", "countdown", "code", "constraints", "gemma", "gsm8k", "7b"]
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
        given = tyro.cli(Options, default=Options(scale=study.scale), args=arguments,
                         prog=f"python -m experiments.studies.{study.name}",
                         description=f"{documentation}\nThe paper: {study.paper}",
                         config=(tyro.conf.FlagCreatePairsOff,))
        if given.draw:
            report(study, given.scale, stored(study, given.scale), FIGURES)
            return 0
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
        known, folder = stored_runs(given.scale), given.workdir if given.arms else FIGURES
        missing = [each for each in planned if digest_of(each.folder.name) not in known]
        print(f"{len(planned) - len(missing)} of {len(planned)} runs are in the tables of {FIGURES}")
        all_ended = False
        if missing and study.prepare is not None:
            study.prepare(base)
        try:
            all_ended = run_planned(missing, given.jobs)
        finally:
            # Also of a study that was stopped: its finished runs need not be made again.
            kept = plan(scale.experiment, base, arms, max(given.seeds, stored_seeds(study, given.scale)), given.workdir)
            done = [each for each in kept if each.finished or digest_of(each.folder.name) in known]
            if done:
                table = collect(done, known)
                make_folder(folder, "--workdir")
                table.to_parquet(folder / f"{study.name}_{given.scale}.parquet", compression="zstd")
                report(study, given.scale, table, folder)
                print(f"{len(done)} of {len(kept)} runs are in the table")
        return 0 if all_ended else 1


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
        lines.append(f"  {arm:24} {fields_of({name: now for name, (_, now) in told.items() if now is not None})}")
    model = config_of(SCALES[scale].shape or base.policy.path)
    sketch = estimate_of(base, model, topology)
    assumed, found = sketch.assumed, sketch.estimate
    hours = {arm: estimate_of(config, model, topology).estimate.device_hours for arm, config in configs.items()}
    return "\n".join([
        *lines, "",
        f"estimate for {topology.name}, no measurement: nothing compiled, the devices' exchange not counted,",
        f"  answers of {assumed.answer_tokens:,.0f} tokens on average, {assumed.accepted_share:.0%} of the prompts "
        "with right and wrong answers",
        f"estimate: a run of the base {duration(3600 * found.device_hours / sketch.plan.mesh.size)} = "
        f"{found.device_hours:,.1f} device-hours; "
        f"a step = rollout {found.rollout:,.0f} + score {found.score:,.0f} + train {found.train:,.0f} s",
        f"estimate: {len(planned)} runs = {sum(hours[each.arm] for each in planned):,.1f} device-hours"])


def fields_of(changes: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items()) or "as the base"


def stored_runs(scale: str) -> dict[str, pd.DataFrame]:
    """Digest of a run -> its rows, of every run of this scale in the tables of `FIGURES`."""
    return by_digest(FIGURES.glob(f"*_{scale}.parquet"))


def by_digest(paths: Iterable[Path]) -> dict[str, pd.DataFrame]:
    """Digest of a run -> its rows, of every run in these tables."""
    return {digest_of(name): rows for path in sorted(paths) for name, rows in pd.read_parquet(path).groupby("run")}


def stored_seeds(study: Study, scale: str) -> int:
    """One more than the highest seed of the study's stored table: fewer --seeds take none out of it. 0 without one."""
    path = FIGURES / f"{study.name}_{scale}.parquet"
    return 1 + int(pd.read_parquet(path, columns=["seed"])["seed"].max()) if path.exists() else 0


def digest_of(run: str) -> str:
    """What ends the name of a run: the hash of what it computes."""
    return run.rpartition("-")[2]


def collect(done: Sequence[Planned], known: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tidy table of runs that are finished or known."""
    return pd.concat([kept(tidy([(read_run(each.folder), {"arm": each.arm})])) if each.finished
                      else known[digest_of(each.folder.name)].assign(arm=each.arm) for each in done], ignore_index=True)


def stored(study: Study, scale: str) -> pd.DataFrame:
    """The table that an earlier report kept. Raises InputError when there is none."""
    path = FIGURES / f"{study.name}_{scale}.parquet"
    if not path.exists():
        raise InputError(f"scale is {scale!r}: there are no stored results, {path} is missing. Run the study.")
    return pd.read_parquet(path)


def report(study: Study, scale: str, table: pd.DataFrame, folder: Path) -> None:
    """Draws and prints the results, and writes NAME_SCALE.png and NAME_SCALE.md into `folder`."""
    path, measures = folder / f"{study.name}_{scale}.png", Measures.of(table)
    draw(measures, path, f"{study.title} ({scale})", study.curves)
    if study.picture is not None:
        study.picture(measures, folder / f"{study.name}_{scale}_more.png")
    text = page(study, scale, measures)
    path.with_suffix(".md").write_text(text)
    print(text, end="")


def page(study: Study, scale: str, measures: Measures) -> str:
    """The tables of accuracy, of cost and of claims, as Markdown."""
    hours = measures.numbers["minutes"].sum() / 60
    return "\n\n".join([
        f"# {study.title} ({scale})",
        accuracy_table(measures),
        "Accuracy in per cent on held-out questions, entropy in nats per token: mean over seeds, ± half of its 95% "
        "interval\n(Student's t).\n"
        f"{len(measures.numbers)} runs, {hours:.1f} hours of training and evaluation in all.",
        cost_table(measures),
        f"What it took until an accuracy of {TARGET:.0%}: geometric means over the seeds that reached it, with 95% "
        "intervals.\nMinutes are of the machine that made the run, with whatever else it did.",
        *([study.more(measures)] if study.more is not None else []),
        markdown(COLUMNS, [row(claim, claim.of(measures)) for claim in study.claims]),
        "Differences are paired by seed; equal tokens are the least that a run of the two sides generated.\n"
        "`experiments/harness/study.py` says what the verdicts mean.",
        f"Written by `python -m experiments.studies.{study.name} --scale {scale} --draw`."]) + "\n"


# ---- claims --------------------------------------------------------------------------------------------------------

# The smallest difference that matters: two points of accuracy or pass@k, a hundredth of a nat, 5% of the tokens, or a
# quarter of a solution.
MARGINS = {"steps": 0.02, "tokens": 0.02, "entropy": 0.01, "until": 0.05, "pass@64": 0.02, "pass@64 level": 0.02,
           "solutions": 0.25, "solutions level": 0.25, "entropy right": 0.01, "entropy wrong": 0.01}
# Digits, scale, unit; accuracy and pass@k are in points.
UNITS = {"entropy": (3, 1, "nats"), "entropy right": (3, 1, "nats"), "entropy wrong": (3, 1, "nats"),
         "until": (3, 1, "(ln)"), "solutions": (2, 1, "solutions"), "solutions level": (2, 1, "solutions")}
MOST_SEEDS = 1000


def row(claim: Claim, found: Mean) -> list[str]:
    """The cells of a claim under `COLUMNS`."""
    expected = ": ".join(part for part in (claim.expected, claim.source) if part)
    if not found.count:
        return [claim.what, "not measured", "0", "", expected, ""]
    digits, scale, unit = UNITS.get(claim.measure, (1, 100, "points"))
    low, high = found.interval
    excludes = "no interval" if found.count < 2 else "yes" if low > 0 or high < 0 else "no"
    return [claim.what, f"{found.text(digits, scale, sign=True)} {unit}", str(found.count), excludes, expected,
            judged(found, claim.expected, MARGINS[claim.measure])]


def judged(found: Mean, expected: str, margin: float) -> str:
    """What the 95% interval of a difference says of the claim.

    above     seen: the interval is above 0. Not seen: it is below `margin`. (below: the mirror image.)
    alike     seen: the interval is within ± `margin`. Not seen: it is outside.
    nothing   higher, lower or alike, by the same intervals.

    Else it cannot be told, and the verdict says how many seeds would tell if mean and spread stayed the same.
    """
    if verdict := _told(found, expected, margin):
        return verdict
    if found.count < 2:
        return "cannot be told with 1 seed"
    enough = next((seeds for seeds in range(found.count + 1, MOST_SEEDS + 1)
                   if _told(found.with_seeds(seeds), expected, margin)), None)
    return f"cannot be told with {found.count} seeds; {enough or f'more than {MOST_SEEDS}'} would tell"


def _told(found: Mean, expected: str, margin: float) -> str | None:
    """The verdict of `judged`; None where the interval leaves it open."""
    if found.count < 2:
        return None
    low, high = found.interval
    if expected == "below":
        low, high = -high, -low
    if expected in ("above", "below"):
        return "seen" if low > 0 else "not seen" if high < margin else None
    within = -margin < low and high < margin
    if expected == "alike":
        return "seen" if within else "not seen" if low > margin or high < -margin else None
    return "higher" if low > 0 else "lower" if high < 0 else "alike" if within else None
