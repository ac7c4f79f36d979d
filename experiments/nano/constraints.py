"""Text under constraints, scored by rules: questions and reward. Imports no jax.

A question names a length in characters, characters to use, a character to end with, and in one
question of four a word to contain. Each rule gives a score in [0, 1]. The reward is their weighted
sum; there is no gold answer. `CONSTRAINTS` is the configuration of the runs.
"""
import random
import re
from dataclasses import replace
from pathlib import Path

from experiments.nano import write_questions
from experiments.quickstart import QUICKSTART
from nft_jax.config import Config, DataConfig, VerifierConfig
from nft_jax.verify.rewards import lookup, register, weighted_sum

WORD = "sum"
CHARACTERS = "0123456789+-*=;"
ENDS = ";}"
_QUESTION = re.compile(r"length (\d+), use (\S+), end (\S)(?:, word (\w+))?")


def questions(count: int, seed: int) -> list[dict]:
    """Rows with a problem and nothing else, no problem twice."""
    rng, found = random.Random(f"constraints/{seed}"), {}
    while len(found) < count:
        use = "".join(rng.sample(CHARACTERS, rng.randint(1, 3)))
        word = f", word {WORD}" if rng.random() < 0.25 else ""
        found[f"length {rng.randint(6, 20)}, use {use}, end {rng.choice(ENDS)}{word}"] = None
    return [{"problem": problem, "answer": ""} for problem in found]


def read(prompt: str) -> tuple[int, str, str, str | None]:
    """Length, characters, end and word of a question."""
    length, use, end, word = _QUESTION.fullmatch(prompt).groups()
    return int(length), use, end, word


@register("right-length")
def right_length(prompt: str, response: str, gold: str) -> float:
    """The length over the length asked for, or the inverse: the smaller over the larger."""
    lengths = len(response), read(prompt)[0]
    return min(lengths) / max(lengths)


@register("uses-characters")
def uses_characters(prompt: str, response: str, gold: str) -> float:
    """The share of the characters asked for that the response contains."""
    use = read(prompt)[1]
    return sum(character in response for character in use) / len(use)


@register("right-end")
def right_end(prompt: str, response: str, gold: str) -> float:
    """Whether the response ends with the character asked for."""
    return float(response.endswith(read(prompt)[2]))


@register("has-word")
def has_word(prompt: str, response: str, gold: str) -> float:
    """Whether the response contains the word; 1 where none is asked for."""
    word = read(prompt)[3]
    return float(word is None or word in response)


RULES = {"right-length": 0.3, "uses-characters": 0.3, "right-end": 0.2, "has-word": 0.2}
register("constraints", weighted_sum(RULES))

DATA = Path("runs/constraints_data")
CONSTRAINTS = replace(
    QUICKSTART,
    name="constraints",
    steps=60,
    data=DataConfig(source=str(DATA / "train.jsonl"), max_prompt_tokens=48),
    rollout=replace(QUICKSTART.rollout, prompts_per_step=32, max_new_tokens=40),
    verifier=VerifierConfig(reward="constraints"),
    batch=replace(QUICKSTART.batch, rows_per_micro_batch=32),
    optimizer=replace(QUICKSTART.optimizer, learning_rate=1e-3),
    evaluation=replace(QUICKSTART.evaluation, source=str(DATA / "heldout.jsonl")),
)


def prepare(config: Config = CONSTRAINTS) -> None:
    """Writes the questions: 512 held out, and others to train on."""
    held_out = questions(512, seed=1)
    known = {row["problem"] for row in held_out}
    write_questions(DATA / "heldout.jsonl", held_out)
    write_questions(DATA / "train.jsonl", [row for row in questions(4000, seed=0) if row["problem"] not in known])


def scores_of(problem: str, response: str) -> dict[str, float]:
    """The score of each rule that the question has, and whether every rule is met ("all rules")."""
    scores = {name: lookup(name)(problem, response, "") for name in RULES}
    met = {"all rules": float(min(scores.values()) == 1)}
    if read(problem)[3] is None:
        del scores["has-word"]
    return scores | met
