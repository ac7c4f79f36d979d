"""Answers to the questions in a file, and nothing else:

    python -m nft_jax.rollout.generate --model FOLDER --prompts FILE --num-samples 16 --out FILE.parquet

FILE holds questions as data.source does (.jsonl, .parquet, a folder of datasets, ...); golds are optional. The table
has the columns of a run's rollouts/*.parquet but the verdicts: `python -m nft_jax.verify FILE.parquet` judges it.
Finished parts lie in FILE.parquet.parts until the last is there; the same command goes on from them after a stop, and
ends with the same file as one that was never stopped.
"""
from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nft_jax.config import DataConfig, MeshConfig, RolloutConfig
from nft_jax.record.parts import Parts
from nft_jax.runtime.distributed import require_alone
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError, Prompt

PART_ROUNDS = 8                            # a part fills every slot so many times: little waits for its last answer


def parser() -> argparse.ArgumentParser:
    rollout, data = RolloutConfig(), DataConfig()
    out = argparse.ArgumentParser("python -m nft_jax.rollout.generate", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--model", required=True, help="folder in Hugging Face layout, or the name of a hub model")
    out.add_argument("--prompts", required=True, metavar="FILE", help="questions, as data.source")
    out.add_argument("--out", required=True, type=Path, metavar="FILE.parquet", help="the table that is written")
    out.add_argument("--num-samples", type=int, default=1, help="answers to every question (default 1)")
    out.add_argument("--max-new-tokens", type=int, default=rollout.max_new_tokens, help="a longer answer is cut")
    out.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    out.add_argument("--top-k", type=int, default=0, help="0 is off")
    out.add_argument("--top-p", type=float, default=1.0, help="1 is off")
    out.add_argument("--min-p", type=float, default=0.0, help="0 is off")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated")
    out.add_argument("--stop-token-id", action="append", type=int, default=[], metavar="ID", help="may be repeated")
    out.add_argument("--split", default=data.split, help="of a data set that has several")
    out.add_argument("--template", default=data.template, help="user message; {problem} is replaced by the question")
    out.add_argument("--system", default="", help="system message")
    out.add_argument("--max-prompt-tokens", type=int, default=2048, help="longer prompts are skipped and counted")
    out.add_argument("--limit", type=int, default=0, help="only the first so many questions; 0 = all")
    out.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    out.add_argument("--kv-dtype", choices=("compute", "int8"), default="compute", help="of keys and values")
    out.add_argument("--weight-dtype", choices=("compute", "int8"), default="compute", help="of the layers' matrices")
    out.add_argument("--tensor", type=int, default=1, help="devices that share one copy of the model")
    out.add_argument("--slots", type=int, default=0, help="answers decoded at the same time; 0 = what memory allows")
    out.add_argument("--block-size", type=int, default=rollout.block_size, help="steps between looks of the host")
    out.add_argument("--part-prompts", type=int, default=0, help="questions of a part; 0 = chosen from the slots")
    return out


def check(given: argparse.Namespace) -> None:
    """Raises InputError for a value out of range."""
    for name, holds, remedy in (
            ("out", given.out.suffix == ".parquet", "name a .parquet file"),
            ("num_samples", given.num_samples >= 1, "use 1 or more"),
            ("max_new_tokens", given.max_new_tokens >= 1, "use 1 or more"),
            ("temperature", given.temperature >= 0, "use 0 (greedy) or more"),
            ("top_k", given.top_k >= 0, "use 0 (off) or more"),
            ("top_p", 0 < given.top_p <= 1, "use a number in (0, 1]; 1 is off"),
            ("min_p", 0 <= given.min_p < 1, "use a number in [0, 1); 0 is off"),
            ("stop", all(given.stop), "an empty string ends every answer; leave it out"),
            ("slots", given.slots >= 0, "use 0 (automatic) or more"),
            ("block_size", given.block_size >= 1, "use 1 or more"),
            ("part_prompts", given.part_prompts >= 0, "use 0 (automatic) or more")):
        if not holds:
            value = getattr(given, name)
            raise InputError(f"--{name.replace('_', '-')} is {str(value) if name == 'out' else repr(value)}: {remedy}.")


def settings_of(given: argparse.Namespace, folder: Path, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What the answers are a function of, as JSON: the flags (but where the table goes), the prompts' tokens, and the
    size and time of the weights' files."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(len(prompt.tokens).to_bytes(4, "little") + prompt.tokens.tobytes())
    return {name: value for name, value in vars(given).items() if name != "out"} | {
        "questions": len(prompts), "prompts_sha256": digest.hexdigest(),
        "weights": [[path.name, path.stat().st_size, path.stat().st_mtime_ns]
                    for path in sorted(folder.glob("*.safetensors"))]}


class Shown:
    """Progress in answers: a bar on a terminal, a line for every part elsewhere."""

    def __init__(self, answers: int, done: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        self.console = Console(stderr=True, highlight=False)
        self.answers, self.done, self.first = answers, done, done
        self.tokens, self.started = 0, time.monotonic()
        self.bar = Progress(TextColumn("answers"), MofNCompleteColumn(), BarColumn(bar_width=None),
                            TextColumn("{task.fields[speed]}"), TextColumn("left"), TimeRemainingColumn(),
                            console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=answers, completed=done, speed="")

    def say(self, text: object) -> None:
        self.console.print(text, soft_wrap=True)

    def block(self, tokens: int) -> None:
        self.tokens += tokens
        self.bar.update(self.task, speed=self.speed)

    def group(self, answers: int) -> None:
        self.done += answers
        self.bar.update(self.task, completed=self.done)

    def part(self, part: int, count: int) -> None:
        if not self.console.is_terminal:
            seconds = time.monotonic() - self.started
            left = seconds / max(self.done - self.first, 1) * (self.answers - self.done)
            self.say(f"part {part + 1}/{count}  {self.done:,} of {self.answers:,} answers  {self.speed}  "
                     f"left {left:,.0f} s")

    @property
    def speed(self) -> str:
        return f"{self.tokens / max(time.monotonic() - self.started, 1e-9):,.0f} tokens/s"


def read_prompts(given: argparse.Namespace, tokenizer, positions: int, say) -> list[Prompt]:
    """The questions in their order, rendered. Raises InputError without any, or where the lengths exceed the model."""
    from nft_jax.data.prompts import load_questions
    room = positions - given.max_new_tokens
    if room < 1:
        raise InputError(f"--max-new-tokens is {given.max_new_tokens}, but the model has {positions} positions: "
                         "lower it.")
    data = DataConfig(source=given.prompts, split=given.split, template=given.template, system=given.system,
                      max_prompt_tokens=min(given.max_prompt_tokens, room), limit=given.limit)
    questions, report = load_questions(data, tokenizer, field="prompts", answers=False)
    say(f"prompts: {report}")
    return [question.prompt(index) for index, question in enumerate(questions)]


def generate(given: argparse.Namespace) -> Path:
    """Everything that the command does; returns the path of the table. Raises InputError."""
    check(given)
    require_alone("nft_jax.rollout.generate")
    import jax

    from nft_jax.model.config import Compute
    from nft_jax.model.hf import eos_token_ids, load_tokenizer, read_config, resolve_folder
    from nft_jax.model.kernels import choose_attention
    from nft_jax.runtime.compilation import use_compilation_cache
    from nft_jax.runtime.mesh import make_mesh
    use_compilation_cache()
    folder = resolve_folder(given.model)
    model, tokenizer = read_config(folder), load_tokenizer(folder)
    shown = Shown(0, 0)
    prompts = read_prompts(given, tokenizer, model.max_positions, shown.say)
    parts = Parts(given.out, settings_of(given, folder, prompts))
    if parts.finished:
        shown.say(f"{given.out} is there already, of these settings")
        return given.out
    mesh = make_mesh(MeshConfig(tensor=given.tensor))
    attention, _ = choose_attention("auto", mesh.devices.flat[0].platform, given.dtype, model.head_dim)
    compute = Compute(given.dtype, attention=attention, mesh=mesh)
    sizes = {"block_size": given.block_size, "max_new_tokens": given.max_new_tokens,
             "max_prompt_tokens": max(len(prompt.tokens) for prompt in prompts)}
    chosen = parts.claim(lambda: choose(given, model, mesh, len(prompts), sizes))
    size = chosen["part_prompts"]
    count, there = -(-len(prompts) // size), list(parts.done(prompts, size))
    answer = None
    if len(there) < count:
        from nft_jax.rollout.engine import Sampler
        sampler = Sampler(model, tokenizer, eos_token_ids(folder, tokenizer), mesh=mesh, slots=chosen["slots"],
                          compute=compute, stop=tuple(given.stop), stop_token_ids=tuple(given.stop_token_id),
                          kv_dtype=given.kv_dtype, weight_dtype=given.weight_dtype, **sizes)
        weights = load_weights(sampler, folder)
        key = jax.random.key(given.seed)
        shown = Shown(len(prompts) * given.num_samples, sum(there) * given.num_samples)
        shown.say(f"{sampler.slots} answers at a time, {count} parts of {size} prompts, {count - len(there)} to go")

        def answer(chunk):
            return in_order(sampler, weights, chunk, given, key, shown)

    with shown.bar:
        parts.fill(prompts, size, answer, shown.part)
    return given.out


def choose(given: argparse.Namespace, model, mesh, questions: int, sizes: dict[str, int]) -> dict[str, int]:
    """Slots (from the memory that the weights leave free, where none are asked for) and prompts of a part."""
    from nft_jax.rollout.slots import slots_that_fit
    slots = given.slots or slots_that_fit(
        model, mesh, questions * given.num_samples, sizes["max_prompt_tokens"], given.max_new_tokens, given.dtype,
        given.kv_dtype, field="--slots", remedy="lower --max-new-tokens, use --dtype bfloat16 or "
        "--kv-dtype int8, or more devices for a copy of the model (--tensor)")
    return {"slots": slots, "part_prompts": given.part_prompts or -(-PART_ROUNDS * slots // given.num_samples)}


def load_weights(sampler, folder: Path):
    """The weights that decode; the parameters as they were read are let go."""
    from nft_jax.model import decoder
    from nft_jax.model.hf import load_params
    from nft_jax.model.parameters import parameter_shardings
    shardings = parameter_shardings(decoder.parameter_shapes(sampler.config), sampler.mesh)
    return sampler.cast(load_params(folder, sampler.config, shardings=shardings))


def in_order(sampler, weights, prompts: Sequence[Prompt], given: argparse.Namespace, key, shown: Shown) -> Iterator:
    """The groups of a part in the order of its prompts, once all are there."""
    from nft_jax.rollout.sampling import SamplingParams
    sampling, groups = SamplingParams(given.temperature, given.top_k, given.top_p, given.min_p), {}
    for position, rollouts in sampler.sample(weights, prompts, given.num_samples, key, 0, sampling,
                                             progress=shown.block):
        groups[position] = rollouts
        shown.group(len(rollouts))
    return (groups[position] for position in range(len(prompts)))


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    with one_paragraph_errors("the same command goes on after the last part that was finished"):
        print(f"table: {generate(given)}")


if __name__ == "__main__":
    main()
