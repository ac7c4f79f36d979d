"""Why does a run with 32 updates a step fall behind? Its answers by kind of question, and its steps computed again.

    python -m experiments.studies.failures                      reads runs/study; writes figures/failures*
    python -m experiments.studies.failures --replay RUN ...     also replays these runs; they kept every checkpoint
    python -m experiments.studies.failures --draw               table and figure again, from the stored numbers

1. The runs are those of `ablate_updates` with 32 updates. Accuracy is counted for each step and each of the six kinds
   of question (`experiments.studies.kinds`).
2. Another machine rounds otherwise. Where its counts of `ablate_updates` are stored, the same seeds are compared.
   A run that is in figures/failures.parquet keeps its counts: they are the first machine's.
3. A replayed step meets the policy after the step (`nft_jax.replay`): how far 32 updates moved its right and its wrong
   answers, and how many of their tokens GRPO's clip let go of.
"""
import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import nft_jax
from experiments.harness.plots import looks_of
from experiments.harness.scales import SCALES
from experiments.studies import ablate_updates
from experiments.studies.kinds import FIGURES, LAST, accuracy_of, collected, ends_of, kinds_of, last_steps, spread_table
from nft_jax.record.folder import read_run
from nft_jax.record.pictures import MARKERS, canvas, curve, describe, label_ends, scale, whole_ticks
from nft_jax.runtime.files import make_folder
from nft_jax.runtime.terminal import markdown, one_paragraph_errors

KINDS, REPLAYED, TWICE = "failures.parquet", "failures_replayed.parquet", "kinds_ablate_updates.parquet"
AGAIN = " again"
UPDATES = 32
PLAIN = ("nft 32", "grpo 32")          # the arms whose runs are drawn by step
LOST = "sum_equation"                  # 7x=41+43: the kind that the failing runs never learn


def runs_with_many_updates(workdir: Path) -> pd.DataFrame:
    """`kinds.collected` of every finished run with 32 updates. A run that is stored keeps its counts."""
    arms = ablate_updates.STUDY.arms_of(SCALES["nano"].config)
    found = collected({arm: fields for arm, fields in arms.items()
                       if fields.get("batch.updates_per_step") == UPDATES}, workdir)
    if not (FIGURES / KINDS).exists():
        return found
    stored, run = pd.read_parquet(FIGURES / KINDS), ["arm", "seed"]
    other = ~found.set_index(run).index.isin(stored.set_index(run).index)
    return pd.concat([stored, found[other]], ignore_index=True)


def replayed(folder: Path) -> pd.DataFrame:
    """A row for every step, kind and reward of a run that kept every checkpoint: the number of answers, the mean of
    their log-ratio (sum over the tokens, after the step), and the share of their tokens past the clip."""
    run, found = read_run(folder), []
    kinds = kinds_of(run.config)
    for step, path in sorted(run.tables.items()):
        problems = pq.read_table(path, columns=["prompt_index", "problem"]).to_pandas().drop_duplicates()
        tokens = nft_jax.replay(path, policy=nft_jax.load(folder, step=step)).table()
        tokens["kind"] = tokens["prompt_index"].map(problems.set_index("prompt_index")["problem"].map(kinds))
        tokens["log_ratio"] = np.log(tokens["ratio"])
        answers = tokens.groupby(["kind", "reward", "prompt_index", "sample"]).agg(
            log_ratio=("log_ratio", "sum"), clipped=("clipped", "mean"))
        found.append(answers.groupby(["kind", "reward"]).agg(
            answers=("log_ratio", "size"), log_ratio=("log_ratio", "mean"), clipped=("clipped", "mean")).reset_index()
            .assign(step=step))
    return pd.concat(found, ignore_index=True).assign(objective=run.config.objective, seed=run.config.seed)


# ---- what is shown -------------------------------------------------------------------------------------------------


def twice_text(frame: pd.DataFrame, again: pd.DataFrame) -> list[str]:
    """The runs of both tables by arm, seed by seed: the first step with other counts, held-out accuracy and accuracy of
    the lost kind. And the correlation of the held-out accuracy, of every run less the mean of its arm. Runs that are
    the same throughout are left out; nothing where no other is in both."""
    run, counts = ["arm", "seed"], ["answers", "right"]
    steps = frame.merge(again, on=[*run, "step", "kind"], how="left", suffixes=("", AGAIN))
    other = (steps[counts] != steps[[name + AGAIN for name in counts]].to_numpy()).any(axis=1)
    parted = steps[other].groupby(run)["step"].min()
    both = pd.concat([ends_of(frame), ends_of(again).add_suffix(AGAIN), parted], axis=1, join="inner")
    if both.empty:
        return []
    within = both - both.groupby(level=0).transform("mean")
    rows = [[arm, ", ".join(f"{seed}" for _, seed in runs.index), ", ".join(f"{step:.0f}" for step in runs["step"]),
             *(", ".join(f"{100 * value:.0f}" for value in runs[name + which])
               for name in ("heldout", LOST) for which in ("", AGAIN))]
            for arm, runs in both.groupby(level=0, sort=False)]
    return [markdown(["arm", "seeds", "part at step", "held-out", "again", LOST, "again"], rows),
            "The same seeds on two machines, whose rounding differs. Runs that are the same to the last answer are left"
            "\nout. Correlation of the held-out accuracy, every run less the mean of its arm: "
            f"{within['heldout'].corr(within['heldout' + AGAIN]):+.2f} over {len(both)} runs."]


def text_of(frame: pd.DataFrame, moved: pd.DataFrame | None, again: pd.DataFrame | None = None) -> str:
    """The tables, as Markdown."""
    ends, last, rows = ends_of(frame), last_steps(frame), []
    kinds = [name for name in ends if name != "heldout"]
    for (arm, seed), run in ends.iterrows():
        lost = last[(last["arm"] == arm) & (last["seed"] == seed) & (last["kind"] == LOST)]
        rows.append([arm, f"{seed}", f"{100 * run['heldout']:.1f}", *(f"{100 * run[kind]:.0f}" for kind in kinds),
                     f"{lost['mixed'].sum() / max(lost['groups'].sum(), 1):.0%}"])
    parts = [
        "# Runs with 32 updates a step, by kind of question (nano)",
        markdown(["arm", "seed", "held-out", *kinds, f"mixed groups, {LOST}"], rows),
        f"Held-out accuracy at the end, and accuracy of the answers of the last {LAST} steps, in per cent.",
        spread_table(ends)]
    if again is not None:
        parts += twice_text(frame, again)
    if moved is not None:
        rows = []
        for (objective, seed, right), part in moved[moved["kind"] == LOST].groupby(["objective", "seed", "reward"]):
            count = part["answers"].sum()
            rows.append([objective, f"{seed}", "right" if right else "wrong", f"{count}",
                         f"{np.exp((part['log_ratio'] * part['answers']).sum() / count):.2f}",
                         f"{(part['clipped'] * part['answers']).sum() / count:.1%}"])
        parts += [
            markdown(["objective", "seed", f"answers to {LOST}", "trained on", "likelihood after the step, times",
                      "tokens past GRPO's clip"], rows),
            "Replayed with the policy after each step. The factor is the geometric mean over the answers."]
    return "\n\n".join([*parts, "Written by `python -m experiments.studies.failures --draw`."]) + "\n"


def draw(frame: pd.DataFrame, path: Path) -> None:
    """The kind that is lost, by step, and held-out accuracy by what became of it: every run on its own."""
    figure, panels = canvas(1, 2, (11, 4.2), "Runs with 32 updates a step")
    arms = {arm: [run for _, run in runs.groupby("seed")] for arm, runs in frame.groupby("arm", sort=False)}
    styles = looks_of(arms)
    for arm, runs in arms.items():
        ends = []
        for index, run in enumerate(runs):
            last = last_steps(run)[lambda rows: rows["kind"] == LOST]
            ends.append((accuracy_of(last), run["heldout"].iloc[0]))
            if arm not in PLAIN:
                continue
            rows = run[run["kind"] == LOST].set_index("step")[["right", "answers"]]
            smooth = rows.reindex(range(1, run["step"].max() + 1), fill_value=0).rolling(5, min_periods=1).sum()
            share = smooth["right"] / smooth["answers"].clip(lower=1)
            curve(panels[0], share.index, share, styles[arm], arm if not index else f"_{arm}", marked=False, width=1.2)
        panels[1].plot(*zip(*ends, strict=True), MARKERS[styles[arm].marker], ls="", color=styles[arm].light, label=arm)
    describe(panels[0], f"Right answers to {LOST}", "five steps together", "step")
    scale(panels[0], share=True)
    label_ends(panels[0])
    describe(panels[1], "Held-out accuracy at the end", "", f"right answers to {LOST}, last {LAST} steps")
    scale(panels[1], share=True, steps=False)
    whole_ticks(panels[1].xaxis, share=True)
    panels[1].legend(fontsize=8, frameon=False)
    figure.save(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.studies.failures", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/study"), help="folder of the study's runs")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="RUN", default=[])
    parser.add_argument("--draw", action="store_true")
    with one_paragraph_errors("the stored numbers are as they were"):
        given = parser.parse_args(arguments)
        if not given.draw:
            frame, moved = runs_with_many_updates(given.workdir), [replayed(folder) for folder in given.replay]
            make_folder(FIGURES, "experiments/figures")
            frame.to_parquet(FIGURES / KINDS, compression="zstd")
            if moved:
                pd.concat(moved, ignore_index=True).to_parquet(FIGURES / REPLAYED, compression="zstd")
        frame = pd.read_parquet(FIGURES / KINDS)
        moved, again = (pd.read_parquet(FIGURES / name) if (FIGURES / name).exists() else None
                        for name in (REPLAYED, TWICE))
    draw(frame, FIGURES / "failures.png")
    text = text_of(frame, moved, again)
    (FIGURES / "failures.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
