"""The source of an objective of one's own, as the run's folder keeps it in objective.py: a file that runs by itself.

A run goes on with the same source only, so the text is the same in every process, and its hash stands in the first
line. `--objective RUN/objective.py:NAME` starts another run with it.
"""
import ast
import functools
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from nft_jax.objectives.custom import find, function_of
from nft_jax.types import InputError

FILE = "objective.py"


def record_of(name: str) -> str:
    """The content of the run folder's objective.py: name, SHA-256 and source of the objective. ""
    for an objective of this package. Raises InputError if Python has no source of it."""
    if ":" not in name:
        return ""
    found = find(name)
    try:
        # The first line tells the settings of an `Objective` or a partial function.
        text = f"# {_told(found)}\n{_source(found)}"
    except (OSError, TypeError) as error:
        raise InputError(f"objective is {name!r}, of which Python has no source; a run keeps it, to go on with the "
                         "same one only. Define the function in a file, or in a notebook's cell.") from error
    return f"# objective {name}, sha256 of the rest {hashlib.sha256(text.encode()).hexdigest()}\n{text}\n"


def digest_of(record: str) -> str:
    """The hash in the first line of a `record_of`; "" of none."""
    return record.partition("\n")[0].rpartition(" ")[2]


def _source(found: Any) -> str:
    """The text of the function's module. A notebook or a script (module `__main__`) does other things too, such as
    starting the run. Of those only what the function uses is kept: imports, values, functions and classes."""
    function = function_of(found)
    if function.__module__ != "__main__":
        return Path(inspect.getfile(function)).read_text()
    kept = _Kept()
    kept.add(function)
    wrapped = _rebuilt(found, kept) if found is not function else ""
    whole = [*kept.imports, *kept.values, *kept.definitions]
    if wrapped and wrapped != function.__name__:
        whole.append(f"{function.__name__} = {wrapped}")
    return "\n".join(whole)


class _Kept:
    """What a function of a notebook or script needs, in the order in which a file must have it."""

    def __init__(self):
        # Keys only: what comes twice stands once.
        self.imports: dict[str, None] = {}
        self.values: dict[str, None] = {}
        self.definitions: dict[str, None] = {}
        self._seen: set[str] = set()

    def add(self, defined: FunctionType | type) -> None:
        """A function or class with all that it names, the innermost first."""
        self._seen.add(defined.__qualname__)
        text = _text(defined)
        known, names = _names(defined, text)
        for name in sorted(names & known.keys()):
            self._name(name, known[name], defined.__module__)
        for value in (getattr(defined, "__defaults__", None), getattr(defined, "__kwdefaults__", None)):
            if value:
                # The value that counts is that of the definition, whatever its name means today.
                text = f"# defaults of {defined.__name__}: {_told(value)}\n{text}"
        self.definitions[text] = None

    def _name(self, name: str, value: Any, module: str) -> None:
        inner = function_of(value)
        if inspect.ismodule(value):
            self.imports[f"import {value.__name__}{'' if value.__name__ == name else f' as {name}'}"] = None
        elif isinstance(inner, FunctionType | type) and inner.__module__ == module:
            if inner.__qualname__ not in self._seen:
                self.add(inner)
            if inner is not value or inner.__name__ != name:
                self.definitions[f"{name} = {_rebuilt(value, self)}\n"] = None
        elif callable(value) and getattr(sys.modules.get(value.__module__ or ""), getattr(
                value, "__name__", ""), None) is value:
            own = value.__name__
            self.imports[f"from {value.__module__} import {own}{'' if own == name else f' as {name}'}"] = None
        else:
            self.values[f"{name} = {literal}" if (literal := _literal(value, self)) else
                        f"# {name} = {_told(value)}"] = None


def _methods(defined: type) -> list[FunctionType]:
    """The functions that a class defines in its own text."""
    own = [value for value in vars(defined).values() if isinstance(value, FunctionType)]
    return [value for value in own if value.__code__.co_filename != "<string>"]         # a dataclass makes some


def _text(defined: FunctionType | type) -> str:
    """The definition, without indentation. Raises OSError where there is no source."""
    if not isinstance(defined, type) or not (methods := _methods(defined)):
        return textwrap.dedent(inspect.getsource(defined))
    # Python looks for a class in its module's file, and a notebook has none. Its methods know their cell.
    text = "".join(inspect.findsource(methods[0])[0])
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == defined.__name__:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            return textwrap.dedent("\n".join(text.splitlines()[first - 1:node.end_lineno])) + "\n"
    raise OSError(f"no source of {defined.__name__}")


def _names(defined: FunctionType | type, text: str) -> tuple[dict[str, Any], set[str]]:
    """The values by name around a definition, and the names that it reads there: in its body, and in the lines above
    it (decorators, defaults, annotations)."""
    if isinstance(defined, type):
        methods = _methods(defined)
        known = methods[0].__globals__ if methods else vars(sys.modules[defined.__module__])
        return known, {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    known = defined.__globals__ | inspect.getclosurevars(defined).nonlocals
    names = set(_of_code(defined.__code__))
    node = ast.parse(text).body[0]
    if isinstance(node, ast.FunctionDef):
        around = [*node.decorator_list, *ast.walk(node.args), *([node.returns] if node.returns else [])]
        names |= {inner.id for each in around for inner in ast.walk(each) if isinstance(inner, ast.Name)}
    return known, names


def _of_code(code: CodeType) -> Iterator[str]:
    """The names that the code reads, inner functions included."""
    yield from (*code.co_names, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)


def _rebuilt(value: Any, kept: _Kept) -> str:
    """An expression for an `Objective`, a partial or a jitted function of a function that is kept."""
    name = function_of(value).__name__
    if isinstance(value, functools.partial):
        arguments = [_literal(each, kept) or "..." for each in value.args]
        arguments += [f"{key}={_literal(each, kept) or '...'}" for key, each in value.keywords.items()]
        kept.imports["import functools"] = None
        return f"functools.partial({', '.join([name, *arguments])})"
    if is_dataclass(value) and hasattr(value, "function"):
        kept.imports[f"from {type(value).__module__} import {type(value).__name__}"] = None
        changed = [f"{each.name}={getattr(value, each.name)!r}" for each in fields(value)
                   if each.name != "function" and getattr(value, each.name) != each.default]
        return f"{type(value).__name__}({', '.join([_rebuilt(value.function, kept), *changed])})"
    return name


def _literal(value: Any, kept: _Kept) -> str:
    """Python's text of a plain value or an array; "" of anything else."""
    # Arrays of jax too; reading a run's folder must not import it.
    if isinstance(value, np.ndarray | np.generic) or type(value).__module__.partition(".")[0] in ("jax", "jaxlib"):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            return ""
        kept.imports["import numpy"] = None
        return f"numpy.array({array.tolist()!r}, {array.dtype.name!r})"
    try:
        return repr(value) if ast.literal_eval(repr(value)) == value else ""
    except (ValueError, SyntaxError):
        return ""


def _told(value: Any) -> str:
    """A value as text that is the same in every process: whole arrays, and objects without their address."""
    with np.printoptions(threshold=sys.maxsize):
        return re.sub(" at 0x[0-9a-f]+", "", repr(value)).replace("\n", "\n# ")
