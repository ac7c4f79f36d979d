"""NFT beside rejection sampling, GRPO, Dr. GRPO, DAPO and DPO: the paper's main table (arXiv 2505.18116, table 1).

`nft_clip` is ours: NFT's positives and negatives inside DAPO's trust region. Every arm has the
base's data, rollouts and optimizer, and its objective's own loss. Groups without a wrong or a right
answer are left out for all. DAPO's penalty on overlong answers (--loss.overlong-buffer) is off: the
others have none.
"""
from experiments.harness.study import Claim, Study, run

STUDY = Study(
    name="main_table",
    title="NFT beside its baselines",
    paper="table 1, Qwen2.5-Math-7B, average of six benchmarks: 31.6 before; DPO 48.9, GRPO 49.5, Dr. GRPO 49.8, "
          "DAPO 51.2, RFT 48.3, NFT 51.7. The methods coincide for some 500 optimizer updates, then RFT falls behind. "
          "Entropy falls under RFT and rises under NFT and DAPO.",
    arms={name: {"objective": name} for name in ("nft", "rft", "grpo", "dr_grpo", "dapo", "dpo", "nft_clip")},
    claims=(
        Claim("nft", "", "steps", "above", "table 1: +20.1 on average"),
        Claim("nft", "", "tokens", "above", "table 1: +20.1 on average"),
        Claim("nft", "rft", "steps", "above", "table 1: +3.4"),
        Claim("nft", "rft", "tokens", "above", "table 1: +3.4", paper="NFT is above RFT"),
        Claim("nft", "grpo", "tokens", "above", "table 1: +2.2", paper="NFT is above GRPO"),
        Claim("nft", "dr_grpo", "tokens", "above", "table 1: +1.9"),
        Claim("nft", "dapo", "tokens", "alike", "table 1: +0.5", paper="NFT matches DAPO"),
        Claim("nft", "dpo", "tokens", "above", "table 1: +2.8"),
        Claim("rft", "", "entropy", "below", "figure: entropy falls under RFT", paper="entropy falls under RFT"),
        Claim("nft", "", "entropy", "above", "figure: entropy rises under NFT", paper="entropy rises under NFT"),
        Claim("nft", "rft", "entropy", "above", "figure: entropy falls under RFT, rises under NFT",
              paper="entropy stays higher under NFT than under RFT"),
        Claim("nft_clip", "nft", "tokens"),
        Claim("nft_clip", "grpo", "tokens"),
        Claim("nft_clip", "dapo", "tokens"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
