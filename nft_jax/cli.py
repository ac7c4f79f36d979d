"""Command lines: a preset, overridden field by field. The one place that imports tyro.

`--help` and mistakes are answered before jax is imported; then the verifier's workers are started, and only then jax.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from nft_jax.config import Config
from nft_jax.types import InputError


class Arguments(NamedTuple):
    """A parsed command line."""
    config: Config
    fresh: bool
    dry_run: bool
    profile: bool


def parse(preset: Config, description: str, arguments: Sequence[str] | None = None) -> Arguments:
    """Every field of `preset` as a flag (--steps, --rollout.slots, ...). A mistake prints what to write instead and
    exits with status 2."""
    def command(
        config: Annotated[Config, tyro.conf.arg(name="")] = preset,
        fresh: Annotated[bool, tyro.conf.arg(help="Start over: remove what an earlier run wrote there.")] = False,
        dry_run: Annotated[bool, tyro.conf.arg(help="Print the resolved configuration, the batch arithmetic and a "
                                                    "memory estimate, and exit.")] = False,
        profile: Annotated[bool, tyro.conf.arg(help="Record a timeline of two steps (after the first) into the run's "
                                                    "folder profile/, for xprof or Perfetto.")] = False,
    ) -> Arguments:
        return Arguments(config, fresh, dry_run, profile)

    with one_paragraph_errors():
        return tyro.cli(command, description=description, args=arguments)


class one_paragraph_errors:
    """InputError leaves the program as one paragraph on stderr and status 2, Ctrl-C with status 130; anything else
    keeps its traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, InputError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        if isinstance(error, KeyboardInterrupt):
            print("interrupted; the same command goes on from the newest checkpoint", file=sys.stderr)
            sys.exit(130)


def use_compilation_cache() -> Path:
    """Compiled programs are kept between runs, in $JAX_COMPILATION_CACHE_DIR or ~/.cache/nft_jax/xla."""
    import jax
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path.home() / ".cache" / "nft_jax" / "xla")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


def run(arguments: Arguments, report: Callable[[Config, dict], None] | None = None) -> dict | None:
    """Train as the command line says; `report` gets the configuration and the summary. None after --dry-run."""
    with one_paragraph_errors():
        if arguments.dry_run:
            from nft_jax.preflight import describe
            from nft_jax.train.run import read_inputs, settle
            config = settle(arguments.config)
            model, *_, reports = read_inputs(config)
            print(describe(config, model), *(f"{name}: {report}" for name, report in reports.items()), sep="\n")
            return None
        from nft_jax.verify import Verifier
        with Verifier(arguments.config.verifier) as verifier:        # its processes start now, before jax does
            from nft_jax.train.loop import train
            use_compilation_cache()
            summary = train(arguments.config, fresh=arguments.fresh, verifier=verifier, profile=arguments.profile)
        if report is not None:
            report(arguments.config, summary)
        return summary
