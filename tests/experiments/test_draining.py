"""The simulation of rollout phases, against counts by hand and the binomial law."""
import numpy as np

from experiments.benchmark.draining import RULES, Phase, makespan, simulate


def test_each_answer_takes_the_first_free_slot():
    assert makespan(np.array([5, 1, 1, 1]), 2) == 5
    assert makespan(np.array([1, 1, 1, 5]), 2) == 6
    assert makespan(np.array([3, 4]), 8) == 4


def test_one_drain_a_step_where_the_share_is_known():
    phase = Phase(groups=64, samples=4, mean=50.0, limit=200)
    before, now = (simulate(phase, 256, rule, steps=40) for rule in RULES)
    assert before.batches >= 2 * before.steps and now.batches <= 1.2 * now.steps
    # As many groups are needed, so about as many tokens are decoded, in fewer steps.
    assert abs(now.tokens / before.tokens - 1) < 0.05
    assert now.decode_steps * 1.3 < before.decode_steps
    assert now.carried / now.steps < 16
