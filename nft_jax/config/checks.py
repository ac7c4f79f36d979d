"""How a setting is refused."""
import re
from datetime import date
from operator import attrgetter

from nft_jax.types import InputError


def require(holds: bool, name: str, value: object, remedy: str) -> None:
    """Raises InputError that names the field, its value and the way out, unless the condition holds."""
    if not holds:
        raise InputError(f"{name} is {value!r}: {remedy}")


def is_day(text: str) -> bool:
    """Whether the text is a day, YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def on_this_machine(path: object) -> bool:
    """Whether the path is none of gs://, s3:// and the like, which would become folders of such names here."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is None


class Checked:
    """Settings that refuse values. `prefix` begins the names of their fields as the user writes them; "--"
    stands for a command line whose flags have no section (--top-p)."""
    prefix = ""

    def __init_subclass__(cls, prefix: str | None = None):
        if prefix is not None:
            cls.prefix = prefix

    def written(self, name: str) -> str:
        """The field `name` as the user writes it."""
        return f"--{name.replace('_', '-')}" if self.prefix == "--" else self.prefix + name

    def require(self, holds: bool, name: str, remedy: str) -> None:
        """Raises InputError for the field `name` ("room.field" in a room of these settings) unless it holds."""
        require(holds, self.written(name), attrgetter(name)(self), remedy)

    def require_least(self, least: float, *names: str) -> None:
        """Raises InputError for the first of these fields that is less."""
        for name in names:
            self.require(getattr(self, name) >= least, name, f"use {least} or more.")
