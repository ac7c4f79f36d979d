"""Every claim of every study, from the stored results: effect, 95% interval, seeds, verdict.

    python -m experiments.studies.check             prints the claims; fails where a page says something else
    python -m experiments.studies.check --draw      writes figures/claims_SCALE.md: what the paper claims, one by one

A page under experiments/ may quote a row of a study's table. The row must be the table's own, word for word. A
table in figures/ must be what its stored results give.

Exit status: 0; 1 where a page or a table differs from the stored results.
"""
import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pandas as pd

from experiments import studies
from experiments.harness.results import Measures
from experiments.harness.scales import SCALES
from experiments.harness.study import COLUMNS, FIGURES, Study, page, row
from nft_jax.runtime.terminal import markdown

PAGES = Path(studies.__file__).parents[1]


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
            yield study, Measures.of(pd.read_parquet(path))


def rows_of(scale: str) -> Iterator[tuple[Study, list[list[str]]]]:
    """Every study with stored results, and a row of cells for each of its claims."""
    for study, measures in measured(scale):
        yield study, [row(claim, claim.of(measures)) for claim in study.claims]


def paper_table(scale: str) -> str:
    """What the paper claims, one by one, beside what was measured."""
    found = [[claim.paper, *cells[:4], cells[5], f"`experiments.studies.{study.name}`"]
             for study, rows in rows_of(scale) for claim, cells in zip(study.claims, rows, strict=True) if claim.paper]
    return "\n\n".join([
        f"# What the paper claims ({scale})",
        markdown(["the paper", *COLUMNS[:4], COLUMNS[5], "study"], found),
        "± is half of the 95% interval over seeds, paired by seed. Written by `python -m experiments.studies.check "
        "--draw`."]) + "\n"


def differences(scale: str) -> list[str]:
    """Where a table is not what its stored results give, or a page quotes a row that no table has."""
    found, tables = [], {"claims": paper_table(scale)}
    for study, measures in measured(scale):
        tables[study.name] = page(study, scale, measures)
    for name, text in tables.items():
        path = FIGURES / f"{name}_{scale}.md"
        if not path.exists() or path.read_text() != text:
            found.append(f"{path.name} is not what the stored results give: run it again with --draw")
    known = {line for text in tables.values() for line in text.splitlines()}
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
    parser.add_argument("--scale", default="nano", choices=tuple(SCALES), help="the scale of the studies")
    parser.add_argument("--draw", action="store_true", help="write the table of the paper's claims")
    given = parser.parse_args(arguments)
    if given.draw:
        (FIGURES / f"claims_{given.scale}.md").write_text(paper_table(given.scale))
    for study, rows in rows_of(given.scale):
        print(f"{study.name}\n{markdown(COLUMNS, rows)}\n")
    wrong = differences(given.scale)
    print("\n".join(wrong) or "every page and table says what the stored results give")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
