"""What it costs to learn from stored answers: one set of the base's answers, several epochs, against sampling anew.

The answers are made once, by `nft_jax.rollout.generate` with the base's settings, and all arms and seeds read the same
file. An epoch of it is about ten steps of nano, so a run of 80 steps has 8 epochs; its curve has those of 1, 2 and 4.
`online nft` samples anew at every step. Equal tokens count every stored answer once, as sampled before the first step;
the answers of groups that teach nothing are among them, as in a run that samples.
"""
import subprocess
import sys
from pathlib import Path

from experiments.harness.results import ACCURACY, Measures, at
from experiments.harness.study import Claim, Study, run
from nft_jax.config import Config
from nft_jax.runtime.terminal import markdown

FOLDER = Path("runs/offline")
STEPS, EPOCHS = 2, (1, 2, 4, 8)      # of a run, in the base's; those that the table shows
DRIFT = {"ratio, right": "ratio/mean_positive", "ratio, wrong": "ratio/mean_negative", "clamped": "share/clamped",
         "saturated": "share/saturated", "effective sample size": "ratio/effective_sample_size"}


def stored(base: Config) -> str:
    """The file of the base's answers."""
    return str(FOLDER / f"{base.name}.parquet")


def questions(base: Config) -> int:
    """So many that about eight in ten have right and wrong answers, and an epoch is a quarter of the base's steps."""
    return round(1.25 * base.steps / 4 * base.rollout.prompts_per_step)


def make_answers(base: Config) -> None:
    """Writes the file, unless it is there. A killed command goes on where it was."""
    data, rollout = base.data, base.rollout
    flags = {"model": base.policy.path, "prompts": data.source, "split": data.split, "columns": data.columns,
             "template": data.template, "system": data.system, "limit": questions(base),
             "num-samples": rollout.samples_per_prompt, "max-prompt-tokens": data.max_prompt_tokens,
             "max-new-tokens": rollout.max_new_tokens, "temperature": rollout.temperature, "top-k": rollout.top_k,
             "top-p": rollout.top_p, "min-p": rollout.min_p, "dtype": base.policy.compute_dtype, "out": stored(base)}
    # A process of its own: this one asks for no device.
    subprocess.run([sys.executable, "-m", "nft_jax.rollout.generate", *(f"--{name}={value}" for name, value in
                                                                        flags.items())], check=True)


def arm(objective: str, **more: object) -> dict[str, object]:
    return {"objective": objective, "steps": lambda base: STEPS * base.steps,
            "evaluation.every": lambda base: base.steps // 4, **more}


OFFLINE = {"rollout.answers": stored}


def by_epoch(measures: Measures) -> str:
    """Accuracy and drift at the end of some epochs, mean over the seeds, linear between the steps that measured."""
    rows = []
    for name, runs in measures.runs.items():
        runs = [run.fillna({"answers/epoch": 0.0}) for run in runs if run["answers/epoch"].notna().any()]
        for epoch in EPOCHS if runs else ():
            accuracy, *drift = (sum(at(run, metric, epoch, "answers/epoch") for run in runs) / len(runs)
                                for metric in (ACCURACY, *DRIFT.values()))
            rows.append([name, str(epoch), str(len(runs)), f"{100 * accuracy:.1f}", *(f"{each:.3f}" for each in drift)])
    return "## By epoch\n\n" + markdown(["arm", "epoch", "seeds", "accuracy", *DRIFT], rows)


STUDY = Study(
    name="offline",
    title="Stored answers of the base, 8 epochs",
    paper="not in the paper. Its survey question: can NFT do without sampling from the current policy?",
    arms={
        **{f"offline {objective}": arm(objective, **OFFLINE) for objective in ("nft", "rft", "dpo", "naive_contrast")},
        "online nft": arm("nft"),
    },
    claims=(
        Claim("offline nft", "", "tokens", "above", "stored answers teach"),
        Claim("offline nft", "online nft", "tokens", "above", "8 epochs take more from an answer than one update"),
        Claim("offline nft", "online nft", "steps", "below", "the cost: answers of an old policy"),
        Claim("offline nft", "offline rft", "tokens", "above", "wrong answers tell something, as online (ablate_rft)"),
        Claim("offline nft", "offline dpo", "tokens", "above", "as online (main_table)"),
        Claim("offline nft", "offline naive_contrast", "tokens", "above",
              "without the implicit policy nothing bounds the push of a wrong answer"),
        Claim("offline naive_contrast", "", "tokens", "below", "it grows with every epoch"),
    ),
    prepare=make_answers, more=by_epoch,
)

if __name__ == "__main__":
    run(STUDY, __doc__)
