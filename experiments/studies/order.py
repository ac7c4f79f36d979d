"""Which questions are asked: a permutation of all in every epoch, or those that are neither always right nor never.

Of 256 questions, so that a run of 40 steps asks each several times. The measure is the tokens sampled until the
held-out accuracy is 60%.
"""
from experiments.harness.study import Claim, Study, run

FEW = {"data.limit": 256, "evaluation.every": 4}

STUDY = Study(
    name="order",
    title="Which questions are asked",
    paper="does not ask it: every epoch asks all questions, and groups of equal rewards are left out.",
    arms={"permutation": FEW, "accuracy": FEW | {"data.order": "accuracy"}},
    claims=(
        Claim("accuracy", "permutation", "until", "below", "wanted: a quarter fewer (ln 0.75 = -0.288)"),
        Claim("accuracy", "permutation", "steps", "alike", "resting questions are no loss"),
        Claim("accuracy", "permutation", "tokens", "above", "the tokens saved are learned from"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
