"""In which settings runs differ, and in which of them they may."""
import json
from collections.abc import Collection, Mapping, Sequence

# A name here is a field, or a room with all its fields: "mesh" stands for mesh.data, mesh.fsdp and the others.

# May differ when a run's folder is continued: they change nothing that is computed, or only how far it goes.
MAY_CHANGE = ("name", "workdir", "steps", "writers", "mesh", "policy.attention", "checkpoint", "rollout.slots",
              "rollout.block_size", "batch.rows_per_micro_batch", "verifier.workers", "guard")
# Beside `steps`, none of them makes another experiment.
NO_EXPERIMENT = tuple(name for name in MAY_CHANGE if name != "steps")
# Runs that differ in nothing but these and NO_EXPERIMENT (so in SAME) are seeds of one experiment.
SEEDS = ("seed", "data.seed")
SAME = (*NO_EXPERIMENT, *SEEDS)
# Fields that older versions had, in the config.json of their runs: dotted name -> (the value that is all there is
# today, what to do about a run with another one).
REMOVED: dict[str, tuple[object, str]] = {
    "rollout.rollout_ahead": (0, "steps always train on answers of the parameters that they start from"),
    "optimizer.second_moment_dtype": ("float32", "Adam's second moment is always kept in float32"),
}


class _Missing:
    """The value of a field that settings do not have."""

    def __repr__(self) -> str:
        return "(not known)"


MISSING = _Missing()


def flat(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Nested settings as dotted name -> value: {"loss": {"epsilon": 1.0}} -> {"loss.epsilon": 1.0}."""
    found: dict[str, object] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def without(settings: Mapping, ignore: Collection[str]) -> dict[str, object]:
    """Flat settings without the fields and rooms of `ignore`. Tuples are lists, as JSON reads them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flat(settings).items()
            if not any(name == one or name.startswith(f"{one}.") for one in ignore)}


def differences(*settings: Mapping, ignore: Collection[str] = ()) -> dict[str, tuple]:
    """Dotted name -> its value in each of the (nested or flat) settings, where not all of these are equal.
    Fields come in the order in which the settings have them. MISSING stands for a field that settings lack."""
    every = [without(one, ignore) for one in settings]
    found = {name: tuple(one.get(name, MISSING) for one in every) for one in every for name in one}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def objective_label(objective: str) -> str:
    """An objective's name in tables and figures: of one's own, "my_losses.py:forks", the function's, "forks"."""
    return objective.rpartition(":")[2] or objective


def experiments_of(settings: Sequence[Mapping]) -> list[tuple[str, list[int]]]:
    """The experiments among flat settings: the name of each and the indices of its seeds, in the order of the first.

    A name is the objective, if it differs, and of the fewest other fields that tell the experiments apart those in
    which another experiment of the same objective has another value, the most telling field first."""
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(settings):
        groups.setdefault(json.dumps(without(one, SAME), sort_keys=True), []).append(index)
    firsts = [settings[members[0]] for members in groups.values()]
    if len(firsts) == 1:
        return [(str(firsts[0]["name"]), *groups.values())]
    left = list(differences(*firsts, ignore=SAME))
    chosen = ["objective"] if "objective" in left else []
    left = [name for name in left if name not in chosen]

    def told_apart(names: list[str]) -> int:
        return len({json.dumps([first.get(name, "-") for name in names]) for first in firsts})

    while told_apart(chosen) < len(firsts):
        best = max(left, key=lambda name: told_apart([*chosen, name]))       # the first of equals
        chosen.append(best)
        left.remove(best)
    objectives = {str(first.get("objective")) for first in firsts}
    short = {name: objective_label(name) for name in objectives}
    # Two files may have a function of the same name.
    if len({*short.values()}) < len(objectives):
        short = {name: name for name in objectives}
    names = []
    for first in firsts:
        alike = [other for other in firsts if other.get("objective") == first.get("objective")]
        names.append(described({name: short[first[name]] if name == "objective" else first[name] for name in chosen
                                if name in first and (name == "objective" or any(
                                    other.get(name, MISSING) != first[name] for other in alike))}))
    return list(zip(names, groups.values(), strict=True))


def described(changes: Mapping[str, object]) -> str:
    """What sets an experiment apart, for people: {"objective": "nft", "loss.epsilon": 0.1} -> "nft, epsilon 0.1"."""
    last = [name.rpartition(".")[2] for name in changes]
    # 1 for 1.0; no digit is lost.
    texts = [f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
             for value in changes.values()]
    return ", ".join(text if name == "objective" else f"{short if last.count(short) == 1 else name} {text}"
                     for name, short, text in zip(changes, last, texts, strict=True))
