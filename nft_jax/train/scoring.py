"""Log-probs of answers by the trainer's own graph, packed as an update packs them."""
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nft_jax.objectives.terms import answers_in_loss
from nft_jax.train.batch import Example, Place, choose_shape, learns, make_batch, unpack
from nft_jax.train.run import Run
from nft_jax.train.step import place_batch
from nft_jax.types import Group, TrainBatch


def score(run: Run, params, judged: Iterator[Group], old: bool = True) -> list[Group]:
    """All groups in their order; groups that `learns` takes get the log-probs that they lack.

    `old_logprobs` are by the trainer's own graph or the sampler's, as rollout.old_logprobs says; without `old`, none
    by the trainer's. `reference_logprobs` are by the reference, in a run that has one. The first groups are packed
    and handed to the devices while the last ones are still sampled and judged; decoding waits for them within
    seconds/rollout."""
    choice = run.config.rollout.old_logprobs
    scorers = {"old_logprobs": (run.score, params)} if choice == "trainer" and old else {}
    if run.reference is not None:
        scorers["reference_logprobs"] = run.score_reference, run.reference

    def sampled(group: Group) -> Group:
        # Stored groups come with their own.
        if choice == "trainer" or not learns(group, run.config.loss) or group.old_logprobs is not None:
            return group
        name = "logprobs" if choice == "sampler" else "truncated_logprobs"
        return replace(group, old_logprobs=tuple(getattr(r, name) for r in group.rollouts))

    return scored(run, map(sampled, judged), scorers)


def score_open(run: Run, params, groups: list[Group]) -> list[Group]:
    """Open groups with the old log-probs of the tokens that this step sampled, before the parameters change. Their
    verdicts are not known, so all of them are scored. Nothing is done where old log-probs are the sampler's."""
    if run.config.rollout.old_logprobs != "trainer":
        return groups
    return scored(run, groups, {"old_logprobs": (run.score, params)}, takes=lambda group: True)


def score_beside(run: Run, params, kept: list[Group], carried: list[Group]) -> tuple[list[Group], list[Group]]:
    """The kept and the carried groups of a step whose only update computes old log-probs itself, with those that it
    will not compute: the next step has other parameters, and an update has no log-probs of answers outside its loss,
    nor those of the policies before."""
    left = [group for group in kept if group.old_logprobs is not None
            or len(answers_in_loss(group, run.config.terms)) < len(group.rollouts)]
    found = {group.prompt.index: group for group in score(run, params, iter([*left, *carried]))}
    kept, carried = ([found.get(group.prompt.index, group) for group in part] for part in (kept, carried))
    return kept, carried


def lacks(group: Group, field: str) -> bool:
    """Whether tokens of the group have no log-prob in this field: all, or those sampled since it was scored."""
    known = getattr(group, field)
    return known is None or any(len(part) < len(r.tokens) for part, r in zip(known, group.rollouts, strict=True))


def scored(run: Run, judged: Iterable[Group], scorers: Mapping[str, tuple[Any, Any]],
           takes: Callable[[Group], bool] | None = None) -> list[Group]:
    """`score` by these programs: field of a group -> (program, parameters). Groups that `takes` (None: `learns`) takes
    and that lack one of the fields get all of them. Where a part of a field is known, only the rest is filled in."""
    takes = takes or (lambda group: learns(group, run.config.loss))
    groups, waiting, parts = [], [], []

    def dispatch(part: list[int]) -> None:
        with run.clock.phase("score"):
            # A stored answer without a trained token may be longer than a row.
            batch, places = packed(run, [Example(r.prompt.tokens, r.tokens)
                                         for i in part for r in groups[i].rollouts if r.trained])
            batch = place_batch(batch, run.plan.mesh)
            parts.append((part, places, {name: program(weights, batch, run.config.rollout.temperature)
                                         for name, (program, weights) in scorers.items()}))

    for group in judged:
        groups.append(group)
        if takes(group) and any(lacks(group, name) for name in scorers):
            waiting.append(len(groups) - 1)
        if scorers and len(waiting) == run.config.groups_per_update:
            dispatch(waiting)
            waiting = []
    if scorers and waiting:
        dispatch(waiting)
    with run.clock.phase("score"):
        for part, places, outputs in parts:
            for name, values in outputs.items():
                values = iter(unpack(np.asarray(values), places))
                for i in part:
                    found = [next(values) if r.trained else np.zeros(len(r.tokens), np.float32)
                             for r in groups[i].rollouts]
                    known = getattr(groups[i], name)
                    if known is not None and lacks(groups[i], name):
                        found = [np.concatenate([first, all_of[len(first):]])
                                 for first, all_of in zip(known, found, strict=True)]
                    groups[i] = replace(groups[i], **{name: tuple(found)})
    return groups


def packed(run: Run, examples: list[Example], group_ids: bool = False,
           fresh: bool = False) -> tuple[TrainBatch, list[Place]]:
    """`make_batch` in the shape that costs least for these examples."""
    shape, rows = choose_shape([len(e.prompt) + len(e.response) for e in examples], run.plan.shapes)
    loss = run.config.loss
    return make_batch(examples, shape, loss.loss_agg, loss.constant_length, group_ids, rows, fresh)
