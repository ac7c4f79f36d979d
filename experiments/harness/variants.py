"""Variants of a configuration: fields set by their dotted names, told apart, named, written as a command line."""
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nft_jax.config import Config, ObjectiveConfig, Own, flat
from nft_jax.config.differences import MISSING, NO_EXPERIMENT, without
from nft_jax.runtime.files import make_folder, replaced

# Raised when a configuration computes something else than before, so that studies make its runs again.
VERSION = 2                     # 2: generation batches are sized by the share of accepted groups
NAMES = "sweep.json"            # in a sweep's folder: hash of what a run computes -> name of its folder


def vary(base: Config, changes: Mapping[str, object]) -> Config:
    """`base` with fields set by their dotted names. Raises InputError for refused values."""
    base = with_objective(base, changes.get("objective", base.objective))
    parts: dict[str, dict] = {}
    for name, value in changes.items():
        part, _, field = name.rpartition(".")
        parts.setdefault(part, {})[field] = value
    # Settings of an objective of one's own are kept with the loss.
    if own := parts.pop("objective", {}):
        parts.setdefault("loss", {})["own"] = Own({**base.loss.own, **own})
    whole = parts.pop("", {})
    return replace(base, **whole, **{part: replace(getattr(base, part), **values) for part, values in parts.items()})


def with_objective(base: Config, objective: str) -> Config:
    """`base`; or with another objective and its defaults: what `base` sets under `loss` was meant for its own."""
    return base if objective == base.objective else replace(base, objective=objective, loss=ObjectiveConfig())


def flags(base: Config, config: Config) -> list[str]:
    """The flags by which the command line of `base` makes `config`."""
    before = flat(base.to_dict())
    return [word for name, value in flat(config.to_dict()).items() if value != before.get(name, MISSING)
            for word in flag(name, value, before.get(name))]


def flag(name: str, value: object, before: object) -> list[str]:
    """The words that set a field whose value is `before`. A field that is on or off has --field and --no-field.
    A setting of an objective of one's own takes a value."""
    part, dot, last = name.replace("_", "-").rpartition(".")
    if not name.startswith("objective.") and isinstance(before, bool) and str(value).lower() in ("true", "false"):
        return [f"--{part}{dot}{'' if str(value).lower() == 'true' else 'no-'}{last}"]
    if isinstance(value, tuple):
        return [f"--{part}{dot}{last}", *map(str, value)]
    return [f"--{part}{dot}{last}={value}"]


def command(experiment: str, base: Config, config: Config) -> list[str]:
    """Runs `config`, a variant of what `experiment` names."""
    return [sys.executable, "-m", "experiments.train", experiment, *flags(base, config)]


def resolved(config: Config) -> dict[str, object]:
    """Dotted name -> value of everything that decides what a run computes, defaults resolved."""
    from nft_jax.train.plan import settle
    return without(settle(config).to_dict(), NO_EXPERIMENT)


def digest(config: Config) -> str:
    """Eight hex digits of what a run computes. Defaults do not count, so a new field leaves older names alone."""
    default = without(Config().to_dict(), ())
    told = {name: value for name, value in resolved(config).items() if value != default.get(name, MISSING)}
    told["version"] = VERSION
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def folder_of(root: Path, name: str, config: Config) -> Path:
    """The folder under `root` of what `config` computes: an existing one, whatever study made it, or a new one."""
    ending = digest(config)
    objective = Path(config.objective).name.replace(":", "_")
    return min(root.glob(f"*-{ending}"), default=root / f"{name}-{objective}-seed{config.seed}-{ending}")


class Names:
    """The folders of a sweep's runs under `root`, named by what sets a run apart. NAMES keeps which run is where, so
    that the same run is found again, whatever was swept when it was made."""

    def __init__(self, root: Path):
        self._root, self._path = root, root / NAMES
        self._known: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def folder(self, label: str, config: Config) -> Path:
        """The folder of what `config` computes. A run that only shares its label with another gets the hash too."""
        ending = digest(config)
        if ending not in self._known:
            # Older versions named every run with its hash.
            old = min((path.name for path in self._root.glob(f"*-{ending}")), default=None)
            name = re.sub(r"[^\w.,=+-]", "_", label.replace(", ", ",").replace(" ", "="))[:120]
            if name in self._known.values() or (self._root / name).exists():
                name = f"{name}-{ending}"
            self._known[ending] = old or name
        return self._root / self._known[ending]

    def write(self) -> None:
        make_folder(self._root, "--workdir")
        with replaced(self._path) as partial:
            partial.write_text(json.dumps(self._known, indent=2) + "\n")
