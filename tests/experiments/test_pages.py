"""The pages of the experiments: short, and their links lead somewhere."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "experiments"
PAGES = sorted(ROOT.rglob("*.md"))
LIMITS = {ROOT / "README.md": 6_000}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_short_and_its_links_lead_somewhere(page):
    text = page.read_text()
    assert len(text.encode()) <= LIMITS.get(page, 8_000)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_names_every_study():
    index = (ROOT / "README.md").read_text()
    for page in (ROOT / "studies").glob("*.md"):
        assert f"(studies/{page.name})" in index
