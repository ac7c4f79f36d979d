"""Runs beside each other, seeds of one configuration together: curves with bands, accuracies.

    python -m experiments.compare runs/nft_0 runs/nft_1 runs/rft_0 runs/rft_1 -o runs/compared

Prints the fields in which the configurations differ, and a table of held-out accuracy, mean ±
half of its 95% interval over seeds: at the last step that all runs have evaluated, at the least number of
tokens that any run has generated, and the best. -o writes FOLDER/compare.{png,md,parquet} too.
"""
import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.harness.plots import draw
from experiments.harness.results import Measures, accuracy_table, read_run, tidy
from nft_jax.config.differences import SAME, differences, experiments_of
from nft_jax.runtime.files import make_folder
from nft_jax.runtime.terminal import markdown, one_paragraph_errors
from nft_jax.types import InputError


def compare(folders: Sequence[Path], out: Path | None) -> str:
    """The text that is printed; writes into `out`. Raises InputError for folders without a run to compare."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("a run folder is given twice: name each once.")
    runs = [read_run(folder) for folder in folders]
    groups = experiments_of([run.fields for run in runs])
    table = tidy((runs[i], {"arm": name}) for name, members in groups for i in members)
    measures = Measures.of(table)
    text = accuracy_table(measures, "configuration")
    differing = differences(*(runs[members[0]].fields for _, members in groups), ignore=SAME)
    if differing:
        text += "\n\n" + markdown(["field", *(name for name, _ in groups)],
                                  [[f"`{name}`", *map(str, values)] for name, values in differing.items()])
    if out is not None:
        make_folder(out, "--out")
        table.to_parquet(out / "compare.parquet", compression="zstd")
        draw(measures, out / "compare.png", "")
        (out / "compare.md").write_text(text + "\n")
    return text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="write the figure and the tables there")
    given = parser.parse_args(arguments)
    with one_paragraph_errors():
        print(compare(given.runs, given.out))


if __name__ == "__main__":
    main()
