"""What a model scores on a suite of benchmarks, beside the paper's figures:

    python -m experiments.evaluate --model FOLDER --sampling paper_7b
    python -m experiments.evaluate --model runs/quickstart --step 20 --suite aime24,math500 --n 32

The suite `math` is AIME24, AIME25, AMC23, MATH-500, OlympiadBench, Minerva and GSM8K. Their hub
names, columns and prompts, and how many answers the paper averages over, are in
nft_jax/data/benchmarks.py. A set is read from the hub, from --data.NAME FILE, or from NAME.jsonl or
NAME.parquet in --data-folder. `NAME=FILE` in --suite adds questions of your own. Sampler and
verifier are those of training. The settings of a run are the defaults for its checkpoints, so its
own evaluation of a set comes out again.

OUT holds NAME.parquet for every set (all answers with their verdicts, in the columns of a run's
rollouts/), table.md and summary.json. After a stop the same command continues, and ends with the
same bytes.

avg@n is the mean reward. pass@k is the unbiased estimate from the n answers. maj@n is the share of
questions whose most frequent answer is right; a tie of t answers counts 1/t. ± is the standard
error by bootstrap over the questions.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from nft_jax.config import AnswerConfig, Config, DataConfig, EvaluationConfig, VerifierConfig
from nft_jax.data.benchmarks import BOXED, SETS, SUITES, Asked, ask, names_of
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError


class Official(NamedTuple):
    """How the paper or its code samples."""
    temperature: float
    top_p: float
    max_prompt_tokens: int
    max_new_tokens: int


# Temperatures: arXiv 2505.18116, section 5, and https://github.com/NVlabs/NFT, eval_local_*.sh,
# which have them the other way round. The paper gives no lengths for evaluation: these are the
# lengths of training.
SAMPLING = {
    "paper_7b": Official(1.0, 0.7, 512, 3584),
    "paper_32b": Official(0.6, 0.7, 2048, 14_336),
    "scripts_7b": Official(0.6, 0.7, 512, 3584),
    "scripts_32b": Official(1.0, 0.7, 1024, 7168),
}
NO_RUN = Config(data=DataConfig(template=BOXED))      # the settings of a model that is no run's
Files = make_dataclass("Files", [(name, str, field(default="")) for name in SETS], frozen=True)
Files.__doc__ = "A file for each set that is not to come from the hub."


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The flags of the command. None: as in --sampling, else as in the run, else as in paper_7b."""
    model: str
    """Folder in Hugging Face layout, hub model, or folder of a run."""
    step: str = "latest"
    """Of a run: the checkpoint, latest, best or its step."""
    suite: str = "math"
    """math, paper, or names of sets with commas; NAME=FILE are questions of your own."""
    data: Files = field(default_factory=Files)
    data_folder: Path | None = None
    """Where NAME.jsonl or NAME.parquet of sets are."""
    split: str = "test"
    """Split of a source of your own that has several."""
    out: Path | None = None
    """Folder; default: evaluations/step_N of the run, runs/evaluations/NAME of a model."""
    n: int = 0
    """Answers to every question; 0 = as the paper for each set."""
    limit: int = 0
    """Only the first so many questions of each set; 0 = all."""
    sampling: Literal["paper_7b", "paper_32b", "scripts_7b", "scripts_32b"] | None = None
    """Temperature, top-p and lengths of the paper (7B: 1.0, 32B: 0.6) or of its scripts (7B: 0.6,
    32B: 1.0)."""
    temperature: float | None = None
    """0 is greedy."""
    top_k: int | None = None
    """0 is off."""
    top_p: float | None = None
    """1 is off."""
    min_p: float | None = None
    """0 is off."""
    max_prompt_tokens: int | None = None
    """Longer prompts are skipped and counted."""
    max_new_tokens: int | None = None
    """A longer answer is cut."""
    template: str = ""
    """User message for all sets; {problem} is replaced by the question. Empty: as each set says."""
    system: str | None = None
    """System message."""
    seed: int | None = None
    """Seed of sampling; default: the run's, or 0."""
    mode: Literal["equivalent", "strict", "lenient"] | None = None
    """How answers are compared."""
    workers: int = VerifierConfig().workers
    """Processes of the verifier."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the computation."""
    kv_dtype: Literal["compute", "int8"] | None = None
    """Keys and values while decoding."""
    weight_dtype: Literal["compute", "int8"] | None = None
    """The layers' matrices while decoding."""
    tensor: int = 1
    """Devices that share one copy of the model."""
    slots: int = 0
    """Answers decoded at the same time; 0 = what memory allows."""
    block_size: int = AnswerConfig.block_size
    """Decode steps between two looks of the host at what has finished."""
    part_prompts: int = 0
    """Questions of a part; 0 = chosen from the slots."""


class Settled(NamedTuple):
    """A command line with every default decided."""
    answers: AnswerConfig
    verifier: VerifierConfig
    sets: list[Asked]


def parse(arguments: list[str] | None = None) -> Arguments:
    """The command line."""
    return tyro.cli(Arguments, prog="python -m experiments.evaluate", description=__doc__, args=arguments)


def settle(given: Arguments, run: Config | None) -> Settled:
    """Decides every default: a flag, then --sampling, then the run, then the paper's 7B.

    Raises InputError for a value out of range, and for sets that are not known.
    """
    config = NO_RUN if run is None else run
    rollout, evaluation, verifier = config.rollout, config.evaluation, config.verifier
    values = {"temperature": evaluation.temperature, "top_k": evaluation.top_k, "top_p": evaluation.top_p,
              "min_p": evaluation.min_p, "max_prompt_tokens": config.data.max_prompt_tokens,
              "max_new_tokens": rollout.max_new_tokens, "dtype": config.policy.compute_dtype,
              "kv_dtype": rollout.kv_dtype, "weight_dtype": rollout.weight_dtype, "seed": config.seed}
    if given.sampling or run is None:
        values |= SAMPLING[given.sampling or "paper_7b"]._asdict()
    values |= {name: getattr(given, name) for name in values if getattr(given, name) is not None}
    answers = AnswerConfig(
        **values, model=given.model, step=given.step, stop=rollout.stop, stop_token_ids=rollout.stop_token_ids,
        tensor=given.tensor, slots=given.slots, block_size=given.block_size, part_prompts=given.part_prompts)
    for name, holds, remedy in (
            ("n", given.n >= 0, "use 1 or more, or 0 (as the paper for each set)"),
            ("limit", given.limit >= 0, "use 1 or more, or 0 (all)"),
            ("workers", given.workers >= 1, "use 1 or more"),
            ("template", not given.template or "{problem}" in given.template, "it must contain {problem}")):
        if not holds:
            raise InputError(f"--{name} is {getattr(given, name)!r}: {remedy}.")
    data = replace(config.data, max_prompt_tokens=answers.max_prompt_tokens,
                   system=config.data.system if given.system is None else given.system)
    verifier = replace(verifier, reward=evaluation.reward or verifier.reward, mode=given.mode or verifier.mode,
                       workers=given.workers)
    return Settled(answers, verifier, sets_asked(given, data))


def sets_asked(given: Arguments, data: DataConfig) -> list[Asked]:
    """The sets of the suite, each with the place that it is read from. Raises InputError for
    unknown ones.

    A file of --data.NAME comes before one in --data-folder, and that before the hub.
    """
    named = names_of(given.suite, "--suite")
    if not named:
        raise InputError(f"--suite is {given.suite!r}: name a suite ({', '.join(SUITES)}) or sets ({', '.join(SETS)}); "
                         "questions of your own are NAME=FILE.")
    files, asked = asdict(given.data), []
    for name, own in named:
        here = [given.data_folder / f"{name}{kind}" for kind in (".jsonl", ".parquet")] if given.data_folder else []
        source = own or files.get(name) or next((str(path) for path in here if path.is_file()), None)
        # A set of one's own does not say how many answers it wants: one.
        samples = given.n or int(name not in SETS)
        one = ask(name, source, EvaluationConfig(samples=samples, split=given.split), data)
        changes = {"limit": given.limit}
        if given.template:
            changes["template"] = given.template
        asked.append(one._replace(data=replace(one.data, **changes)))
    return asked


def main(arguments: list[str] | None = None) -> None:
    with one_paragraph_errors("the same command goes on after the last part that was finished"):
        given = parse(arguments)
        from experiments.evaluate.run import evaluate
        print(evaluate(given))
