"""NFT beside rejection sampling, GRPO, Dr. GRPO, DAPO and DPO: the paper's main table (arXiv 2505.18116, table 1).

    python -m experiments.studies.main_table --scale nano --seeds 3

The paper (Qwen2.5-Math-7B, average of six benchmarks): 31.6 before; DPO 48.9, GRPO 49.5, Dr. GRPO 49.8, DAPO 51.2,
RFT 48.3, NFT 51.7. All methods coincide for some 500 optimizer steps, then RFT falls behind; entropy falls under RFT
and rises under NFT and DAPO. Ours adds `nft_clip`, NFT's positives and negatives inside DAPO's trust region, for a
question that the paper leaves open: whether NFT and GRPO combine.

Every arm has the base's settings (data, rollouts, optimizer) and its objective's own loss; groups without a wrong or a
right answer are left out for all. DAPO's penalty on overlong answers is off (--loss.overlong-buffer), as the others
have no part in it. Both readings, at equal steps and at equal generated tokens, are of the same runs.
"""
from experiments.harness.study import Expectation, Study, judged, run

OBJECTIVES = ("nft", "rft", "grpo", "dr_grpo", "dapo", "dpo", "nft_clip")


def verdicts(measures) -> list[str]:
    """What negatives contribute, and what combining NFT with a trust region does."""
    lines = []
    arms = set(measures.arms)
    if {"nft", "rft"} <= arms:
        for measure, where in (("steps", "equal steps"), ("tokens", "equal tokens")):
            gain, extra = measures.paired(measure, "nft", "nft", "start"), measures.paired(measure, "nft", "rft")
            clear = gain.value > 2 * (gain.error if gain.error > 0 else 0)
            share = f"{extra.value / gain.value:.0%}" if clear else "no meaning: there is no clear gain"
            lines.append(f"What negatives add at {where}, (nft - rft) / (nft - before): {share}, from {extra.text()} "
                         f"of {gain.text()} points.")
    if "nft_clip" in arms:
        for other in [name for name in ("nft", "grpo", "dapo") if name in arms]:
            lines.append(f"NFT and GRPO combined: `nft_clip` less `{other}` at equal tokens "
                         f"{judged(measures.paired('tokens', 'nft_clip', other))}.")
    return lines


STUDY = Study(
    name="main_table",
    title="NFT beside its baselines",
    arms=lambda base: {name: {"objective": name} for name in OBJECTIVES},
    expected=(
        Expectation("nft", "", "steps", {"nano": (3, 60), "gsm8k": (1, 40), "7b": (15, 40)},
                    "table 1: +20.1 on average"),
        Expectation("nft", "rft", "tokens", {"nano": (-1, 20), "gsm8k": (-1, 20), "7b": (0, 10)}, "table 1: +3.4"),
        Expectation("nft", "dapo", "tokens", {"nano": (-5, 15), "gsm8k": (-3, 5), "7b": (-2, 3)}, "table 1: +0.5"),
        Expectation("nft", "grpo", "tokens", {"nano": (-5, 15), "gsm8k": (-3, 6), "7b": (-1, 5)}, "table 1: +2.2"),
        Expectation("nft", "dpo", "tokens", {"nano": (-5, 60), "gsm8k": (-3, 20), "7b": (0, 6)}, "table 1: +2.8"),
        Expectation("nft", "rft", "entropy", {"nano": (0, 3), "gsm8k": (0, 3), "7b": (0, 3)},
                    "figure: entropy falls under RFT, rises under NFT"),
    ),
    verdicts=verdicts,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
