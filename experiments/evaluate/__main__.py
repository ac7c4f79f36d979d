"""`python -m experiments.evaluate`: the command `nft-jax evaluate` from a checkout (`nft_jax.rollout.evaluate`)."""
from nft_jax.rollout.evaluate import main

if __name__ == "__main__":
    main(prog="python -m experiments.evaluate")
