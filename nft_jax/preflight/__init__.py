"""What a run will need, told before it starts, for devices that need not be there.

    python -m nft_jax.preflight EXPERIMENT --topology v5p:4x4x4      compile for them, and print a table (__main__)
    python -m experiments.train PRESET --dry-run                     arithmetic alone (dry_run)
"""
