"""Run commands in turn, pinned to the same cores, into one file of JSON lines.

    python -m experiments.peers.alternate --core 1 --rounds 3 --out results.jsonl "COMMAND" "COMMAND" ...

`--out FILE` is added to every command. A command that fails is reported and does not stop the
others; the exit status is then 1.
"""
from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path


def run_in_turn(commands: list[str], rounds: int, core: str, out: Path) -> list[str]:
    """Returns the commands that failed."""
    pinned = ["taskset", "-c", core] if core else []
    failed = []
    for number in range(1, rounds + 1):
        for command in commands:
            print(f"# round {number} of {rounds}, load {os.getloadavg()[0]:.1f}: {command}", file=sys.stderr,
                  flush=True)
            words = [os.path.expandvars(word) for word in shlex.split(command)]
            if subprocess.run([*pinned, *words, "--out", str(out)], check=False).returncode:
                failed.append(command)
                print(f"# failed: {command}", file=sys.stderr, flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", default="", help="as taskset takes it: 1, or 0-1; without it nothing is pinned")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    return 1 if run_in_turn(given.commands, given.rounds, given.core, given.out) else 0


if __name__ == "__main__":
    sys.exit(main())
