"""Command lines: instant help, mistakes answered in one paragraph, before anything heavy."""
import subprocess
import sys
from pathlib import Path

import pytest

from nft_jax.cli import print_summary
from nft_jax.config import Config

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


def test_unknown_presets_and_usage():
    result = command("nonsense", module="experiments.train")
    assert result.returncode == 2 and "no preset 'nonsense'" in result.stderr and "quickstart" in result.stderr
    assert command("--help", module="experiments.train").returncode == 0


def test_dry_run_tells_what_will_happen(tmp_path):
    result = command("--dry-run", "--workdir", str(tmp_path / "run"), "--objective", "rft")
    assert result.returncode == 0, result.stderr
    for text in ('"objective": "rft"', '"neg_weight": 0.0', "parameters", "64 prompts x 16 answers = 1024",
                 "keys and values of 256 slots", "MiB", "answers end with: '<|end|>' (1)",
                 "the first prompt, 12 tokens:\n<|user|>(92-75)*8<|end|><|assistant|>\n'<|user|>' 3, '(' 16, '9' 33,"):
        assert text in result.stdout
    refused = command("--dry-run", "--rollout.stop-token-ids", "5", "104")
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
    assert all(told in shown for told in ("small: nft, 2 steps", "92.5%", "1.5 min", "12,345", "678", "stopped early"))
    assert "metrics.jsonl" in shown and "summary.json" not in shown
