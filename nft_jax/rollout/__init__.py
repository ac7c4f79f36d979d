"""Answers, sampled and judged. `engine` is the loop of the sampler; `judged` gives its answers their verdicts."""
