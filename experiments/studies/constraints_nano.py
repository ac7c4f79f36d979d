"""NFT on a task without right answers: text under constraints, scored by rules in [0, 1].

    python -m experiments.studies.constraints_nano                 any field of the run is a flag

About ten minutes on 2 CPU cores.

The embedded model has seen arithmetic only. It is asked for text of a length, with certain
characters and a certain end (`experiments.nano.constraints`), and NFT trains on the fractions as
they are. What the model sometimes does by chance it learns to do on demand. One question in four
asks for a word of letters that it never samples: no answer is better than another in that respect,
and that rule stays where it was. NFT sharpens what a model can already do now and then; it teaches
nothing that never occurs.
"""
from pathlib import Path

from experiments.nano import constraints
from experiments.nano.small_tasks import draw_run, write_questions
from nft_jax.cli import parse, print_summary, run
from nft_jax.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    RolloutConfig,
    VerifierConfig,
)

FIGURE = Path(__file__).parents[1] / "figures" / "constraints_nano.png"
DATA = Path("runs/constraints_nano_data")
PRESET = Config(
    name="constraints_nano",
    steps=60,
    data=DataConfig(source=str(DATA / "train.jsonl"), max_prompt_tokens=48),
    rollout=RolloutConfig(prompts_per_step=32, samples_per_prompt=16, max_new_tokens=40, slots=256, block_size=8),
    verifier=VerifierConfig(reward="constraints"),
    batch=BatchConfig(updates_per_step=4, row_length=128, rows_per_micro_batch=32),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_updates=20, weight_decay=0.0),
    evaluation=EvaluationConfig(source=str(DATA / "heldout.jsonl"), questions=128, samples=8, every=5),
    checkpoint=CheckpointConfig(every=10, keep=2),
)


def rule_scores(folder: str | Path, rows: list[dict]) -> dict[str, float]:
    """Mean score of each rule, and the share of answers that meet all rules.

    Over 4 answers to each question. The mean of "has-word" is over the questions that ask for a word.
    """
    import numpy as np

    import nft_jax
    from nft_jax.verify.rewards import lookup
    rollouts = nft_jax.sample(nft_jax.load(folder), [row["problem"] for row in rows], num_samples=4,
                              max_new_tokens=PRESET.rollout.max_new_tokens, seed=1, slots=128)
    scores = {name: [lookup(name)(r.prompt.problem, r.text, "") for r in rollouts]
              for name in (*constraints.RULES, "constraints")}
    scores["all rules met"] = [value == 1 for value in scores["constraints"]]
    scores["has-word"] = [score for score, r in zip(scores["has-word"], rollouts, strict=True)
                          if constraints.read(r.prompt.problem)[3]]
    return {name: float(np.mean(values)) for name, values in scores.items()}


def show(config: Config, summary: dict) -> None:
    """The figure, and every rule before and after."""
    from rich.console import Console
    from rich.table import Table
    print_summary(config, summary)
    if not summary["finished"]:
        return
    folder = Path(config.folder)
    draw_run(FIGURE, "NFT on text under constraints", folder,
             {"evaluation/accuracy/all": "held-out questions", "accuracy/all": "training answers"}, "mean reward")
    rows = constraints.questions(64, seed=1)
    before, after = rule_scores(config.policy.path, rows), rule_scores(folder / "model", rows)
    table = Table("rule", "before", "after", title="mean score on held-out questions")
    for name in before:
        table.add_row(name, f"{before[name]:.3f}", f"{after[name]:.3f}")
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(PRESET, __doc__, arguments)
    if not parsed.dry_run:
        held_out = constraints.questions(512, seed=1)
        known = {row["problem"] for row in held_out}
        write_questions(DATA / "heldout.jsonl", held_out)
        write_questions(DATA / "train.jsonl",
                        [row for row in constraints.questions(4000, seed=0) if row["problem"] not in known])
    run(parsed, show)


if __name__ == "__main__":
    main()
