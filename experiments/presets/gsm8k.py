"""NFT of a small instruct model on grade-school maths, for one accelerator of 40 GB or more.

Command: python -m experiments.train gsm8k
Hardware: one accelerator of 40 GB (1.5B: of 80 GB).
Hours: 0.3 on one H100 (18 minutes), preflight's estimate, compiling and verifying not counted
(python -m nft_jax.preflight gsm8k --topology gpu:1xH100).
Expected: evaluation/accuracy/all above its start. No paper has a figure for NFT here. The models start near 49.6%
(0.5B) and 73.2% (1.5B) of the test questions (Qwen2.5 technical report, arXiv 2412.15115, own prompt and scorer).

The larger model: --policy.path Qwen/Qwen2.5-1.5B-Instruct --workdir runs/gsm8k_1.5b. More devices
each take their share of the batch (`mesh.fsdp`). Not yet run by us on accelerators.

Questions: openai/gsm8k. 7,473 to train on, which 58 steps see about once; the test split is held
out and answered greedily. Answers stand after ####.

What differs from the paper's settings (`experiments.presets.qwen2_5_math_7b`): 128 prompts x 8
answers of up to 512 tokens a step, and 8 optimizer updates, because the model, the answers and the
machine are smaller.
"""
from nft_jax import config as c
from nft_jax.data.templates import BOXED

PRESET = c.Config(
    name="gsm8k",
    steps=120,
    policy=c.PolicyConfig(path="Qwen/Qwen2.5-0.5B-Instruct", compute_dtype="bfloat16", remat="block"),
    data=c.DataConfig(source="openai/gsm8k:main", template=BOXED, max_prompt_tokens=320),
    rollout=c.RolloutConfig(prompts_per_step=128, samples_per_prompt=8, max_new_tokens=512, slots=256),
    batch=c.BatchConfig(updates_per_step=8, rows_per_micro_batch=16),
    optimizer=c.OptimizerConfig(learning_rate=1e-6, warmup_updates=80),
    mesh=c.MESHES["fsdp"],
    checkpoint=c.CheckpointConfig(every=20, keep=2),
    evaluation=c.EvaluationConfig(source="openai/gsm8k:main", split="test", questions=1319, samples=1, every=10,
                                temperature=0.0),
)
