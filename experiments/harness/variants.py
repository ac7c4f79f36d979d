"""Variants of a configuration: fields set by their dotted names, told apart, named, written as a command line."""
from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from nft_jax.config import Config, ObjectiveConfig, flat
from nft_jax.config.differences import NO_EXPERIMENT, without
from nft_jax.types import InputError

ROOT = Path(__file__).resolve().parents[2]


@cache
def kinds(settings: type = Config, prefix: str = "") -> dict[str, object]:
    """Dotted name of every field -> its type."""
    found: dict[str, object] = {}
    for name, kind in get_type_hints(settings).items():
        found |= kinds(kind, f"{prefix}{name}.") if is_dataclass(kind) else {prefix + name: kind}
    return found


def known(name: str) -> str:
    """The dotted name of a field as the configuration writes it. Raises InputError, with near names, for another."""
    field = name.strip().removeprefix("--").replace("-", "_")
    names = kinds()
    if field not in names:
        near = difflib.get_close_matches(field, names, 3, 0.6) or [
            other for other in names if other.rpartition(".")[2] == field.rpartition(".")[2]]
        raise InputError(f"{name!r} is no field of a configuration" + (f": did you mean {' or '.join(near)}?" if near
                         else ": `python -m experiments.train quickstart --help` lists them all."))
    return field


def value_of(field: str, text: str) -> object:
    """`text` as a value of the field, by its type. Raises InputError for a text that is none."""
    kind = kinds()[field]
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in options and text.lower() == "none":
        return None
    for option in options:
        if get_origin(option) is Literal:
            matching = [choice for choice in get_args(option) if str(choice) == text]
            if matching:
                return matching[0]
        elif option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        elif option in (int, float, str):
            try:
                return option(text)
            except ValueError:
                continue
    wanted = [("one of " + ", ".join(map(str, get_args(option)))) if get_origin(option) is Literal
              else getattr(option, "__name__", str(option)) for option in options if option is not NoneType]
    raise InputError(f"{field} is {text!r}: it takes {' or '.join(wanted)}"
                     + (", or none." if NoneType in options else "."))


def vary(base: Config, changes: Mapping[str, object]) -> Config:
    """`base` with fields set by their dotted names. Raises InputError for unknown fields and refused values.

    Another objective begins with its own defaults: what `base` sets under `loss` was meant for its own objective.
    """
    parts: dict[str, dict] = {"": {}, "loss": {}}
    for name, value in changes.items():
        part, _, field = known(name).rpartition(".")
        parts.setdefault(part, {})[field] = value
    whole, loss = parts.pop(""), parts.pop("loss")
    same = whole.get("objective", base.objective) == base.objective
    return replace(base, **whole, loss=replace(base.loss if same else ObjectiveConfig(), **loss),
                   **{part: replace(getattr(base, part), **values) for part, values in parts.items()})


def flags(base: Config, config: Config) -> list[str]:
    """The flags by which the command line of `base` makes `config`."""
    before, found = flat(base.to_dict()), []
    for name, value in flat(config.to_dict()).items():
        if value == before[name]:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, tuple):
            found += [f"--{flag}", *map(str, value)]
        elif kinds()[name] is bool:
            part, _, last = flag.rpartition(".")
            found.append(f"--{flag}" if value else f"--{part}.no-{last}")
        else:
            found.append(f"--{flag}={value}")
    return found


def command(experiment: str, base: Config, config: Config) -> list[str]:
    """The command that runs `config`, a variant of what `experiment` names."""
    return [sys.executable, "-m", "experiments.train", experiment, *flags(base, config)]


def resolved(config: Config) -> dict[str, object]:
    """Dotted name -> value of everything that decides what a run computes, defaults resolved.

    Without names, folders and speed settings. Paths inside this repository are relative to its root, so that they are
    the same in every clone.
    """
    from nft_jax.train.plan import settle
    return {name: _portable(value) for name, value in without(settle(config).to_dict(), NO_EXPERIMENT).items()}


def _portable(value: object) -> object:
    if isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(ROOT):
        return Path(value).relative_to(ROOT).as_posix()
    return value


def digest(config: Config) -> str:
    """Eight hex digits of what a run computes.

    A field at its default does not count. A new field that is off by default so leaves the names of older runs alone.
    """
    default = {name: _portable(value) for name, value in without(Config().to_dict(), ()).items()}
    told = {name: value for name, value in resolved(config).items() if value != default[name]}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def folder_of(root: Path, name: str, config: Config) -> Path:
    """The folder under `root` of what `config` computes: an existing one, whatever study made it, or a new one."""
    ending = digest(config)
    for found in sorted(root.glob(f"*-{ending}")):
        return found
    objective = Path(config.objective).name.replace(":", "_")
    return root / f"{name}-{objective}-seed{config.seed}-{ending}"


def described(changes: Mapping[str, object]) -> str:
    """Fields and values in a few words."""
    return ", ".join(f"{name}={value}" for name, value in changes.items()) or "as the base"
