"""What data.order accuracy would have saved in a finished run of data.order permutation.

    python -m experiments.studies.order_saving RUN

1. Each question's chance of a right answer over the steps is fitted to the run's groups: a logistic curve in the root
   of the step, with a level and a slope of its own.
2. Steps are played again with answers drawn from these chances: by a permutation, by accuracy, and by an oracle that
   knows the chances and skips a question whose group has right and wrong answers with less than one half.
3. Printed are the prompts that each asked, as a share saved of the permutation's.

What is left out: learning does not depend on what is asked.
"""
import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nft_jax.config import Config
from nft_jax.data.prompts import Question
from nft_jax.data.stream import AccuracyStream, PromptStream
from nft_jax.record.folder import read_run
from nft_jax.runtime.terminal import markdown, one_paragraph_errors
from nft_jax.train.acceptance import DECAY, MOST, prompts_to_ask
from nft_jax.types import Group, InputError, Verdict

REPEATS = 30
ITERATIONS, LEVEL_SPREAD, SLOPE_SPREAD = 3000, 3.0, 1.5      # of the fit: a normal prior over the questions

Chance = Callable[[int, int], float]      # (question, step) -> of a right answer


def fitted(folder: Path, steps: int) -> tuple[int, Chance]:
    """The number of questions that the run asked, and their chances."""
    numbers: dict[str, int] = {}
    found = []
    for path in sorted((folder / "rollouts").glob("step_*.parquet")):
        step = int(path.stem.removeprefix("step_"))
        table = pq.read_table(path, columns=["prompt_index", "problem", "reward"]).to_pandas().dropna()
        for (_, problem), rewards in table.groupby(["prompt_index", "problem"])["reward"]:
            found.append((numbers.setdefault(problem, len(numbers)), step, rewards.sum(), len(rewards)))
    if not found:
        raise InputError(f"RUN is {str(folder)!r}, which has no rollouts/: give the folder of a finished run.")
    question, step, right, count = np.array(found).T
    question = question.astype(int)

    def place(step):
        return (np.sqrt(step) - np.sqrt(steps / 2)) / np.sqrt(steps)

    where, size = place(step), len(numbers)
    level, slope, middle = np.zeros(size), np.zeros(size), (0.0, 0.0)
    for _ in range(ITERATIONS):
        off = right - count / (1 + np.exp(-(level[question] + slope[question] * where)))
        level += 0.02 * (np.bincount(question, off, size) - (level - middle[0]) / LEVEL_SPREAD ** 2)
        slope += 0.05 * (np.bincount(question, off * where, size) - (slope - middle[1]) / SLOPE_SPREAD ** 2)
        middle = level.mean(), slope.mean()
    return size, lambda q, step: 1 / (1 + np.exp(-(level[q] + slope[q] * place(step))))


def asked(kind: str, config: Config, size: int, chance: Chance, seed: int) -> np.ndarray:
    """[steps]: prompts asked up to each step, as `nft_jax.train.loop.collect` asks them."""
    rng, rollout = np.random.default_rng(seed), config.rollout
    stream = (AccuracyStream if kind == "accuracy" else PromptStream)(
        [Question(str(i), "", "", np.array([i])) for i in range(size)], seed)
    accepted, told, carried, total, counts = 0.0, 0.0, 0, 0, []

    def groups(wanted: int, step: int):
        while wanted:
            prompt, = stream.take(1)
            right = chance(int(prompt.problem), step)
            both = 1 - right ** rollout.samples_per_prompt - (1 - right) ** rollout.samples_per_prompt
            if kind == "oracle" and both < 0.5:
                continue
            wanted -= 1
            rewards = rng.random(rollout.samples_per_prompt) < right
            yield Group(prompt, (), tuple(Verdict("right" if r else "wrong", float(r)) for r in rewards))

    for step in range(1, config.steps + 1):
        here, seen, share = carried, 0, (accepted, told)
        while here < rollout.prompts_per_step and seen < rollout.max_prompts:
            wanted = min(prompts_to_ask(rollout.prompts_per_step - here, *share), MOST * rollout.prompts_per_step,
                         rollout.max_prompts - seen)
            made = list(groups(wanted, step))
            stream.observe(made)
            kept = sum(group.has_signal for group in made)
            here, seen, share = here + kept, seen + wanted, (share[0] + kept, share[1] + wanted)
        if seen:
            accepted, told = DECAY * share[0], DECAY * share[1]
        carried, total = max(here - rollout.prompts_per_step, 0), total + seen
        counts.append(total)
    return np.array(counts)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.studies.order_saving", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    with one_paragraph_errors("nothing was changed"):
        folder = parser.parse_args(arguments).run
        config = read_run(folder).config
        size, chance = fitted(folder, config.steps)
        means = {kind: np.mean([asked(kind, config, size, chance, seed) for seed in range(REPEATS)], axis=0)
                 for kind in ("permutation", "accuracy", "oracle")}
    half, last = config.steps // 2, config.steps - max(config.steps // 4, 1)

    def counts(kind: str) -> list[float]:
        found = means[kind]
        return [found[half - 1], found[-1], found[-1] - found[last - 1]]

    print(f"{size} questions; prompts that a permutation asks: " + ", ".join(f"{n:.0f}" for n in counts("permutation")))
    print(markdown(["fewer prompts", f"until step {half}", "all steps", f"after step {last}"], [
        [kind, *(f"{1 - here / base:.1%}" for here, base in zip(counts(kind), counts("permutation"), strict=True))]
        for kind in ("accuracy", "oracle")]))


if __name__ == "__main__":
    main()
