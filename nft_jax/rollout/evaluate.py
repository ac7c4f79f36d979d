"""What a model scores on its run's own questions, or on benchmarks, beside the paper's figures:

    nft-jax evaluate --model runs/quickstart
    nft-jax evaluate --model runs/quickstart --step 20 --suite aime24,math500 --n 32
    nft-jax evaluate --model FOLDER --sampling paper_7b

A run's checkpoint is asked what the run asks, in the run's settings, so the run's number comes out again, to the
last digit. A set is read from the hub, from --data.NAME FILE, or from NAME.jsonl or NAME.parquet in --data-folder.
After a stop the same command continues, and ends with the same bytes. The sets, the columns of the table and the
files of OUT are described in experiments/evaluate/README.md.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from nft_jax.config import AnswerConfig, Config, DataConfig, EvaluationConfig, VerifierConfig
from nft_jax.data.benchmarks import SETS, SUITES, Asked, ask, names_of
from nft_jax.data.templates import BOXED
from nft_jax.runtime.tables import KINDS
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError, Unreachable

if TYPE_CHECKING:
    from nft_jax.record.weights import Weights
    from nft_jax.rollout.evaluation import Summary

# How the paper or its code samples. Temperatures: arXiv 2505.18116, section 5, and https://github.com/NVlabs/NFT,
# eval_local_*.sh, which have them the other way round. The paper gives no lengths for evaluation: these are training's.
OFFICIAL = ("temperature", "top_p", "max_prompt_tokens", "max_new_tokens")
SAMPLING = {
    "paper_7b": (1.0, 0.7, 512, 3584),
    "paper_32b": (0.6, 0.7, 2048, 14_336),
    "scripts_7b": (0.6, 0.7, 512, 3584),
    "scripts_32b": (1.0, 0.7, 1024, 7168),
}
NO_RUN = Config(data=DataConfig(template=BOXED))      # the settings of a model that is no run's
SUITE = "math"                                        # of a model, and of a run that evaluates nothing
TEST = "test"                                         # the split of a benchmark
HELD_OUT = "held-out"                                 # the name of a run's set that has none
Sampling = Literal["paper_7b", "paper_32b", "scripts_7b", "scripts_32b"]
Files = make_dataclass("Files", [(name, str, field(default="")) for name in SETS], frozen=True)
Files.__doc__ = "A file for each set that is not to come from the hub."


@dataclass(frozen=True)
class Which:
    """The flags that decide what the others are when they are not given."""
    model: str = ""
    sampling: Sampling | None = None
    suite: str = ""


@dataclass(frozen=True, kw_only=True)
class Arguments(AnswerConfig):
    suite: str = SUITE
    """math, paper, or names of sets with commas; NAME=FILE are questions of your own. Of a run: its evaluation.source,
    with its split, questions and answers to each."""
    data: Files = field(default_factory=Files)
    data_folder: Path | None = None
    """Where NAME.jsonl or NAME.parquet of sets are."""
    split: str = TEST
    """Split of a source of your own that has several."""
    columns: str = ""
    """As data.columns, for sources of your own."""
    out: Path | None = None
    """Folder; default: evaluations/step_N of the run, runs/evaluations/NAME of a model."""
    n: int = 0
    """Answers to every question; 0 = as the paper for each set."""
    limit: int = 0
    """Only the first so many questions of each set; 0 = all."""
    sampling: Sampling | None = None
    """Temperature, top-p and lengths of the paper (7B: 1.0, 32B: 0.6) or of its scripts (7B: 0.6,
    32B: 1.0). Without it, a run is sampled as in its configuration, a model as in paper_7b."""
    template: str = ""
    """User message for all sets; {problem} is replaced by the question. Empty: as each set says. For a model
    without a chat template, the whole prompt; empty: as in the run."""
    system: str = ""
    """System message."""
    mode: Literal["equivalent", "strict", "lenient"] = "equivalent"
    """How answers are compared."""
    workers: int = VerifierConfig().workers
    """Processes of the verifier."""

    def __post_init__(self):
        super().__post_init__()
        for name, least, told in (("n", 0, "use 1 or more, or 0 (as the paper for each set)."),
                                  ("limit", 0, "use 1 or more, or 0 (all)."), ("workers", 1, "use 1 or more.")):
            self.require(getattr(self, name) >= least, name, told)
        self.require(not self.template or "{problem}" in self.template, "template", "it must contain {problem}.")


def parse(arguments: list[str] | None = None, prog: str = "nft-jax evaluate") -> Arguments:
    """The command line. What a flag is without being given depends on --model, --sampling and --suite."""
    which, _ = tyro.cli(Which, args=arguments, return_unknown_args=True, add_help=False)
    return tyro.cli(Arguments, prog=prog, description=__doc__.replace("nft-jax evaluate", prog), args=arguments,
                    config=(tyro.conf.UseAppendAction,),
                    default=defaults(run_config(which.model), which.sampling, which.suite))


def run_config(model: str) -> Config:
    """The configuration of a run's folder; NO_RUN for other models."""
    from nft_jax.record.folder import is_run, read_run
    return read_run(model).config if model and is_run(model) else NO_RUN


def defaults(config: Config, sampling: Sampling | None = None, suite: str = "") -> Arguments:
    """Every flag as in --sampling, else as in the run, else as in paper_7b. What a run asks of its own sets is no
    default for another suite."""
    rollout, evaluation = config.rollout, config.evaluation
    values: dict[str, Any] = {
        "temperature": evaluation.temperature, "top_k": evaluation.top_k, "top_p": evaluation.top_p,
        "min_p": evaluation.min_p, "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_new_tokens": rollout.max_new_tokens}
    if sampling or config is NO_RUN:
        values |= zip(OFFICIAL, SAMPLING[sampling or "paper_7b"], strict=True)
    if evaluation.source and not suite:
        values |= {"suite": evaluation.source, "n": evaluation.samples, "limit": evaluation.questions,
                   "split": evaluation.split, "columns": evaluation.columns}
    return Arguments(
        **values, model=tyro.MISSING, seed=config.seed, dtype=config.policy.compute_dtype, kv_dtype=rollout.kv_dtype,
        weight_dtype=rollout.weight_dtype, stop=rollout.stop, stop_token_ids=rollout.stop_token_ids,
        system=config.data.system, chat_template=config.data.chat_template, date=config.data.date,
        mode=config.verifier.mode)


def verifier_of(given: Arguments, config: Config) -> VerifierConfig:
    """The run's verifier, with the reward of its evaluations and the flags of the command."""
    return replace(config.verifier, reward=config.evaluation.reward or config.verifier.reward, mode=given.mode,
                   workers=given.workers, disagreement=False)


def sets_asked(given: Arguments, config: Config) -> list[Asked]:
    """The sets of the suite, each with the place that it is read from. Raises InputError for unknown ones.

    A file of --data.NAME comes before one in --data-folder, and that before the hub.
    """
    named = names_of(given.suite, "--suite")
    if not named and given.suite == config.evaluation.source:
        # A run's single source. Its random numbers are those of a set without a name.
        named = [("", given.suite)]
    if not named:
        raise InputError(f"--suite is {given.suite!r}: name a suite ({', '.join(SUITES)}) or sets ({', '.join(SETS)}); "
                         "questions of your own are NAME=FILE.")
    data = replace(config.data, max_prompt_tokens=given.max_prompt_tokens, system=given.system, date=given.date)
    files, asked = asdict(given.data), []
    for name, own in named:
        here = [given.data_folder / f"{name}{kind}" for kind in KINDS] if given.data_folder else []
        source = own or files.get(name) or next((str(path) for path in here if path.is_file()), None)
        # A set of one's own does not say how many answers it wants: one.
        samples = given.n or int(name not in SETS)
        one = ask(name, source, EvaluationConfig(samples=samples, split=given.split, columns=given.columns), data)
        asked.append(one._replace(data=replace(one.data, limit=given.limit,
                                               template=given.template or one.data.template)))
    return asked


def evaluate(given: Arguments) -> str:
    """Asks, answers, and writes the files of OUT. Returns the table, and where the files are. Raises InputError."""
    from nft_jax.model.hf import load_tokenizer
    from nft_jax.record.parts import Parts
    from nft_jax.record.weights import find_weights
    from nft_jax.rollout.answers import answer, dated_as_begun, identity, questions_of, say
    from nft_jax.rollout.evaluation import asked_by, read_set, summarise_table
    from nft_jax.rollout.slots import require_positions
    from nft_jax.rollout.table import markdown
    from nft_jax.runtime.compilation import use_compilation_cache
    from nft_jax.runtime.distributed import require_alone
    require_alone("nft-jax evaluate")
    use_compilation_cache()
    config = run_config(given.model)
    # The flags are checked before a model of the hub is downloaded.
    verifier, asked = verifier_of(given, config), sets_asked(given, config)
    weights = find_weights(given.model, given.step, ema=given.ema)
    weights = weights.for_lengths(given.max_prompt_tokens + given.max_new_tokens)
    require_positions(weights.config, given.max_prompt_tokens, given.max_new_tokens,
                      fields=("--max-prompt-tokens", "--max-new-tokens"))
    out = given.out or (Path("runs/evaluations") / (weights.home or weights.folder).name if weights.run is None else
                        weights.home / "evaluations" / f"step_{weights.step:06d}{'_ema' * weights.ema}")
    tokenizer, tables, skipped = load_tokenizer(weights.folder, given.chat_template or weights.chat_template), [], {}
    common = identity(given, weights, mode=verifier.mode, reward=verifier.reward)
    for one in asked:
        name = one.name or HELD_OUT
        table = out / f"{name}.parquet"
        one = asked_by(one, tokenizer, given.template or config.data.template)
        one = one._replace(data=dated_as_begun(one.data, tokenizer, table))
        try:
            held, report = read_set(one, tokenizer, one.name or "evaluation", verifier.reward)
        except Unreachable as error:
            if name not in SETS:
                raise
            raise InputError(f"{error} Give the set as --data.{name} FILE or in --data-folder, or name the sets "
                             "that you have in --suite.") from error
        held = held._replace(name=name)
        say(f"{name}: {report}")
        skipped[name] = len(report.skipped)
        tables.append((held, Parts(table, common | questions_of(held, one.data), judged=True)))
    answer(given, weights, tokenizer, tables, verifier)
    summaries = {held.name: summarise_table(parts.out, skipped[held.name]) for held, parts in tables}
    text = markdown(summaries, f"T {given.temperature:g}, top-p {given.top_p:g}")
    (out / "table.md").write_text(text)
    text += measured(weights, summaries)
    del common["weights"]
    (out / "summary.json").write_text(json.dumps({
        "settings": common, "sets": {name: one.to_json() for name, one in summaries.items()}}, indent=1) + "\n")
    return f"{text}\n{out}: the answers of every set (.parquet), table.md, summary.json"


def measured(weights: Weights, summaries: Mapping[str, Summary]) -> str:
    """A line on what the run itself measured at this step, beside what was found now; "" without such a number."""
    from nft_jax.record.folder import read_run
    from nft_jax.rollout.evaluation import mean_of
    # A run evaluates its trained parameters, never their average.
    rows = read_run(weights.home).rows if weights.run is not None and not weights.ema else []
    then = next((row.get("evaluation/accuracy/all") for row in rows if row["step"] == weights.step), None)
    found = [one.estimates["accuracy"] for one in summaries.values() if "accuracy" in one.estimates]
    if then is None or not found:
        return ""
    return (f"\nevaluation/accuracy/all at step {weights.step}: the run measured {then}, and here it is "
            f"{mean_of(found).value}\n")


def main(arguments: list[str] | None = None, prog: str = "nft-jax evaluate") -> None:
    with one_paragraph_errors("the same command goes on after the last part that was finished"):
        print(evaluate(parse(arguments, prog)))


if __name__ == "__main__":
    main(prog="python -m nft_jax.rollout.evaluate")
