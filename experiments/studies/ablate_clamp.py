"""The lower clamp epsilon of NFT's implicit negative policy (arXiv 2505.18116, Eq. 10 and section 5: 0.1 to 4; the
closer to 0, the worse).

    python -m experiments.studies.ablate_clamp --scale nano --seeds 3

The clamp acts where (1 - r R) / (1 - r) < epsilon: with epsilon 1 on every wrong token that has become likelier
(R > 1), with less only where R is large, so many optimizer steps are taken on every rollout here. A clamped token is
pushed down by omega r R / ((1 - r) epsilon), the harder the smaller epsilon is; with epsilon above 1 tokens of wrong
answers are pushed less, on-policy too.
"""
from experiments.harness.study import Expectation, Study, run, updates

UPDATES = 32
EPSILONS = (0.01, 0.1, 0.5, 1.0, 2.0, 4.0)

STUDY = Study(
    name="ablate_clamp",
    title=f"NFT: the clamp of the negative ratio, {UPDATES} updates per rollout",
    arms=lambda base: {f"{epsilon:g}": {"objective": "nft", "loss.epsilon": epsilon} | updates(base, UPDATES)
                       for epsilon in EPSILONS},
    expected=(
        Expectation("1", "", "steps", {"nano": (3, 60), "gsm8k": (1, 40), "7b": (10, 40)}, "paper: its default learns"),
        Expectation("1", "0.01", "steps", {"nano": (-2, 60), "gsm8k": (-2, 40), "7b": (0, 40)},
                    "paper: epsilon to 0 hurts"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
