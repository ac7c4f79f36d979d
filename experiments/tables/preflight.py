"""The tables of experiments/README.md's section on preflight, from the commands that are printed above them.

    python -m experiments.tables.preflight [NAME ...]        all of them: an hour on 2 CPU cores, nearly all compiling

Each runs `python -m nft_jax.preflight` in a process of its own (jax starts with other devices each time), and its
output goes between the markers of that name. Takes libtpu (pip install libtpu), no TPU, no weights and no network.
"""
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
COMMANDS = {
    "7b-v5p": "qwen2_5_math_7b --topology v5p:4x4x4 --mesh.tensor 4 --batch.rows-per-micro-batch 64",
    "7b-v6e": "qwen2_5_math_7b --topology v6e:4x4 --batch.rows-per-micro-batch 16 --rollout.slots 256",
    "7b-h100": "qwen2_5_math_7b --topology gpu:8xH100",
    "32b-v5p": "qwen2_5_32b --topology v5p:4x8x8 --batch.rows-per-micro-batch 64",
}


def section(name: str, output: str) -> str:
    """What stands between the markers: the command and what it printed."""
    return f"<!-- preflight: {name} -->\n```\n$ python -m nft_jax.preflight {COMMANDS[name]}\n{output.strip()}\n```\n" \
           "<!-- end -->"


def main(names: list[str]) -> None:
    for name in names or COMMANDS:
        done = subprocess.run([sys.executable, "-m", "nft_jax.preflight", *COMMANDS[name].split()],
                              stdout=subprocess.PIPE, text=True)
        if "it fits" not in done.stdout and "DOES NOT FIT" not in done.stdout:
            sys.exit(f"{name}: preflight ended with status {done.returncode} and no verdict; the README is as it was")
        made = section(name, done.stdout)
        text, found = re.subn(rf"<!-- preflight: {name} -->.*?<!-- end -->", lambda _, made=made: made,
                              README.read_text(), flags=re.DOTALL)
        if not found:
            sys.exit(f"{README} has no markers for {name}")
        README.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
