"""The workloads of the benchmark, and how they are timed. Every library runs on exactly these numbers.

numpy only, so that it imports in any environment.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

TASKS = ("rollout", "rollout_var", "train", "train_var", "e2e", "e2e_var")
PROMPT_LENGTH = 32
PAD, EOS, FIRST_ID = 0, 1, 4           # 2 and 3 are left for bos and unk; prompts use ids from 4 on
MEAN_LENGTH = 32                       # tokens of an answer in the tasks ending in _var


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Qwen2 architecture, head tied to the embedding, bias on q, k and v."""
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0


@dataclass(frozen=True)
class Workload:
    prompts: int
    samples: int                       # per prompt
    new_tokens: int                    # the longest answer of a rollout
    sequences: int                     # of a train step
    length: int = 160                  # the longest sequence of a train step
    micro_batch: int = 16              # sequences (rows) of a micro-batch, for the peers and for us

    @property
    def answers(self) -> int:
        return self.prompts * self.samples


MODELS = {
    "nano": ModelShape(512, 128, 384, 4, 4, 2, 32),
    "mini": ModelShape(8192, 512, 1536, 8, 8, 2, 64),
    "half": ModelShape(151_936, 896, 4864, 24, 14, 2, 64, rope_theta=1_000_000.0),
}
WORKLOADS = {
    "nano": Workload(16, 8, 128, 128),
    "mini": Workload(16, 8, 128, 128),
    "half": Workload(4, 4, 64, 8, micro_batch=8),
}


def answer_lengths(count: int, longest: int, mean: int = MEAN_LENGTH, seed: int = 7) -> np.ndarray:
    """[count] int32: geometric, clipped to [1, longest], rescaled to the mean; the longest reaches the cap."""
    lengths = np.clip(np.random.default_rng(seed).geometric(1.0 / mean, count), 1, longest).astype(np.int32)
    for _ in range(20):
        lengths = np.clip(np.round(lengths * (mean / lengths.mean())), 1, longest).astype(np.int32)
    lengths[int(lengths.argmax())] = longest
    return lengths


def rollout_lengths(work: Workload, varied: bool) -> np.ndarray:
    """[prompts * samples] int32: tokens of every answer, those of a prompt side by side."""
    count, longest = work.answers, work.new_tokens
    return answer_lengths(count, longest) if varied else np.full(count, longest, np.int32)


def prompt_tokens(shape: ModelShape, work: Workload, seed: int = 0) -> np.ndarray:
    """[prompts, PROMPT_LENGTH] int32."""
    rng = np.random.default_rng(seed)
    return rng.integers(FIRST_ID, shape.vocab, (work.prompts, PROMPT_LENGTH)).astype(np.int32)


class TrainArrays(NamedTuple):
    """N right-padded sequences of one train step."""
    tokens: np.ndarray                 # [N, length] int32, PAD behind the end
    attention: np.ndarray              # [N, length] int32, 1 up to the end
    response: np.ndarray               # [N, length] float32, 1 on the answer
    advantages: np.ndarray             # [N] float32
    lengths: np.ndarray                # [N] int32, prompt and answer

    @classmethod
    def of(cls, tokens: np.ndarray, answers: np.ndarray, advantages: np.ndarray) -> "TrainArrays":
        """From unmasked tokens [N, length] and the answers' lengths [N]."""
        lengths = (PROMPT_LENGTH + answers).astype(np.int32)
        positions = np.arange(tokens.shape[1])[None]
        inside = positions < lengths[:, None]
        return cls(np.where(inside, tokens, PAD).astype(np.int32), inside.astype(np.int32),
                   (inside & (positions >= PROMPT_LENGTH)).astype(np.float32), advantages, lengths)


def train_arrays(shape: ModelShape, work: Workload, varied: bool, seed: int = 0) -> TrainArrays:
    """The sequences of the train tasks: full length, or with answers of `answer_lengths`."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(FIRST_ID, shape.vocab, (work.sequences, work.length))
    longest = work.length - PROMPT_LENGTH
    answers = answer_lengths(work.sequences, longest) if varied else np.full(work.sequences, longest)
    return TrainArrays.of(tokens, answers, rng.standard_normal(work.sequences).astype(np.float32))


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--reps", type=int, default=3, help="timed repetitions; medians are printed")
    parser.add_argument("--warmup", type=int, default=1, help="repetitions before those, which compile")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro", type=int, default=0, help="sequences of a micro-batch (0: the workload's)")
    parser.add_argument("--max-seconds", type=float, default=400.0, help="no further repetition after this long")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file too")
    return parser


def peer_options(description: str, tasks: Sequence[str] = TASKS) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="nano")
    parser.add_argument("--task", choices=tasks, default=tasks[0])
    return add_options(parser)


def limit_threads(threads: int) -> None:
    """Before the numeric libraries are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class Seconds(NamedTuple):
    """What something took: wall clock, and CPU seconds of all threads of this process."""
    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Seconds":
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: "Seconds") -> "Seconds":
        return Seconds(self.wall - start.wall, self.cpu - start.cpu)


class Timed(NamedTuple):
    """The repetitions that warm up, and the steady ones."""
    first: list[Seconds]
    steady: list[Seconds]


def repeat(function: Callable[[int], object], options: argparse.Namespace, label: str) -> Timed:
    """Calls `function(repetition)` options.warmup + options.reps times, fewer after options.max_seconds of reps.

    The function must have finished its work when it returns.
    """
    timed = Timed([], [])
    for index in range(options.warmup + options.reps):
        start = Seconds.now()
        function(index)
        took = Seconds.now().since(start)
        (timed.first if index < options.warmup else timed.steady).append(took)
        print(f"# {label} {index}: wall {took.wall:.3f} s, CPU {took.cpu:.3f} s", file=sys.stderr, flush=True)
        if timed.steady and sum(seconds.wall for seconds in timed.steady) > options.max_seconds:
            break
    return timed


def result(peer: str, variant: str, options: argparse.Namespace, timed: Timed, *, tokens: int,
           versions: Mapping[str, str], **more: object) -> dict:
    """One result, of `tokens` useful tokens a repetition.

    `value` is per second of wall clock, `value_cpu` per CPU-second. `compile_s` is the CPU time of
    the first repetitions beyond steady ones.
    """
    wall, cpu = ([getattr(seconds, kind) for seconds in timed.steady] for kind in Seconds._fields)
    wall_median, cpu_median = statistics.median(wall), statistics.median(cpu)
    first_cpu = sum(seconds.cpu for seconds in timed.first)
    return {
        "peer": peer, "variant": variant, "model": options.model, "task": options.task, "threads": options.threads,
        "value": round(tokens / wall_median, 3), "value_cpu": round(tokens / cpu_median, 3),
        "wall_s": [round(x, 4) for x in wall], "cpu_s": [round(x, 4) for x in cpu],
        "contention": round(wall_median / cpu_median, 3),
        "compile_s": round(max(0.0, first_cpu - len(timed.first) * cpu_median), 3),
        "tokens": tokens, "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": machine(), "versions": dict(versions), "date": time.strftime("%Y-%m-%dT%H:%M:%S"), **more}


def machine() -> str:
    """The processor's name, and how many cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "unknown processor"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} core{'s' * (cores != 1)}"


def emit(line: Mapping[str, object], out: Path | None) -> None:
    """Print a result as one line of JSON, and append it to `out`."""
    text = json.dumps(line)
    print(text, flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write(text + "\n")


class NumberTokenizer:
    """ids as decimal numbers with spaces between them, for every library alike."""

    def encode(self, text, **_) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens, **_) -> str:
        return " ".join(str(int(token)) for token in tokens)

    def batch_decode(self, sequences, **_) -> list[str]:
        return [self.decode(sequence) for sequence in sequences]

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return EOS

    def pad_id(self) -> int:
        return PAD


def rewards_to_advantages(rewards: np.ndarray, samples: int) -> np.ndarray:
    """GRPO's: rewards [N] of groups side by side, normalised in each group."""
    groups = rewards.reshape(-1, samples)
    return ((groups - groups.mean(1, keepdims=True)) / (groups.std(1, keepdims=True) + 1e-4)).reshape(-1)


def even_share(tokens: Sequence[int]) -> float:
    """The reward of the e2e tasks: the share of an answer's tokens that are even."""
    return sum(int(token) % 2 == 0 for token in tokens) / max(1, len(tokens))
