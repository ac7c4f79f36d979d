"""The main table's comparison, four times as long: do the methods part later?

    python -m experiments.studies.longer --scale nano --seeds 1

The paper (figure of the validation accuracy): all methods coincide for some 500 optimizer steps, then rejection
sampling falls behind. The main table's 40 rollouts on nano are 320 optimizer steps; these 160 are 1,280.
"""
from experiments.harness.study import Expectation, Study, run

TIMES = 4

STUDY = Study(
    name="longer",
    title="Four times as long",
    arms=lambda base: {name: {"objective": name, "steps": TIMES * base.steps} for name in ("nft", "rft", "grpo")},
    expected=(
        Expectation("nft", "rft", "tokens", {"nano": (0, 20), "gsm8k": (0, 20), "7b": (0, 10)},
                    "figure: RFT falls behind after some 500 optimizer steps; table 1: +3.4"),
        Expectation("nft", "rft", "entropy", {"nano": (0, 3), "gsm8k": (0, 3), "7b": (0, 3)},
                    "figure: entropy falls under RFT, rises under NFT"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
