"""The page on stored answers: its example of vLLM's JSON is read, its commands are commands, its columns are ours."""
import re
import shlex
from pathlib import Path

import numpy as np

from experiments.harness.scales import NANO
from experiments.quickstart import QUICKSTART
from experiments.studies import offline
from experiments.sweep import arms_of, grid_of
from nft_jax.cli import parse
from nft_jax.model import hf
from nft_jax.rollout import generate
from nft_jax.rollout.stored import read_stored
from nft_jax.rollout.stored_rows import NAMES

PAGE = (Path(__file__).parents[2] / "experiments" / "stored_answers.md").read_text()


def commands():
    return [shlex.split(line) for line in PAGE.splitlines() if line.startswith("python -m")]


def test_the_servers_answers_are_read_without_a_server(tmp_path):
    for name in ("requests.jsonl", "answers.jsonl"):
        block, = re.findall(rf"<!-- {name} -->\n```json\n(.*?)```", PAGE, re.DOTALL)
        (tmp_path / name).write_text(block)
    *_, command = commands()
    flags = [str(tmp_path) if word == "FOLDER" else word for word in command[3:]]
    folder = hf.resolve_folder("nano")
    tokenizer = hf.load_tokenizer(folder, "")
    stored = read_stored(parse(QUICKSTART, "", flags).config, tokenizer, hf.eos_token_ids(folder, tokenizer),
                         hf.read_config(folder).vocab_size)
    (right, wrong), = stored.groups
    assert right.rollout.prompt.problem == "17+25" and {right.rollout.prompt.gold, wrong.rollout.prompt.gold} == {"42"}
    assert tokenizer.decode(right.rollout.tokens) == "\\boxed{42}<|end|>" and right.verdict is wrong.verdict is None
    np.testing.assert_array_equal(wrong.old, np.float32([-1.16, -2.83, -2.28, 0, 0]))
    assert stored.report.skipped == [] and stored.report.tokenised == 0


def test_the_commands_are_commands():
    made, swept, _ = commands()
    given = generate.parse(made[3:])
    assert (given.num_samples, given.max_new_tokens) == (NANO.rollout.samples_per_prompt, NANO.rollout.max_new_tokens)
    flags = swept[swept.index("--rollout.answers"):swept.index("--workdir")]
    arms = arms_of(NANO, grid_of([swept[swept.index("--grid") + 1]]), flags)
    assert [*arms] == ["nft", "rft", "dpo", "naive_contrast"]
    assert {config.rollout.answers for _, config in arms.values()} == {str(given.out)}


def test_the_columns_of_the_page_are_those_that_are_read():
    table = PAGE.partition("## What a row has")[2].partition("\n- ")[0]
    named = set(re.findall(r"`([a-z_]+)`", table))
    kinds = ("prompt", "prompt_tokens", "response", "response_tokens", "reward", "gold", "group", "mask", "logprobs")
    assert {name for kind in kinds for name in NAMES[kind]} <= named


def test_the_study_makes_its_answers_by_a_command(monkeypatch):
    """With the settings of its scale, so that pi_old is the policy that answered."""
    asked = []
    monkeypatch.setattr(offline.subprocess, "run", lambda command, check: asked.append(command))
    offline.make_answers(NANO)
    given = generate.parse(asked[0][3:])
    assert str(given.out) == offline.stored(NANO) and given.prompts == NANO.data.source and given.limit == 400
    assert (given.temperature, given.num_samples, given.dtype) == (1.0, NANO.rollout.samples_per_prompt, "float32")


def test_the_study_shows_accuracy_and_drift_by_epoch():
    import pandas as pd

    from experiments.harness.results import ACCURACY, KEYS, Measures
    rows = [{"run": f"a{seed}", "arm": "a", "seed": seed, "objective": "nft", "step": step, "tokens": 9 * (step > 0),
             ACCURACY: 0.1 * step + seed / 10, "answers/epoch": step / 2 if step else None,
             "share/clamped": 0.25 if step else None} for seed in (0, 1) for step in (0, 2, 4)]
    rows += [{**rows[0], "run": "b", "arm": "b", "answers/epoch": None}]
    frame = pd.DataFrame(rows)
    assert set(KEYS) <= set(frame)
    lines = offline.by_epoch(Measures.of(frame)).splitlines()
    assert lines[4].startswith("| a | 1 | 2 | 25.0 | ") and lines[5].startswith("| a | 2 | 2 | 45.0 | ")
    assert " 0.250 " in lines[4] and not any(line.startswith("| b ") for line in lines)
