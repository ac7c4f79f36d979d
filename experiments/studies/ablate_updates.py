"""Optimizer updates per step, for NFT and GRPO: on-policy they agree, off-policy they part.

With one update per step R is 1 everywhere. `nft` here has omega = sqrt((1-r)/r), and both arms have
the same reduction, so the arms with one update differ by rounding only. With more updates GRPO's
clip lets go of tokens that moved far, while NFT's coefficient fades softly.

With 32 updates some runs never learn one kind of question (`failures`). What might prevent it is run too: an average
of the parameters as the policy that samples (rollout.ema), a quarter of the rate, and for GRPO a wide upper clip.
Policy gradients of wrong answers alone (nsr) are run with and without their clip: a reader of the paper of NSR found
that negatives raise the entropy only off-policy and with the clip
(https://github.com/TianHongZXY/RLVR-Decomposed/issues/6).
"""
from experiments.harness.study import Claim, Study, run, updates

COUNTS = (1, 4, 16, 32)
SLOW = {"optimizer.learning_rate": lambda base: base.optimizer.learning_rate / 4}
UNCLIPPED = {"loss.clip_low": 1.0}      # no ratio is below 1 - 1
OBJECTIVES = {
    "nft": {"objective": "nft", "loss.prompt_weight": "sqrt", "loss.loss_agg": "token_mean"},
    "grpo": {"objective": "grpo", "loss.loss_agg": "token_mean"},
}

STUDY = Study(
    name="ablate_updates",
    title="Optimizer updates per step: NFT and GRPO",
    paper="section 4: on-policy, NFT with omega = sqrt((1-r)/r) has GRPO's gradient. With 16 updates per step NFT "
          "is above GRPO.",
    arms={
        **{f"{name} {count}": fields | updates(count) for count in COUNTS for name, fields in OBJECTIVES.items()},
        **{f"{name} 32 {told}": fields | updates(32) | changes for name, fields in OBJECTIVES.items()
           for told, changes in {"ema": {"rollout.ema": 0.5}, "slow": SLOW}.items()},
        "grpo 32 wide": OBJECTIVES["grpo"] | updates(32) | {"loss.clip_high": 1.0},
        **{f"nsr {count}{told}": {"objective": "nsr"} | clip | updates(count)
           for count in (1, 16) for told, clip in {"": {}, " unclipped": UNCLIPPED}.items()},
    },
    claims=(
        Claim("nft 1", "grpo 1", "steps", "alike", "equal gradients on-policy",
              paper="on-policy, NFT with the square-root weight is GRPO"),
        Claim("nft 4", "grpo 4", "steps"),
        Claim("nft 16", "grpo 16", "steps", "above", "NFT above GRPO with 16 updates",
              paper="off-policy (16 updates), NFT is above GRPO"),
        Claim("nft 32", "grpo 32", "steps", "above", "NFT above GRPO off-policy"),
        Claim("nft 32 ema", "nft 32", "steps", "above", "2509.16117: a soft update of the old policy is stable"),
        Claim("grpo 32 ema", "grpo 32", "steps", "above", "2509.16117: a soft update of the old policy is stable"),
        Claim("nft 32 slow", "nft 32", "steps"),
        Claim("grpo 32 slow", "grpo 32", "steps"),
        Claim("grpo 32 wide", "grpo 32", "steps", "above", "DAPO 2503.14476: a higher clip keeps rare answers"),
        Claim("nsr 16", "nsr 16 unclipped", "entropy", "above", "RLVR-Decomposed#6: the clip keeps the entropy up"),
        Claim("nsr 1", "nsr 1 unclipped", "entropy", "alike", "RLVR-Decomposed#6: on-policy nothing is clipped"),
        Claim("nsr 16", "", "entropy", "above", "RLVR-Decomposed#6: negatives raise the entropy"),
        Claim("nsr 16 unclipped", "", "entropy"),
    ),
    curves=tuple(f"{name} {count}" for count in COUNTS for name in OBJECTIVES),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
