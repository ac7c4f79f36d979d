"""How many decode steps a rollout phase takes, simulated: generation batches sized as if every group were accepted,
against batches sized by the share that earlier steps accepted (`nft_jax.train.acceptance`).

    python -m experiments.benchmark.draining             prints the table, and draws figures/draining.png

The shape is the 7B preset's: 512 groups of 16 answers, whose lengths are geometric, with a mean of 1,195 tokens and a
limit of 3,584. Each answer takes the first slot that is free; a batch ends with its longest answer. A group is
accepted by chance, whatever its lengths. No model runs.
"""
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nft_jax.record.pictures import HUES, Look, canvas, curve, describe, label_ends
from nft_jax.train.acceptance import DECAY, LEAST_SHARE, MOST, prompts_to_ask

FIGURE = Path(__file__).parents[1] / "figures" / "draining.png"
SLOTS = (512, 1024, 2048, 4096, 8192)
SHARES = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Phase:
    """What a step collects, and how its answers fall out."""
    groups: int = 512
    samples: int = 16
    mean: float = 1195.0        # tokens of an answer
    limit: int = 3584
    accepted: float = 0.5       # share of the groups with right and wrong answers


@dataclass
class Cost:
    """Of some steps."""
    steps: int = 0
    decode_steps: int = 0
    tokens: int = 0
    batches: int = 0
    carried: int = 0


Rule = Callable[[int, float, float], int]


def as_if_all_were_accepted(missing: int, accepted: float, asked: float) -> int:
    """The rule before: the first batch asks what is missing; a further one, by the share of this step alone."""
    return np.ceil(missing / max(accepted / asked, LEAST_SHARE)) if asked else missing


RULES: dict[str, tuple[Rule, float, float]] = {           # the rule, its memory of earlier steps, its largest batch
    "before": (as_if_all_were_accepted, 0.0, 1),
    "by share": (prompts_to_ask, DECAY, MOST),
}


def makespan(lengths: np.ndarray, slots: int) -> int:
    """Decode steps of answers of these lengths, each in the first slot that is free."""
    ends = [0] * min(slots, len(lengths))
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + int(length))
    return max(ends)


def simulate(phase: Phase, slots: int, rule: str, *, steps: int = 20, seed: int = 0) -> Cost:
    """`steps` steps. The first one, which knows no share, is not counted."""
    size, memory, largest = RULES[rule]
    rng, cost = np.random.default_rng(seed), Cost(steps=steps)
    carried = told_accepted = told_asked = 0
    for step in range(steps + 1):
        have = carried
        while have < phase.groups:
            asked = int(min(size(phase.groups - have, told_accepted, told_asked), largest * phase.groups))
            lengths = np.minimum(rng.geometric(1 / phase.mean, asked * phase.samples), phase.limit)
            accepted = rng.binomial(asked, phase.accepted)
            told_accepted, told_asked, have = told_accepted + accepted, told_asked + asked, have + accepted
            if step:
                cost.decode_steps += makespan(lengths, slots)
                cost.tokens += int(lengths.sum())
                cost.batches += 1
        carried = have - phase.groups
        cost.carried += carried * (step > 0)
        told_accepted, told_asked = memory * told_accepted, memory * told_asked
    return cost


def main() -> None:
    print("| slots | accepted | decode steps a step, before | by share | ratio | batches | carried groups |")
    print("|---|---|---|---|---|---|---|")
    figure, (axes,) = canvas(1, 1, (7, 3.6))
    for place, share in enumerate(SHARES):
        ratios = []
        for slots in SLOTS:
            before, now = (simulate(Phase(accepted=share), slots, rule) for rule in RULES)
            ratios.append(before.decode_steps / now.decode_steps)
            print(f"| {slots:,} | {share:.0%} | {before.decode_steps / before.steps:,.0f} "
                  f"| {now.decode_steps / now.steps:,.0f} | {ratios[-1]:.2f} × "
                  f"| {before.batches / before.steps:.2f} → {now.batches / now.steps:.2f} "
                  f"| {before.carried / before.steps:.0f} → {now.carried / now.steps:.0f} |", flush=True)
        curve(axes, SLOTS, ratios, Look(*HUES[place], place, place), f"{share:.0%} accepted")
    axes.set_xscale("log", base=2)
    axes.set_xticks(SLOTS, [f"{slots:,}" for slots in SLOTS])
    axes.set_ylim(1)
    describe(axes, "Decode steps of a rollout phase", "before ÷ by share", "slots")
    label_ends(axes)
    figure.save(FIGURE)


if __name__ == "__main__":
    main()
