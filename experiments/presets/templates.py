"""What a question is wrapped in."""
from nft_jax.data.benchmarks import BOXED, DAPO

__all__ = ["BOXED", "DAPO"]
