"""How much wrong answers count in NFT: not at all, some, all, more, and nothing but them.

Weight 0 is RFT with omega = 1-r; it runs as `rft` and is shared with ablate_rft. Negatives alone
(pos_weight 0) take probability from wrong answers without saying where it should go.

Two arms train on groups of wrong answers too, weighed by confidence (`nft_jax.objectives.all_wrong`): with the weight
of LENS (arXiv 2510.08696), and with K times that.
"""
from experiments.harness.study import Claim, Study, run

WITH = ("0.25", "0.5", "1", "1.5", "2")

STUDY = Study(
    name="ablate_negative_weight",
    title="NFT: the weight of wrong answers",
    paper="compares NFT (weight 1) with RFT (weight 0): NFT is above RFT, and negatives keep the entropy up.",
    arms={
        "0": {"objective": "rft", "loss.prompt_weight": "1-r"},
        **{f"{weight:g}": {"objective": "nft", "loss.neg_weight": weight} for weight in (0.25, 0.5, 1.0, 1.5, 2.0)},
        "negatives only": {"objective": "nft", "loss.pos_weight": 0.0},
        "all wrong 0.25/K": {"objective": "nft",
                             "loss.all_wrong": lambda base: 0.25 / base.rollout.samples_per_prompt},
        "all wrong 0.25": {"objective": "nft", "loss.all_wrong": 0.25},
    },
    claims=(
        Claim("1", "0", "steps", "above", "NFT above RFT"),
        Claim("1", "0", "entropy", "above", "negatives keep the entropy up", paper="negatives keep the entropy up"),
        *(Claim(WITH, "0", measure, "", "asked after the runs") for measure in ("steps", "tokens", "entropy")),
        Claim("1", "negatives only", "steps"),
        Claim("all wrong 0.25/K", "1", "steps", "above", "2510.08696, table 1: +1.5 to +2.5 (GRPO)"),
        Claim("all wrong 0.25", "1", "steps"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
