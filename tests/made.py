"""Made-up groups for tests."""
import numpy as np

from nft_jax.types import Group, Prompt, Rollout, Verdict


def make_group(index: int, rewards, *, rng: np.random.Generator, vocabulary: int = 32, longest: int = 12,
               old: bool = True) -> Group:
    """A judged group of random tokens. A reward of None is an answer whose verification failed."""
    prompt = Prompt(index, f"question {index}", "1", f"<{index}>",
                    rng.integers(1, vocabulary, rng.integers(2, 6)).astype(np.int32))
    rollouts = []
    for sample in range(len(rewards)):
        n = int(rng.integers(1, longest + 1))
        numbers = [rng.normal(-1, 0.3, n).astype(np.float32) for _ in range(3)]
        rollouts.append(Rollout(prompt, sample, f"answer {sample}", rng.integers(1, vocabulary, n).astype(np.int32),
                                *numbers, finish_reason="stop"))
    verdicts = tuple(Verdict("error", None) if r is None else Verdict("right" if r > 0.5 else "wrong", float(r))
                     for r in rewards)
    old_logprobs = tuple(r.logprobs + 0.01 for r in rollouts) if old else None
    return Group(prompt, tuple(rollouts), verdicts, old_logprobs)
