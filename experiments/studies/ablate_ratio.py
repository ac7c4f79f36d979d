"""The importance ratio R of NFT: of each token (the paper's), of the whole answer, and of the answer normalised by its
length (as GSPO, arXiv 2507.18071).

    python -m experiments.studies.ablate_ratio --scale nano --seeds 3

The paper (arXiv 2505.18116, section 3.3) derives NFT for whole answers and uses tokens, as the ratio of a long answer
leaves every range. Ours measures the three on the same settings.
"""
from experiments.harness.study import Expectation, Study, run

STUDY = Study(
    name="ablate_ratio",
    title="NFT: the importance ratio",
    arms=lambda base: {name: {"objective": "nft", "loss.ratio": name}
                       for name in ("token", "sequence", "sequence_mean")},
    expected=(
        Expectation("token", "", "steps", {"nano": (3, 60), "gsm8k": (1, 40), "7b": (15, 40)}, "paper: its default"),
        Expectation("token", "sequence", "steps", {"nano": (-5, 40), "gsm8k": (-3, 40), "7b": (0, 40)},
                    "paper: tokens, for stability"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
