"""Rewards other than maths: `register` adds one, the other functions compose them."""
from nft_jax.verify.rewards.registry import Reward, all_of, gated, lookup, register, weighted_sum

__all__ = ["Reward", "all_of", "gated", "lookup", "register", "weighted_sum"]
