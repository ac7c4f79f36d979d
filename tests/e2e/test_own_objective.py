"""The objective of the objectives' README, in a run."""
import re
import runpy
from pathlib import Path

import pytest

import nft_jax
from experiments.presets import PRESETS
from nft_jax.config import EvaluationConfig
from nft_jax.record.folder import read_run
from nft_jax.record.metrics import read_metrics
from refusal import refused
from runs import use_devices

ROOT = Path(__file__).parents[2]


def test_the_objective_of_the_readme_trains_and_is_kept(tmp_path, monkeypatch, small_run):
    """One small step in place of quickstart's forty, with its metric and its setting in the run's files. What the run
    kept of it is the same objective. With another source the run is refused."""
    page = (ROOT / "nft_jax/objectives/README.md").read_text()
    code, = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "objective=" in block)
    small = small_run("", steps=1, evaluation=EvaluationConfig(questions=4, samples=2, every=0))
    monkeypatch.setitem(PRESETS, "quickstart", small)
    use_devices(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.py").write_text(code)
    runpy.run_path(str(tmp_path / "cell.py"), run_name="__main__")
    row = read_metrics(tmp_path / "runs/forks/metrics.jsonl")[-1]
    assert row["step"] == 1 and row["grad_norm/mean"] > 0 and row["ratio/mean_positive"] == pytest.approx(1, abs=1e-2)
    assert 'extras["entropies"] > threshold' in (tmp_path / "runs/forks/objective.py").read_text()
    assert 0 < row["objective/undecided"] < 1
    config = read_run(tmp_path / "runs/forks").config
    assert config.objective.endswith(":forks") and config.loss.own == {"threshold": 0.5}
    replayed, kept = (nft_jax.replay(tmp_path / "runs/forks", objective, config=config.loss) for objective in (
        None, f"{tmp_path}/runs/forks/objective.py:forks"))
    assert replayed.metrics == kept.metrics
    # Without a policy, a replay has the sampler's entropies.
    assert replayed.metrics["objective/undecided"] == pytest.approx(row["objective/undecided"], abs=0.02)
    (tmp_path / "cell.py").write_text(code.replace("> threshold", ">= threshold"))
    with refused("objective", "forks", "--fresh"):
        runpy.run_path(str(tmp_path / "cell.py"), run_name="__main__")
