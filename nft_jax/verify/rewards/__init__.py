"""Rewards other than the verdict of maths. `register` adds one; `all_of`, `gated` and `weighted_sum` compose them."""
from nft_jax.verify.rewards.registry import Reward, all_of, gated, lookup, register, weighted_sum

__all__ = ["Reward", "all_of", "gated", "lookup", "register", "weighted_sum"]
