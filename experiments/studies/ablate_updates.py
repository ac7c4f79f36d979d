"""Optimizer steps per rollout, for NFT and GRPO: on-policy they agree, off-policy they part.

    python -m experiments.studies.ablate_updates --scale nano --seeds 3

With one step per rollout R is 1 everywhere, and NFT with omega = sqrt((1-r)/r) has GRPO's gradient (arXiv 2505.18116,
section 4): `nft` here has this weight, and both the same reduction, so that the arms of one update differ by nothing
but rounding. With more steps GRPO's clip lets go of tokens that moved far, while NFT's coefficient goes on softly.
"""
from experiments.harness.study import Expectation, Study, judged, run, updates

COUNTS = (1, 4, 16, 32)
SAME = {"loss.loss_agg": "token_mean"}


def arms(base):
    found = {}
    for count in COUNTS:
        settings = SAME | updates(base, count)
        found[f"nft {count}"] = {"objective": "nft", "loss.prompt_weight": "sqrt"} | settings
        found[f"grpo {count}"] = {"objective": "grpo"} | settings
    return found


def verdicts(measures) -> list[str]:
    """Where the two part."""
    return [f"With {count} updates per rollout, nft less grpo at equal steps: "
            f"{judged(measures.paired('steps', f'nft {count}', f'grpo {count}'))}."
            for count in COUNTS if {f"nft {count}", f"grpo {count}"} <= set(measures.arms)]


STUDY = Study(
    name="ablate_updates",
    title="Optimizer steps per rollout: NFT and GRPO",
    arms=arms,
    expected=(
        Expectation("nft 1", "grpo 1", "steps", {"nano": (-3, 3), "gsm8k": (-3, 3), "7b": (-2, 2)},
                    "equal gradients on-policy"),
        Expectation("nft 32", "grpo 32", "steps", {"nano": (-10, 20), "gsm8k": (-5, 10), "7b": (-2, 10)},
                    "paper: NFT above GRPO with 16 updates"),
    ),
    verdicts=verdicts,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
