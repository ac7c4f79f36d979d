"""The pages: their size, their links, and the loss that README.md quotes."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.rglob("*.md")
               if not {".venv", "runs", "build", "node_modules"} & set(path.relative_to(ROOT).parts))
MOST = {"README.md": 12_000, "experiments/README.md": 6_000}      # bytes; any other README.md: 8,000


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for text, target in re.findall(r"\[([^]]*)\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"[{text}]({target})"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"[{text}]({target})"


@pytest.mark.parametrize("page", [path for path in PAGES if path.name == "README.md"],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_stays_short(page):
    assert page.stat().st_size <= MOST.get(str(page.relative_to(ROOT)), 8_000)


def test_what_you_should_see_is_the_second_link():
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)", (ROOT / "README.md").read_text())
    assert links[1] == "experiments/what_you_should_see.md"


def test_the_quoted_loss_is_the_loss():
    """README.md shows the functions of nft.py without their docstrings."""
    quoted = re.search(r"## The loss.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    source = (ROOT / "nft_jax" / "objectives" / "nft.py").read_text()
    bare = re.sub(r'\n    """.*?"""', "", source, flags=re.DOTALL)
    functions = quoted.strip().split("\n\n\n")
    assert [re.match(r"def (\w+)", each).group(1) for each in functions] == ["nft", "implicit_likelihood"]
    for function in functions:
        assert function in bare, function.partition("(")[0]
