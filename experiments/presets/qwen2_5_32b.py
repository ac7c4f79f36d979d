"""The paper's larger model: NFT of Qwen2.5-32B on DAPO-Math-17k (arXiv 2505.18116, section 5).

Command: python -m experiments.train qwen2_5_32b
Hardware: 256 chips of v5p (4x8x8) or more, or 64 H100 (`mesh.tensor` 4; `mesh.fsdp` takes the rest). The paper used
16 x 8 H100. The same command on every host. Not yet run by us on accelerators.
Hours: 610 on 64 H100 (python -m nft_jax.preflight qwen2_5_32b --topology gpu:64xH100), 446 on the v5p (--topology
v5p:4x8x8 --batch.rows-per-micro-batch 64). Preflight's estimates, with answers of 4,779 tokens on average and the
devices' exchange not counted.
Expected (paper, table 1): the average of six benchmarks rises from 29.6 to 59.2. The run measures all six.

`qwen2_5_32b_official` is as published. Both are as in `experiments.presets.qwen2_5_math_7b`, whose
docstring lists what differs from the official code and what the recommended preset changes, except
for:

    prompts of 2,048 and answers of 14,336 tokens
    evaluation at temperature 0.6, as the paper says for this model; its scripts say 1.0 (--evaluation.temperature 1.0)

    loss.constant_length 16,000: 16 x 8 H100 by the official README, of which the 8 GPUs of a node share their answers
    (sp_size 8 in train_32B.sh) and count as one data-parallel rank. Without sequence parallelism: 128,000

The official scripts suggest trying --loss.neg-weight 0.5 at this size; the paper's number is with 1.
"""
from dataclasses import replace

from experiments.presets import qwen2_5_math_7b as seven
from nft_jax.config import MESHES, BatchConfig, Config


def _with_32b(config: Config, name: str) -> Config:
    return replace(
        config,
        name=name,
        policy=replace(config.policy, path="Qwen/Qwen2.5-32B"),
        data=replace(config.data, max_prompt_tokens=2048),
        rollout=replace(config.rollout, max_new_tokens=14_336),
        batch=BatchConfig(updates_per_step=16, rows_per_micro_batch=32),
        mesh=MESHES["fsdp_tensor"],
        evaluation=replace(config.evaluation, temperature=0.6),
    )


OFFICIAL = replace(_with_32b(seven.OFFICIAL, "qwen2_5_32b_official"),
                   loss=replace(seven.OFFICIAL.loss, constant_length=16_000.0))
RECOMMENDED = _with_32b(seven.RECOMMENDED, "qwen2_5_32b")
