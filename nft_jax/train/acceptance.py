"""How many groups a generation batch samples, so that one batch gives a step its groups.

A group is accepted if its rewards differ. Accepted groups are few or many by chance, so a batch asks for more than the
share of accepted groups calls for. A batch that falls short costs a second one, which drains all slots again. A batch
that gives too much leaves groups to the next step, with the log-probs of the parameters that sampled them.

With rollout.tokens_per_step a group takes several batches, L on average. Then L steps' groups are under way at a time:
what is asked brings the groups in hand and the open ones to L * prompts_per_step, as a shop orders whose goods take L
days. An open group is in a batch for max_new_tokens / tokens_per_step batches at most, and a batch asks at most MOST *
prompts_per_step prompts: the product bounds the open groups."""
import math
from collections.abc import Iterable
from dataclasses import dataclass

from nft_jax.types import Group

DECAY = 0.5         # what a step counts beside the step after it
SPREAD = 1.3        # standard deviations of margin: by the normal law, nine batches in ten suffice
LEAST_SHARE = 1 / 16
MOST = 4            # times prompts_per_step: a share that jumps up leaves no more groups than that to grow old


def prompts_to_ask(missing: int, accepted: float, asked: float) -> int:
    """The fewest prompts of which, with a margin, `missing` are accepted, if `accepted` of `asked` were before.

    With the share p and n prompts, np is to exceed `missing` by SPREAD standard deviations of two kinds: of what n
    draws give, np(1-p), and of p itself, which `asked` draws have told: n^2 p(1-p) / asked. Without any told draws,
    `missing` prompts. A margin that no n reaches gives 16 prompts for each missing one."""
    if not asked or missing <= 0:
        return max(missing, 0)
    share = max(accepted / asked, LEAST_SHARE)
    variance = share * (1 - share)
    most = math.ceil(missing / LEAST_SHARE)
    return next((n for n in range(math.ceil(missing / share), most) if n * share - missing >= SPREAD * math.sqrt(
        variance * n * (1 + n / asked))), most)


@dataclass
class Share:
    """What came of the groups that were judged: how many, those to learn from, and the batches that they took."""
    asked: float
    accepted: float
    batches: float

    def add(self, groups: Iterable[Group], budget: int) -> None:
        """Counts judged groups, each in as many batches as `budget` tokens of its longest answer take."""
        for group in groups:
            self.asked += 1
            self.accepted += group.has_signal
            self.batches += -(-max(len(r.tokens) for r in group.rollouts) // budget) if budget else 1

    def new_prompts(self, wanted: int, have: int, open_groups: int) -> int:
        """How many prompts a batch asks beside its open groups, if a step wants so many groups and has some."""
        # Without a budget the quotient is exactly 1.
        under_way = math.ceil(wanted * (self.batches / self.asked)) if self.asked else wanted
        return max(prompts_to_ask(under_way - have, self.accepted, self.asked) - open_groups, 0)
