"""One page on one or several runs: `python -m nft_jax.report RUN [RUN ...] -o report.html`.

RUN is the folder of a run, finished or not. The page is one file that opens anywhere, offline: the configurations and
their differences, curves, and a sample of the answers, their tokens coloured. The sample is random but always the
same, with as many answers from every step of every run as there are."""
import argparse
import os
from pathlib import Path

from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


def main(arguments: list[str] | None = None, prog: str = "python -m nft_jax.report") -> None:
    parser = argparse.ArgumentParser(prog, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, default=Path("report.html"))
    parser.add_argument("--rollouts", metavar="N", type=int, default=2000, help="answers on the page (default: 2000)")
    parser.add_argument("--title", help="its heading (default: the names of the runs)")
    given = parser.parse_args(arguments)
    with one_paragraph_errors():
        if given.rollouts < 0:
            raise InputError(f"--rollouts is {given.rollouts}: use 0 (none) or more.")
        if not given.out.parent.is_dir():
            raise InputError(f"--out is {str(given.out)!r}: there is no folder {str(given.out.parent)!r}; make it.")
        # Set before jax is imported. A run may be using the accelerator, and nothing is asked of a network.
        os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        from nft_jax.report.data import page_data
        from nft_jax.report.page import build
        data = page_data(given.runs, given.rollouts)
        names = [run["name"] for run in data["runs"]]
        title = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        page = build(data, given.title or title)
        # The names of folders may be no valid Unicode.
        given.out.write_bytes(page.encode("utf-8", "xmlcharrefreplace"))
    shown, total = len(data["rollouts"]["rows"]), data["rollouts"]["total"]
    print(f"{given.out}: {len(names)} runs, {shown:,} of {total:,} answers, {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
