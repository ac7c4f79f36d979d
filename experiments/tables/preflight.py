"""The outputs of preflight that `README.md` links: `preflight_NAME.txt`, each with its command.

    python -m experiments.tables.preflight [NAME ...]      all: an hour on 2 CPU cores, nearly all of it compiling

Each runs `python -m nft_jax.preflight` in a process of its own, because jax starts with other
devices each time. Takes libtpu (pip install libtpu), but no TPU, no weights and no network.
"""
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
COMMANDS = {
    "7b-v5p": "qwen2_5_math_7b --topology v5p:4x4x4 --mesh.tensor 4 --batch.rows-per-micro-batch 64",
    "7b-v6e": "qwen2_5_math_7b --topology v6e:4x4 --batch.rows-per-micro-batch 16 --rollout.slots 256",
    "7b-h100": "qwen2_5_math_7b --topology gpu:8xH100",
    "32b-v5p": "qwen2_5_32b --topology v5p:4x8x8 --batch.rows-per-micro-batch 64",
}


def main(names: list[str]) -> None:
    for name in names or COMMANDS:
        done = subprocess.run([sys.executable, "-m", "nft_jax.preflight", *COMMANDS[name].split()],
                              stdout=subprocess.PIPE, text=True)
        # Status 2 is a verdict too: the run does not fit.
        if "it fits" not in done.stdout and "DOES NOT FIT" not in done.stdout:
            sys.exit(f"{name}: preflight ended with status {done.returncode} and no verdict; its file is as it was")
        (FOLDER / f"preflight_{name}.txt").write_text(
            f"$ python -m nft_jax.preflight {COMMANDS[name]}\n{done.stdout.strip()}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
