"""NFT beyond maths: the model writes programs, hidden tests decide. A few minutes on 2 CPU cores.

    python -m experiments.code_nano                        any field of the run is a flag

1. The embedded model, which has seen arithmetic only, gets a short supervised warm-up on programs for a tiny stack
   machine (`experiments.stack_programs`), the last part of them mostly wrong: it ends up able to write right programs
   and doing so only sometimes.
2. NFT with the reward "stack-program": 1 when the program passes every hidden test, run in the verifier's workers.

Why a language of our own here: a sandboxed Python process costs 40 to 100 ms, and a run judges some 28,000 programs.
An interpreter of ours needs no sandbox, and a model of 0.8 M parameters can learn its language. Python programs are
judged by the rewards "code" and "code-share" (`nft_jax.verify.code`).
"""
from pathlib import Path

from experiments import stack_programs
from nft_jax.cli import parse, run
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

FIGURE = Path(__file__).parent / "figures" / "code_nano.png"
CLEAN_UPDATES, MIXED_UPDATES = 350, 150
PRESET = Config(
    name="code_nano",
    steps=30,
    policy=PolicyConfig(path="runs/code_nano_base"),
    data=DataConfig(source="runs/code_nano_data/train.jsonl", max_prompt_tokens=40),
    rollout=RolloutConfig(prompts_per_step=32, samples_per_prompt=16, max_new_tokens=24, slots=256, block_size=8),
    verifier=VerifierConfig(reward="stack-program"),
    batch=BatchConfig(updates_per_step=4, row_length=128, rows_per_micro_batch=32),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_updates=20, weight_decay=0.0),
    evaluation=EvaluationConfig(source="runs/code_nano_data/heldout.jsonl", questions=128, samples=8, every=5),
    checkpoint=CheckpointConfig(every=10, keep=2),
)


def make_base(folder: Path) -> None:
    """The warmed-up policy; nothing when it is there already."""
    if folder.exists():
        return
    import nft_jax
    from experiments.small_tasks import warm_up
    clean, mixed = stack_programs.attempts(0, imperfect=False), stack_programs.attempts(1, imperfect=True)
    nano = nft_jax.load(Path(__file__).parent / "assets" / "nano")
    nft_jax.save(warm_up(nano, lambda index: clean if index < CLEAN_UPDATES else mixed,
                         CLEAN_UPDATES + MIXED_UPDATES, rate=2e-3), folder)


def report(config: Config, summary: dict) -> None:
    """The figure, and the numbers before and after."""
    from experiments.quickstart import report as table
    from experiments.small_tasks import draw_figure
    from nft_jax.metrics import read_metrics
    table(config, summary)
    if summary["finished"]:
        draw_figure(FIGURE, "NFT on programs for a stack machine",
                    read_metrics(Path(config.folder) / "metrics.jsonl"),
                    {"evaluation/accuracy/all": "held-out expressions", "accuracy/all": "training answers"},
                    "share of programs that pass all tests")


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(PRESET, __doc__, arguments)
    if not parsed.dry_run:
        from experiments.small_tasks import write_questions
        make_base(Path(parsed.config.policy.path))
        for split, count in (("train", 4000), ("heldout", 512)):
            write_questions(Path("runs/code_nano_data") / f"{split}.jsonl", stack_programs.questions(split, count))
    run(parsed, report)


if __name__ == "__main__":
    main()
