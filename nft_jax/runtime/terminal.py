"""How every command line ends when it does not end well."""
from __future__ import annotations

import sys

from nft_jax.types import Halted, InputError


class one_paragraph_errors:
    """InputError leaves the program as one paragraph on stderr and status 2, Halted with status 1, Ctrl-C with status
    130 and the line "interrupted" (`advice`: what follows it); anything else keeps its traceback (status 1)."""

    def __init__(self, advice: str = ""):
        self.interrupted = f"interrupted; {advice}" if advice else "interrupted"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, (InputError, Halted)):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.status)
        if isinstance(error, KeyboardInterrupt):
            print(self.interrupted, file=sys.stderr)
            sys.exit(130)
