"""Beyond maths: programs, whose only teacher are hidden tests. NFT beside rejection sampling and GRPO.

Base, questions and tests are those of the preset `code`: many programs are right, so no string comparison would do.
Every arm has the preset's 30 steps.
"""
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from experiments.harness.study import Claim, Study, run
from experiments.presets import code
from nft_jax.config import Config


def prepare(base: Config) -> None:
    """Writes the questions, and makes the base where it is missing."""
    code.write_data(base)
    if not code.BASE.exists():
        # A process of its own: this one asks for no device.
        with ProcessPoolExecutor(1, get_context("spawn")) as own:
            own.submit(code.warm_up_base).result()


STUDY = Study(
    name="hidden_tests",
    title="Programs judged by hidden tests",
    paper="nothing: its questions are mathematical. Its main table has NFT 3.4 points above RFT, and 2.2 above GRPO.",
    arms={name: {"objective": name} for name in ("nft", "rft", "grpo")},
    claims=(
        Claim("nft", "", "steps", "above", "one run before this study: +69"),
        *(Claim("nft", than, measure, "above", told) for than, told in (("rft", "table 1: +3.4"),
                                                                       ("grpo", "table 1: +2.2"))
          for measure in ("steps", "tokens")),
        Claim("nft", "rft", "until"),
        Claim("nft", "grpo", "until"),
        Claim("nft", "rft", "entropy", "above", "figure: entropy falls under RFT, rises under NFT"),
    ),
    scale="code", prepare=prepare,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
