"""The main job on a laptop: NFT on the embedded model, about four minutes on 2 CPU cores.

    python -m experiments.quickstart                       NFT
    python -m experiments.quickstart --objective rft --workdir runs/rft       another objective, in its own folder

Any field of the run is a flag (--help).

Command: python -m experiments.train quickstart
Hardware: 2 CPU cores, no network.
Hours: 0.07, measured (README, first run).
Expected: held-out accuracy from 40% to 94% (README, first run: the same run on several seeds).

Prints the held-out accuracy before and after, and which file holds what.
"""
from nft_jax import config as c
from nft_jax.cli import parse, run

QUICKSTART = c.Config(
    name="quickstart",
    steps=40,
    data=c.DataConfig(source="arithmetic", max_prompt_tokens=24),
    rollout=c.RolloutConfig(prompts_per_step=64, samples_per_prompt=16, max_new_tokens=48, slots=256, block_size=8),
    batch=c.BatchConfig(updates_per_step=4, row_length=128, rows_per_micro_batch=8),
    optimizer=c.OptimizerConfig(learning_rate=1e-4, warmup_updates=20, weight_decay=0.0),
    evaluation=c.EvaluationConfig(questions=128, samples=8, every=5),
    checkpoint=c.CheckpointConfig(every=10, keep=2),
)

if __name__ == "__main__":
    run(parse(QUICKSTART, __doc__, prog="python -m experiments.quickstart"))
