"""Answers to prompts, judged: the one way that training and evaluation sample and verify."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from nft_jax.metrics import answer_metrics
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.sampling import SamplingParams
from nft_jax.types import Group, Prompt
from nft_jax.verify import Verifier


def judged_groups(sampler: Sampler, verifier: Verifier, params, prompts: Sequence[Prompt], samples: int, base_key,
                  rollout_index: int, sampling: SamplingParams, *,
                  progress: Callable[[int], None] | None = None) -> Iterator[Group]:
    """K = `samples` judged answers to every prompt, in the order of the prompts. A group goes to the verifier as soon
    as its last answer has ended; decoding does not wait for verdicts. All answers are there when this returns; a group
    can be drawn as soon as it is judged."""
    pending = {}
    for position, rollouts in sampler.sample(params, prompts, samples, base_key, rollout_index, sampling,
                                             progress=progress):
        prompt = prompts[position]
        verdicts = verifier.submit([r.text for r in rollouts], [prompt.gold] * samples, [prompt.problem] * samples)
        pending[position] = rollouts, verdicts
    return (Group(prompts[position], pending[position][0], tuple(pending[position][1].result()))
            for position in range(len(prompts)))


def evaluation_metrics(groups: Iterable[Group]) -> dict[str, float]:
    """avg@k and its company, under `evaluation/`."""
    return answer_metrics(list(groups), "evaluation/")
