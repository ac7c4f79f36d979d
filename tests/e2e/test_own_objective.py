"""The objective of the objectives' README, in a run."""
import re
import runpy
from pathlib import Path

import pytest

from experiments.presets import PRESETS
from nft_jax.config import EvaluationConfig
from nft_jax.record.metrics import read_metrics
from refusal import refused

ROOT = Path(__file__).parents[2]


def test_the_objective_of_the_readme_trains_and_is_kept(tmp_path, monkeypatch, small_run):
    """One small step in place of quickstart's forty. With another threshold the run is refused."""
    page = (ROOT / "nft_jax/objectives/README.md").read_text()
    code, = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "objective=" in block)
    small = small_run("", steps=1, evaluation=EvaluationConfig(questions=4, samples=2, every=0))
    monkeypatch.setitem(PRESETS, "quickstart", small)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.py").write_text(code)
    runpy.run_path(str(tmp_path / "cell.py"))
    row = read_metrics(tmp_path / "runs/forks/metrics.jsonl")[-1]
    assert row["step"] == 1 and row["grad_norm/mean"] > 0 and row["ratio/mean_positive"] == pytest.approx(1, abs=1e-2)
    assert 'extras["entropies"] > 0.5' in (tmp_path / "runs/forks/objective.py").read_text()
    assert ":forks" in (tmp_path / "runs/forks/config.json").read_text()
    (tmp_path / "cell.py").write_text(code.replace("0.5", "0.4"))
    with refused("objective", "forks", "--fresh"):
        runpy.run_path(str(tmp_path / "cell.py"))
