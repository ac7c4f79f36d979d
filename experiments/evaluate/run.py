"""What `experiments.evaluate` does with its flags: questions, answers, table."""
from __future__ import annotations

import json
from pathlib import Path

from experiments.evaluate.command import Arguments, run_config, sets_asked, verifier_of
from experiments.evaluate.table import markdown
from nft_jax.model.hf import load_tokenizer
from nft_jax.record.parts import Parts
from nft_jax.record.weights import Weights, find_weights
from nft_jax.rollout.answers import answer, identity, questions_of, say
from nft_jax.rollout.evaluation import read_set, summarise_table
from nft_jax.rollout.slots import require_positions
from nft_jax.runtime.compilation import use_compilation_cache
from nft_jax.runtime.distributed import require_alone
from nft_jax.types import InputError, Unreachable


def evaluate(given: Arguments) -> str:
    """Everything that the command does. Returns the table, and where the files are. Raises
    InputError."""
    require_alone("experiments.evaluate")
    use_compilation_cache()
    run = run_config(given.model)
    # The flags are checked before a model of the hub is downloaded.
    verifier, asked = verifier_of(given, run), sets_asked(given, run)
    weights = find_weights(given.model, given.step)
    require_positions(weights.config, given.max_prompt_tokens, given.max_new_tokens,
                      fields=("--max-prompt-tokens", "--max-new-tokens"))
    tokenizer, out = load_tokenizer(weights.folder), given.out or default_out(weights)
    common, tables, skipped = identity(given, weights, mode=verifier.mode, reward=verifier.reward), [], {}
    for one in asked:
        try:
            held, report = read_set(one, tokenizer, one.name, verifier.reward)
        except Unreachable as error:
            raise InputError(f"{error} Give the set as --data.{one.name} FILE or in --data-folder, or name the sets "
                             "that you have in --suite.") from error
        say(f"{held.name}: {report}")
        skipped[held.name] = len(report.skipped)
        tables.append((held, Parts(out / f"{held.name}.parquet", common | questions_of(held), judged=True)))
    answer(given, weights, tokenizer, tables, verifier)
    summaries = {held.name: summarise_table(parts.out, skipped[held.name]) for held, parts in tables}
    text = markdown(summaries, f"T {given.temperature:g}, top-p {given.top_p:g}")
    (out / "table.md").write_text(text)
    del common["weights"]
    (out / "summary.json").write_text(json.dumps({
        "settings": common, "sets": {name: one.to_json() for name, one in summaries.items()}}, indent=1) + "\n")
    return f"{text}\n{out}: the answers of every set (.parquet), table.md, summary.json"


def default_out(weights: Weights) -> Path:
    """evaluations/step_N of a run's folder, runs/evaluations/NAME of a model."""
    if weights.run is not None:
        return weights.home / "evaluations" / f"step_{weights.step:06d}"
    return Path("runs/evaluations") / weights.folder.name
