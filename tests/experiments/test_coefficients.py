"""The stored tables of coefficients are what their command prints."""
import numpy as np

from experiments.studies import coefficients
from nft_jax.objectives.registry import OBJECTIVES


def test_the_committed_table_is_the_command_s(capsys, tmp_path):
    coefficients.main([])
    printed = capsys.readouterr().out
    assert printed == (coefficients.FIGURES / "coefficients.md").read_text()
    assert all(printed.count(f"| `{name}` |") == len(coefficients.ACCURACIES) for name in OBJECTIVES)
    coefficients.draw(tmp_path / "coefficients.png")
    assert (tmp_path / "coefficients.png").stat().st_size > 10_000


def test_a_curve_is_the_formula_s():
    ratios = np.array([0.1, 1.0, 4.0])
    x = np.maximum((1 - 0.25 * ratios) / 0.75, 1.0)
    np.testing.assert_allclose(coefficients.curve("nft", 0.0, 0.25, ratios), -0.25 * ratios / x, rtol=1e-12)
    p = ratios ** 0.1 / (ratios ** 0.1 + 7)
    np.testing.assert_allclose(coefficients.curve("dpo", 1.0, 0.125, ratios), 0.1 * (1 - p), rtol=1e-12)
