"""Iterative DPO: a token loss that compares the answers of a group. Notation as in `nft_jax.objectives.registry`."""
import jax.numpy as jnp

from nft_jax.objectives.ratios import answer_sums, group_softmax, log_ratio
from nft_jax.types import InputError


def dpo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Iterative DPO, for K answers as InfoNCA: implicit rewards beta rho learn to rank a group as its rewards do.

    rho_k = sum of logp - old over answer k. w_k = s_k / sum of s over the group (0 where no answer scores).
    p = softmax of beta rho over the group's answers.

    value       of a group  sum_k w_k (-log p_k - nll_weight rho_k);
                each token of answer k carries 1/length of term k
    derivative  -(beta (w_k - W p_k) + nll_weight w_k)  at every token of answer k,
                W = sum of w (1, or 0 where no answer scores)

    With one right and one wrong answer this is DPO's -log sigmoid(beta (rho_right - rho_wrong)). nll_weight > 0
    adds the log-likelihood of right answers (relative to pi_old), which DPO alone lets fall.

    The batch holds whole groups (`Objective.whole_groups`), told apart by extras["group_ids"]. Raises InputError
    without it.

    Rafailov et al., arXiv 2305.18290, Eq. 7; Chen et al., InfoNCA, arXiv 2402.05369; Pang et al.,
    iterative with NLL, arXiv 2404.19733; as the baseline of arXiv 2505.18116."""
    if "group_ids" not in extras:
        raise InputError("extras has no 'group_ids': dpo needs it. Pass extras={'group_ids': ...}, [B] or [B, T] int, "
                         "equal for the answers of one prompt.")
    rho, lengths = answer_sums(logprobs, old_logprobs, mask, extras)
    share = mask / lengths
    log_p, group_sum = group_softmax(config.beta * rho, share, extras["group_ids"])
    scored = group_sum(rewards)
    w = jnp.where(scored > 0, rewards / jnp.where(scored > 0, scored, 1), 0)
    loss = share * w * -(log_p + config.nll_weight * rho)
    return loss, {"ratio": jnp.exp(log_ratio(logprobs, old_logprobs)), "positive_loss": loss}
