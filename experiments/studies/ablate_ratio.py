"""The importance ratio R of NFT: of tokens (the paper's), of answers, or of answers normalised by length.

`sequence_mean` is the ratio of GSPO (arXiv 2507.18071).
"""
from experiments.harness.study import Claim, Study, run

STUDY = Study(
    name="ablate_ratio",
    title="NFT: the importance ratio",
    paper="section 3.3: derives NFT for whole answers and uses tokens, for stability: the ratio of a long answer "
          "leaves every range.",
    arms={name: {"objective": "nft", "loss.ratio": name} for name in ("token", "sequence", "sequence_mean")},
    claims=(
        Claim("token", "", "steps", "above", "its default learns"),
        Claim("token", "sequence", "steps", "above", "tokens, for stability"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
