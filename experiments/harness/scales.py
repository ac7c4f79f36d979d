"""The sizes of the studies, each with its base configuration.

    nano       the embedded model on generated arithmetic, for CPU cores
    countdown  `experiments.nano.countdown_base.COUNTDOWN`, a base that can go several ways, for a CPU core
    code       `experiments.presets.code`, programs that hidden tests judge, for a CPU core
    constraints
               `experiments.nano.constraints.CONSTRAINTS`, rewards between 0 and 1, for a CPU core
    gemma      `experiments.presets.gemma3_270m`, a real model with LoRA, for a CPU core
    gsm8k      `experiments.presets.gsm8k`, one accelerator
    7b         `experiments.presets.qwen2_5_math_7b`, the paper's setting
"""
from dataclasses import dataclass, replace

from experiments.presets import QUICKSTART
from nft_jax.cli import experiment
from nft_jax.config import Config

NANO = replace(
    QUICKSTART,
    name="nano",
    steps=40,
    data=replace(QUICKSTART.data, source="arithmetic-hard"),
    rollout=replace(QUICKSTART.rollout, prompts_per_step=32, samples_per_prompt=8, max_generation_batches=6),
    batch=replace(QUICKSTART.batch, updates_per_step=8, rows_per_micro_batch=4),
    evaluation=replace(QUICKSTART.evaluation, questions=256, samples=4, every=8),
    checkpoint=replace(QUICKSTART.checkpoint, every=20, keep=1))
"""Harder than the quickstart, where every objective ends above 90%.

The embedded model is right in four answers of ten on two kinds of question, and in one of ten on four kinds that it
never saw. So the groups' accuracies spread from 0 to 1. Eight optimizer updates a step take the policy away from the
one that sampled.
"""


@dataclass(frozen=True)
class Scale:
    """A base configuration.

    experiment: its name for `experiments.train`.
    topology: the devices that its cost is estimated for (`nft_jax.preflight`).
    shape: a model of the base's shape, for the estimate: the base itself may not be made yet. "" is the base.
    """
    experiment: str
    topology: str
    shape: str = ""

    @property
    def config(self) -> Config:
        return experiment(self.experiment)


SCALES: dict[str, Scale] = {
    "nano": Scale("experiments.harness.scales:NANO", "cpu:1"),
    "countdown": Scale("experiments.nano.countdown_base:COUNTDOWN", "cpu:1", "nano"),
    "code": Scale("code", "cpu:1", "nano"),
    "constraints": Scale("experiments.nano.constraints:CONSTRAINTS", "cpu:1"),
    "gemma": Scale("gemma3_270m", "cpu:1"),
    "gsm8k": Scale("gsm8k", "gpu:1xH100"),
    "7b": Scale("qwen2_5_math_7b", "gpu:8xH100"),
}
