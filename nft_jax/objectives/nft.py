"""Token losses that are likelihoods: NFT, its baselines from supervised learning, and DPO. Notation as in
`nft_jax.objectives.registry`; log R = min(logp - old, 10) of a token unless said otherwise."""
from __future__ import annotations

import math

import jax.numpy as jnp
from jax.lax import stop_gradient

from nft_jax.objectives.ratios import (
    answer_sums,
    group_softmax,
    log_ratio,
    prompt_weight,
    ratio_and_share,
    required,
    right_and_wrong,
)

TIE = 1e-4                  # on-policy x = 1 is a tie with epsilon = 1: rounding of R there is not counted as clamped


def _two_likelihoods(log_r, log_r_negative, share, rewards, group_accuracy, config):
    """NFT's value (see `nft`) with the ratio `log_r` in the positive part and `log_r_negative` in the negative one."""
    right, wrong = right_and_wrong(group_accuracy)
    weight = prompt_weight(config.prompt_weight, right, wrong) * share
    odds, ratio = right / wrong, jnp.exp(log_r_negative)
    excess = stop_gradient(odds * jnp.expm1(log_r_negative))        # 1 - x, with all its digits near R = 1
    x = 1 - excess
    inside = x > config.epsilon
    log_max = jnp.where(inside, jnp.log1p(jnp.where(inside, -excess, 0)), math.log(config.epsilon))
    # Value and gradient are two terms: the literal x + sg(max(x, epsilon) - x) cancels in float32 where x << 0.
    negative = odds * (ratio - stop_gradient(ratio)) / jnp.maximum(x, config.epsilon) - log_max
    positive_loss = weight * (config.pos_weight * rewards * -log_r)
    negative_loss = weight * (config.neg_weight * (1 - rewards) * negative)
    of_negative = rewards < 1
    return positive_loss + negative_loss, {
        "ratio": ratio, "positive_loss": positive_loss, "negative_loss": negative_loss,
        "clamped": of_negative & (x < config.epsilon - TIE), "saturated": of_negative & (right * ratio >= 1)}


def implicit_negative(logprobs, old_logprobs, group_accuracy):
    """The probability that NFT's implicit negative policy gives a token, pi_minus = (pi_old - r pi) / (1 - r), so that
    r pi + (1 - r) pi_minus = pi_old: pi_old times the x of `nft`. Arguments of one shape, or that broadcast; r clipped
    to [0.02, 0.98].

    It is negative where r R > 1, R = pi / pi_old, and so no probability: there, and wherever it is below epsilon
    pi_old, the clamp of the loss catches it. Over the whole vocabulary its values add up to 1.

    H. Chen et al., arXiv 2505.18116, section 3."""
    right, wrong = right_and_wrong(jnp.asarray(group_accuracy))
    odds = right / wrong
    return jnp.exp(old_logprobs) * (1 - odds * jnp.expm1(jnp.subtract(logprobs, old_logprobs)))


def nft(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Negative-aware Fine-Tuning: likelihood of right answers under pi, of wrong ones under the implicit negative
    policy pi_minus = (pi_old - r pi) / (1 - r). Rewards in [0, 1], fractions included.

    value       omega [pos_weight s (-log R) + neg_weight (1-s) (-log max(x, epsilon))],  x = (1 - r R) / (1 - r),
                log R = min(logp - old, 10),  r clipped to [0.02, 0.98]
    derivative  -omega pos_weight s  +  omega neg_weight (1-s) (r / (1-r)) R / max(x, epsilon),
                the clamp being straight-through: its gradient is kept on both sides and at the tie;
                0 where logp - old > 10
    With ratio "sequence", log R = min(sum of logp - old over the answer, 10); each of the answer's tokens carries
    value / length (their sum is the value) and has the derivative above with the answer's R.
    With ratio "sequence_mean" (GSPO's), log R = min(mean of logp - old over the answer, 10); each of the answer's
    tokens carries the value (their mean is the value) and has the derivative above with the answer's R: exactly, as
    d(log R)/d(logp_t) = 1/length for the values of all of its tokens.

    H. Chen et al., arXiv 2505.18116, Eq. 10 and appendix B (soft rewards); github.com/NVlabs/NFT."""
    log_r, share = ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    return _two_likelihoods(log_r, log_r, share, rewards, group_accuracy, config)


def nft_clip(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """NFT inside DAPO's trust region: NFT's two likelihoods, each flat where PPO's clip would take its gradient.

    value       that of `nft`, with min(R, 1 + clip_high) in the positive part and max(R, 1 - clip_low) in the negative
    derivative  that of `nft`; its positive part is 0 where R > 1 + clip_high, its negative part where
                R < 1 - clip_low (the bounds are inside). All three ratios, as in `nft`.

    Ours, from arXiv 2505.18116 (Eq. 10) and arXiv 2503.14476 (DAPO, clip 0.2 below and 0.28 above)."""
    log_r, share = ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    high = math.log1p(config.clip_high)
    low = math.log1p(-config.clip_low) if config.clip_low < 1 else -math.inf
    above, below = log_r > high, log_r < low
    loss, metrics = _two_likelihoods(jnp.where(above, high, log_r), jnp.where(below, low, log_r), share, rewards,
                                     group_accuracy, config)
    clipped = (above & (rewards > 0)) | (below & (rewards < 1))
    return loss, metrics | {"ratio": jnp.exp(log_r), "clipped": clipped}


def rft(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Rejection-sampling fine-tuning: likelihood of right answers only; NFT with neg_weight 0.

    value       omega pos_weight s (-log R);  log R = min(logp - old, 10) of the token, or of the answer's sum or mean
    derivative  -omega pos_weight s;  0 where log R stops at 10
    Tokens carry the value under the three ratios as in `nft`.

    Yuan et al., arXiv 2308.01825; as the baseline of arXiv 2505.18116 (omega = 1)."""
    log_r, share = ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    weight = prompt_weight(config.prompt_weight, *right_and_wrong(group_accuracy)) * share
    loss = weight * (config.pos_weight * rewards * -log_r)
    return loss, {"ratio": jnp.exp(log_r), "positive_loss": loss}


def naive_contrast(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Likelihood up for right answers, likelihood down for wrong ones: negatives without NFT's implicit policy, whose
    weight does not grow as they become likely again, nor fall as they become unlikely: nothing bounds them below.

    value       omega [pos_weight s (-log R) + neg_weight (1-s) log R]
    derivative  omega [-pos_weight s + neg_weight (1-s)];  0 where logp - old > 10

    Unlikelihood by gradient ascent on wrong answers, Yao et al., arXiv 2310.10683, as the missing baseline of
    arXiv 2505.18116."""
    log_r = log_ratio(logprobs, old_logprobs)
    weight = prompt_weight(config.prompt_weight, *right_and_wrong(group_accuracy))
    positive = weight * (config.pos_weight * rewards * -log_r)
    negative = weight * (config.neg_weight * (1 - rewards) * log_r)
    return positive + negative, {"ratio": jnp.exp(log_r), "positive_loss": positive, "negative_loss": negative}


def dpo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Iterative DPO, for K answers as InfoNCA: the policy's implicit rewards beta rho are to rank the answers of a
    group as its rewards do. rho_k = sum of logp - old over answer k, w_k = s_k / sum of s over the group (w = 0 where
    no answer scores), p = softmax of beta rho over the group's answers.

    value       of a group  sum_k w_k (-log p_k - nll_weight rho_k);  each token of answer k carries 1/length of term k
    derivative  -(beta (w_k - W p_k) + nll_weight w_k),  W = sum of w (1, or 0 where no answer scores), at every token
                of answer k
    With one right and one wrong answer this is DPO's -log sigmoid(beta (rho_right - rho_wrong)); nll_weight > 0 adds
    the log-likelihood of right answers (relative to pi_old), which DPO alone lets fall.
    extras["group_ids"] says which answers belong together, wherever they lie; the batch holds whole groups, and the
    step looks at all of it at once (`Objective.whole_groups`).

    Raises InputError: no extras["group_ids"].
    Rafailov et al., arXiv 2305.18290, Eq. 7; Chen et al., InfoNCA, arXiv 2402.05369; Pang et al., iterative with NLL,
    arXiv 2404.19733; as the baseline of arXiv 2505.18116."""
    group_ids = required(extras, "group_ids", "dpo", "[B] or [B, T] int, equal for the answers of one prompt")
    rho, lengths = answer_sums(logprobs, old_logprobs, mask, extras)
    share = mask / lengths
    log_p, group_sum = group_softmax(config.beta * rho, share, group_ids)
    scored = group_sum(rewards)
    chosen = jnp.where(scored > 0, rewards / jnp.where(scored > 0, scored, 1), 0)
    loss = share * chosen * -(log_p + config.nll_weight * rho)
    return loss, {"ratio": jnp.exp(log_ratio(logprobs, old_logprobs)), "positive_loss": loss}
