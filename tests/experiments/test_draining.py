"""The simulation of rollout phases, against counts by hand and the binomial law."""
import numpy as np

from experiments.benchmark.draining import RULES, Phase, budgeted, makespan, simulate


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


def test_a_budget_saves_drained_steps_and_samples_as_much():
    """One batch a step, of fewer decode steps. As many tokens are sampled. A budget that no answer reaches is none."""
    phase = Phase(groups=64, samples=4, mean=50.0, limit=200)
    off, long, quarter = simulate(phase, 256, "by share", steps=40), *(
        budgeted(phase, 256, budget, steps=40) for budget in (200, 50))
    assert long.open_groups == long.prefilled == 0 and abs(long.decode_steps / off.decode_steps - 1) < 0.1
    assert quarter.batches <= 1.2 * quarter.steps and abs(quarter.tokens / off.tokens - 1) < 0.05
    assert quarter.decode_steps * 1.2 < off.decode_steps
    # By Little's law: what a step asks, times the batches that a group stays open.
    assert 64 < quarter.open_groups / quarter.steps < 3 * 2 * 64
