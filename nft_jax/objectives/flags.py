"""Command lines whose flags depend on the objective: settings of an objective of one's own are `--objective.NAME`."""
import sys
from collections.abc import Sequence
from dataclasses import field, make_dataclass, replace
from typing import Annotated, Any, NamedTuple

import tyro

from nft_jax.config import Own
from nft_jax.objectives import custom


def command_line(default: Any, arguments: Sequence[str] | None = None, **options: Any) -> Any:
    """`default`, a NamedTuple with a `config`, overridden by the command line. options: of `tyro.cli`.

    The objective that the line names is looked up first: jax is imported only if it is one of one's own. Raises
    InputError for an objective that is not found."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Fields that are no flags, such as `loss.own`, are not shown.
    options |= {"args": arguments, "config": (tyro.conf.SuppressFixed,)}
    config = default.config
    name = objective_of(arguments) or config.objective
    known = custom.settings_of(custom.plain(custom.find(name)), name) if ":" in name else {}
    if not known:
        return tyro.cli(type(default), default=default, **options)
    begun = config.loss.own if name == config.objective else {}
    fields = [(key, Annotated[type(value), tyro.conf.FlagConversionOff], field(default=begun.get(key, value)))
              for key, value in known.items()]
    settings = make_dataclass("Settings", fields, frozen=True)
    settings.__doc__ = f"Settings of {name}."

    class Line(NamedTuple):
        given: Annotated[type(default), tyro.conf.arg(name="")]
        objective: settings

    # The name is read again by the fields of `config`; --objective.X beside it are other flags.
    line = tyro.cli(Line, default=Line(default, settings()), **options)
    own = Own({key: getattr(line.objective, key) for key in known})
    given = line.given
    return given._replace(config=replace(given.config, loss=replace(given.config.loss, own=own)))


def objective_of(arguments: Sequence[str]) -> str:
    """The value of the last --objective; "" without one."""
    found = ""
    for place, word in enumerate(arguments):
        if word == "--objective":
            found = " ".join(arguments[place + 1:place + 2])
        elif word.startswith("--objective="):
            found = word.partition("=")[2]
    return found
