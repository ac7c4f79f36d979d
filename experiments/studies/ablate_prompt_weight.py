"""The weight of a prompt, omega(q), under NFT (arXiv 2505.18116, section 5: 1-r and sqrt are alike, both above 1).

    python -m experiments.studies.ablate_prompt_weight --scale nano --seeds 3

omega(q) of the group accuracy r: 1 (all prompts alike), 1-r (on-policy Dr. GRPO), sqrt((1-r)/r) (on-policy GRPO), and
(1-r)/r (on-policy MaxRL, ours). The harder a prompt, the more the last three weigh it.
"""
from experiments.harness.study import Expectation, Study, run

STUDY = Study(
    name="ablate_prompt_weight",
    title="NFT: the weight of a prompt",
    arms=lambda base: {name: {"objective": "nft", "loss.prompt_weight": name}
                       for name in ("1", "1-r", "sqrt", "maxrl")},
    expected=(
        Expectation("1-r", "1", "steps", {"nano": (-2, 15), "gsm8k": (-2, 10), "7b": (0, 5)}, "paper: 1-r above 1"),
        Expectation("sqrt", "1", "steps", {"nano": (-2, 15), "gsm8k": (-2, 10), "7b": (0, 5)}, "paper: sqrt above 1"),
        Expectation("sqrt", "1-r", "steps", {"nano": (-5, 10), "gsm8k": (-3, 3), "7b": (-2, 2)}, "paper: alike"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
