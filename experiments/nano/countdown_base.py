"""Make the base of `exploration`: the embedded model after supervised training on worked solutions of countdown.

    python -m experiments.nano.countdown_base            writes runs/countdown_base and its log; a killed one goes on

1. The embedded model reads right answers to the questions of the split "base", which no run trains or evaluates on.
   Of each, the number of operands is drawn, then a solution, then a style (`experiments.nano.countdown.attempts`).
2. So the model cannot know which of several good ways to go. It is wrong because it is small, not because it was shown
   mistakes: its uncertainty is that of maximum likelihood.
3. Training goes in rounds, until a tenth of the answers to questions that it has not seen are right. Each round is
   saved with its rows of the log.
4. The log has the losses, and after every round what the regime is chosen by: pass@k, solutions per question,
   entropies, and how often each style comes and is right.

`COUNTDOWN` is the configuration of the runs that start from it.
"""
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.nano import countdown, write_questions
from nft_jax import config as c
from nft_jax.runtime.files import replaced
from nft_jax.runtime.terminal import one_paragraph_errors
from nft_jax.types import Halted

BASE, DATA = Path("runs/countdown_base"), Path("runs/countdown_data")
LOG = "train_log.jsonl"
UPDATES, RATE = 200, 2e-3                         # of a round
ENOUGH, MOST_ROUNDS = 0.1, 20                     # accuracy that ends the training
EXAMPLES, ROWS, ROW_LENGTH = 72, 32, 128          # of one update
TRAIN_QUESTIONS, HELD_OUT = 800, 128
SAMPLES = 64                                      # answers to a held-out question, for pass@64
COUNTDOWN = c.Config(
    name="countdown",
    steps=40,
    policy=c.PolicyConfig(path=str(BASE)),
    data=c.DataConfig(source=str(DATA / "train.jsonl"), max_prompt_tokens=24),
    rollout=c.RolloutConfig(prompts_per_step=32, samples_per_prompt=8, max_new_tokens=64, slots=256, block_size=8,
                            max_generation_batches=6),
    verifier=c.VerifierConfig(reward="experiments.nano.countdown:countdown"),
    batch=c.BatchConfig(updates_per_step=8, row_length=128, rows_per_micro_batch=4),
    optimizer=c.OptimizerConfig(learning_rate=1e-4, warmup_updates=20, weight_decay=0.0),
    evaluation=c.EvaluationConfig(source=str(DATA / "heldout.jsonl"), questions=HELD_OUT, samples=SAMPLES, every=10),
    checkpoint=c.CheckpointConfig(every=20, keep=1),
)


def prepare(config: c.Config = COUNTDOWN) -> None:
    """Writes the questions, and makes the base where it is missing."""
    for split, count in (("train", TRAIN_QUESTIONS), ("heldout", HELD_OUT)):
        write_questions(DATA / f"{split}.jsonl", countdown.questions(split, count))
    if Path(config.policy.path) == BASE and not finished(read_log(BASE)):
        # A process of its own: this one asks for no device.
        subprocess.run([sys.executable, "-m", __name__], check=True)


def read_log(folder: Path) -> list[dict]:
    """The rows of a base's log; none where there is no log yet."""
    path = folder / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finished(rows: list[dict]) -> bool:
    """Whether the base with this log is whole: the last row is of the held-out questions."""
    return bool(rows) and "sha256" in rows[-1]


def make(folder: Path = BASE, updates: int = UPDATES, questions: int = HELD_OUT, samples: int = SAMPLES) -> None:
    """Trains the base and writes it to `folder`, with its log, unless it is there; goes on after the last round that
    was saved. Raises Halted where MOST_ROUNDS were not enough."""
    rows = read_log(folder)
    if finished(rows):
        return
    import nft_jax
    from experiments.nano.warm_up import warm_up

    def log(row: dict) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    def save() -> None:
        with replaced(folder / LOG) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = sum("round" in row for row in rows)
    policy = nft_jax.load(folder if done else "nano")
    while not done or rows[-1]["pass"]["1"] < ENOUGH:
        if done == MOST_ROUNDS:
            raise Halted(f"The base is right in {rows[-1]['pass']['1']:.1%} of its answers after {done} rounds, not in "
                         f"{ENOUGH:.0%}: raise MOST_ROUNDS in experiments.nano.countdown_base.")
        done += 1
        stream = countdown.attempts(done)
        policy = warm_up(policy, lambda index, stream=stream: stream, updates, rate=RATE, examples=EXAMPLES,
                         rows=ROWS, row_length=ROW_LENGTH, log=log)
        # Of the questions to train on, a quarter of the answers: the held-out ones choose nothing.
        log({"round": done} | measure(policy, "train", questions, max(1, samples // 4)))
        # The log after the model: a kill between them repeats the round on top of itself.
        nft_jax.save(policy, folder)
        save()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    log(measure(policy, "heldout", questions, samples) | {"sha256": digest})
    save()


def style_of(response: str) -> str:
    """The style that an answer begins in (`experiments.nano.countdown.STYLES`), right or wrong."""
    first, equals, _ = response.partition("=")
    if not equals:
        return "direct"
    if first.isdigit():
        return "backward"
    # A comma follows a trial that is wrong.
    end = re.search("[,;]", response)
    return "trials" if end and end[0] == "," else "forward"


def measure(policy, split: str, questions: int, samples: int, temperature: float = 1.0) -> dict:
    """What the regime is chosen by, on questions of a split: pass@k, solutions per question, entropies in nats per
    token, lengths in tokens, questions by their share of right answers, and of each style its share and accuracy."""
    import numpy as np

    import nft_jax
    from nft_jax.rollout.estimators import pass_at_k
    problems = [row["problem"] for row in countdown.questions(split, questions)]
    answers = nft_jax.sample(policy, problems, num_samples=samples, max_new_tokens=COUNTDOWN.rollout.max_new_tokens,
                             temperature=temperature, slots=256)
    right = np.array([countdown.reaches(each.prompt.problem, each.text, "") for each in answers], bool)
    counts = right.reshape(questions, samples).sum(1)
    styles = np.array([style_of(each.text) for each in answers])

    def mean(of: Callable, chosen: np.ndarray) -> float | None:
        values = [of(answers[i]) for i in np.flatnonzero(chosen)]
        return round(float(np.concatenate(values).mean()), 4) if values else None

    found = {(each.prompt.problem, countdown.solution(each.prompt.problem, each.text))
             for each, is_right in zip(answers, right, strict=True) if is_right}
    powers = [1 << i for i in range(samples.bit_length()) if 1 << i <= samples]
    return {
        "split": split, "temperature": temperature,
        "pass": {str(k): round(float(pass_at_k(counts, np.full(questions, samples), k).mean()), 4) for k in powers},
        "solutions": round(len(found) / questions, 2),
        "entropy": {name: mean(lambda each: each.entropies, chosen) for name, chosen in (
            ("right", right), ("wrong", ~right))},
        "length": mean(lambda each: [len(each.tokens)], np.ones_like(right)),
        "truncated": float(np.mean([each.finish_reason == "length" for each in answers])),
        "questions by tenths of right answers": np.histogram(counts / samples, np.arange(11) / 10)[0].tolist(),
        "styles": {style: [round(float((styles == style).mean()), 3),
                           round(float(right[styles == style].mean()), 3) if (styles == style).any() else None]
                   for style in countdown.STYLES},
        "examples": [f"{each.prompt.problem} -> {each.text}" for each in answers[:8 * samples:samples]],
    }


if __name__ == "__main__":
    with one_paragraph_errors("the same command goes on"):
        make()
