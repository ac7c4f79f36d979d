"""How many decode steps a rollout phase takes, simulated: generation batches sized as if every group were accepted,
against batches sized by the share that earlier steps accepted (`nft_jax.train.acceptance`); and these against batches
with a budget (rollout.tokens_per_step).

    python -m experiments.benchmark.draining             prints the tables, and draws figures/draining.png

The shape is the 7B preset's: 512 groups of 16 answers, whose lengths are geometric, with a mean of 1,195 tokens and a
limit of 3,584. Each answer takes the first slot that is free; a batch ends with its longest answer. A group is
accepted by chance, whatever its lengths. No model runs: the prefill of answers that go on is counted apart, in tokens.
"""
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nft_jax.record.pictures import HUES, Look, canvas, curve, describe, label_ends
from nft_jax.train.acceptance import DECAY, LEAST_SHARE, MOST, Share, prompts_to_ask

FIGURE = Path(__file__).parents[1] / "figures" / "draining.png"
SLOTS = (512, 1024, 2048, 4096, 8192)
SHARES = (0.3, 0.5, 0.7)
BUDGETS = (1792, 896)       # a half and a quarter of the limit
FILLING = 10                # first steps that are not counted: open groups become as many as they stay


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
    open_groups: int = 0
    prefilled: int = 0      # tokens of answers that go on


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


def budgeted(phase: Phase, slots: int, budget: int, *, steps: int = 20, seed: int = 0) -> Cost:
    """`steps` steps of `nft_jax.train.loop.collect` with rollout.tokens_per_step, after FILLING others."""
    rng, cost, share = np.random.default_rng(seed), Cost(steps=steps), Share(0.0, 0.0, 0.0)
    going, carried = np.zeros((0, 2, phase.samples), int), 0      # of the open groups: lengths, tokens so far
    for step in range(FILLING + steps):
        have, batches = carried, 0
        while have < phase.groups or (len(going) and not batches):
            asked = min(share.new_prompts(phase.groups, have, len(going)), MOST * phase.groups)
            new = np.minimum(rng.geometric(1 / phase.mean, (asked, phase.samples)), phase.limit)
            going = np.concatenate([going, np.stack([new, np.zeros_like(new)], axis=1)])
            lengths, so_far = going[:, 0], going[:, 1]
            now = np.minimum(lengths - so_far, budget)
            batches += 1
            if step >= FILLING:
                cost.decode_steps += makespan(now[now > 0], slots)
                cost.tokens += int(now.sum())
                cost.prefilled += int(so_far[now > 0].sum())
                cost.batches += 1
            ended = (so_far + now == lengths).all(axis=1)
            going = np.stack([lengths, so_far + now], axis=1)
            accepted = rng.binomial(int(ended.sum()), phase.accepted)
            have += accepted
            share.asked, share.accepted = share.asked + int(ended.sum()), share.accepted + accepted
            share.batches += int(-(-lengths[ended].max(axis=1) // budget).sum())
            going = going[~ended]
        carried = have - phase.groups
        cost.carried += carried * (step >= FILLING)
        cost.open_groups += len(going) * (step >= FILLING)
        share = Share(DECAY * share.asked, DECAY * share.accepted, DECAY * share.batches)
    return cost


def budgets_table() -> None:
    print("| slots | accepted | tokens a step | decode steps a step | ratio to off | batches | carried, open groups "
          "| prefilled again |")
    print("|---|---|---|---|---|---|---|---|")
    for share in SHARES:
        for slots in (512, 2048, 8192):
            phase = Phase(accepted=share)
            off = simulate(phase, slots, "by share")
            for budget in BUDGETS:
                one = budgeted(phase, slots, budget)
                print(f"| {slots:,} | {share:.0%} | {budget:,} | {one.decode_steps / one.steps:,.0f} "
                      f"| {off.decode_steps / one.decode_steps:.2f} × | {one.batches / one.steps:.2f} "
                      f"| {one.carried / one.steps:.0f}, {one.open_groups / one.steps:,.0f} "
                      f"| {one.prefilled / one.tokens:.0%} of the sampled |", flush=True)


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
    print()
    budgets_table()


if __name__ == "__main__":
    main()
