"""How many prompts a generation batch asks, so that one batch gives a step its groups.

A group is accepted if its rewards differ. Accepted groups are few or many by chance, so a batch asks for more than the
share of accepted groups calls for. A batch that falls short costs a second one, which drains all slots again. A batch
that gives too much leaves groups to the next step, with the log-probs of the parameters that sampled them."""
import math

DECAY = 0.5         # what a step counts beside the step after it
SPREAD = 1.3        # standard deviations of margin: by the normal law, nine batches in ten suffice
LEAST_SHARE = 1 / 16
MOST = 4            # times prompts_per_step: a share that jumps up leaves no more groups than that to grow old


def prompts_to_ask(missing: int, accepted: float, asked: float) -> int:
    """The fewest prompts of which, with a margin, `missing` are accepted, if `accepted` of `asked` were before.

    With the share p and n prompts, np is to exceed `missing` by SPREAD standard deviations of two kinds: of what n
    draws give, np(1-p), and of p itself, which `asked` draws have told: n^2 p(1-p) / asked. Without any told draws,
    `missing` prompts. A margin that no n reaches gives 16 prompts for each missing one."""
    if not asked:
        return missing
    share = max(accepted / asked, LEAST_SHARE)
    variance = share * (1 - share)
    most = math.ceil(missing / LEAST_SHARE)
    return next((n for n in range(math.ceil(missing / share), most) if n * share - missing >= SPREAD * math.sqrt(
        variance * n * (1 + n / asked))), most)
