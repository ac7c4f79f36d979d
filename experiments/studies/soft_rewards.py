"""Rewards between 0 and 1: text under constraints, scored by rules. NFT beside rejection sampling, GRPO and Dr. GRPO.

There is no gold answer, and hardly any answer meets every rule (`experiments.nano.constraints`). NFT and RFT weigh an
answer by its reward. GRPO compares it with its group, and divides by the group's deviation; Dr. GRPO does not divide.
Accuracy is the mean reward.
"""
from experiments.harness.study import Claim, Study, run
from experiments.nano import constraints

STUDY = Study(
    name="soft_rewards",
    title="Rewards between 0 and 1",
    paper="nothing: its rewards are 0 and 1.",
    arms={name: {"objective": name} for name in ("nft", "rft", "grpo", "dr_grpo")},
    claims=(
        Claim("nft", "", "steps", "above", "one run before this study: +15"),
        Claim("nft", "rft", "steps"),
        Claim("nft", "grpo", "steps"),
        Claim("nft", "grpo", "tokens"),
        Claim("nft", "rft", "entropy"),
        Claim("nft", "grpo", "entropy"),
        # After seed 0 of the others had been seen: without the division by the group's deviation.
        Claim("dr_grpo", "grpo", "steps", "below", "rewards close together push less"),
        Claim("nft", "dr_grpo", "steps"),
    ),
    scale="constraints", prepare=constraints.prepare,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
