"""Runs beside each other: seeds of one configuration taken together, curves with bands, a table of accuracy.

    python -m experiments.compare runs/nft_0 runs/nft_1 runs/rft_0 runs/rft_1 -o runs/compared

Prints the fields in which the configurations differ and a Markdown table of held-out accuracy: mean ± standard error
over seeds, at the last step that all runs have evaluated, at the least number of generated tokens that any run got to,
and the best. With -o also FOLDER/compare.png, compare.md and compare.parquet (a row for every run and step).
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.harness.variants import SEEDS
from nft_jax.config import Config, flat
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


def labels_of(configs: Sequence[dict]) -> tuple[list[str], list[str]]:
    """A label for each configuration (dotted name -> value), the same for those that differ in seeds, folders and
    speed settings only; and the names of the fields that differ. A field that an older run does not have is at its
    default."""
    from nft_jax.record.folder import MAY_CHANGE
    noise = (*(name for name in MAY_CHANGE if name != "steps"), *SEEDS)
    default = flat(Config().to_dict())
    whole = [{name: _plain(value) for name, value in (default | config).items() if not name.startswith(noise)}
             for config in configs]
    differing = sorted({name for config in whole for name, value in config.items() if value != whole[0].get(name)})
    told = [", ".join(str(config[name]) if name == "objective" else f"{name.rpartition('.')[2]}={config.get(name)}"
                      for name in sorted(differing, key=lambda name: name != "objective")) for config in whole]
    return [text or str(config["objective"]) for text, config in zip(told, whole, strict=True)], differing


def _plain(value):
    return tuple(value) if isinstance(value, list) else value


def short(labels: Sequence[str]) -> dict[str, str]:
    """Label -> itself, or a letter with it where it is too long for a legend."""
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
    labels, differing = labels_of([run.config for run in runs])
    names = short(labels)
    table = tidy((run, {"arm": names[label]}) for run, label in zip(runs, labels, strict=True))
    measures = Measures.of(table)
    fields = [[f"`{name}`", *(_value(runs[labels.index(label)].config, name) for label in names)]
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


def _value(config: dict, name: str) -> str:
    return str(config.get(name, flat(Config().to_dict()).get(name)))


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
