"""What did each run learn? The answers of a study's runs, counted by kind of question or by rule.

    python -m experiments.studies.kinds main_table            reads runs/study; writes figures/kinds_main_table*
    python -m experiments.studies.kinds main_table --draw     tables again, from the stored counts

Every answer that a run was trained on stands in its folder. The questions of nano are of six kinds, so accuracy is
counted for each step and kind. Where seeds differ by more than the noise of an evaluation, it is seen which kinds some
learnt and others did not. Where answers are scored by rules (`soft_rewards`), a rule is counted like a kind, and an
answer by its score.

Counts that are stored in a table of experiments/figures serve a run that is not in the folder, as in a study.
"""
import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from experiments.harness.results import ACCURACY, Mean
from experiments.harness.scales import SCALES
from experiments.harness.study import FIGURES, Study, by_digest, digest_of
from experiments.nano import constraints
from experiments.sweep import plan
from nft_jax.config import Config
from nft_jax.data.arithmetic import generate
from nft_jax.data.sources import GENERATED
from nft_jax.record.folder import read_run
from nft_jax.runtime.files import make_folder
from nft_jax.runtime.terminal import markdown, one_paragraph_errors
from nft_jax.types import InputError

LAST = 10                              # the last steps are counted together
STEADY = 0.05                          # the seeds of an arm agree on a kind that deviates by less
MOST_SEEDS = 64


def kinds_of(config: Config) -> dict[str, str]:
    """Problem -> kind, of the questions that a run of `config` trains on."""
    data = config.data
    return {question.problem: question.kind
            for question in generate(data.split, data.limit or GENERATED, data.seed or 0, data.source)}


def by_rule(answers: pd.DataFrame) -> pd.DataFrame:
    """A row for every answer and rule of its question: `kind` is the rule, `reward` its score."""
    return pd.DataFrame([{"prompt_index": each.prompt_index, "kind": rule, "reward": score}
                         for each in answers.itertuples()
                         for rule, score in constraints.scores_of(each.problem, each.text).items()])


def by_kind(folder: Path) -> pd.DataFrame:
    """A row for every step and kind: `answers`, `right`, `groups`, `mixed` (groups with right and wrong answers).
    Raises InputError where the run kept no answers."""
    paths = sorted((folder / "rollouts").glob("step_*.parquet"))
    if not paths:
        raise InputError(f"RUN is {str(folder)!r}, which has no rollouts/: give the folder of a finished run.")
    config, found = read_run(folder).config, []
    ruled = config.verifier.reward == constraints.CONSTRAINTS.verifier.reward
    kinds = {} if ruled else kinds_of(config)
    for path in paths:
        answers = pq.read_table(path, columns=["prompt_index", "problem", "text", "reward"]).to_pandas()
        told = by_rule(answers) if ruled else answers.assign(kind=answers["problem"].map(kinds))
        groups = told.groupby(["kind", "prompt_index"])["reward"].agg(["size", "sum"])
        groups["mixed"] = (groups["sum"] > 0) & (groups["sum"] < groups["size"])
        found.append(groups.groupby("kind").agg(answers=("size", "sum"), right=("sum", "sum"), groups=("size", "size"),
                                                mixed=("mixed", "sum")).reset_index().assign(
            step=int(path.stem.removeprefix("step_"))))
    return pd.concat(found, ignore_index=True)


def collected(arms: Mapping[str, Mapping[str, object]], workdir: Path, scale: str = "nano") -> pd.DataFrame:
    """`by_kind` of the finished or counted runs of these arms, with run, arm, seed, objective and last held-out
    accuracy. Runs on stored answers are left out: they are another policy's. Raises InputError where there is none."""
    base, known, found = SCALES[scale], by_digest(FIGURES.glob("kinds_*.parquet")), []
    for each in plan(base.experiment, base.config, arms, MOST_SEEDS, workdir):
        digest = digest_of(each.folder.name)
        if each.config.rollout.answers:
            continue
        if each.finished:
            heldout = pd.DataFrame(read_run(each.folder).rows).dropna(subset=ACCURACY)[ACCURACY].iloc[-1]
            found.append(by_kind(each.folder).assign(run=each.folder.name, arm=each.arm, seed=each.config.seed,
                                                     heldout=heldout, objective=each.config.objective))
        elif digest in known:
            found.append(known[digest].assign(arm=each.arm))
    if not found:
        raise InputError(f"workdir is {str(workdir)!r}, without a finished run of {', '.join(arms)}: run their study "
                         "first.")
    return pd.concat(found, ignore_index=True)


# ---- what is shown -------------------------------------------------------------------------------------------------


def study_of(name: str) -> Study:
    return import_module(f"{__package__}.{name}").STUDY


def accuracy_of(rows: pd.DataFrame) -> float:
    return rows["right"].sum() / max(rows["answers"].sum(), 1)


def last_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """The last steps that every run has."""
    end = frame.groupby(["arm", "seed"])["step"].max().min()
    return frame[frame["step"].between(end - LAST + 1, end)]


def ends_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for every run, by (arm, seed): `heldout`, and the accuracy of each kind over the last steps."""
    kinds = sorted(frame["kind"].unique())
    return pd.DataFrame({key: {"heldout": run["heldout"].iloc[0], **{
        kind: accuracy_of(run[run["kind"] == kind]) for kind in kinds}}
        for key, run in last_steps(frame).groupby(["arm", "seed"], sort=False)}).T


def spread_table(ends: pd.DataFrame) -> str:
    """How far each kind sets runs apart: deviation, correlation with the held-out accuracy, and its share of the
    variance of the mean over kinds (the shares add up to 1)."""
    kinds = ends.drop(columns="heldout")
    mean, rows = kinds.mean(axis=1), []
    for kind in kinds:
        varies = kinds[kind].std() > 0
        rows.append([kind, f"{100 * kinds[kind].std():.1f}",
                     f"{kinds[kind].corr(ends['heldout']):+.2f}" if varies else "-",
                     f"{kinds[kind].cov(mean) / len(kinds.columns) / mean.var():.0%}" if mean.var() else "-"])
    return markdown(["kind", "deviation over the runs, points", "correlation with held-out accuracy",
                     "share of the spread"], rows)


def steady_table(ends: pd.DataFrame, within: pd.DataFrame) -> tuple[list[str], str]:
    """The kinds that the seeds agree on in at least half of the arms, and every arm's mean accuracy over them, with its
    difference from the first arm by seed: ± half of the 95% interval."""
    # The median over arms: the seeds of an arm that breaks down agree on nothing.
    deviation = within.drop(columns="heldout").groupby(level=0).std().median()
    kinds = list(deviation.index[deviation < STEADY])
    mean = ends[kinds].mean(axis=1).unstack(0)
    arms = list(dict.fromkeys(ends.index.get_level_values(0)))
    rows = [[arm, Mean.of(mean[arm]).text(), *(["-", ""] if arm == arms[0] else [
        (less := Mean.of(mean[arm] - mean[arms[0]])).text(sign=True), str(less.count)])] for arm in arms]
    return kinds, markdown(["arm", "steady kinds", f"less `{arms[0]}`", "seeds of both"], rows)


def text_of(study: str, frame: pd.DataFrame) -> str:
    """The tables of a study, as Markdown."""
    ends = ends_of(frame)
    names = list(ends)
    rows = [[arm, f"{len(runs)}", *(f"{100 * runs[name].mean():.0f} ({100 * runs[name].min():.0f} to "
                                    f"{100 * runs[name].max():.0f})" for name in names)]
            for arm, runs in ends.groupby(level=0, sort=False)]
    first = frame[frame["step"] == frame["step"].min()].groupby("kind")[["right", "answers"]].sum()
    rows.insert(0, ["first step", "", "", *(f"{100 * share:.0f}" for share in first["right"] / first["answers"])])
    within = ends - ends.groupby(level=0).transform("mean")
    steady, table = steady_table(ends, within)
    return "\n\n".join([
        f"# By kind: {study} ({study_of(study).scale})",
        markdown(["arm", "seeds", "held-out", *names[1:]], rows),
        f"Held-out accuracy at the end, and accuracy of the answers of the last {LAST} steps, in per cent: mean over "
        "seeds\n(lowest and highest). The answers of the first step are the base's.",
        spread_table(within),
        "Every run less the mean of its arm: what sets seeds apart.",
        *([table, f"Mean accuracy of {', '.join(steady)}: the kinds that deviate\nby less than {100 * STEADY:.0f} "
           "points between the seeds of an arm (median over arms). ± is half of the 95% interval, differences"
           "\nare paired by seed."]
          if steady else []),
        f"Written by `python -m experiments.studies.kinds {study} --draw`."]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.studies.kinds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a study of this folder that ran on nano, or soft_rewards")
    parser.add_argument("--workdir", type=Path, default=Path("runs/study"), help="folder of the study's runs")
    parser.add_argument("--draw", action="store_true")
    with one_paragraph_errors("the stored numbers are as they were"):
        given = parser.parse_args(arguments)
        path = FIGURES / f"kinds_{given.study}.parquet"
        if not given.draw:
            study = study_of(given.study)
            frame = collected(study.arms_of(SCALES[study.scale].config), given.workdir, study.scale)
            make_folder(FIGURES, "experiments/figures")
            frame.to_parquet(path, compression="zstd")
        text = text_of(given.study, pd.read_parquet(path))
    path.with_suffix(".md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
