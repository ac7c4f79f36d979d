"""Everything that the page on some runs shows, as values that JSON can hold."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nft_jax.config.differences import SEEDS, differences
from nft_jax.record.folder import read_run
from nft_jax.report.data import (
    BINS,
    SAME,
    group_names,
    group_runs,
    histogram,
    overview,
    phases,
    run_names,
    series,
)
from nft_jax.report.rollouts import sample_of

HIDDEN = ("name", "workdir", *SEEDS)     # fields that the table of runs shows instead of the table of fields


def page_data(folders: Sequence[Path], rollouts: int) -> dict[str, Any]:
    """The contents of the page, with at most `rollouts` answers. A field's value is that of a
    group's first run."""
    unique = list({folder.resolve(): folder for folder in folders}.values())
    runs = [read_run(folder) for folder in unique]
    groups = group_runs(runs)
    firsts = [runs[members[0]] for members in groups]
    of_group = [[runs[i] for i in members] for members in groups]
    names = dict.fromkeys(name for run in firsts for name in run.fields if name not in HIDDEN)
    return {
        "groups": [{"name": name, "runs": members} for name, members in
                   zip(group_names(firsts), groups, strict=True)],
        "runs": [{"name": name} | overview(run) for name, run in zip(run_names(runs), runs, strict=True)],
        "fields": [[name, [run.fields.get(name) for run in firsts]] for name in names],
        "different": list(differences(*(run.fields for run in firsts), ignore=SAME)),
        "series": [series(members) for members in of_group],
        "histograms": [histogram(members) for members in of_group], "bins": BINS,
        "phases": [phases(members) for members in of_group], "rollouts": sample_of(runs, rollouts)}
