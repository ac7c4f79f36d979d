"""Command lines: a preset, overridden field by field. The one place that imports tyro.

`--help` and mistakes are answered before jax is imported; then the verifier's workers are started, and only then jax.
"""
from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import tyro

from nft_jax.config import Config
from nft_jax.preflight.devices import Topology
from nft_jax.runtime.distributed import ends_together, is_first
from nft_jax.runtime.names import load
from nft_jax.runtime.terminal import one_paragraph_errors
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


class PreflightArguments(NamedTuple):
    """A parsed command line of `nft_jax.preflight`."""
    config: Config
    topology: Topology
    answer_tokens: int
    accepted_share: float
    every_variant: bool


def parse_preflight(preset: Config, description: str, arguments: Sequence[str]) -> PreflightArguments:
    """As `parse`, with the flags of preflight instead of those of a run."""
    def command(
        config: Annotated[Config, tyro.conf.arg(name="")] = preset,
        topology: Annotated[str, tyro.conf.arg(help="Devices of the run: v5p:4x4x4, v6e:8x8, gpu:8xH100, cpu:8.")]
            = "cpu:1",
        answer_tokens: Annotated[int, tyro.conf.arg(help="Mean length of an answer, for the estimate of time; 0 = a "
                                                         "third of rollout.max_new_tokens.")] = 0,
        accepted_share: Annotated[float, tyro.conf.arg(help="Share of the prompts that have right and wrong answers, "
                                                            "for the estimate of time.")] = 0.5,
        every_variant: Annotated[bool, tyro.conf.arg(help="Compile the shorter rows, prompts and rings too, not only "
                                                          "the longest.")] = False,
    ) -> PreflightArguments:
        return PreflightArguments(config, Topology.parse(topology), answer_tokens, accepted_share, every_variant)

    asked = tyro.cli(command, description=description, args=arguments)
    if not 0 < asked.accepted_share <= 1:
        raise InputError(f"accepted_share is {asked.accepted_share}: use a number in (0, 1].")
    if not 0 <= asked.answer_tokens <= asked.config.rollout.max_new_tokens:
        raise InputError(f"answer_tokens is {asked.answer_tokens}: use 0, or at most rollout.max_new_tokens = "
                         f"{asked.config.rollout.max_new_tokens}.")
    return asked


def experiment(name: str) -> Config:
    """The configuration of that name: a preset of `experiments.presets`, or "package.module:NAME", "file.py:NAME"."""
    if ":" in name:
        config = load(name, "experiment")
    else:
        presets = importlib.import_module("experiments.presets").PRESETS
        config = presets.get(name)
        if config is None:
            raise InputError(f"experiment is {name!r}: choose one of {', '.join(presets)}, or write "
                             "package.module:NAME or file.py:NAME of a Config.")
    if not isinstance(config, Config):
        raise InputError(f"experiment is {name!r}: that is a {type(config).__name__}, not a Config.")
    return config


def run(arguments: Arguments, report: Callable[[Config, dict], None] | None = None) -> dict | None:
    """Train as the command line says; `report` gets the configuration and the summary. None after --dry-run."""
    with ends_together(), one_paragraph_errors("the same command goes on from the newest checkpoint"):
        if arguments.dry_run:
            from nft_jax.preflight.dry_run import describe
            from nft_jax.train.run import preview, settle
            config = settle(arguments.config)
            model, lines = preview(config)
            print(describe(config, model), *lines, sep="\n")
            return None
        from nft_jax.verify import Verifier
        with Verifier(arguments.config.verifier) as verifier:        # its processes start now, before jax does
            from nft_jax.train.loop import train
            summary = train(arguments.config, fresh=arguments.fresh, verifier=verifier, profile=arguments.profile)
        if report is not None and is_first():
            report(arguments.config, summary)
        return summary
