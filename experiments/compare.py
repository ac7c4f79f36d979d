"""Runs beside each other, seeds of one configuration together: curves with bands, accuracies.

    python -m experiments.compare runs/nft_0 runs/nft_1 runs/rft_0 runs/rft_1 -o runs/compared

Prints the fields in which the configurations differ, and a table of held-out accuracy, mean ±
standard error over seeds: at the last step that all runs have evaluated, at the least number of
tokens that any run has generated, and the best. -o writes FOLDER/compare.{png,md,parquet} too.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nft_jax.config.differences import NO_EXPERIMENT, SEEDS, differences
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


def labels_of(configs: Sequence[dict]) -> tuple[list[str], list[str]]:
    """A label for each configuration (dotted name -> value), and the names of the fields that differ.

    Configurations that differ in seeds, folders and speed settings only have the same label.
    """
    differing = sorted(differences(*configs, ignore=(*NO_EXPERIMENT, *SEEDS)))
    first = sorted(differing, key=lambda name: name != "objective")
    told = [", ".join(str(config[name]) if name == "objective" else f"{name.rpartition('.')[2]}={config.get(name)}"
                      for name in first) for config in configs]
    return [text or str(config["objective"]) for text, config in zip(told, configs, strict=True)], differing


def short(labels: Sequence[str]) -> dict[str, str]:
    """Label -> itself; or, where labels are too long for a legend, a letter and its first words."""
    distinct = list(dict.fromkeys(labels))
    if max(map(len, distinct)) <= 40:
        return {label: label for label in distinct}
    return {label: f"({chr(ord('a') + i % 26)}{i // 26 or ''}) {label.partition(',')[0]}"
            for i, label in enumerate(distinct)}


def compare(folders: Sequence[Path], out: Path | None) -> str:
    """The text that is printed; writes into `out`. Raises InputError for folders without a run to compare."""
    from experiments.harness.plots import draw
    from experiments.harness.results import Measures, accuracy_table, markdown, read_run, tidy
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("a run folder is given twice: name each once.")
    runs = [read_run(folder) for folder in folders]
    labels, differing = labels_of([run.fields for run in runs])
    names = short(labels)
    table = tidy((run, {"arm": names[label]}) for run, label in zip(runs, labels, strict=True))
    measures = Measures.of(table)
    fields = [[f"`{name}`", *(str(runs[labels.index(label)].fields.get(name)) for label in names)]
              for name in differing]
    text = accuracy_table(measures, "configuration")
    if fields:
        text += "\n\n" + markdown(["field", *names.values()], fields)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        table.to_parquet(out / "compare.parquet", compression="zstd")
        draw(measures, out / "compare.png", "")
        (out / "compare.md").write_text(text + "\n")
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m experiments.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="write the figure and the tables there")
    given = parser.parse_args(arguments)
    with one_paragraph_errors():
        print(compare(given.runs, given.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
