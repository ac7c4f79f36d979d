"""Does accuracy rise because of the reward? The same runs with a reward that is random, and with one for the format.

    python -m experiments.studies.controls --scale nano --seeds 3

Some models gain from rewards that say nothing of the answer (Shao et al., Spurious Rewards, arXiv 2506.10947), by
answering in a better format or by the clip's bias; a gain that random rewards give too is no gain from verification.
`random`: 0 or 1 by a hash of question and answer, so the same answer has the same reward everywhere. `box`: 1 where
the answer has a filled box, right or wrong. Both are evaluated by the true verifier (`evaluation.reward`).
"""
import hashlib

from experiments.harness.study import Expectation, Study, run


def random_reward(prompt: str, response: str, gold: str) -> float:
    """0 or 1, each for half of all answers, by a hash of question and answer; the gold is not looked at."""
    return float(hashlib.blake2b(f"{prompt}\0{response}".encode(), digest_size=1).digest()[0] & 1)


def arms(base):
    """Where every answer has its box, all groups are alike and teach nothing: a step then samples twice, not ten times.
    """
    true = base.verifier.reward
    rewards = {"true": {},
               "random": {"verifier.reward": "experiments.studies.controls:random_reward", "evaluation.reward": true},
               "box": {"verifier.reward": "boxed", "evaluation.reward": true, "rollout.max_generation_batches": 2}}
    return {f"{objective} {name}": {"objective": objective} | changes
            for objective in ("nft", "grpo") for name, changes in rewards.items()}


def verdicts(measures) -> list[str]:
    lines = []
    for name in [arm for arm in measures.arms if not arm.endswith("true")]:
        true = f"{name.split()[0]} true"
        if true in measures.arms:
            gain, real = (measures.paired("steps", arm, arm, "start") for arm in (name, true))
            lines.append(f"`{name}` changes accuracy by {gain.text(sign=True)} points, the true reward by "
                         f"{real.text(sign=True)}.")
    return lines


STUDY = Study(
    name="controls",
    title="True, random and format-only rewards",
    arms=arms,
    expected=tuple(expected for objective in ("nft", "grpo") for expected in (
        Expectation(f"{objective} true", "", "steps", {"nano": (3, 60), "gsm8k": (1, 40), "7b": (10, 40)},
                    "the true reward teaches"),
        Expectation(f"{objective} random", f"{objective} true", "steps",
                    {"nano": (-70, -2), "gsm8k": (-60, -1), "7b": (-60, -3)}, "random rewards do not"),
        Expectation(f"{objective} random", "", "steps", {"nano": (-40, 3), "gsm8k": (-40, 5), "7b": (-40, 25)},
                    "arXiv 2506.10947: Qwen2.5-Math gains up to 21 from random rewards, other models nothing"),
        Expectation(f"{objective} box", f"{objective} true", "steps",
                    {"nano": (-70, -2), "gsm8k": (-60, 1), "7b": (-60, -1)}, "a format is not an answer"),
    )),
    verdicts=verdicts,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
