"""The pages of the experiments."""
from pathlib import Path

ROOT = Path(__file__).parents[2] / "experiments"


def test_the_index_names_every_study():
    index = (ROOT / "README.md").read_text()
    for page in (ROOT / "studies").glob("*.md"):
        assert f"(studies/{page.name})" in index
