"""A study: one result of the paper, as runs that differ in little, a table, a figure, and what is expected of them.

    python -m experiments.studies.main_table --scale nano --seeds 3  runs what is not finished; writes what follows
    python -m experiments.studies.main_table --scale nano --draw  from figures/main_table_nano.parquet, no runs
    python -m experiments.studies.main_table --scale 7b --dry-run  every arm's fields, and the estimated hours

A run's folder (under runs/study) is named by what it computes, so studies share their runs. Interrupted, the same
command goes on. Results: figures/NAME_SCALE.png and .parquet, and the table in experiments/README.md between the
markers of that name. With --arms the same goes to the folder of the runs, and the README stays as it is.

Exit status: 0; 1 when a run failed or a number is outside its expected range; 2 for bad input.
"""
from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.harness.runner import places, run_all
from experiments.harness.scales import SCALES
from experiments.harness.variants import SEEDS, described, resolved
from experiments.sweep import Planned, plan
from nft_jax.config import Config
from nft_jax.preflight.devices import Topology
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError

FIGURES = Path(__file__).parents[1] / "figures"
README = Path(__file__).parents[1] / "README.md"
RUNS = Path("runs/study")
Arms = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Expectation:
    """A range, stated before the runs, for the mean over seeds of `measure` of one arm less that of another (by seed).

    `than` "" compares the arm with its own start. `ranges`: scale -> (lowest, highest), in points of accuracy (per
    cent) or nats for entropy; `why`: the source.
    """
    arm: str
    than: str
    measure: str
    ranges: Mapping[str, tuple[float, float]]
    why: str


@dataclass(frozen=True)
class Study:
    """`arms`: from the base configuration to name -> fields that this arm sets, by dotted names. `verdicts`: sentences
    on the measures, for the table's foot."""
    name: str
    title: str
    arms: Callable[[Config], Arms]
    expected: tuple[Expectation, ...]
    verdicts: Callable[[object], list[str]] = lambda measures: []


def updates(base: Config, count: int) -> dict[str, object]:
    """`count` optimizer steps per rollout; the warm-up takes as many rollouts as that of `base`."""
    warmup = max(1, round(base.optimizer.warmup_updates * count / base.batch.updates_per_step))
    return {"batch.updates_per_step": count, "optimizer.warmup_updates": warmup}


def main(study: Study, documentation: str, arguments: Sequence[str] | None = None) -> int:
    """The command line of a study; its exit status."""
    given = parse(study, documentation, arguments)
    with one_paragraph_errors("the same command goes on"):
        if given.draw:
            return report(study, given.scale, _stored(study, given.scale), FIGURES, README)
        scale = SCALES[given.scale]
        base = scale.config
        arms = chosen(study, base, given.arms)
        topology = Topology.parse(scale.topology)
        if given.dry_run:
            topology.prepare()                               # before jax is imported
        planned = plan(scale.experiment, base, arms, given.seeds, given.workdir)
        if given.dry_run:
            print(dry_run(given.scale, topology, base, planned))
            return 0
        failed = []
        if given.jobs != "none":
            at = places(int(given.jobs))
            print(f"{len(planned)} runs, {len(at)} at a time", flush=True)
            failed = run_all([each.job for each in planned], at, lambda line: print(line, flush=True))
        whole = not given.arms
        status = report(study, given.scale, collect(planned), FIGURES if whole else given.workdir,
                        README if whole else None)
        return 1 if failed else status


def parse(study: Study, documentation: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m experiments.studies.{study.name}", description=documentation,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=list(SCALES), default="nano")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. SEEDS-1 of every arm")
    parser.add_argument("--jobs", default="0", help="runs side by side (0: one on CPUs, one for every GPU); none: "
                                                    "start no run, take those that are finished")
    parser.add_argument("--arms", default="", metavar="A,B", help="only these")
    parser.add_argument("--workdir", type=Path, default=RUNS, help="folder of all runs")
    parser.add_argument("--draw", action="store_true", help="draw and check again what is stored; no runs")
    parser.add_argument("--dry-run", action="store_true", help="what each arm changes, and the estimated time; no runs")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or not (given.jobs == "none" or given.jobs.isdigit()):
        parser.error("--seeds is 1 or more; --jobs is 0 or more, or none")
    return given


def chosen(study: Study, base: Config, names: str) -> Arms:
    """The arms to run, all without names. Raises InputError for a name that is none."""
    arms = study.arms(base)
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(arms)
    unknown = [name for name in wanted if name not in arms]
    if unknown:
        raise InputError(f"arms is {names!r}: {study.name} has no arm {unknown[0]!r}; choose from {', '.join(arms)}.")
    return {name: arms[name] for name in arms if name in wanted}


def dry_run(scale: str, topology: Topology, base: Config, planned: Sequence[Planned]) -> str:
    """Each arm's resolved fields where they are not the base's, and the time by preflight's arithmetic."""
    from nft_jax.model.hf import config_of
    from nft_jax.preflight.report import estimate_of
    lines, before = [f"base: {SCALES[scale].experiment}, {base.steps} steps"], resolved(base)
    configs = {each.arm: each.config for each in planned}
    for arm, config in configs.items():
        told = {name: value for name, value in resolved(config).items()
                if value != before[name] and value is not None and name not in SEEDS}
        lines.append(f"  {arm:24} {described(told)}")
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


def collect(planned: Sequence[Planned]):
    """The tidy table of the finished runs. Raises InputError when there is none."""
    from experiments.harness.results import kept, read_run, tidy
    runs = [(read_run(each.job.folder), {"arm": each.arm}) for each in planned if each.job.finished]
    if not runs:
        raise InputError(f"none of the {len(planned)} runs is finished, so there is nothing to draw: run the study.")
    if len(runs) < len(planned):
        print(f"{len(planned) - len(runs)} of {len(planned)} runs are not finished and are left out")
    return kept(tidy(runs))


def _stored(study: Study, scale: str):
    import pyarrow.parquet as pq
    path = FIGURES / f"{study.name}_{scale}.parquet"
    if not path.exists():
        raise InputError(f"scale is {scale!r}: there are no stored results, {path} is missing. Run the study.")
    return pq.read_table(path)


def report(study: Study, scale: str, table, folder: Path, readme: Path | None) -> int:
    """Store, draw, print and check the results; 1 when a number is outside its expected range."""
    import pyarrow.parquet as pq

    from experiments.harness.plots import draw
    from experiments.harness.results import Measures, accuracy_table, curves_of
    measures = Measures.of(curves_of(table))
    stem = f"{study.name}_{scale}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{stem}.parquet", compression="zstd")
    draw(measures, folder / f"{stem}.png", f"{study.title} ({scale})")
    checks, outside = check(study, scale, measures)
    hours = sum(measures.seconds(curve) for curve in measures.curves) / 3600
    foot = [*study.verdicts(measures), *checks, f"{len(measures.curves)} runs, {hours:.1f} hours of training and "
            "evaluation in all. Accuracy in per cent on held-out questions, mean ± standard error over seeds."]
    text = accuracy_table(measures) + "\n\n" + "\n".join(f"- {line}" for line in foot)
    print(text)
    if readme is not None:
        image = f"![{study.title}](figures/{stem}.png)" if folder == FIGURES else ""
        write_between(readme, f"{study.name} {scale}", "\n\n".join(part for part in (text, image) if part))
    return 1 if outside else 0


def check(study: Study, scale: str, measures) -> tuple[list[str], list[Expectation]]:
    """A line for every expectation of this scale, and those that are not met. An arm that was not run is told and
    counts as neither."""
    lines, outside = [], []
    for each in study.expected:
        if scale not in each.ranges:
            continue
        low, high = each.ranges[scale]
        entropy = each.measure == "entropy"
        than = each.than or each.arm
        mean = measures.paired(each.measure, each.arm, than,
                               "" if each.than else ("entropy start" if entropy else "start"))
        what = f"`{each.arm}` less {f'`{each.than}`' if each.than else 'its start'}, {MEASURED[each.measure]}"
        if not mean.count:
            lines.append(f"{what}: not measured")
            continue
        value = mean.value * (1 if entropy else 100)
        met = low <= value <= high
        number = mean.text(*((3, 1) if entropy else (1, 100)), sign=True)
        lines.append(f"{what}: {number} {'nats' if entropy else 'points'}, expected {low:g} to {high:g} ({each.why}): "
                     + ("inside" if met else "**outside the expected range**"))
        if not met:
            outside.append(each)
    return lines, outside


def judged(difference) -> str:
    """A difference by seed in words: more than two standard errors or not."""
    if not difference.error > 0:
        return f"{difference.text(sign=True)} points (no standard error with {difference.count} seed)"
    clear = abs(difference.value) > 2 * difference.error
    kind = ("better" if difference.value > 0 else "worse") if clear else "no difference beyond two standard errors"
    return f"{difference.text(sign=True)} points: {kind}"


MEASURED = {"steps": "accuracy at equal steps", "tokens": "accuracy at equal tokens", "best": "best accuracy",
            "area": "mean of the accuracy curve", "entropy": "entropy at equal steps"}


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and the next `<!-- end -->`. Raises InputError without markers."""
    made = f"<!-- {name} -->\n{text}\n<!-- end -->"
    written, found = re.subn(rf"<!-- {re.escape(name)} -->.*?<!-- end -->", lambda _: made, path.read_text(),
                             flags=re.DOTALL)
    if not found:
        raise InputError(f"{path} has no markers <!-- {name} --> and <!-- end -->: put them where the table shall be.")
    path.write_text(written)


def run(study: Study, documentation: str) -> None:
    sys.exit(main(study, documentation))
