"""Objectives of your own: a function given to `nft_jax.train`, or one in a module or a file.

Such an objective has a name with a colon, which stands in the run's config.json: "package.module:function",
"file.py:function", or, of a function given to `nft_jax.train`, its module and name, such as "__main__:my_loss".
Parameters after the seven of every objective are settings: flags `--objective.X`, fields of config.json.
The run's folder keeps its source (`nft_jax.objectives.source`).
"""
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nft_jax.config import Own, Setting
from nft_jax.runtime.names import load
from nft_jax.types import InputError

ARGUMENTS = ("logprobs", "old_logprobs", "mask", "rewards", "group_accuracy", "config", "extras")
KINDS = (bool, int, float, str)        # of settings
_given: dict[str, Any] = {}            # name -> what this process gave to `nft_jax.train`


def adopt(objective: Any) -> str:
    """Gives a function, or an `Objective` of one, the name under which `find` finds it. The same name again
    replaces it, as running a notebook's cell twice does. Raises InputError for anything else."""
    function = function_of(objective)
    if not inspect.isfunction(function):
        raise InputError(f"objective is {objective!r}: give a function ({', '.join(ARGUMENTS)}) -> (loss [B, T], "
                         "metrics), or an Objective of one.")
    name = f"{function.__module__}:{function.__qualname__}"
    _given[name] = objective
    return name


def find(name: str) -> Any:
    """The function or `Objective` of a name with a colon. Raises InputError if there is none."""
    if name in _given:
        return _given[name]
    home = Path(name.rpartition(":")[0])
    found = _loaded(name, home.stat().st_mtime_ns if home.suffix == ".py" and home.is_file() else 0)
    if not inspect.isfunction(function_of(found)):
        raise InputError(f"objective is {name!r}, a {type(found).__name__}: name a function, or an Objective of one.")
    return found


@functools.cache
def _loaded(name: str, changed: int) -> Any:
    # One object for all look-ups, until its file is `changed`: what jax has compiled for it is found again.
    return load(name, "objective")


def plain(objective: Any) -> Any:
    """What is called: the function of an `Objective`, jitted or partial as it may be."""
    return getattr(objective, "function", objective)


def function_of(objective: Any) -> Any:
    """The Python function behind an `Objective`, `jax.jit` or `functools.partial`."""
    objective = plain(objective)
    while isinstance(objective, functools.partial):
        objective = objective.func
    return inspect.unwrap(objective) if callable(objective) else objective


def settings_of(function: Any, label: str) -> dict[str, Setting]:
    """The settings of an objective of one's own, with their defaults: the function's parameters after the seven that
    every objective takes. A partial function's own values are its defaults.

    Raises InputError for a function that does not take the seven, and for settings without a default or of another
    kind than bool, int, float and str."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return {}
    taken = [one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters]
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return {}
    if taken[:len(ARGUMENTS)] != [True] * len(ARGUMENTS):
        raise InputError(f"objective is {label}, which takes ({', '.join(map(str, parameters))}): its first parameters "
                         f"must be the {len(ARGUMENTS)} that every objective gets, ({', '.join(ARGUMENTS)}). Settings "
                         "of its own may follow, each with a default.")
    found = {}
    for one in parameters[len(ARGUMENTS):]:
        if one.kind is one.VAR_KEYWORD:
            continue
        if type(one.default) not in KINDS:
            shown = "has no default" if one.default is one.empty else f"has the default {one.default!r}"
            raise InputError(f"objective is {label}, whose parameter {one.name} {shown}: a setting needs a default "
                             f"that is {', '.join(kind.__name__ for kind in KINDS[:-1])} or {KINDS[-1].__name__}.")
        found[one.name] = one.default
    return found


def settled(function: Any, given: Mapping[str, Setting], label: str) -> Own:
    """Every setting of the function, as `given` or its default. Raises InputError, naming objective.X, for one that the
    function does not have and for a value of another kind than its default."""
    known = settings_of(function, label)
    for name, value in given.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"objective.{name} is {value!r}: {label} has no such setting ({has}). A setting is a "
                             "parameter of the function after `extras`, with a default.")
        kind = type(known[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"objective.{name} is {value!r}: its default in {label} is {known[name]!r}, so give a "
                             f"{kind.__name__}.")
    return Own({name: type(default)(given.get(name, default)) for name, default in known.items()})
