"""What of NFT's gain over RFT is the weight of the prompts, and what the negatives.

    python -m experiments.studies.ablate_rft --scale nano --seeds 3

The paper's RFT has omega = 1, its NFT omega = 1-r (arXiv 2505.18116), so their difference mixes two causes. RFT with
omega = 1-r stands between: from the first to the second only the weight changes, from the second to the third only
the negatives are added.
"""
from experiments.harness.study import Expectation, Study, run


def verdicts(measures) -> list[str]:
    return [f"{what} at equal tokens: {measures.paired('tokens', arm, than).text(sign=True)} points."
            for what, arm, than in (("The weight", "rft 1-r", "rft 1"), ("The negatives", "nft", "rft 1-r"),
                                    ("Both", "nft", "rft 1"))]


STUDY = Study(
    name="ablate_rft",
    title="From RFT to NFT",
    arms=lambda base: {"rft 1": {"objective": "rft"}, "rft 1-r": {"objective": "rft", "loss.prompt_weight": "1-r"},
                       "nft": {"objective": "nft"}},
    expected=(
        Expectation("nft", "rft 1", "tokens", {"nano": (-1, 20), "gsm8k": (-1, 20), "7b": (0, 10)}, "table 1: +3.4"),
        Expectation("nft", "rft 1-r", "tokens", {"nano": (-1, 20), "gsm8k": (-1, 20), "7b": (0, 10)},
                    "negatives help beyond the weight"),
    ),
    verdicts=verdicts,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
