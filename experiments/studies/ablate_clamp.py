"""The lower clamp epsilon of NFT's implicit negative policy.

It acts where (1 - r R) / (1 - r) < epsilon: with epsilon 1 on every wrong token that has become
likelier (R > 1), with less only where R is large. Hence so many optimizer updates on every rollout.
A clamped token is pushed down by omega r R / ((1 - r) epsilon): the smaller epsilon, the harder.
With epsilon above 1 wrong answers are pushed less, on-policy too.
"""
from experiments.harness.study import Claim, Study, run, updates

UPDATES = 32

STUDY = Study(
    name="ablate_clamp",
    title=f"NFT: the clamp of the negative ratio, {UPDATES} updates per step",
    paper="Eq. 10 and section 5: epsilon from 0.1 to 4; the closer to 0, the worse.",
    arms={f"{epsilon:g}": {"objective": "nft", "loss.epsilon": epsilon, **updates(UPDATES)}
          for epsilon in (0.01, 0.1, 0.5, 1.0, 2.0, 4.0)},
    claims=(
        Claim("1", "", "steps", "above", "its default learns"),
        Claim("1", "0.01", "steps", "above", "the closer to 0, the worse", paper="epsilon towards 0 hurts"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
