"""What several runs are called beside each other, in tables, legends and tooltips."""
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from nft_jax.config.differences import SAME, differences, experiments_of
from nft_jax.record.folder import RunFolder
from nft_jax.types import InputError


def split_label(text: str) -> tuple[str, str]:
    """The label and the rest of "LABEL=RUN"; ("", text) without a label. A folder's own name may have an "="."""
    label, equals, run = text.partition("=")
    if not (label.strip() and equals and run) or os.sep in label or Path(text).exists() or glob.glob(text):
        return "", text
    return label.strip(), run


def experiments_named(runs: Sequence[RunFolder], labels: Sequence[str] = ()) -> list[tuple[str, list[int]]]:
    """The experiments among the runs: the name of each and the indices of its runs, in the order of the first.

    labels: one for each run, "" for none. The runs of a label are one experiment, called by it. The others are called
    by their folders if each is an experiment of its own, else by the settings that tell the experiments apart.

    Raises InputError for a label of runs that differ in more than seeds, and for one that is another's name."""
    labels = labels or [""] * len(runs)
    found = {label: [i for i, other in enumerate(labels) if other == label] for label in labels if label}
    for label, members in found.items():
        differing = differences(*(runs[i].told for i in members), ignore=SAME)
        if differing:
            raise InputError(f"the label {label!r} is given to runs that differ in {', '.join(differing)}: give each "
                             "experiment a label of its own.")
    rest = [i for i, label in enumerate(labels) if not label]
    folders = folder_names(runs)
    others = [(name, [rest[i] for i in members]) for name, members in
              (experiments_of([runs[i].told for i in rest]) if rest else ())]
    if all(len(members) == 1 for _, members in others):
        others = [(folders[members[0]], members) for _, members in others]
    for name, members in others:
        if name in found:
            raise InputError(f"the label {name!r} is also the name of {str(runs[members[0]].folder)!r}: choose another "
                             "label, or give both runs one.")
    return sorted([*found.items(), *others], key=lambda pair: pair[1][0])


def folder_names(runs: Sequence[RunFolder]) -> list[str]:
    """The last parts of each folder's path, as many as tell the folders apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names
