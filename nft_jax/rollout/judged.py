"""Judged groups: the one way in which training and evaluation sample and verify.

A group goes to the verifier as soon as its last answer has ended, and decoding waits for no verdict.
"""
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import jax

from nft_jax.config import SamplingConfig
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.schedule import SlotUse
from nft_jax.runtime.distributed import gather, process_count
from nft_jax.types import Group, Prompt, Rollout
from nft_jax.verify import Verifier
from nft_jax.verify.maths.extract import with_open_thought


def judged_groups(sampler: Sampler, verifier: Verifier, params, prompts: Sequence[Prompt | Group], samples: int,
                  base_key, rollout_index: int, sampling: SamplingConfig, *, budget: int = 0,
                  progress: Callable[[int], None] | None = None,
                  settled: Callable[[], None] = lambda: None,
                  phase: Callable[[str], AbstractContextManager] = nullcontext,
                  use: SlotUse | None = None) -> Iterator[Group]:
    """Yields K = `samples` judged answers to every prompt, in the order of the prompts.

    A group is yielded as soon as it and all groups before it are judged. `params` are the weights of `Sampler.cast`.
    `prompts` and `budget` are as in `Sampler.sample`: open groups among the prompts go on, and with a budget a group
    may come back open. Nobody judges it then.
    `phase` is entered as "rollout" around decoding, and as "verify" around the judging that is left after it.

    With several processes, process i of n answers and judges the prompts i, i + n, i + 2n, ... Then all
    processes exchange their groups and yield all of them. Waiting for the slowest process counts as "rollout".

    `progress` may raise to give up a process's own work. `settled` is called after that work and
    before the exchange, as the last chance to raise (see `nft_jax.runtime.stops.Stop`). `use` counts what the slots
    of all processes did."""
    count = process_count()
    here = prompts[jax.process_index()::count]
    use = SlotUse() if use is None else use
    # Drained steps are a maximum over the processes, and a sum over batches: each counts on from the earlier batches.
    own_use = use if count == 1 else SlotUse(drained_steps=use.drained_steps)
    answers = sampler.sample(params, here, samples, base_key, rollout_index, sampling, budget=budget, progress=progress,
                             use=own_use)
    judged = _judged(answers, verifier, here, phase)
    if count == 1:
        yield from judged
        return
    own = list(judged)
    settled()
    with phase("rollout"):
        parts, uses = zip(*gather((own, own_use)), strict=True)
    for each in uses:
        use.add(each)
    yield from (parts[place % count][place // count] for place in range(len(prompts)))


def _judged(answers: Iterator[tuple[int, tuple[Rollout, ...]]], verifier: Verifier, prompts: Sequence[Prompt | Group],
            phase: Callable[[str], AbstractContextManager]) -> Iterator[Group]:
    """`judged_groups` of one process. `answers`: (position in `prompts`, rollouts), as they finish."""
    # position -> (group without verdicts, pending verdicts or None), and the number of groups that were yielded
    submitted, judged = {}, 0
    while judged < len(prompts):
        with phase("rollout"):
            position, rollouts = next(answers, (None, ()))
            if rollouts:
                asked, prompt, count = prompts[position], rollouts[0].prompt, len(rollouts)
                group = replace(asked, rollouts=rollouts) if isinstance(asked, Group) else Group(prompt, rollouts, ())
                responses = [with_open_thought(prompt.text, r.text) for r in rollouts]
                submitted[position] = group, None if group.is_open else verifier.submit(
                    responses, [prompt.gold] * count, [prompt.problem] * count)
        # While decoding goes on, only verdicts that are there already are taken. Afterwards each
        # one is waited for.
        while judged in submitted and (not rollouts or submitted[judged][1] is None or submitted[judged][1].done()):
            with phase("verify"):
                group, verdicts = submitted.pop(judged)
                if verdicts is not None:
                    group = replace(group, verdicts=tuple(verdicts.result()))
            judged += 1
            yield group
