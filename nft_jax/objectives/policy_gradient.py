"""Token losses that are policy gradients: GRPO and its relatives. Notation as in `nft_jax.objectives.registry`.

R = exp(min(logp - old, 10)) of a token unless said otherwise, so its derivative is 0 where logp - old > 10.
"""
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from nft_jax.objectives.ratios import STD_FLOOR, answer_sums, by_sign, clipped_surrogate, group_advantage, log_ratio


def grpo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Group Relative Policy Optimization: the clipped surrogate with the advantage in units of the group's std.

    value       -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)),  A = (s - r) / std,  r not clipped
    derivative  -A R;  0 where the clip is active and where logp - old > 10
    std and errors as `group_advantage`. There is no KL term: see `nft_jax.objectives.terms`.

    DAPO is the same with the upper clip raised ("clip-higher", 0.28) and one token mean over the whole batch. Its
    other parts are outside: groups without signal are left out, and `overlong_penalty` is added to the rewards.

    Shao et al., DeepSeekMath, arXiv 2402.03300, Eq. 3 (which does not say which std; verl and TRL use std_ddof 1).
    DAPO: Yu et al., arXiv 2503.14476, Eq. 8-13."""
    advantage = group_advantage(rewards, group_accuracy, config, extras)
    return clipped_surrogate(log_ratio(logprobs, old_logprobs), advantage, config)


def dr_grpo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Dr. GRPO: GRPO without the two biases, division by the std and by the length (loss_agg "constant").

    value       -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)),  A = s - r
    derivative  -A R;  0 where the clip is active and where logp - old > 10

    Liu et al., arXiv 2503.20783."""
    return clipped_surrogate(log_ratio(logprobs, old_logprobs), rewards - group_accuracy, config)


def reinforce(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """REINFORCE with the group's mean as the baseline, and no importance weight.

    value       -A (logp - old),  A = s - r
    derivative  -A
    K / (K - 1) times this is RLOO, whose baseline leaves out the answer itself.

    Williams, Machine Learning 8, 1992; Ahmadian et al., arXiv 2402.14740."""
    advantage = rewards - group_accuracy
    loss = -advantage * (logprobs - old_logprobs)
    return loss, by_sign(loss, advantage) | {"ratio": jnp.exp(log_ratio(logprobs, old_logprobs))}


def maxrl(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Maximum likelihood RL: ascent on log P(right) instead of P(right), in the clipped surrogate.

    value       -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)),  A = (s - r) / r, and 0 where r < 1e-6
    derivative  -A R;  0 where the clip is active and where logp - old > 10

    Tajwar et al., arXiv 2602.02710 (the estimator that divides by the number of successes, its mean
    subtracted)."""
    scaled = (rewards - group_accuracy) / jnp.maximum(group_accuracy, STD_FLOOR)
    advantage = jnp.where(group_accuracy < STD_FLOOR, 0, scaled)
    return clipped_surrogate(log_ratio(logprobs, old_logprobs), advantage, config)


def cispo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """CISPO: REINFORCE with a clipped, constant importance weight, so no token ever loses its gradient.

    value       -sg(clip(R, 1 - clip_low, 1 + clip_high)) A (logp - old),  A as in `grpo`
    derivative  -clip(R, 1 - clip_low, 1 + clip_high) A
    The paper sets no lower bound (clip_low 1) and does not print its upper bound. 1 + clip_high = 5 is ScaleRL's.

    MiniMax-M1, arXiv 2506.13585, Eq. 4-5; Khatri et al., ScaleRL, arXiv 2510.13786."""
    advantage = group_advantage(rewards, group_accuracy, config, extras)
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs))
    weight = stop_gradient(jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high))
    loss = -weight * advantage * (logprobs - old_logprobs)
    return loss, by_sign(loss, advantage) | {"ratio": ratio, "clipped": weight != ratio}


def gspo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Group Sequence Policy Optimization: GRPO with one length-normalised ratio per answer.

    value       -min(A R, A clip(R, 1 - clip_low, 1 + clip_high)) at every token of the answer, A as in `grpo`,
                R = exp(min(mean of logp - old over the answer, 10))
    derivative  -A R at every token: each of the n tokens' values contributes 1/n of it;  0 where the clip is active
                and where the mean exceeds 10
    With loss_agg "seq_mean_token_mean" the loss is the paper's mean over answers, and equals the
    paper's GSPO-token.

    Zheng et al., arXiv 2507.18071, Eq. 5-7 and 5.1 (clips of 3e-4 and 4e-4)."""
    total, lengths = answer_sums(logprobs, old_logprobs, mask, extras)
    advantage = group_advantage(rewards, group_accuracy, config, extras)
    return clipped_surrogate(log_ratio(total / lengths, jnp.zeros_like(total)), advantage, config)


def sapo(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Soft Adaptive Policy Optimization: a sigmoid gate on the ratio in place of the clip.

    value       -A (4 / tau) sigmoid(tau (R - 1)),  A as in `grpo`,
                tau = tau_positive where A > 0, else tau_negative (larger: negatives fade faster off-policy)
    derivative  -A R 4 g (1 - g),  g = sigmoid(tau (R - 1)):  -A on-policy;  0 where logp - old > 10

    Gao et al., arXiv 2511.20347 (tau 1 and 1.05)."""
    advantage = group_advantage(rewards, group_accuracy, config, extras)
    ratio = jnp.exp(log_ratio(logprobs, old_logprobs))
    tau = jnp.where(advantage > 0, config.tau_positive, config.tau_negative).astype(ratio.dtype)
    loss = -advantage * 4 / tau * jax.nn.sigmoid(tau * (ratio - 1))
    return loss, by_sign(loss, advantage) | {"ratio": ratio}


def topr(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Tapered Off-Policy REINFORCE: right answers as in fine-tuning, wrong ones weighted by the importance
    ratio of the whole answer, truncated at 1. So a wrong answer is left alone once the policy has given it up.

    value       -[pos_weight s - neg_weight (1-s) sg(min(R, 1))] (logp - old),  R = exp(sum of logp - old)
    derivative  -pos_weight s + neg_weight (1-s) min(R, 1)
    The paper's rewards are +1 and -1 without a baseline: pos_weight = neg_weight = 1. A fractional s counts as right
    with weight s and as wrong with weight 1 - s.

    Le Roux et al., arXiv 2503.14286 (weight 1 for positives, [0, 1] for negatives)."""
    total, _ = answer_sums(logprobs, old_logprobs, mask, extras)
    weight, difference = stop_gradient(jnp.exp(jnp.minimum(total, 0))), logprobs - old_logprobs
    positive = -config.pos_weight * rewards * difference
    negative = config.neg_weight * (1 - rewards) * weight * difference
    return positive + negative, {"ratio": jnp.exp(log_ratio(total, jnp.zeros_like(total))), "positive_loss": positive,
                                 "negative_loss": negative, "clipped": (rewards < 1) & (total > 0)}


def psr(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Positive Sample Reinforcement: the policy gradient of right answers alone, without a baseline.

    value       -min(s R, s clip(R, 1 - clip_low, 1 + clip_high)) = -s min(R, 1 + clip_high)
    derivative  -s R;  0 where R > 1 + clip_high and where logp - old > 10

    Zhu et al., arXiv 2506.01347, in PPO's clip as in github.com/TianHongZXY/RLVR-Decomposed."""
    return clipped_surrogate(log_ratio(logprobs, old_logprobs), rewards, config)


def nsr(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Negative Sample Reinforcement: the policy gradient of wrong answers alone (reward -1), without a baseline.

    value       (1-s) max(R, 1 - clip_low)
    derivative  (1-s) R;  0 where R < 1 - clip_low and where logp - old > 10

    Zhu et al., arXiv 2506.01347, in PPO's clip as in github.com/TianHongZXY/RLVR-Decomposed."""
    return clipped_surrogate(log_ratio(logprobs, old_logprobs), rewards - 1, config)


def w_reinforce(logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras):
    """Weighted-REINFORCE: psr_weight times `psr` plus `nsr`. Right answers count little, which keeps diversity.

    value       -psr_weight s min(R, 1 + clip_high) + (1-s) max(R, 1 - clip_low)
    derivative  -psr_weight s R + (1-s) R, each part 0 where it is 0 in `psr` or `nsr`

    Zhu et al., arXiv 2506.01347, section 5 (psr_weight 0.1)."""
    arguments = logprobs, old_logprobs, mask, rewards, group_accuracy, config, extras
    (positive, found), (negative, also) = psr(*arguments), nsr(*arguments)
    positive = config.psr_weight * positive
    return positive + negative, {"ratio": found["ratio"], "positive_loss": positive, "negative_loss": negative,
                                 "clipped": found["clipped"] | also["clipped"]}
