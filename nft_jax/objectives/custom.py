"""Objectives of your own: a function in a notebook cell, given to `nft_jax.train`, or one in a module or a file.

An objective of one's own has a name with a colon, which stands in the run's config.json: "package.module:function",
"file.py:function", or, for what was given to `nft_jax.train`, its module and name, "__main__:my_loss". The run folder
keeps its source, `objective.py`, and a run goes on with the same source only.
"""
from __future__ import annotations

import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from nft_jax.runtime.names import load_module
from nft_jax.types import InputError

FILE = "objective.py"
PLAIN = (bool, int, float, complex, str, bytes, type(None))
_given: dict[str, Any] = {}            # by name, what this process gave to `nft_jax.train`


def adopt(objective: Any) -> str:
    """The name under which `find` finds this objective, a function or an `Objective` of one, from now on. The same name
    again replaces it, as running a notebook's cell twice does. Raises InputError for anything else."""
    function = _function(objective)
    if not inspect.isfunction(function):
        raise InputError(f"objective is {objective!r}: give a function (logprobs, old_logprobs, mask, rewards, "
                         "group_accuracy, config, extras) -> (loss [B, T], metrics), or an Objective of one.")
    name = f"{function.__module__}:{function.__qualname__}"
    _given[name] = objective
    return name


def find(name: str) -> Any:
    """The function or `Objective` of a name with a colon. Raises InputError where there is none."""
    if name in _given:
        return _given[name]
    home, _, attribute = name.rpartition(":")
    is_file = home.endswith(".py")
    if is_file and not Path(home).is_file():
        raise InputError(f"objective is {name!r}: there is no file {home!r}. Check the name, and the folder that you "
                         "start the run from.")
    home = str(Path(home).absolute()) if is_file else home
    found = getattr(_load(home, Path(home).stat().st_mtime_ns if is_file else 0), attribute, None)
    if not inspect.isfunction(_function(found)):
        raise InputError(f"objective is {name!r}: {home} has no function, or Objective of one, {attribute!r}.")
    return found


@functools.cache
def _load(home: str, changed: int):
    """One module for all looks at a file that has not `changed`."""
    return load_module(home, "objective")


def _function(objective: Any) -> Any:
    """The Python function behind an `Objective`, `jax.jit` or `functools.partial`."""
    objective = getattr(objective, "function", objective)
    while isinstance(objective, functools.partial):
        objective = objective.func
    return inspect.unwrap(objective) if callable(objective) else objective


def source_of(name: str) -> str:
    """What an objective is computed from, as text: its source, that of the functions of its module (or notebook) that
    it calls, the numbers, strings and arrays that it reads there or closes over, and its settings.

    Other modules are taken as they are. Raises InputError where Python has no source of a function."""
    found = find(name)
    settings = {field.name: getattr(found, field.name) for field in fields(found)} if is_dataclass(found) else {}
    partials = getattr(found, "function", found)
    while isinstance(partials, functools.partial):
        settings |= {f"argument {key}": value for key, value in [*enumerate(partials.args), *partials.keywords.items()]}
        partials = partials.func
    settings.pop("function", None)
    return "\n".join([*_described(settings), *_pieces(_function(found), set())])


def _pieces(function: FunctionType, seen: set[int]) -> Iterator[str]:
    """The source of a function and of what it reads, functions depth first, each once."""
    seen.add(id(function))
    try:
        yield textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise InputError(f"objective: Python has no source of the function {function.__qualname__!r}, which a run "
                         "keeps to tell whether it goes on with the same one. Define it in a file, or in a notebook's "
                         "cell.") from error
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    values = {name: function.__globals__[name] for name in set(_names(function.__code__))
              if name in function.__globals__} | {name: cell.cell_contents for name, cell in cells}
    values |= {f"default {index}": value for index, value in enumerate(function.__defaults__ or ())}
    values |= function.__kwdefaults__ or {}
    yield from _described(values)
    for name in sorted(values):
        value = _function(values[name])
        if inspect.isfunction(value) and value.__module__ == function.__module__ and id(value) not in seen:
            yield from _pieces(value, seen)


def _names(code: CodeType) -> Iterator[str]:
    """Global names that the code reads, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _described(values: dict[str, Any]) -> Iterator[str]:
    """A line for every value that is plain, or made of plain ones, or an array; sorted."""
    for name, value in sorted(values.items(), key=lambda item: str(item[0])):
        if _is_plain(value):
            yield f"# {name} = {value!r}"
        elif hasattr(value, "__array__"):
            array = np.asarray(value)
            yield f"# {name} = {array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_plain([*value.keys(), *value.values()])
    return all(map(_is_plain, value)) if isinstance(value, (tuple, list)) else isinstance(value, PLAIN)


def record_of(name: str) -> str:
    """What the run folder keeps of an objective in FILE: its name, the hash of its source, the source; "" of one that
    the package has. Raises InputError as `source_of`."""
    if ":" not in name:
        return ""
    source = source_of(name)
    return f"# objective {name}, sha256 of what follows {hashlib.sha256(source.encode()).hexdigest()}\n{source}\n"


def require_same_objective(folder: Path, name: str) -> None:
    """InputError where the run in `folder` was begun with another source of its objective `name`."""
    record, path = record_of(name), folder / FILE
    if record and (not path.exists() or path.read_text() != record):
        raise InputError(f"objective is {name!r}, whose source is not that of the run in workdir {str(folder)!r} (it "
                         f"is kept there, in {FILE}): put the function back to continue the run, choose another "
                         "workdir, or start over with --fresh (fresh=True).")
