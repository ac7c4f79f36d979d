"""Does accuracy rise because of the reward? The same runs with random and format-only rewards.

The true verifier (`evaluation.reward`) measures all of them. A gain that random rewards give too is no gain from
verification: models can gain by a better format, or by the clip's bias.
"""
import hashlib

from experiments.harness.study import Claim, Study, run


def random_reward(prompt: str, response: str, gold: str) -> float:
    """0 or 1, each for half of all answers, by a hash of question and answer. The gold is not looked at."""
    return float(hashlib.blake2b(f"{prompt}\0{response}".encode(), digest_size=1).digest()[0] & 1)


MEASURED_BY = {"evaluation.reward": lambda base: base.verifier.reward}
REWARDS = {
    "true": {},
    # The same answer has the same reward everywhere.
    "random": {"verifier.reward": "experiments.studies.controls:random_reward", **MEASURED_BY},
    # 1 where the answer has a filled box. Once all have one, no group is kept: sample at most twice for a step.
    "box": {"verifier.reward": "boxed", "rollout.max_generation_batches": 2, **MEASURED_BY},
}


def claims(objective: str) -> tuple[Claim, ...]:
    true, random, box = (f"{objective} {name}" for name in REWARDS)
    return (
        Claim(true, "", "steps", "above", "the true reward teaches"),
        Claim(random, true, "steps", "below", "random rewards do not"),
        Claim(random, "", "steps", "", "arXiv 2506.10947: Qwen2.5-Math gains up to 21, other models nothing"),
        Claim(box, true, "steps", "below", "a format is not an answer"),
        Claim(box, "", "steps"),
    )


STUDY = Study(
    name="controls",
    title="True, random and format-only rewards",
    paper="not in the paper. Spurious rewards raise the accuracy of some models (Shao et al., arXiv 2506.10947).",
    arms={f"{objective} {name}": {"objective": objective, **fields}
          for objective in ("nft", "grpo") for name, fields in REWARDS.items()},
    claims=claims("nft") + claims("grpo"),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
