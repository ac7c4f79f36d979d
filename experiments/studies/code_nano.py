"""NFT beyond maths: the model writes programs, hidden tests decide. A few minutes on 2 CPU cores.

    python -m experiments.studies.code_nano                        any field of the run is a flag

Command: python -m experiments.train code
Hardware: 2 CPU cores, no network.
Hours: 0.07, the warm-up of the model among them, measured (experiments/README.md, programs).
Expected: held-out accuracy from 28.8% to 93.8% (experiments/README.md, programs: this very run).

1. The embedded model, which has seen arithmetic only, gets a short supervised warm-up on programs for a tiny stack
   machine (`experiments.nano.stack_programs`), the last part of them mostly wrong: it ends up able to write right
   programs and doing so only sometimes.
2. NFT with the reward "stack-program": 1 when the program passes every hidden test, run in the verifier's workers.

Why a language of our own here: a sandboxed Python process costs 40 to 100 ms, and a run judges some 28,000 programs.
An interpreter of ours needs no sandbox, and a model of 0.8 M parameters can learn its language. Python programs are
judged by the rewards "code" and "code-share" (`nft_jax.verify.rewards.code`), which this preset takes to a model and
tasks of your own: --policy.path FOLDER --data.source tasks.jsonl --evaluation.source held_out.jsonl --verifier.reward
code --verifier.deadline 15, and longer prompts and answers (untested by us at the size of a real model).
"""
from dataclasses import replace
from pathlib import Path

from experiments.nano import stack_programs
from nft_jax.cli import Arguments, parse, print_summary, run
from nft_jax.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    VerifierConfig,
)

NANO = Path(__file__).parents[2] / "nft_jax" / "assets" / "nano"
BASE, DATA = Path("runs/code_nano_base"), Path("runs/code_nano_data")
FIGURE = Path(__file__).parents[1] / "figures" / "code_nano.png"
CLEAN_UPDATES, MIXED_UPDATES = 350, 150
PRESET = Config(
    name="code",
    steps=30,
    policy=PolicyConfig(path=str(BASE)),
    data=DataConfig(source=str(DATA / "train.jsonl"), max_prompt_tokens=40),
    rollout=RolloutConfig(prompts_per_step=32, samples_per_prompt=16, max_new_tokens=24, slots=256, block_size=8),
    verifier=VerifierConfig(reward="stack-program"),
    batch=BatchConfig(updates_per_step=4, row_length=128, rows_per_micro_batch=32),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_updates=20, weight_decay=0.0),
    evaluation=EvaluationConfig(source=str(DATA / "heldout.jsonl"), questions=128, samples=8, every=5),
    checkpoint=CheckpointConfig(every=10, keep=2),
)


def make_base(folder: Path) -> None:
    """The warmed-up policy; nothing when it is there already."""
    if folder.exists():
        return
    import nft_jax
    from experiments.nano.small_tasks import warm_up
    clean, mixed = stack_programs.attempts(0, imperfect=False), stack_programs.attempts(1, imperfect=True)
    nano = nft_jax.load(NANO)
    nft_jax.save(warm_up(nano, lambda index: clean if index < CLEAN_UPDATES else mixed,
                         CLEAN_UPDATES + MIXED_UPDATES, rate=2e-3), folder)


def show(config: Config, summary: dict) -> None:
    """The figure, and the numbers before and after."""
    from experiments.nano.small_tasks import draw_figure
    from nft_jax.record.metrics import read_metrics
    print_summary(config, summary)
    if summary["finished"]:
        draw_figure(FIGURE, "NFT on programs for a stack machine",
                    read_metrics(Path(config.folder) / "metrics.jsonl"),
                    {"evaluation/accuracy/all": "held-out expressions", "accuracy/all": "training answers"},
                    "share of programs that pass all tests")


def prepared(parsed: Arguments) -> Arguments:
    """What the preset's own run reads is made where it is missing: questions, and the warmed-up model, for which a dry
    run takes the one that it is made of (the same shape and tokenizer)."""
    config = parsed.config
    if config.data.source == PRESET.data.source:
        import json
        for split, count in (("train", 4000), ("heldout", 512)):
            DATA.mkdir(parents=True, exist_ok=True)
            rows = stack_programs.questions(split, count)
            (DATA / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if Path(config.policy.path) == BASE and not BASE.exists():
        if parsed.dry_run:
            return parsed._replace(config=replace(config, policy=replace(config.policy, path=str(NANO))))
        make_base(BASE)
    return parsed


def main(arguments: list[str] | None = None) -> None:
    run(prepared(parse(PRESET, __doc__, arguments)), show)


if __name__ == "__main__":
    main()
