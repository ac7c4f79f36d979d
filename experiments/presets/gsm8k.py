"""NFT of small instruct models on grade-school maths, for one accelerator: in full, and its twin with LoRA.

Command: python -m experiments.train gsm8k
With LoRA: python -m experiments.train gsm8k_lora. A larger model: --policy.path NAME --workdir runs/NAME
Hardware: one GPU, the smallest that holds the run and a fifth more, with the GiB of its fullest moment by preflight's
byte count (`experiments/tables/hardware.md`; a test compares):

    --policy.path                  gsm8k            gsm8k_lora
    Qwen/Qwen2.5-0.5B-Instruct     RTX4090 11.0     T4 5.0
    Qwen/Qwen2.5-1.5B-Instruct     A100-80 32.1     RTX4090 12.4
    Qwen/Qwen2.5-3B-Instruct       none (62)        A100-40 19.9

Hours: 0.3 on one H100 (18 minutes) for 0.5B in full, preflight's estimate, compiling and verifying not counted
(python -m nft_jax.preflight gsm8k --topology gpu:1xH100).
Expected: evaluation/accuracy/all above its start. No paper has a figure for NFT here. The models start near 49.6%
(0.5B), 73.2% (1.5B) and 86.7% (3B) of the test questions (Qwen2.5 technical report, arXiv 2412.15115, own prompt and
scorer). Not yet run by us on accelerators. More devices each take their share of the batch (`mesh.fsdp`).

Learning rates: 1e-6 in full, as the paper's for 7B and 32B (arXiv 2505.18116, section 5). 1e-5 with LoRA, ten times
that, whatever size and rank (Schulman et al., LoRA Without Regret, Thinking Machines Lab, 2025).

Questions: openai/gsm8k. 7,473 to train on, which 58 steps see about once; the test split is held
out and answered greedily. Answers stand after ####.

What differs from the paper's settings (`experiments.presets.qwen2_5_math_7b`): 128 prompts x 8
answers of up to 512 tokens a step, and 8 optimizer updates, because the model, the answers and the
machine are smaller.
"""
from dataclasses import replace

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
LORA = replace(PRESET, name="gsm8k_lora", adapter=c.AdapterConfig(rank=16),
               optimizer=replace(PRESET.optimizer, learning_rate=1e-5))
