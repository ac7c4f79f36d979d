"""Speed, one JSON line per result: `python -m experiments.benchmark --task verify --threads 1 --reps 3`.

verify      the verifier beside plain math-verify (`experiments.benchmark_verify`): verdicts a second of wall clock
            (`value`) and of CPU (`value_cpu`); cold, warm, and on symbolic answers only. `compile_s` is the start-up.
"""
from __future__ import annotations

import argparse
import json


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmark", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["verify"], required=True)
    parser.add_argument("--threads", type=int, default=1, help="CPU cores to use, and the verifier's workers")
    parser.add_argument("--reps", type=int, default=3, help="repetitions; medians are printed")
    given = parser.parse_args(arguments)
    from experiments.benchmark_verify import lines
    for line in lines(given.threads, given.reps):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
