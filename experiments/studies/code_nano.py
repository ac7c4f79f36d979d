"""NFT on programs for a stack machine (`experiments.presets.code`), with its figure.

    python -m experiments.studies.code_nano                        any field of the run is a flag
"""
from pathlib import Path

from experiments.nano.small_tasks import draw_run
from experiments.presets import code
from nft_jax.cli import parse, print_summary, run
from nft_jax.config import Config

FIGURE = Path(__file__).parents[1] / "figures" / "code_nano.png"


def report(config: Config, summary: dict) -> None:
    """The numbers before and after, and the figure."""
    print_summary(config, summary)
    if summary["finished"]:
        draw_run(FIGURE, "NFT on programs for a stack machine", Path(config.folder),
                 {"evaluation/accuracy/all": "held-out expressions", "accuracy/all": "training answers"},
                 "share of programs that pass all tests")


if __name__ == "__main__":
    run(code.prepared(parse(code.PRESET, __doc__)), report)
