"""What an order of questions saves, played again from a run: the fit finds the chances, and the orders rank."""
import numpy as np
import pytest

from experiments.studies import order_saving
from made import make_run
from nft_jax.config import BatchConfig, Config, RolloutConfig
from refusal import refused

CONFIG = Config(steps=12, rollout=RolloutConfig(prompts_per_step=8, samples_per_prompt=8),
                batch=BatchConfig(updates_per_step=8))
CHANCES = (0.02, 0.5, 0.98)


def test_the_fit_tells_questions_apart(tmp_path):
    folder = make_run(tmp_path / "run", rewards=((1, 1, 1, 1), (1, 0, 1, 0), (0, 0, 0, 0)), steps=1)
    size, chance = order_saving.fitted(folder, 1)
    found = [chance(question, 1) for question in range(size)]
    assert size == 3 and found[0] > 0.7 > found[1] > 0.3 > found[2]
    (tmp_path / "other").mkdir()
    with refused("RUN", tmp_path / "other"):
        order_saving.fitted(tmp_path / "other", 1)


def test_the_order_saves_prompts_and_the_oracle_more():
    """Of three questions one is always right and one never: a third of the groups teaches something."""
    found = {kind: np.mean([order_saving.asked(kind, CONFIG, 30, lambda q, _: CHANCES[q % 3], seed)[-1]
                            for seed in range(5)]) for kind in ("permutation", "accuracy", "oracle")}
    assert found["oracle"] < found["accuracy"] < 0.8 * found["permutation"]
    assert found["oracle"] == pytest.approx(12 * 8, rel=0.15)


def test_equal_questions_leave_nothing_to_save():
    counts = [order_saving.asked(kind, CONFIG, 30, lambda q, step: 0.5, 0) for kind in ("permutation", "oracle")]
    np.testing.assert_array_equal(*counts)
