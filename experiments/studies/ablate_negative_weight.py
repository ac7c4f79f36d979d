"""How much wrong answers count in NFT: none (which is RFT with omega = 1-r), some, all, more, and nothing but them.

    python -m experiments.studies.ablate_negative_weight --scale nano --seeds 3

The paper (arXiv 2505.18116) compares NFT with RFT, the two ends; what lies between, beyond, and on the other side
(pos_weight 0) is ours. Negatives alone drive probability away from wrong answers and do not say where to.
"""
from experiments.harness.study import Expectation, Study, run


def arms(base):
    """Weight 0 is run as rft, which is the same loss, and shared with ablate_rft."""
    found = {"0": {"objective": "rft", "loss.prompt_weight": "1-r"}}
    found |= {f"{weight:g}": {"objective": "nft", "loss.neg_weight": weight} for weight in (0.25, 0.5, 1.0, 1.5, 2.0)}
    return found | {"negatives only": {"objective": "nft", "loss.pos_weight": 0.0}}


STUDY = Study(
    name="ablate_negative_weight",
    title="NFT: the weight of wrong answers",
    arms=arms,
    expected=(
        Expectation("1", "0", "steps", {"nano": (-1, 20), "gsm8k": (-1, 20), "7b": (0, 10)}, "paper: NFT above RFT"),
        Expectation("1", "0", "entropy", {"nano": (0, 3), "gsm8k": (0, 3), "7b": (0, 3)},
                    "paper: negatives keep the entropy up"),
        Expectation("1", "negatives only", "steps", {"nano": (-5, 60), "gsm8k": (-3, 40), "7b": (-3, 40)},
                    "both signs together are one likelihood"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
