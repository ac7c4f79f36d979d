"""The weight of a prompt, omega(q), under NFT: a function of the group accuracy r.

1 (all prompts alike), 1-r (on-policy Dr. GRPO), sqrt((1-r)/r) (on-policy GRPO), and (1-r)/r
(on-policy MaxRL, ours). The last three weigh harder prompts more.
"""
from experiments.harness.study import Claim, Study, run

STUDY = Study(
    name="ablate_prompt_weight",
    title="NFT: the weight of a prompt",
    paper="section 5: omega(q) = 1-r and sqrt((1-r)/r) are alike, and both are above 1.",
    arms={name: {"objective": "nft", "loss.prompt_weight": name} for name in ("1", "1-r", "sqrt", "maxrl")},
    claims=(
        Claim("1-r", "1", "steps", "above", "1-r above 1", paper="omega = 1-r is above 1"),
        Claim("sqrt", "1", "steps", "above", "sqrt above 1", paper="omega = sqrt((1-r)/r) is above 1"),
        Claim("sqrt", "1-r", "steps", "alike", paper="the two are alike"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
