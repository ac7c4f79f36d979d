"""Objectives of your own: a function given to `nft_jax.train`, or one in a module or a file.

Such an objective has a name with a colon, which stands in the run's config.json: "package.module:function",
"file.py:function", or, of a function given to `nft_jax.train`, its module and name, such as "__main__:my_loss".
The run's folder keeps its source in objective.py, and the run goes on with the same source only.
"""
import functools
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from nft_jax.runtime.names import load
from nft_jax.types import InputError

FILE = "objective.py"
_given: dict[str, Any] = {}            # name -> what this process gave to `nft_jax.train`


def adopt(objective: Any) -> str:
    """Gives a function, or an `Objective` of one, the name under which `find` finds it. The same name again
    replaces it, as running a notebook's cell twice does. Raises InputError for anything else."""
    function = _function(objective)
    if not inspect.isfunction(function):
        raise InputError(f"objective is {objective!r}: give a function (logprobs, old_logprobs, mask, rewards, "
                         "group_accuracy, config, extras) -> (loss [B, T], metrics), or an Objective of one.")
    name = f"{function.__module__}:{function.__qualname__}"
    _given[name] = objective
    return name


def find(name: str) -> Any:
    """The function or `Objective` of a name with a colon. Raises InputError if there is none."""
    if name in _given:
        return _given[name]
    home = Path(name.rpartition(":")[0])
    found = _loaded(name, home.stat().st_mtime_ns if home.suffix == ".py" and home.is_file() else 0)
    if not inspect.isfunction(_function(found)):
        raise InputError(f"objective is {name!r}, a {type(found).__name__}: name a function, or an Objective of one.")
    return found


@functools.cache
def _loaded(name: str, changed: int) -> Any:
    # One object for all look-ups, until its file is `changed`: what jax has compiled for it is found again.
    return load(name, "objective")


def _function(objective: Any) -> Any:
    """The Python function behind an `Objective`, `jax.jit` or `functools.partial`."""
    objective = getattr(objective, "function", objective)
    while isinstance(objective, functools.partial):
        objective = objective.func
    return inspect.unwrap(objective) if callable(objective) else objective


def record_of(name: str) -> str:
    """The content of the run folder's objective.py: name, SHA-256 and source of the objective. ""
    for an objective of this package. Raises InputError if Python has no source of it."""
    if ":" not in name:
        return ""
    found = find(name)
    try:
        # The first line tells the settings of an `Objective` or a partial function.
        text = f"# {_told(found)}\n{_source(_function(found))}"
    except (OSError, TypeError) as error:
        raise InputError(f"objective is {name!r}, of which Python has no source; a run keeps it, to go on with the "
                         "same one only. Define the function in a file, or in a notebook's cell.") from error
    return f"# objective {name}, sha256 of the rest {hashlib.sha256(text.encode()).hexdigest()}\n{text}\n"


def _source(function: FunctionType) -> str:
    """The text of the function's module. A notebook or a script (module `__main__`) does other
    things too, such as starting the run. Of those only the definitions that the function uses are kept."""
    if function.__module__ != "__main__":
        return Path(inspect.getfile(function)).read_text()
    return "\n".join(_used(function, set()))


def _used(function: FunctionType, seen: set[str]) -> Iterator[str]:
    """The source of a function, of the functions of its module that it names, and the values that it reads there."""
    seen.add(function.__qualname__)
    yield textwrap.dedent(inspect.getsource(function))
    values = function.__globals__ | inspect.getclosurevars(function).nonlocals
    values = {name: values[name] for name in sorted(set(_names(function.__code__)) & values.keys())}
    for name, value in (values | {"defaults": [function.__defaults__, function.__kwdefaults__]}).items():
        inner = _function(value)
        if inspect.isfunction(inner):
            if inner.__module__ == function.__module__ and inner.__qualname__ not in seen:
                yield from _used(inner, seen)
        elif not (inspect.ismodule(value) or callable(value)):
            yield f"# {name} = {_told(value)}"


def _names(code: CodeType) -> Iterator[str]:
    """The names that the code reads, inner functions included."""
    yield from (*code.co_names, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _told(value: Any) -> str:
    """A value as text that is the same in every process: whole arrays, and objects without their address."""
    with np.printoptions(threshold=sys.maxsize):
        return re.sub(" at 0x[0-9a-f]+", "", repr(value))


def digest_of(record: str) -> str:
    """The hash in the first line of a `record_of`; "" of none."""
    return record.partition("\n")[0].rpartition(" ")[2]
