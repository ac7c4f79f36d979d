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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", default="", help="as taskset takes it: 1, or 0-1; without it nothing is pinned")
    parser.add_argument("--out", required=True)
    given = parser.parse_args(arguments)
    pinned, failed = ["taskset", "-c", given.core] if given.core else [], False
    for number, command in ((number, command) for number in range(given.rounds) for command in given.commands):
        print(f"# round {number + 1} of {given.rounds}, load {os.getloadavg()[0]:.1f}: {command}", file=sys.stderr)
        words = [os.path.expandvars(word) for word in shlex.split(command)]
        if subprocess.run([*pinned, *words, "--out", given.out], check=False).returncode:
            print(f"# failed: {command}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
