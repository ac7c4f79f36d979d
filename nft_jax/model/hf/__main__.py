"""`python -m nft_jax.model.hf --check FOLDER`."""
import sys

from nft_jax.model.hf.check import main

if __name__ == "__main__":
    sys.exit(main())
