"""What a run will need, told before it starts, for devices that need not be there.

1. `devices` knows the topologies, and makes jax devices of them.
2. `nft_jax.train.plan` makes the plan of the run on these devices.
3. `memory` and `estimate` weigh the plan by arithmetic; `dry_run` does nothing else.
4. `compiled` compiles the programs of the plan, and `hlo` reads what the devices send each other.
5. `report` puts these together: what each program needs, whether it fits, and what would. `text` prints it.
"""
