"""Run a preset: `python -m experiments.train PRESET [--field value] [--fresh] [--dry-run]`.

quickstart   the embedded model on generated arithmetic (what `experiments.quickstart` runs)
local        a model folder and a question file of your own:
             python -m experiments.train local --policy.path FOLDER --data.source questions.jsonl
code         programs for a tiny stack machine, judged by hidden tests
gemma3_270m  Gemma 3 270M, a base model, on sums with LoRA, for one CPU core
gsm8k, gsm8k_lora
             Qwen2.5-0.5B-Instruct (or 1.5B, 3B) on grade-school maths, for one accelerator
qwen2_5_math_7b, qwen2_5_math_7b_official, qwen2_5_32b, qwen2_5_32b_official
             the paper's models on DAPO-Math-17k, as we recommend and as published
olmo3_7b     Olmo 3 7B in the same way: open weights and open data
package.module:NAME, file.py:NAME
             a Config of your own

Each preset's module in experiments/presets says its hardware, hours and what to expect.
"""
import sys

from experiments.presets import PRESETS, code, gemma3_270m
from nft_jax.cli import experiment, parse, run
from nft_jax.runtime.terminal import one_paragraph_errors

PREPARED = {"code": code.prepared, "gemma3_270m": gemma3_270m.prepared}
"""Presets whose own runs need files made beforehand -> what makes them."""


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (arguments[0] not in PRESETS and ":" not in arguments[0]):
        asked = f"there is no preset {arguments[0]!r}" if arguments and not arguments[0].startswith("-") else "usage"
        print(f"{asked}: python -m experiments.train PRESET [--field value]\n\n{__doc__}", file=sys.stderr)
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    with one_paragraph_errors():
        preset = experiment(arguments[0])
    parsed = parse(preset, f"Preset {arguments[0]!r}.", arguments[1:],
                   f"python -m experiments.train {arguments[0]}")
    with one_paragraph_errors():
        parsed = PREPARED.get(arguments[0], lambda parsed: parsed)(parsed)
    run(parsed)


if __name__ == "__main__":
    main()
