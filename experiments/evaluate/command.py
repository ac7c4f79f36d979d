"""What a model scores on a suite of benchmarks, beside the paper's figures:

    python -m experiments.evaluate --model FOLDER --sampling paper_7b
    python -m experiments.evaluate --model runs/quickstart --step 20 --suite aime24,math500 --n 32

The suite `math` is AIME24, AIME25, AMC23, MATH-500, OlympiadBench, Minerva and GSM8K (`nft_jax/data/benchmarks.py`: hub
names, columns, prompts, and how many answers the paper averages over). A set is read from the hub, from --data.NAME
FILE, or from NAME.jsonl or NAME.parquet in --data-folder; `NAME=FILE` in --suite adds questions of your own. Sampler
and verifier are those of training; of a run, so are its settings, and its own evaluation of the set comes out again.

OUT holds NAME.parquet of every set (all answers with their verdicts: the columns of a run's rollouts/), table.md and
summary.json. The same command goes on after a stop, and ends with the same bytes. avg@n is the mean reward, pass@k the
unbiased estimate from the n answers, maj@n the share of questions whose most frequent answer is right (a tie of t
answers counts 1/t); ± is the standard error by bootstrap over the questions.
"""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nft_jax.config import Config, DataConfig, EvaluationConfig, RolloutConfig, VerifierConfig
from nft_jax.data.benchmarks import BOXED, SETS, SUITES, Asked, ask, names_of
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import InputError
from nft_jax.verify.maths.extract import MODES


class Official(NamedTuple):
    """How the paper or its code samples."""
    temperature: float
    top_p: float
    max_prompt_tokens: int
    max_new_tokens: int


# Temperatures: arXiv 2505.18116, section 5; https://github.com/NVlabs/NFT, eval_local_*.sh, which have them the other
# way round. The paper gives no lengths for evaluation: they are those of training.
SAMPLING = {
    "paper_7b": Official(1.0, 0.7, 512, 3584),
    "paper_32b": Official(0.6, 0.7, 2048, 14_336),
    "scripts_7b": Official(0.6, 0.7, 512, 3584),
    "scripts_32b": Official(1.0, 0.7, 1024, 7168),
}
# What a flag is when it is not given: of a run as in its configuration, else as in the preset of --sampling, else this.
DEFAULTS: dict[str, Any] = SAMPLING["paper_7b"]._asdict() | {
    "min_p": 0.0, "template": "", "own_template": BOXED, "seed": 0, "system": "", "thinking": None,
    "mode": VerifierConfig().mode, "reward": VerifierConfig().reward, "dtype": "float32", "kv_dtype": "compute",
    "weight_dtype": "compute", "stop": (), "stop_token_ids": ()}


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser("python -m experiments.evaluate", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--model", required=True, metavar="FOLDER_OR_RUN",
                     help="folder in Hugging Face layout, hub model, or folder of a run")
    out.add_argument("--step", default="latest", help="of a run: the checkpoint, latest, best or its step")
    out.add_argument("--suite", default="math", help=f"{', '.join(SUITES)}, or sets with commas ({', '.join(SETS)})")
    out.add_argument("--data-folder", type=Path, help="where NAME.jsonl or NAME.parquet of sets are")
    for name in SETS:
        out.add_argument(f"--data.{name}", metavar="FILE", help=argparse.SUPPRESS)
    out.add_argument("--split", default="test", help="of a source of your own that has several (default test)")
    out.add_argument("--out", type=Path, metavar="FOLDER",
                     help="default: evaluations/step_N of the run, runs/evaluations/NAME of a model")
    out.add_argument("--n", type=int, default=0, help="answers to every question; 0 = as the paper for each set")
    out.add_argument("--limit", type=int, default=0, help="only the first so many questions of each set; 0 = all")
    out.add_argument("--sampling", choices=sorted(SAMPLING), help="temperature, top-p and lengths of the paper (7B: "
                     "1.0, 32B: 0.6) or of its scripts (7B: 0.6, 32B: 1.0)")
    out.add_argument("--temperature", type=float, help="0 is greedy")
    out.add_argument("--top-p", type=float, help="1 is off")
    out.add_argument("--min-p", type=float, help="0 is off")
    out.add_argument("--max-prompt-tokens", type=int, help="longer prompts are skipped and counted")
    out.add_argument("--max-new-tokens", type=int, help="a longer answer is cut")
    out.add_argument("--template", help="user message for all sets; {problem} is replaced by the question")
    out.add_argument("--system", help="system message")
    out.add_argument("--seed", type=int, help="default: the run's, or 0")
    out.add_argument("--mode", choices=MODES, help="how answers are compared (default equivalent)")
    out.add_argument("--workers", type=int, default=VerifierConfig().workers, help="processes of the verifier")
    out.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation")
    out.add_argument("--kv-dtype", choices=("compute", "int8"), help="of keys and values")
    out.add_argument("--weight-dtype", choices=("compute", "int8"), help="of the layers' matrices")
    out.add_argument("--tensor", type=int, default=1, help="devices that share one copy of the model")
    out.add_argument("--slots", type=int, default=0, help="answers decoded at the same time; 0 = what memory allows")
    out.add_argument("--block-size", type=int, default=RolloutConfig().block_size)
    out.add_argument("--part-prompts", type=int, default=0, help="questions of a part; 0 = chosen from the slots")
    return out


def of_run(config: Config) -> dict[str, Any]:
    """What an evaluation of the run itself samples and judges with."""
    rollout, evaluation, verifier = config.rollout, config.evaluation, config.verifier
    return {"temperature": evaluation.temperature, "top_p": evaluation.top_p, "min_p": evaluation.min_p,
            "max_prompt_tokens": config.data.max_prompt_tokens, "max_new_tokens": rollout.max_new_tokens,
            "own_template": config.data.template, "seed": config.seed, "system": config.data.system,
            "thinking": config.data.thinking, "mode": verifier.mode,
            "reward": evaluation.reward or verifier.reward,
            "dtype": config.policy.compute_dtype, "kv_dtype": rollout.kv_dtype, "weight_dtype": rollout.weight_dtype,
            "stop": rollout.stop, "stop_token_ids": rollout.stop_token_ids}


def settle(given: argparse.Namespace, run: Config | None) -> argparse.Namespace:
    """`given` with every default decided. Raises InputError for a value out of range."""
    official = SAMPLING[given.sampling]._asdict() if given.sampling else {}
    values = DEFAULTS | (of_run(run) if run is not None else {}) | official
    values |= {name: values.get(name) if value is None else value for name, value in vars(given).items()}
    for name, holds, remedy in (
            ("n", given.n >= 0, "use 1 or more, or 0 (as the paper for each set)"),
            ("limit", given.limit >= 0, "use 1 or more, or 0 (all)"),
            ("slots", given.slots >= 0, "use 0 (automatic) or more"),
            ("part_prompts", given.part_prompts >= 0, "use 0 (automatic) or more"),
            ("block_size", given.block_size >= 1, "use 1 or more"),
            ("workers", given.workers >= 1, "use 1 or more"),
            ("max_prompt_tokens", values["max_prompt_tokens"] >= 1, "use 1 or more"),
            ("max_new_tokens", values["max_new_tokens"] >= 1, "use 1 or more"),
            ("temperature", values["temperature"] >= 0, "use 0 (greedy) or more"),
            ("top_p", 0 < values["top_p"] <= 1, "use a number in (0, 1]; 1 is off"),
            ("min_p", 0 <= values["min_p"] < 1, "use a number in [0, 1); 0 is off"),
            ("template", "{problem}" in (values["template"] or "{problem}"), "it must contain {problem}")):
        if not holds:
            raise InputError(f"--{name.replace('_', '-')} is {values[name]!r}: {remedy}.")
    return argparse.Namespace(**values)


def sets_asked(given: argparse.Namespace) -> list[Asked]:
    """The sets of the suite with where each is read from. Raises InputError for unknown ones."""
    named = names_of(given.suite, "--suite")
    if not named:
        raise InputError(f"--suite is {given.suite!r}: name a suite ({', '.join(SUITES)}) or sets ({', '.join(SETS)}); "
                         "questions of your own are NAME=FILE.")
    data = DataConfig(template=given.own_template, system=given.system, thinking=given.thinking,
                      max_prompt_tokens=given.max_prompt_tokens)
    asked = []
    for name, own in named:
        files = [given.data_folder / f"{name}{kind}" for kind in (".jsonl", ".parquet")] if given.data_folder else []
        here = next((str(path) for path in files if path.is_file()), None)
        one = ask(name, own or getattr(given, f"data.{name}", None) or here,
                  EvaluationConfig(samples=given.n or int(name not in SETS), split=given.split), data)
        one = one._replace(data=replace(one.data, limit=given.limit))
        asked.append(one._replace(data=replace(one.data, template=given.template)) if given.template else one)
    return asked


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    with one_paragraph_errors("the same command goes on after the last part that was finished"):
        from experiments.evaluate.run import evaluate
        print(evaluate(given))
