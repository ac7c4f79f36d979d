"""The benchmark on an accelerator: larger bfloat16 workloads, and our share of the device's rates.

rollout   Answers of 1,024 tokens (--new-tokens) to prompts of 64 to 512, in 256 slots. The limit is memory: every
          decode step reads the weights once, and the keys and values of every slot. The share is that traffic over the
          measured copy bandwidth, over the whole rollout's wall time (prefill and the host included). rollout_var has
          varied lengths, and more answers than slots.
train     An optimizer update on rows of 4,096 tokens. The limit is the matrix units. The share is 6 x parameters x
          tokens, and the causal attention, over the rate of an 8192-cubed bfloat16 product, over the wall time.
          qwen3_0_6b has rows of 16,384 tokens: the shape that prime-rl quotes for one card.
train_lora    The same with adapters of rank 32 beside the frozen model, which has no gradient: 4 x parameters x tokens.
e2e       The rollout, a reward in Python, and one update on its answers.
"""
import math
import re
import timeit
from argparse import Namespace
from collections import Counter
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.tasks import Case, EndToEnd, Rollouts, Training
from experiments.peers.common import FIRST_ID, Timed, answer_lengths, repeat
from nft_jax.config import AdapterConfig
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.decoder import count_parameters
from nft_jax.model.flops import forward_flops, train_flops
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.model.kernels import choose_attention
from nft_jax.train.batch import Example
from nft_jax.train.step import NO_ADAPTER
from nft_jax.types import Prompt

MODELS = {"half": PUBLISHED["Qwen/Qwen2.5-0.5B-Instruct"], "one_and_half": PUBLISHED["Qwen/Qwen2.5-1.5B-Instruct"],
          "qwen3_0_6b": PUBLISHED["Qwen/Qwen3-0.6B"]}
SHORTEST, LONGEST, ROW_LENGTH = 64, 512, 4096        # tokens of prompts, and of a train step's rows
ROW_LENGTHS = {"qwen3_0_6b": 16_384}
LORA = AdapterConfig(rank=32)
CONTAINERS = ("while", "conditional", "call")       # operations whose time is the sum of others' times


def accelerator_case(model: ModelConfig, task: str, *, slots: int = 0, micro: int = 0, block_size: int = 0,
                     new_tokens: int = 1024, row_length: int = 0, remat: str = "none") -> Case:
    """A rollout that fills 256 slots (varied: three times over), full rows to train on (65,536 tokens), or both."""
    row_length = row_length or ROW_LENGTH
    attention, _ = choose_attention("auto", jax.default_backend(), "bfloat16", model.head_dim)
    slots, compute = slots or 256, Compute("bfloat16", remat, attention)
    sequences = max(16 * ROW_LENGTH // row_length, 1)
    tokens = np.random.default_rng(0).integers(FIRST_ID, model.vocab_size, (sequences, row_length)).astype(np.int32)
    examples = tuple(Example(row[:LONGEST], row[LONGEST:], float(i % 2), 0.5, 0.5) for i, row in enumerate(tokens))
    training = {"examples": examples, "rows": micro or max(4 * ROW_LENGTH // row_length, 1), "row_length": row_length}
    if task.startswith("train"):
        return Case(model, compute, sequences=sequences, **training,
                    adapter=LORA if task == "train_lora" else NO_ADAPTER)
    rng, samples, rounds = np.random.default_rng(0), 8, 3 if task == "rollout_var" else 1
    count = -(-slots * rounds // samples)
    prompts = tuple(Prompt(i, "", "", "", rng.integers(FIRST_ID, model.vocab_size, length).astype(np.int32))
                    for i, length in enumerate(rng.integers(SHORTEST, LONGEST + 1, count)))
    limits = answer_lengths(count * samples, new_tokens, new_tokens // 4) if rounds > 1 \
        else np.full(count * samples, new_tokens, np.int32)
    return Case(model, compute, prompts, limits.reshape(count, samples), slots=slots, block_size=block_size or 32,
                sequences=max(count * samples, sequences), **training)


def rollout_bytes(case: Case) -> float:
    """What decoding must read: the weights at every step of full slots, and each token's keys and values so far."""
    item, model = jnp.dtype(case.compute.dtype).itemsize, case.model
    tokens = int(case.limits.sum())
    steps = max(int(case.limits.max()), -(-tokens // case.slots))
    lengths = case.limits.astype(np.float64)
    prompts = np.array([len(prompt.tokens) for prompt in case.prompts])[:, None]
    attended = float((lengths * prompts + lengths * (lengths - 1) / 2).sum())
    entry = 2 * sum(math.prod(model.heads_of(model.kinds[layer])) for layer in model.attention_layers)
    return item * (steps * count_parameters(model) + attended * entry)


def step_flops(case: Case, adapter_parameters: int = 0) -> float:
    """Forward and backward of an update."""
    return sum(train_flops(case.model, length, length / 2, adapter_parameters) for length in lengths_of(case))


def score_flops(case: Case) -> float:
    return sum(forward_flops(case.model, length, length / 2) for length in lengths_of(case))


def lengths_of(case: Case) -> list[int]:
    return [len(e.prompt) + len(e.response) for e in case.examples]


def rate(function, *arrays, calls: int = 20) -> float:
    """Calls a second, after one that compiles; three runs, the best."""
    def run() -> None:
        for _ in range(calls):
            out = function(*arrays)
        jax.block_until_ready(out)

    jax.block_until_ready(function(*arrays))
    return calls / min(timeit.repeat(run, number=1, repeat=3))


def copy_bytes_per_second(size: int = 1 << 30) -> float:
    """Bytes read and written by a copy of `size` bytes on the device."""
    return 2 * size * rate(jax.jit(lambda x: x + 1), jnp.ones(size // 4, jnp.float32))


def matmul_flops_per_second(size: int = 8192) -> float:
    """Of a bfloat16 product of two square matrices."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)     # constants multiply faster
    return 2.0 * size ** 3 * rate(jax.jit(jnp.matmul), a, a)


def shares(task: Rollouts | Training | EndToEnd, timed: Timed, options: Namespace) -> dict:
    """The share of the device's rates of a rollout or an update, by medians, and the peak of device memory (MB) if it
    is known.

    For training, the optimizer update and the forward pass for old log-probs are timed apart.
    """
    case, out = task.case, {}
    if isinstance(task, Rollouts):
        bandwidth = copy_bytes_per_second()
        seconds = median(took.wall for took in timed.steady)
        out |= {"copy_gb_per_s": round(bandwidth / 1e9, 1),
                "bandwidth_share": round(rollout_bytes(case) / bandwidth / seconds, 4)}
    elif isinstance(task, Training):
        matmul = matmul_flops_per_second()
        out["matmul_tflops"] = round(matmul / 1e12, 1)
        for name, function, operations in (("step", task.update, step_flops(case, task.adapter_parameters)),
                                           ("score", task.old_logprobs, score_flops(case))):
            apart = repeat(lambda _, function=function: function(case.examples), options, name)
            seconds = median(took.wall for took in apart.steady)
            out |= {f"{name}_tokens_per_s": round(task.tokens / seconds, 1),
                    f"{name}_mfu": round(operations / matmul / seconds, 4)}
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return out if peak is None else out | {"peak_device_mb": round(peak / 2**20)}


def costs(folder: Path, most: int = 12) -> dict:
    """The largest costs in the newest trace of `folder`: device milliseconds by kind of operation.

    Each has its share of the time between the first and the last. On a GPU they are the kernels of
    the streams, elsewhere the XLA operations.
    """
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    planes = list(jax.profiler.ProfileData.from_file(str(newest)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")] or planes
    spent, start, end = Counter(), float("inf"), 0.0
    for plane in devices:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            if on_device and "Stream" not in line.name and line.name != "XLA Ops":
                continue
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" not in stats and not on_device:
                    continue
                # A GPU's kernels run in command buffers, and their hlo_op names only the buffer.
                kind = kind_of(event.name if "Stream" in line.name else str(stats.get("hlo_op") or event.name))
                if kind in CONTAINERS:
                    continue
                spent[kind] += event.duration_ns / 1e6
                start, end = min(start, event.start_ns), max(end, event.start_ns + event.duration_ns)
    total = max((end - start) / 1e6, 1e-9)
    return {"span_ms": round(total, 2), "busy_ms": round(sum(spent.values()), 2),
            "costs": [{"operation": name, "ms": round(ms, 2), "share": round(ms / total, 4)}
                      for name, ms in spent.most_common(most)]}


def kind_of(operation: str) -> str:
    """An operation's name without its number: `loop_fusion.12` and `loop_fusion.7` are one kind."""
    return re.sub(r"([._]\d+)+(?=$|[._])", "", operation)
