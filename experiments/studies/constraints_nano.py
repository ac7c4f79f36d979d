"""NFT on a task without right answers: text under constraints, scored by rules in [0, 1] (constraints_nano.md).

    python -m experiments.studies.constraints_nano                 any field of the run is a flag
"""
from dataclasses import replace
from pathlib import Path

from experiments.nano import constraints, write_questions
from experiments.presets import QUICKSTART
from nft_jax.cli import parse, print_summary, run
from nft_jax.config import Config, DataConfig, VerifierConfig
from nft_jax.runtime.terminal import markdown

DATA = Path("runs/constraints_nano_data")
PRESET = replace(
    QUICKSTART,
    name="constraints_nano",
    steps=60,
    data=DataConfig(source=str(DATA / "train.jsonl"), max_prompt_tokens=48),
    rollout=replace(QUICKSTART.rollout, prompts_per_step=32, max_new_tokens=40),
    verifier=VerifierConfig(reward="constraints"),
    batch=replace(QUICKSTART.batch, rows_per_micro_batch=32),
    optimizer=replace(QUICKSTART.optimizer, learning_rate=1e-3),
    evaluation=replace(QUICKSTART.evaluation, source=str(DATA / "heldout.jsonl")),
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
    """Every rule before and after."""
    print_summary(config, summary)
    if summary["finished"]:
        rows = constraints.questions(64, seed=1)
        before, after = (rule_scores(path, rows) for path in (config.policy.path, Path(config.folder) / "model"))
        print(markdown(("mean score on held-out questions", "before", "after"),
                       [(name, f"{before[name]:.3f}", f"{after[name]:.3f}") for name in before]))


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
