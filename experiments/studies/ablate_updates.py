"""Optimizer updates per step, for NFT and GRPO: on-policy they agree, off-policy they part.

With one update per step R is 1 everywhere. `nft` here has omega = sqrt((1-r)/r), and both arms have
the same reduction, so the arms with one update differ by rounding only. With more updates GRPO's
clip lets go of tokens that moved far, while NFT's coefficient fades softly.
"""
from experiments.harness.study import Claim, Study, run, updates

COUNTS = (1, 4, 16, 32)
OBJECTIVES = {
    "nft": {"objective": "nft", "loss.prompt_weight": "sqrt", "loss.loss_agg": "token_mean"},
    "grpo": {"objective": "grpo", "loss.loss_agg": "token_mean"},
}

STUDY = Study(
    name="ablate_updates",
    title="Optimizer updates per step: NFT and GRPO",
    paper="section 4: on-policy, NFT with omega = sqrt((1-r)/r) has GRPO's gradient. With 16 updates per step NFT "
          "is above GRPO.",
    arms={f"{name} {count}": fields | updates(count) for count in COUNTS for name, fields in OBJECTIVES.items()},
    claims=(
        Claim("nft 1", "grpo 1", "steps", "alike", "equal gradients on-policy",
              paper="on-policy, NFT with the square-root weight is GRPO"),
        Claim("nft 4", "grpo 4", "steps"),
        Claim("nft 16", "grpo 16", "steps", "above", "NFT above GRPO with 16 updates",
              paper="off-policy (16 updates), NFT is above GRPO"),
        Claim("nft 32", "grpo 32", "steps", "above", "NFT above GRPO off-policy"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
