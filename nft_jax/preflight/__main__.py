"""Whether a run fits, before it starts, for devices that need not be there:

    python -m nft_jax.preflight EXPERIMENT [--topology v5p:4x4x4 | v6e:8x8 | gpu:8xH100 | cpu:8] [--field value]

EXPERIMENT is a preset's name, or "package.module:NAME" or "file.py:NAME" of a Config. Every program of the run is
compiled ahead of time on abstract arrays; no weights, data or tokenizer are read. Exit status 2: it does not fit.
"""
import sys

from nft_jax.cli import experiment, parse_preflight
from nft_jax.runtime.terminal import one_paragraph_errors


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    with one_paragraph_errors():
        asked = parse_preflight(experiment(arguments[0]), f"Preflight of {arguments[0]}.", arguments[1:])
        asked.topology.prepare()
        from nft_jax.model.hf import config_of
        from nft_jax.preflight.report import preflight, text
        from nft_jax.train.run import settle
        config = settle(asked.config)
        report = preflight(config, config_of(config.policy.path), asked.topology, answer_tokens=asked.answer_tokens,
                           accepted_share=asked.accepted_share, every_variant=asked.every_variant,
                           progress=lambda line: print(line, file=sys.stderr))
        print(text(report))
        return 0 if report.fits else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
