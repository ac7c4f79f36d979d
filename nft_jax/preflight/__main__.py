"""Whether a run fits, before it starts, for devices that need not be there:

    python -m nft_jax.preflight EXPERIMENT [--topology v5p:4x4x4 | v6e:8x8 | gpu:8xH100 | cpu:8] [--field value]

EXPERIMENT is a preset's name, or "package.module:NAME" or "file.py:NAME" of a Config. Every program
of the run is compiled ahead of time on abstract arrays; no weights, data or tokenizer are read.
Exit status 2: it does not fit.
"""
import sys
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import tyro

from nft_jax.config import Config
from nft_jax.objectives.flags import command_line
from nft_jax.preflight.devices import Topology
from nft_jax.runtime.names import experiment
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


class Arguments(NamedTuple):
    config: Annotated[Config, tyro.conf.arg(name="")]
    topology: str = "cpu:1"
    """Devices of the run: v5p:4x4x4, v6e:8x8, gpu:8xH100, cpu:8."""
    answer_tokens: int = 0
    """Mean length of an answer, for the estimate of time; 0 = a third of rollout.max_new_tokens."""
    accepted_share: float = 0.5
    """Share of the prompts that have right and wrong answers, for the estimate of time."""


def parse(preset: Config, description: str, arguments: Sequence[str], prog: str) -> Arguments:
    """Every field of `preset` as a flag, and the flags of preflight. Raises InputError for values out of range."""
    asked = command_line(Arguments(preset), arguments, prog=prog, description=description)
    if not 0 < asked.accepted_share <= 1:
        raise InputError(f"accepted_share is {asked.accepted_share}: use a number in (0, 1].")
    if not 0 <= asked.answer_tokens <= asked.config.rollout.max_new_tokens:
        raise InputError(f"answer_tokens is {asked.answer_tokens}: use 0, or at most rollout.max_new_tokens = "
                         f"{asked.config.rollout.max_new_tokens}.")
    return asked


def main(arguments: list[str] | None = None, prog: str = "python -m nft_jax.preflight") -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {prog} EXPERIMENT [--field value]\n\n{__doc__}", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    with one_paragraph_errors():
        name, flags = arguments[0], arguments[1:]
        asked = parse(experiment(name), f"Preflight of {name}.", flags, f"{prog} {name}")
        topology = Topology.parse(asked.topology)
        topology.prepare()
        from nft_jax.model.hf import config_of
        from nft_jax.preflight.estimate import Assumptions
        from nft_jax.preflight.report import preflight
        from nft_jax.preflight.text import text
        from nft_jax.train.plan import settle
        config = settle(asked.config)
        assumed = Assumptions.of(config, asked.answer_tokens, asked.accepted_share)
        report = preflight(config, config_of(config.policy.path), topology, assumed,
                           lambda line: print(line, file=sys.stderr))
        print(text(report))
        return 0 if report.fits else 2


if __name__ == "__main__":
    sys.exit(main())
