"""The main table's comparison, four times as long: on nano 1,280 optimizer updates, not 320."""
from experiments.harness.study import Claim, Study, run

STUDY = Study(
    name="longer",
    title="Four times as long",
    paper="figure of the validation accuracy: the methods coincide for some 500 optimizer updates, then RFT falls "
          "behind.",
    arms={name: {"objective": name, "steps": lambda base: 4 * base.steps}
          for name in ("nft", "rft", "grpo", "dr_grpo", "dapo", "dpo")},
    claims=(
        Claim("nft", "rft", "steps", "above", "figure: RFT falls behind after some 500 updates"),
        Claim("nft", "rft", "tokens", "above", "table 1: +3.4", paper="after 500 updates RFT falls behind NFT"),
        Claim("nft", "grpo", "tokens", "above", "table 1: +2.2"),
        Claim("nft", "rft", "entropy", "above", "figure: entropy falls under RFT, rises under NFT"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
