"""Rewards: named, composed, and run where they can be killed. `register` is how to add one."""
from nft_jax.verify.rewards.registry import Reward, all_of, gated, lookup, register, weighted_sum

__all__ = ["Reward", "all_of", "gated", "lookup", "register", "weighted_sum"]
