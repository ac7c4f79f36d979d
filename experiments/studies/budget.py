"""What budgeted answers (rollout.tokens_per_step) do to accuracy: tokens of one answer come from several policies, and
long answers are trained on later than short ones.

The budgets are a half, a quarter and an eighth of the longest answer allowed.
"""
from experiments.harness.study import Claim, Study, run


def part(count: int) -> dict[str, object]:
    return {"rollout.tokens_per_step": lambda base: base.rollout.max_new_tokens // count}


STUDY = Study(
    name="budget",
    title="Budgeted answers",
    paper="does not ask it: every answer is sampled by one policy. Kimi k1.5 (arXiv 2501.12599) trains with partial "
          "rollouts and tells no loss.",
    arms={"off": {}, "half": part(2), "quarter": part(4), "eighth": part(8)},
    claims=(
        Claim("half", "off", "steps", "alike", "a token is a step old at most, or its group waited"),
        Claim("quarter", "off", "steps", "alike", "pi_old of a token is the policy that sampled it"),
        Claim("eighth", "off", "steps", "alike", "the same, over more policies"),
        Claim("quarter", "off", "tokens", "alike", "as many tokens are sampled for a step"),
        Claim("eighth", "off", "tokens", "alike", "the same, over more policies"),
    ),
)

if __name__ == "__main__":
    run(STUDY, __doc__)
