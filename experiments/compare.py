"""Runs beside each other, seeds of one configuration together: a table, a figure, and the report.

    python -m experiments.compare runs/sweep/quickstart              all runs of a sweep
    python -m experiments.compare "runs/nft_*" runs/rft -o runs/compared
    python -m experiments.compare "no clamp=runs/a" "clamp=runs/b*"  with labels of your own

A RUN is the folder of a run, a folder of such folders, or a pattern; LABEL=RUN calls its runs by the label. Prints the
table of held-out accuracy, mean ± half of its 95% interval over seeds: at the last step at which every run was
evaluated, at the least number of tokens that any run has generated, and the best of the whole run. "~" is a number
between two evaluations. Where the runs share no evaluated step beyond 0, the step is the last one of the shortest run.
Then come the fields in which the configurations differ; "-" is a setting that the objective does not read.

Writes compare.md, compare.png (curves with bands), compare.parquet (all metrics) and compare.html, the page of
`nft_jax.report`, into FOLDER: -o, or the folder of runs that is given, or runs/compared.
"""
import argparse
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from experiments.harness.plots import draw
from experiments.harness.results import ACCURACY, Measures, accuracy_table, read_run, tidy
from nft_jax.config.differences import MISSING, SAME, differences
from nft_jax.record.folder import RunFolder, is_run
from nft_jax.record.labels import experiments_named, split_label
from nft_jax.runtime.files import make_folder
from nft_jax.runtime.terminal import markdown, one_paragraph_errors
from nft_jax.types import InputError


def found_runs(texts: Sequence[str]) -> tuple[list[tuple[RunFolder, str]], list[str]]:
    """The runs that the texts mean, each once, with its label or ""; and what was left out of folders and patterns, as
    sentences.

    Raises InputError for a text that means no run, and for a run without metrics or evaluation that is named itself.
    """
    chosen: dict[Path, tuple[RunFolder, str]] = {}
    left_out = []
    for label, text in map(split_label, texts):
        path = Path(text)
        if is_run(path):
            chosen.setdefault(path.resolve(), (evaluated(read_run(path)), label))
            continue
        folders = [path] if path.is_dir() else sorted(Path(name) for name in glob.glob(text) if Path(name).is_dir())
        inner = [run for folder in folders for run in ([folder] if is_run(folder) else
                 sorted(each for each in folder.iterdir() if each.is_dir() and is_run(each)))]
        if not inner:
            read_run(path)                          # says why it is none
        for run in inner:
            try:
                chosen.setdefault(run.resolve(), (evaluated(read_run(run)), label))
            except InputError as error:
                left_out.append(f"left out: {error}")
    if not chosen:
        raise InputError(f"RUN is {', '.join(map(repr, texts))}, where no run can be compared: {left_out[0]}")
    return [*chosen.values()], left_out


def evaluated(run: RunFolder) -> RunFolder:
    """The run. Raises InputError if it has no held-out accuracy to compare it by."""
    if all(row.get(ACCURACY) is None for row in run.rows):
        raise InputError(f"the run folder is {str(run.folder)!r}, whose metrics have no {ACCURACY}: set "
                         "evaluation.source, or leave it out.")
    return run


def compare(runs: Sequence[RunFolder], out: Path, labels: Sequence[str] = ()) -> str:
    """The text that is printed. Writes the table, the figure and the report into `out`.

    labels: what each run is called, "" for its folder's name."""
    groups = experiments_named(runs, labels)
    table = tidy((runs[i], {"arm": name}) for name, members in groups for i in members)
    measures = Measures.of(table)
    text = accuracy_table(measures, "configuration", marked=True)
    if any(measures.interpolated(measure, arm) for measure in ("steps", "tokens") for arm in measures.runs):
        text += "\n\n~ lies between two evaluations of the run, and is linear between them."
    differing = differences(*(runs[members[0]].told for _, members in groups), ignore=SAME)
    if differing:
        text += "\n\n" + markdown(["field", *(name for name, _ in groups)],
                                  [[f"`{name}`", *("-" if value is MISSING else str(value) for value in values)]
                                   for name, values in differing.items()])
    make_folder(out, "-o")
    table.to_parquet(out / "compare.parquet", compression="zstd")
    draw(measures, out / "compare.png", "")
    (out / "compare.md").write_text(text + "\n")
    from nft_jax.report.page import write_page
    write_page([run.folder for run in runs], out / "compare.html", 2000, labels=labels)
    return text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, folders of runs, patterns; LABEL=RUN")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="write the table, figure and report there")
    given = parser.parse_args(arguments)
    # Before jax is imported, for the report. A run may be using the accelerator.
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    with one_paragraph_errors():
        runs, left_out = found_runs(given.runs)
        only = Path(given.runs[0])
        alone = len(given.runs) == 1 and only.is_dir() and not is_run(only)
        out = given.out or (only if alone else Path("runs/compared"))
        print(compare([run for run, _ in runs], out, [label for _, label in runs]), *left_out, sep="\n")
        print("\n" + "\n".join(f"{out / f'compare.{kind}'}  {what}" for kind, what in (
            ("md", "these tables"), ("png", "curves"), ("html", "the report"), ("parquet", "every metric"))))


if __name__ == "__main__":
    main()
