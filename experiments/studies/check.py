"""Every claim of every study, from the stored results: effect, 95% interval, seeds, verdict.

    python -m experiments.studies.check             prints the claims; fails where a page says something else
    python -m experiments.studies.check --draw      writes the table of the paper's claims into experiments/README.md

A page under experiments/ may quote a row of a study's table. The row must be the table's own, word for word. A
table in figures/, and the table of the paper's claims, must be what the stored results give.

Exit status: 0; 1 where a page or a table differs from the stored results.
"""
import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pandas as pd

from experiments import studies
from experiments.harness.results import Measures
from experiments.harness.scales import SCALES
from experiments.harness.study import COLUMNS, FIGURES, Study, page, row
from experiments.studies import kinds
from nft_jax.runtime.terminal import markdown

PAGES = Path(studies.__file__).parents[1]
HEAD = ("the paper", *COLUMNS[:4], COLUMNS[5], "study")


def all_studies() -> list[Study]:
    """The studies of this folder, by name."""
    found = (getattr(import_module(f"{studies.__name__}.{module.name}"), "STUDY", None)
             for module in iter_modules(studies.__path__) if module.name != "check")
    return [study for study in found if study is not None]


def measured(scale: str) -> Iterator[tuple[Study, Measures]]:
    """Every study with stored results, and what they give."""
    for study in all_studies():
        path = FIGURES / f"{study.name}_{scale}.parquet"
        if path.exists():
            yield study, _measures(path, path.stat().st_mtime_ns)


@cache
def _measures(path: Path, changed: int) -> Measures:
    """Of a stored table, which is read again when it changed."""
    return Measures.of(pd.read_parquet(path))


def rows_of(scale: str) -> Iterator[tuple[Study, list[list[str]]]]:
    """Every study with stored results, and a row of cells for each of its claims."""
    for study, measures in measured(scale):
        yield study, [row(claim, claim.of(measures)) for claim in study.claims]


def paper_table() -> str:
    """What the paper claims, one by one, beside what was measured, at every scale."""
    found = [[claim.paper, *cells[:4], re.sub(r" with \d+ seeds?", "", cells[5]), f"`{study.name}`"] for scale in SCALES
             for study, rows in rows_of(scale) for claim, cells in zip(study.claims, rows, strict=True) if claim.paper]
    return markdown(HEAD, found)


def with_paper_table(text: str, table: str) -> str:
    """A page whose table of the paper's claims is `table`. Raises ValueError for a page without one."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith(f"| {HEAD[0]} |")), None)
    if first is None:
        raise ValueError(f"the page has no table that begins with {HEAD[0]!r}.")
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    return "\n".join([*lines[:first], table, *lines[last:]]) + "\n"


def differences() -> list[str]:
    """Where a table is not what its stored results give, or a page quotes a row that no table has."""
    found, table, summary = [], paper_table(), (PAGES / "README.md").read_text()
    known = set(table.splitlines())
    for scale in SCALES:
        for study, measures in measured(scale):
            path, text = FIGURES / f"{study.name}_{scale}.md", page(study, scale, measures)
            known.update(text.splitlines())
            if not path.exists() or path.read_text() != text:
                found.append(f"{path.name} is not what the stored results give: run it again with --draw")
    for path in sorted(FIGURES.glob("kinds_*.parquet")):
        study = path.stem.removeprefix("kinds_")
        if path.with_suffix(".md").read_text() != kinds.text_of(study, pd.read_parquet(path)):
            found.append(f"{path.stem}.md is not what the stored answers give: run experiments.studies.kinds {study} "
                         "--draw")
    if summary != with_paper_table(summary, table):
        found.append("README.md has another table of the paper's claims: run experiments.studies.check --draw")
    for path in sorted(PAGES.rglob("*.md")):
        if path.parent != FIGURES:
            found += [f"{path.relative_to(PAGES)} quotes a row that no table has: {line}"
                      for line in path.read_text().splitlines() if _is_claim(line) and line not in known]
    return found


def _is_claim(line: str) -> bool:
    """Whether a line is a row of a table of claims."""
    return line.startswith("| ") and "` less " in line


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m experiments.studies.check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="write the table of the paper's claims")
    given = parser.parse_args(arguments)
    if given.draw:
        summary = PAGES / "README.md"
        summary.write_text(with_paper_table(summary.read_text(), paper_table()))
    for scale in SCALES:
        for study, rows in rows_of(scale):
            print(f"{study.name} ({scale})\n{markdown(COLUMNS, rows)}\n")
    wrong = differences()
    print("\n".join(wrong) or "every page and table says what the stored results give")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
