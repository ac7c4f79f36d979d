"""Presets: configurations as code you can read. `python -m experiments.train PRESET [--field value]`.

The docstring of each preset's module says its command, hardware, hours and what to expect.
`quickstart` is described in `experiments.quickstart`; `local`, which takes your own model and
questions, is `nft_jax.cli.LOCAL`:

Command: python -m experiments.train local --policy.path FOLDER --data.source questions.jsonl
Hardware: one machine; --dry-run and `python -m nft_jax.preflight local --topology ...` tell whether it fits.
Hours: what preflight estimates for your model, on your devices.
Expected: accuracy/all rises within some tens of steps, if the model is right now and then (no source: your data).
"""
from experiments.presets import code, gemma3_270m, gsm8k, olmo3_7b, qwen2_5_32b, qwen2_5_math_7b
from experiments.quickstart import QUICKSTART
from nft_jax import config as c
from nft_jax.cli import LOCAL

PRESETS: dict[str, c.Config] = {config.name: config for config in (
    QUICKSTART, LOCAL, code.PRESET, gemma3_270m.PRESET, gsm8k.PRESET, gsm8k.LORA, qwen2_5_math_7b.RECOMMENDED,
    qwen2_5_math_7b.OFFICIAL, olmo3_7b.PRESET, qwen2_5_32b.RECOMMENDED, qwen2_5_32b.OFFICIAL)}
