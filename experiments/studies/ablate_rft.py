"""How much of NFT's gain over RFT is the prompt weight, and how much the negatives?

From `rft 1` to `rft 1-r` only the weight changes; from there to `nft` only the negatives are added.
"""
from experiments.harness.study import Claim, Study, run

STUDY = Study(
    name="ablate_rft",
    title="From RFT to NFT",
    paper="table 1: NFT is 3.4 points above RFT at 7B. The prompt weights differ too: RFT has omega = 1, NFT "
          "omega = 1-r.",
    arms={
        "rft 1": {"objective": "rft"},
        "rft 1-r": {"objective": "rft", "loss.prompt_weight": "1-r"},
        "nft": {"objective": "nft"},
    },
    claims=(
        Claim("rft 1-r", "rft 1", "tokens"),
        Claim("nft", "rft 1-r", "tokens", "above", "negatives help beyond the weight"),
        Claim("nft", "rft 1", "tokens", "above", "table 1: +3.4"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
