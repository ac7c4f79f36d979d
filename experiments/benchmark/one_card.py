"""The open questions about one GPU or TPU, in one command of at most ten minutes:

    python -m experiments.benchmark.one_card                     # --device tpu, --out FOLDER

1. Does decoding use half of the copy bandwidth (1.5B, 256 slots)?
2. Does an update use 0.45 of the matrix rate (0.5B, rows of 4,096 tokens)?
3. What does an update of adapters take beside an update of the whole model?

Each workload runs in a process of its own, with a trace. FOLDER/results.jsonl has its line. The table has the wanted
value, that of an H100 on 22 November 2026, and the three largest costs. Exit status: 0, or 1 where a workload failed or
the time was up; the table of the others is printed.
"""
import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from nft_jax.runtime.terminal import markdown

LIMIT = 600.0              # seconds, for all workloads
REPETITIONS = 3


@dataclass(frozen=True)
class Question:
    """A workload, the number of its line that answers, what is wanted at least, and what an H100 gave before."""
    model: str
    task: str
    number: str
    wanted: float | None
    h100: float | None
    flags: tuple[str, ...] = ()


QUESTIONS = (
    Question("one_and_half", "rollout", "bandwidth_share", 0.50, 0.383, ("--new-tokens", "1536")),
    Question("half", "train", "step_mfu", 0.45, 0.356),
    Question("half", "train_lora", "step_mfu", None, None),
)


def command(question: Question, device: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "experiments.benchmark", "--device", device, "--model", question.model,
            "--task", question.task, "--reps", str(REPETITIONS), "--profile", str(out / "profile"),
            "--out", str(out / "results.jsonl"), *question.flags]


def ask(device: str, out: Path, limit: float = LIMIT) -> list[dict | None]:
    """The line of every question; None where its process failed or had no time left."""
    ends, found = time.monotonic() + limit, []
    for question in QUESTIONS:
        try:
            done = subprocess.run(command(question, device, out), stdout=subprocess.PIPE, text=True,
                                  timeout=max(ends - time.monotonic(), 0.0))
            lines = [json.loads(line) for line in done.stdout.splitlines()]
        except subprocess.TimeoutExpired:
            lines = []
        found.append(next((line for line in lines if "error" not in line), None))
    return found


def table(lines: list[dict | None]) -> str:
    """What was asked, wanted and measured."""
    rows, steps = [], {}
    for question, line in zip(QUESTIONS, lines, strict=True):
        here, costs = "not measured", ""
        if line is not None:
            here = f"{line[question.number]:.3f}"
            costs = ", ".join(f"{cost['operation']} {cost['share']:.0%}" for cost in line["profile"]["costs"][:3])
            steps[question.task] = line.get("step_tokens_per_s")
        wanted, h100 = (f"{value:g}" if value is not None else "" for value in (question.wanted, question.h100))
        rows.append([f"{question.model} {question.task}", question.number, f"≥ {wanted}" if wanted else "", h100, here,
                     costs])
    text = markdown(("workload", "number", "wanted", "H100 before", "here", "largest costs"), rows)
    if steps.get("train") and steps.get("train_lora"):
        text += f"\n\nAn update of adapters takes {steps['train'] / steps['train_lora']:.2f} × the time of a whole one."
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m experiments.benchmark.one_card", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "tpu"), default="gpu")
    parser.add_argument("--out", type=Path, default=Path("runs/one_card"))
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    lines = ask(given.device, given.out)
    print(table(lines))
    return 0 if all(line is not None for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
