"""The main table's comparison, four times as long: on nano 1,280 optimizer updates, not 320."""
from experiments.harness.study import Claim, Study, run

STUDY = Study(
    name="longer",
    title="Four times as long",
    paper="figure of the validation accuracy: the methods coincide for some 500 optimizer updates, then RFT falls "
          "behind.",
    arms={name: {"objective": name, "steps": lambda base: 4 * base.steps} for name in ("nft", "rft", "grpo")},
    claims=(
        Claim("nft", "rft", "steps"),
        Claim("nft", "rft", "tokens", "figure: RFT falls behind after some 500 updates; table 1: +3.4",
              {"nano": (0, 20), "gsm8k": (0, 20), "7b": (0, 10)}),
        Claim("nft", "rft", "entropy", "figure: entropy falls under RFT, rises under NFT",
              {"nano": (0, 3), "gsm8k": (0, 3), "7b": (0, 3)}),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
