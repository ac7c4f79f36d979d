"""NFT of Olmo 3 7B, whose weights and training data are open: the clean control beside Qwen2.5-Math-7B.

Command: python -m experiments.train olmo3_7b
Hardware: 8 GPUs of 80 GB or more (`mesh.fsdp` takes all there are). Not yet run by us on accelerators.
Hours: 137 on 8 H100 (python -m nft_jax.preflight olmo3_7b --topology gpu:8xH100). Preflight's arithmetic, with answers
of 1,195 tokens on average; what the devices send each other is not counted.
Expected: the average of six benchmarks above its start. No paper has a figure for NFT here.
`experiments/contaminated_bases.md` says what to compare it with, and which papers expect what.

The settings are those of `qwen2_5_math_7b`, on the same questions and benchmarks, but for these:

    policy.path           allenai/Olmo-3-1025-7B, the base model. allenai/OLMo-2-1124-7B takes the same settings: its
                          4,096 positions are just enough
    data.template         three worked examples, because a base model has no chat template (`nft_jax.data.templates`)
    data.chat_template    none: the questions are asked by the template alone
    rollout.stop          "Question:", where the model would ask itself the next question
    rollout.slots         256 for 512, and rollout.kv_dtype int8: all 32 heads have keys and values, 9 times the memory
                          of Qwen's
"""
from dataclasses import replace

from experiments.presets.qwen2_5_math_7b import RECOMMENDED
from nft_jax.data.templates import FEW_SHOT

PRESET = replace(
    RECOMMENDED,
    name="olmo3_7b",
    policy=replace(RECOMMENDED.policy, path="allenai/Olmo-3-1025-7B"),
    data=replace(RECOMMENDED.data, template=FEW_SHOT, chat_template="none"),
    rollout=replace(RECOMMENDED.rollout, stop=("Question:",), slots=256, kv_dtype="int8"),
)
