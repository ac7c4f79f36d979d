"""AdamW or Muon, at the same learning rate: Muon's updates are scaled to AdamW's size.

Muon gives each matrix of the layers an update whose singular values are all alike; embedding and norms keep AdamW.
"""
from experiments.harness.study import Claim, Study, run

STUDY = Study(
    name="ablate_optimizer",
    title="AdamW or Muon",
    paper="uses AdamW, and no other optimizer.",
    arms={f"{objective} {name}": {"objective": objective, "optimizer.name": name}
          for objective in ("nft", "grpo") for name in ("adamw", "muon")},
    claims=(
        Claim("nft muon", "nft adamw", "steps"),
        Claim("grpo muon", "grpo adamw", "steps"),
        Claim("nft muon", "nft adamw", "entropy"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
