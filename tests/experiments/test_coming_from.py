"""The page for those who come from other libraries: our names on it are flags, and theirs are answered."""
import re
from pathlib import Path

from nft_jax.config import Config, flat
from nft_jax.config.foreign import NAMES

PAGE = (Path(__file__).parents[2] / "experiments" / "coming_from.md").read_text()
OURS = {f"--{name.replace('_', '-')}" for name in flat(Config().to_dict())}


def test_our_names_are_flags_that_there_are():
    named = set(re.findall(r"--[a-z]+[a-z0-9.-]*", PAGE)) - {"--help", "--lr"}
    assert len(named) > 30 and named <= OURS


def test_plain_names_of_the_others_are_answered():
    """Of the table: TRL's flags, and the last part of verl's keys, where they stand for one of ours."""
    rows = [line.split("|") for line in PAGE.split("## Names")[1].splitlines() if line.startswith("| `--")]
    flags = {name.rpartition(".")[2].replace("_", "-") for row in rows for cell in row[2:4]
             for name in re.findall(r"`([a-z_.0-9]+)`", cell)}
    unanswered = flags - set(NAMES) - {
        # No flags of a command line: objects, arguments of Python, columns.
        "train-dataset", "prompt", "prompt-key", "peft-config", "policy-loss.loss-mode", "loss-mode", "path",
        "steps-per-generation", "tensor-model-parallel-size", "default-local-dir", "kl-loss-type", "loss-agg-mode"}
    assert not unanswered
