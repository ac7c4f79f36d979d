"""Answers to sets of questions, part by part, judged or not: what generate and evaluate have in common.

`identity` and `questions_of` say what the answers to a set depend on; `record.parts` refuses a table in which any of
it differs. `answer` fills the tables that are not finished, and reads the weights once. A kill costs one part at most.
"""
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nft_jax.config import AnswerConfig, DataConfig, MeshConfig, VerifierConfig
from nft_jax.data.prompts import dated, prompt_lines
from nft_jax.data.stream import digest
from nft_jax.model.hf import eos_token_ids
from nft_jax.model.kernels import compute_on
from nft_jax.record.parts import Parts
from nft_jax.record.weights import Weights
from nft_jax.rollout.ends import Ends
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.evaluation import HeldOut, evaluation_key
from nft_jax.rollout.judged import judged_groups
from nft_jax.rollout.slots import position_lines, slots_that_fit
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Prompt
from nft_jax.verify import Verifier

PART_ROUNDS = 8          # a part fills every slot so many times: little of it waits for its last answer
SPEED = ("tensor", "slots", "block_size", "part_prompts")     # settings that change no answer
OF_SETS = ("date",)      # told by `questions_of`
OPTIONAL = ("ema",)      # told where it is set: tables from before it was there are of the same settings


def identity(settings: AnswerConfig, weights: Weights, **more: str) -> dict[str, Any]:
    """What the answers to any set depend on, and `more`; `questions_of` says the rest."""
    found = {each.name: getattr(settings, each.name) for each in fields(AnswerConfig)
             if each.name not in SPEED + OF_SETS and (each.name not in OPTIONAL or getattr(settings, each.name))}
    if weights.step is not None:
        found["step"] = weights.step
    return found | more | {"weights": weights.digests}


def dated_as_begun(data: DataConfig, tokenizer, out: Path) -> DataConfig:
    """`data` with the day that the template writes: its own, or of the first start that wrote to `out`, or today."""
    return dated(data, tokenizer, Parts.begun(out).get("date") or date.today().isoformat())


def questions_of(held: HeldOut, data: DataConfig) -> dict[str, Any]:
    """What the answers to this set, read by `data`, depend on, beside `identity`."""
    told = {"samples": held.samples, "questions": len(held.prompts), "prompts_digest": digest(held.prompts)}
    return told | ({"date": data.date} if data.date else {})


def answer(settings: AnswerConfig, weights: Weights, tokenizer, tables: Sequence[tuple[HeldOut, Parts]],
           verifier: VerifierConfig | None = None) -> None:
    """Fills every table that is not finished with the answers to its questions; a verifier judges them.

    Raises InputError for a table of other settings, and where memory does not hold one slot."""
    missing = []
    for held, parts in tables:
        if parts.finished:
            say(f"{parts.out} is there already, of these settings")
        else:
            missing.append((held, parts))
    if missing:
        # The verifier's processes start before jax asks for devices.
        with Verifier(verifier) if verifier is not None else nullcontext() as judge:
            _fill(settings, weights, tokenizer, missing, judge)


def _fill(settings: AnswerConfig, weights: Weights, tokenizer, missing: Sequence[tuple[HeldOut, Parts]],
          judge: Verifier | None) -> None:
    # Judged answers have the random numbers of a run's evaluations.
    key = jax.random.key(settings.seed) if judge is None else evaluation_key(settings.seed)
    mesh = make_mesh(MeshConfig(tensor=settings.tensor))
    most = max(len(held.prompts) * held.samples for held, _ in missing)

    def choose(samples: int) -> dict[str, int]:
        slots = settings.slots or slots_that_fit(weights.config, mesh, settings, most, settings.max_prompt_tokens,
                                                 settings.dtype)
        return {"slots": slots, "part_prompts": settings.part_prompts or -(-PART_ROUNDS * slots // samples)}

    eos = eos_token_ids(weights.folder, tokenizer)
    # Before the tables are claimed: stops that are refused bind nothing.
    for line in (*prompt_lines(tokenizer), *position_lines(weights.config),
                 *Ends(tokenizer, eos, settings, weights.config.vocab_size).told()):
        say(line)
    # All sizes are chosen before the weights take memory. A table that was begun keeps its sizes.
    chosen = [parts.claim(lambda samples=held.samples: choose(samples)) for held, parts in missing]

    @cache
    def sampler(slots: int) -> Sampler:
        return Sampler(weights.config, tokenizer, eos, replace(settings, slots=slots), mesh=mesh,
                       max_prompt_tokens=settings.max_prompt_tokens,
                       compute=compute_on(mesh, settings.dtype, weights.config))

    # No name holds the parameters: they are let go once the weights that decode are made.
    decoding = sampler(chosen[0]["slots"]).cast(weights.read(mesh=mesh))
    done = [parts.done(held.prompts, sizes["part_prompts"])
            for (held, parts), sizes in zip(missing, chosen, strict=True)]
    bar = AnswerBar(sum(len(held.prompts) * held.samples for held, _ in missing),
                    sum(count * held.samples for count, (held, _) in zip(done, missing, strict=True)))
    with bar:
        for (held, parts), sizes, count in zip(missing, chosen, done, strict=True):
            def answers(prompts: Sequence[Prompt], held=held, slots=sizes["slots"]) -> Iterable:
                asked = decoding, prompts, held.samples, key, held.stream, settings
                if judge is None:
                    groups = sampler(slots).sample(*asked, progress=bar.block)
                    found = dict(bar.counted(groups, held.samples))
                    return [found[position] for position in range(len(prompts))]
                return bar.counted(judged_groups(sampler(slots), judge, *asked, progress=bar.block), held.samples)

            say(f"{held.name}: {len(held.prompts) - count:,} of {len(held.prompts):,} questions to go, "
                f"{held.samples} answers each, {sizes['slots']} at a time")
            parts.fill(held.prompts, sizes["part_prompts"], answers, bar.part)


def say(text: object) -> None:
    """Prints a line on standard error, as it is."""
    Console(stderr=True, highlight=False, markup=False, emoji=False).print(text, soft_wrap=True)


class AnswerBar(Progress):
    """Progress in answers, on standard error: a bar on a terminal, a line for every part elsewhere.
    `done`: answers of parts that an earlier start has finished."""

    def __init__(self, answers: int, done: int):
        console = Console(stderr=True, highlight=False)
        super().__init__(TextColumn("answers"), MofNCompleteColumn(), BarColumn(bar_width=None),
                         TextColumn("{task.fields[speed]}"), TextColumn("left"), TimeRemainingColumn(),
                         console=console, transient=True, disable=not console.is_terminal)
        self.all = self.add_task("", total=answers, completed=done, speed="")
        self.tokens, self.started = 0, time.monotonic()

    def block(self, tokens: int) -> None:
        """So many tokens were decoded."""
        self.tokens += tokens
        self.update(self.all, speed=f"{self.tokens / max(time.monotonic() - self.started, 1e-9):,.0f} tokens/s")

    def counted(self, groups: Iterable, samples: int) -> Iterator:
        """The groups, whatever they are, each counted as `samples` answers when it comes."""
        for group in groups:
            self.advance(self.all, samples)
            yield group

    def part(self, part: int, count: int) -> None:
        """Part `part` of `count` was written."""
        if self.disable:
            task = self.tasks[0]
            say(f"part {part + 1}/{count}  {task.completed:,.0f} of {task.total:,.0f} answers  {task.fields['speed']}  "
                f"left {task.time_remaining or 0:,.0f} s")
