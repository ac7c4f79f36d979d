"""Groups without a single right answer: what they teach nothing of, and what their confidence tells (loss.all_wrong).

As r goes to 0, the implicit negative policy pi_minus = (pi_old - r pi) / (1 - r) becomes pi_old, whatever pi is. The
likelihood of wrong answers under it has no gradient then, and the positive part has no answer: a group of accuracy 0
teaches nothing, so runs leave it out. (`ratios.right_and_wrong` clips r at 0.02. With the clip alone every token of
such a group would be pushed down, all alike.)

r is an estimate, of a policy that may be right once in a hundred answers. LENS estimates how right each answer seemed
to be before it was judged: its confidence, the geometric mean p of its tokens' probabilities under pi_old, over a
bound D = 2 max p of its group. Its likelihood of a wrong answer, log(1 - pi / D), is that of NFT's implicit negative
policy with r = p / D:

    log(1 - r R) = log(1 - pi / D),    r R = (p / D) (pi / p)

So in a group of wrong answers each answer gets r = p / D in place of the group's accuracy, and every objective that
reads r weighs it by its confidence: A = s - r is -p / D under dr_grpo. LENS's centring of these rewards, and its
factor 1 / K, are left to GRPO: its weight alpha = 0.25 is loss.all_wrong = 0.25 / K here.

Feng et al., Don't Waste Mistakes, arXiv 2510.08696, Eqs. 8 to 10 and section 5."""
from collections.abc import Sequence

import numpy as np


def prior_accuracies(logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """[K] float64 in (0, 1/2]: r of each answer of a group of wrong answers. logprobs: of its tokens, [n] each, by the
    policy that sampled them."""
    means = np.array([np.asarray(each, np.float64).mean() for each in logprobs])
    return np.exp(means - means.max()) / 2
