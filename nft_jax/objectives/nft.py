"""Negative-aware Fine-Tuning, supervised learning from right and wrong answers, and its baselines.

1. `nft` is the paper's loss. Right answers raise their own likelihood. Wrong answers raise the
   likelihood of the implicit negative policy, which `implicit_negative` returns by itself.
2. `nft_clip` is `nft` inside DAPO's trust region.
3. `rft` and `naive_contrast` are the baselines: right answers only, and unlikelihood of wrong ones.

Notation as in `nft_jax.objectives.registry`. log R = min(logp - old, 10) of a token unless said otherwise.
"""
import math

import jax.numpy as jnp
from jax.lax import stop_gradient

from nft_jax.objectives.ratios import log_ratio, prompt_weight, ratio_and_share, right_and_wrong

TIE = 1e-4      # on-policy, x = 1 ties with epsilon = 1; rounding of R there does not count as clamped


def nft(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Negative-aware Fine-Tuning: likelihood of right answers under pi, of wrong answers under the
    implicit negative policy pi_minus = (pi_old - r pi) / (1 - r). Rewards in [0, 1], fractions too.

    value       omega [pos_weight s (-log R) + neg_weight (1-s) (-log max(x, epsilon))],
                x = (1 - r R) / (1 - r),  log R = min(logp - old, 10),  r clipped to [0.02, 0.98]
    derivative  -omega pos_weight s  +  omega neg_weight (1-s) (r / (1-r)) R / max(x, epsilon);
                0 where logp - old > 10. The clamp is straight-through: its gradient is kept on
                both sides and at the tie.

    Other values of loss.ratio take R from the whole answer: see `ratios.ratio_and_share`.

    H. Chen et al., arXiv 2505.18116, Eq. 10 and appendix B (soft rewards); github.com/NVlabs/NFT."""
    log_r, share = ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    right, wrong = right_and_wrong(group_accuracy)                  # r and 1 - r
    omega = prompt_weight(config.prompt_weight, right, wrong) * share
    minus_log_x, clamp = implicit_likelihood(log_r, right, wrong, rewards, config.epsilon)

    positive_loss = omega * (config.pos_weight * rewards * -log_r)
    negative_loss = omega * (config.neg_weight * (1 - rewards) * minus_log_x)
    return positive_loss + negative_loss, {
        "ratio": jnp.exp(log_r), "positive_loss": positive_loss, "negative_loss": negative_loss, **clamp}


def implicit_likelihood(log_r, right, wrong, rewards, epsilon: float):
    """-log max(x, epsilon), straight-through, and the metrics clamped and saturated. Any shapes that broadcast.

    x = (1 - r R) / (1 - r) is the ratio of the implicit negative policy to pi_old."""
    odds, ratio = right / wrong, jnp.exp(log_r)
    # x = 1 - odds (R - 1). expm1 keeps all digits of the excess near R = 1.
    excess = stop_gradient(odds * jnp.expm1(log_r))
    x = 1 - excess
    inside = x > epsilon
    log_max = jnp.where(inside, jnp.log1p(jnp.where(inside, -excess, 0)), math.log(epsilon))
    # Value and gradient are two terms: the literal x + sg(max(x, epsilon) - x) cancels in float32 where x << 0.
    minus_log_x = odds * (ratio - stop_gradient(ratio)) / jnp.maximum(x, epsilon) - log_max
    is_wrong = rewards < 1
    return minus_log_x, {"clamped": is_wrong & (x < epsilon - TIE), "saturated": is_wrong & (right * ratio >= 1)}


def implicit_negative(logprobs, old_logprobs, group_accuracy):
    """The probability that NFT's implicit negative policy gives a token, pi_minus = (pi_old - r pi) / (1 - r),
    so that r pi + (1 - r) pi_minus = pi_old. It is pi_old times the x of `nft`. Arguments of one shape, or
    shapes that broadcast; r clipped to [0.02, 0.98].

    It is negative, and so no probability, where r R > 1, R = pi / pi_old. The clamp of the loss
    acts there, and wherever it is below epsilon pi_old. Over the whole vocabulary it sums to 1.

    H. Chen et al., arXiv 2505.18116, section 3."""
    right, wrong = right_and_wrong(jnp.asarray(group_accuracy))
    odds = right / wrong
    return jnp.exp(old_logprobs) * (1 - odds * jnp.expm1(jnp.subtract(logprobs, old_logprobs)))


def nft_clip(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """NFT inside DAPO's trust region: each of NFT's two likelihoods is flat where PPO would clip it.

    value       as `nft`, with min(R, 1 + clip_high) in the positive part
                and max(R, 1 - clip_low) in the negative part
    derivative  as `nft`; of the positive part 0 where R > 1 + clip_high,
                of the negative part 0 where R < 1 - clip_low. The bounds are inside.
    Works with all three ratios, as `nft`.

    Ours, from arXiv 2505.18116 (Eq. 10) and arXiv 2503.14476 (DAPO, clip 0.2 below and 0.28 above)."""
    log_r, share = ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    high = math.log1p(config.clip_high)
    low = math.log1p(-config.clip_low) if config.clip_low < 1 else -math.inf
    above, below = log_r > high, log_r < low
    right, wrong = right_and_wrong(group_accuracy)
    omega = prompt_weight(config.prompt_weight, right, wrong) * share
    minus_log_x, clamp = implicit_likelihood(jnp.where(below, low, log_r), right, wrong, rewards, config.epsilon)

    positive_loss = omega * (config.pos_weight * rewards * -jnp.where(above, high, log_r))
    negative_loss = omega * (config.neg_weight * (1 - rewards) * minus_log_x)
    return positive_loss + negative_loss, {
        "ratio": jnp.exp(log_r), "positive_loss": positive_loss, "negative_loss": negative_loss, **clamp,
        "clipped": (above & (rewards > 0)) | (below & (rewards < 1))}


def rft(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Rejection-sampling fine-tuning: likelihood of right answers only. It is NFT with neg_weight 0.

    value       omega pos_weight s (-log R);
                log R = min(logp - old, 10) of the token, or of the answer's sum or mean
    derivative  -omega pos_weight s;  0 where log R stops at 10
    Tokens carry the value under the three ratios as in `nft`.

    Yuan et al., arXiv 2308.01825; as the baseline of arXiv 2505.18116 (omega = 1)."""
    log_r, share = ratio_and_share(logprobs, old_logprobs, mask, config, extras)
    omega = prompt_weight(config.prompt_weight, *right_and_wrong(group_accuracy)) * share
    loss = omega * (config.pos_weight * rewards * -log_r)
    return loss, {"ratio": jnp.exp(log_r), "positive_loss": loss}


def naive_contrast(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Likelihood up for right answers, down for wrong ones: negatives without NFT's implicit policy.

    The weight of a wrong answer neither grows as the answer becomes likely again nor falls as it
    becomes unlikely. Nothing bounds the loss below.

    value       omega [pos_weight s (-log R) + neg_weight (1-s) log R]
    derivative  omega [-pos_weight s + neg_weight (1-s)];  0 where logp - old > 10

    Unlikelihood by gradient ascent on wrong answers, Yao et al., arXiv 2310.10683, as the missing
    baseline of arXiv 2505.18116."""
    log_r = log_ratio(logprobs, old_logprobs)
    omega = prompt_weight(config.prompt_weight, *right_and_wrong(group_accuracy))
    positive_loss = omega * (config.pos_weight * rewards * -log_r)
    negative_loss = omega * (config.neg_weight * (1 - rewards) * log_r)
    return positive_loss + negative_loss, {
        "ratio": jnp.exp(log_r), "positive_loss": positive_loss, "negative_loss": negative_loss}
