"""Answers to the questions in a file, and nothing else:

    python -m nft_jax.rollout.generate --model FOLDER --prompts FILE --num-samples 16 --out FILE.parquet

FILE holds questions as data.source does (.jsonl, .parquet, a folder of datasets, ...); golds are optional. The model
may be a run: its newest checkpoint answers, or the one of --step.

The table has the columns of a run's rollouts/*.parquet without the verdicts: `python -m nft_jax.verify
FILE.parquet` judges it. Finished parts lie in FILE.parquet.parts until the last one is there. After a stop, the
same command continues from them, and ends with the same file as a command that was never stopped.
"""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from nft_jax.config import AnswerConfig, DataConfig
from nft_jax.config.checks import require
from nft_jax.runtime.terminal import one_paragraph_errors

MODULE = "python -m nft_jax.rollout.generate"


@dataclass(frozen=True, kw_only=True)
class Arguments(AnswerConfig):
    prompts: str
    """Questions, as data.source."""
    out: Path
    """The table that is written, FILE.parquet."""
    num_samples: int = 1
    """Answers to every question."""
    split: str = DataConfig().split
    """Split of a data set that has several."""
    columns: str = ""
    """As data.columns."""
    template: str = DataConfig().template
    """As data.template: user message, or whole prompt of a base model; {problem} is replaced by the question."""
    system: str = ""
    """System message."""
    limit: int = 0
    """Only the first so many questions; 0 = all."""
    stop_token_ids: Annotated[tuple[int, ...], tyro.conf.arg(aliases=("--stop-token-id",))] = ()

    def __post_init__(self):
        super().__post_init__()
        require(self.out.suffix == ".parquet", "--out", str(self.out), "name a .parquet file.")
        self.require(self.num_samples >= 1, "num_samples", "use 1 or more.")
        self.require(self.limit >= 0, "limit", "use 1 or more, or 0 (all).")
        self.require("{problem}" in self.template, "template", "it must contain {problem}.")


def parse(arguments: list[str] | None = None, prog: str = MODULE) -> Arguments:
    """The command line. Raises InputError for a value out of range."""
    return tyro.cli(Arguments, prog=prog, description=__doc__, args=arguments,
                    config=(tyro.conf.UseAppendAction,))


def generate(given: Arguments) -> Path:
    """Everything that the command does; returns the path of the table. Raises InputError."""
    from nft_jax.runtime.distributed import require_alone
    require_alone("nft_jax.rollout.generate")
    from nft_jax.data.prompts import load_questions
    from nft_jax.model.hf import load_tokenizer
    from nft_jax.record.parts import Parts
    from nft_jax.record.weights import find_weights
    from nft_jax.rollout.answers import answer, dated_as_begun, identity, questions_of, say
    from nft_jax.rollout.evaluation import HeldOut
    from nft_jax.rollout.slots import require_positions
    from nft_jax.runtime.compilation import use_compilation_cache
    use_compilation_cache()
    weights = find_weights(given.model, given.step, ema=given.ema).for_lengths(
        given.max_prompt_tokens + given.max_new_tokens)
    tokenizer = load_tokenizer(weights.folder, given.chat_template or weights.chat_template)
    # A prompt that leaves no positions for an answer is skipped, like a prompt that is too long.
    positions = weights.config.max_positions - given.max_new_tokens
    longest = min(given.max_prompt_tokens, max(positions, 1))
    require_positions(weights.config, longest, given.max_new_tokens,
                      fields=("--max-prompt-tokens", "--max-new-tokens"))
    data = DataConfig(source=given.prompts, split=given.split, columns=given.columns, template=given.template,
                      system=given.system, max_prompt_tokens=longest, limit=given.limit,
                      date=given.date or weights.date)
    data = dated_as_begun(data, tokenizer, given.out)
    questions, report = load_questions(data, tokenizer, field="prompts", answers=False)
    say(f"prompts: {report}")
    held = HeldOut(given.out.name, [question.prompt(index) for index, question in enumerate(questions)],
                   given.num_samples, stream=0)
    settings = identity(given, weights, template=given.template, system=given.system)
    parts = Parts(given.out, settings | questions_of(held, data))
    # A sampler for the longest prompt there is takes less memory than one for the longest allowed.
    sized = replace(given, max_prompt_tokens=max(len(prompt.tokens) for prompt in held.prompts))
    answer(sized, weights, tokenizer, [(held, parts)])
    return given.out


def main(arguments: list[str] | None = None, prog: str = MODULE) -> None:
    with one_paragraph_errors("the same command goes on after the last part that was finished"):
        print(f"table: {generate(parse(arguments, prog))}")


if __name__ == "__main__":
    main()
