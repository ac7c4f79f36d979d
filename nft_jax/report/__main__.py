"""One page on one or several runs: `python -m nft_jax.report RUN [RUN ...] -o report.html`.

RUN is the folder of a run, finished or not; LABEL=RUN calls it by the label instead of by its folder. The page is one
file that opens anywhere, offline: the configurations and their differences, curves, and a sample of the answers, group
by group, their tokens coloured. The sample is random but always the same, with as many groups from every step of every
run as there are."""
import argparse
import os
from pathlib import Path

from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


def main(arguments: list[str] | None = None, prog: str = "python -m nft_jax.report") -> None:
    parser = argparse.ArgumentParser(prog, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a run, or LABEL=RUN")
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, default=Path("report.html"))
    parser.add_argument("--rollouts", metavar="N", type=int, default=2000,
                        help="answers on the page, in whole groups (default: 2000)")
    parser.add_argument("--title", default="", help="its heading (default: what the runs are told apart by)")
    given = parser.parse_args(arguments)
    with one_paragraph_errors():
        if given.rollouts < 0:
            raise InputError(f"--rollouts is {given.rollouts}: use 0 (none) or more.")
        if not given.out.parent.is_dir():
            raise InputError(f"--out is {str(given.out)!r}: there is no folder {str(given.out.parent)!r}; make it.")
        # Set before jax is imported. A run may be using the accelerator, and nothing is asked of a network.
        os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        from nft_jax.record.labels import split_label
        from nft_jax.report.page import write_page
        labels, folders = zip(*map(split_label, given.runs), strict=True)
        data = write_page([*map(Path, folders)], given.out, given.rollouts, given.title, labels)
    shown, total = len(data["rollouts"]["rows"]), data["rollouts"]["total"]
    print(f"{given.out}: {len(data['runs'])} runs, {shown:,} of {total:,} answers, "
          f"{given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
