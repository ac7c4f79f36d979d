"""Command lines: instant help, mistakes answered in one paragraph, before anything heavy."""
import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nft_jax
from nft_jax.cli import COMMANDS, main, parse, print_summary
from nft_jax.config import Config, flat
from nft_jax.config.foreign import FOREIGN, NAMES, refuse_foreign
from refusal import refused

ROOT = Path(__file__).parents[1]


def command(*arguments, module="experiments.quickstart"):
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=200)


def test_parsing_imports_neither_jax_nor_transformers():
    code = ("import sys; from experiments.quickstart import QUICKSTART, parse; "
            "a = parse(QUICKSTART, '', ['--steps', '3', '--loss.neg-weight', '0.5', '--fresh']); "
            "assert a.config.steps == 3 and a.config.loss.neg_weight == 0.5 and a.fresh and not a.dry_run; "
            "assert not {'jax', 'transformers', 'datasets', 'flax'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_importing_the_package_imports_nothing_heavy_and_devices_are_not_touched():
    code = "import sys, nft_jax; assert 'jax' not in sys.modules; assert 'sample' in dir(nft_jax)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    code = ("import nft_jax; [getattr(nft_jax, name) for name in nft_jax.__all__]; "
            "from jax._src import xla_bridge; assert not xla_bridge._backends")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_help_lists_every_field_with_its_text():
    output = command("--help").stdout
    for flag in ("--rollout.temperature", "--loss.epsilon", "--mesh.fsdp", "--fresh", "--dry-run", "--objective"):
        assert flag in output
    assert "Divides the logits" in output


@pytest.mark.parametrize(("arguments", "told"), [
    (["--rollout.slot", "3"], "--rollout.slots"),
    (["--loss.epsilon", "0"], "loss.epsilon is 0.0"),
    (["--objective", "nfft"], "objective is 'nfft'"),
    (["--objective", "grpo", "--loss.epsilon", "0.5"], "loss.epsilon is 0.5"),
    (["--policy.path", "/nowhere/model"], "/nowhere/model"),
    (["--data.source", "/nowhere/questions.jsonl"], "data.source"),
    (["--mesh.fsdp", "7"], "mesh (data, fsdp, tensor, context)"),
    (["--batch.updates-per-step", "65"], "batch.updates_per_step is 65"),
    (["--batch.row-length", "8"], "batch.row_length is 8"),
    (["--rollout.max-new-tokens", "5000", "--batch.row-length", "0"], "1024 positions"),
])
def test_a_mistake_is_one_paragraph_and_status_2(tmp_path, arguments, told):
    result = command("--workdir", str(tmp_path / "run"), *arguments)
    assert result.returncode == 2, result.stderr
    text = " ".join((result.stdout + result.stderr).replace("│", " ").split())
    assert told in text and "Traceback" not in text
    assert not (tmp_path / "run" / "checkpoints").exists()


# ---- nft-jax -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help_and_names_itself(name, capsys):
    """The name is a command that exists, also in the boxes of mistakes."""
    try:
        status = main([name, "--help"])
    except SystemExit as ended:
        status = ended.code
    assert status == 0 and f"nft-jax {name}" in " ".join(capsys.readouterr().out.split())


def test_the_console_command_says_what_there_is(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"nft_jax {nft_jax.__version__}\n"
    assert main(["trian"]) == 2 and "'trian'" in capsys.readouterr().err
    assert main([]) == 2 and "preflight" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "told"), [
    (["train"], "policy.path is '' and data.source is ''"),
    (["train", "local", "--policy.path", "nano"], "data.source is ''"),
    (["train", "--steps"], "run nft-jax train --help"), (["train", "nowhere.py:RUN"], "experiment names 'nowhere.py'"),
    (["evaluate", "--nothing", "3"], "nft-jax evaluate --help"),
    (["sample", "--nothing", "3"], "nft-jax sample --help"),
    (["verify", "--nothing", "3"], "nft-jax verify --help")])
def test_a_mistake_names_the_command(line, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2 and told in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_presets_are_those_of_the_checkout(capsys, monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["train", "quickstart", "--objective", "nfft"])
    assert ended.value.code == 2 and "objective is 'nfft'" in capsys.readouterr().err
    monkeypatch.setattr("nft_jax.cli.PRESETS_COMMAND", "no_such_checkout.train:main")
    with pytest.raises(SystemExit) as ended:
        main(["train", "quickstart"])
    assert ended.value.code == 2 and "EXPERIMENT is 'quickstart'" in capsys.readouterr().err


def test_the_doctor_prints_what_a_report_needs_and_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    monkeypatch.setenv("NFT_SOMETHING", "shown")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for what in ("nft_jax", "python", "jax", "transformers", "machine", "sandbox", "disk", "hub", "devices",
                 "attention"):
        assert any(line.startswith(f"{what} ") for line in told.splitlines()), what
    assert "NFT_SOMETHING=shown" in told and "secret-token" not in told


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_of_another_library_is_answered_with_ours(name, capsys):
    for flag in (f"--{name}", f"--{name.replace('-', '_')}=3"):
        with pytest.raises(SystemExit) as ended:
            parse(Config(), "", [flag])
        told = capsys.readouterr().err
        assert ended.value.code == 2 and f"{flag.partition('=')[0]} is {NAMES[name]}" in told


def test_our_names_are_flags_that_there_are():
    ours = {f"--{name.replace('_', '-')}" for name in flat(Config().to_dict())} | {"--fresh"}
    for answer in FOREIGN:
        assert set(re.findall(r"--[a-z0-9.-]+", answer)) <= ours
    assert not {f"--{name}" for name in NAMES} & ours
    parse(Config(), "", ["--seed", "3", "--data.columns", "problem=x.y,answer=z", "--rollout.temperature=0.5"])
    with refused("actor_rollout_ref.rollout.n", "--rollout.samples-per-prompt", "data.train_batch_size"):
        refuse_foreign(["actor_rollout_ref.rollout.n=8", "data.train_batch_size=512", "trainer.project_name=x"])


def test_type_checkers_see_the_public_face():
    """Every public name, and no other, is imported for them."""
    tree = ast.parse((ROOT / "nft_jax" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}
    assert set(seen) == set(nft_jax.__all__)
    for name, (module, original) in seen.items():
        found = getattr(importlib.import_module(module), original)
        assert name in ("train", "verify") or found is getattr(nft_jax, name)
    mypy = pytest.importorskip("mypy.api")
    line = ["--follow-imports=silent", "--ignore-missing-imports", "-c"]
    right = "import nft_jax\nnft_jax.train(nft_jax.Config(), fresh=True)\nx: nft_jax.Policy = nft_jax.load('nano')"
    wrong = "import nft_jax\nnft_jax.load('nano', stepp=2)\nnft_jax.nothing"
    assert mypy.run([*line, right])[2] == 0
    told, _, status = mypy.run([*line, wrong])
    assert status == 1 and "stepp" in told and '"nothing"' in told


def test_unknown_presets_and_usage():
    result = command("nonsense", module="experiments.train")
    assert result.returncode == 2 and "no preset 'nonsense'" in result.stderr and "quickstart" in result.stderr
    assert command("--help", module="experiments.train").returncode == 0


def test_dry_run_tells_what_will_happen(tmp_path):
    result = command("--dry-run", "--workdir", str(tmp_path / "run"), "--objective", "rft")
    assert result.returncode == 0, result.stderr
    for text in ('"objective": "rft"', '"neg_weight": 0.0', "parameters", "64 prompts x 16 answers = 1024",
                 "keys and values of 256 slots", "total:", "peak of the process", "MiB",
                 "answers end with: '<|end|>' (1)",
                 "the first prompt, 12 tokens:\n<|user|>(92-75)*8<|end|><|assistant|>\n'<|user|>' 3, '(' 16, '9' 33,"):
        assert text in result.stdout
    # A folder of its own: runs/quickstart may be there already.
    refused = command("--dry-run", "--workdir", str(tmp_path / "run"), "--rollout.stop-token-ids", "5", "104")
    assert refused.returncode == 2 and "rollout.stop_token_ids is (5, 104)" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_the_launcher_of_this_machine_runs_a_preset(tmp_path):
    """The script sets up what is missing and hands everything on; here the environment is there already."""
    import shutil
    root = tmp_path / "clone"
    for name in ("nft_jax", "experiments", "launch"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    launcher = ["bash", str(root / "launch" / "this_machine.sh"), "quickstart", "--dry-run", "--steps", "7"]
    result = subprocess.run(launcher, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert '"steps": 7' in result.stdout


def test_the_summary_tells_accuracies_and_the_files_that_are_there(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").touch()
    summary = {"objective": "nft", "steps": 2, "base_accuracy": None, "final_accuracy": 0.925, "seconds": 90.0,
               "tokens_generated": 12345, "tokens_kept": 678, "finished": False}
    print_summary(Config(name="small", workdir=str(tmp_path)), summary)
    shown = capsys.readouterr().out
    assert all(told in shown for told in ("small: nft, 2 steps", "92.5%", "2 min", "12,345", "678", "stopped early"))
    assert "metrics.jsonl" in shown and "summary.json" not in shown
