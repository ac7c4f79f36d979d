"""Presets: configurations as code you can read. `python -m experiments.train PRESET [--field value]`.

The docstring of each preset's module says its command, hardware, hours and what to expect.
`quickstart` is described in `experiments.quickstart`; `local`, which takes your own model and
questions, here:

Command: python -m experiments.train local --policy.path FOLDER --data.source questions.jsonl
Hardware: one machine; --dry-run and `python -m nft_jax.preflight local --topology ...` tell whether it fits.
Hours: what preflight estimates for your model, on your devices.
Expected: accuracy/all rises within some tens of steps, if the model is right now and then (no source: your data).
"""
from experiments.presets import code, gsm8k, qwen2_5_32b, qwen2_5_math_7b
from experiments.quickstart import QUICKSTART
from nft_jax import config as c
from nft_jax.data.templates import BOXED

LOCAL = c.Config(
    name="local",
    steps=100,
    # Both are left to the user: a run that trained something else in silence would be a trap.
    policy=c.PolicyConfig(path=""),
    data=c.DataConfig(source="", template=BOXED, max_prompt_tokens=512),
    rollout=c.RolloutConfig(prompts_per_step=32, samples_per_prompt=8, max_new_tokens=512, slots=64, block_size=16),
    batch=c.BatchConfig(updates_per_step=4, rows_per_micro_batch=4),
    optimizer=c.OptimizerConfig(learning_rate=1e-6, warmup_updates=40),
    evaluation=c.EvaluationConfig(questions=128, samples=4, every=20),
)
"""A model folder and a question file of your own, on one machine: set --policy.path and --data.source."""

PRESETS: dict[str, c.Config] = {config.name: config for config in (
    QUICKSTART, LOCAL, code.PRESET, gsm8k.PRESET, qwen2_5_math_7b.RECOMMENDED, qwen2_5_math_7b.OFFICIAL,
    qwen2_5_32b.RECOMMENDED, qwen2_5_32b.OFFICIAL)}
