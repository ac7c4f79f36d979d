"""NFT beyond maths: the model writes programs, and hidden tests decide. A few minutes on 2 CPU cores.

Command: python -m experiments.train code
Hardware: 2 CPU cores, no network.
Hours: 0.07, the warm-up of the model among them, measured.
Expected: held-out accuracy from 27% to 95% (source: experiments/studies/hidden_tests.md, five seeds).

1. The embedded model, which has seen arithmetic only, gets a short supervised warm-up on programs for a tiny stack
   machine (`experiments.nano.stack_programs`), the last part of them mostly wrong.
2. NFT follows, with the reward "stack-program": 1 when the program passes every hidden test, run in the verifier's
   workers. The interpreter is ours, so nothing needs a sandbox.

Python programs are judged by the rewards "code" and "code-share" (`nft_jax.verify.rewards.code`).
This preset takes them to a model and tasks of your own: --policy.path FOLDER --data.source
tasks.jsonl --evaluation.source held_out.jsonl --verifier.reward code --verifier.deadline 15, and
longer prompts and answers (untested by us at the size of a real model).
"""
from dataclasses import replace
from pathlib import Path

from experiments.nano import stack_programs, write_questions
from experiments.quickstart import QUICKSTART
from nft_jax.cli import Arguments
from nft_jax.config import Config, DataConfig, PolicyConfig, VerifierConfig

BASE, DATA = Path("runs/code_nano_base"), Path("runs/code_nano_data")
CLEAN_UPDATES, MIXED_UPDATES = 350, 150
PRESET = replace(
    QUICKSTART,
    name="code",
    steps=30,
    policy=PolicyConfig(path=str(BASE)),
    data=DataConfig(source=str(DATA / "train.jsonl"), max_prompt_tokens=40),
    rollout=replace(QUICKSTART.rollout, prompts_per_step=32, max_new_tokens=24),
    verifier=VerifierConfig(reward="stack-program"),
    batch=replace(QUICKSTART.batch, rows_per_micro_batch=32),
    evaluation=replace(QUICKSTART.evaluation, source=str(DATA / "heldout.jsonl")),
)


def prepared(parsed: Arguments) -> Arguments:
    """Makes what this preset's own run reads, where it is missing: the questions and the warmed-up model.

    A dry run makes no model. It takes the embedded one, which has the same shape and tokenizer.
    """
    config = parsed.config
    write_data(config)
    if Path(config.policy.path) == BASE and not BASE.exists():
        if parsed.dry_run:
            return parsed._replace(config=replace(config, policy=replace(config.policy, path="nano")))
        warm_up_base()
    return parsed


def write_data(config: Config) -> None:
    """The questions of this preset's own data."""
    if config.data.source == PRESET.data.source:
        for split, count in (("train", 4000), ("heldout", 512)):
            write_questions(DATA / f"{split}.jsonl", stack_programs.questions(split, count))


def warm_up_base() -> None:
    import nft_jax
    from experiments.nano.warm_up import warm_up
    clean, mixed = stack_programs.attempts(0, imperfect=False), stack_programs.attempts(1, imperfect=True)
    nft_jax.save(warm_up(nft_jax.load("nano"), lambda index: clean if index < CLEAN_UPDATES else mixed,
                         CLEAN_UPDATES + MIXED_UPDATES, rate=2e-3), BASE)
