"""The glossary of metrics: its page is its text; runs of other tests hold it complete."""
import re
from pathlib import Path

import pytest

from nft_jax.record.glossary import MEANINGS, SECTIONS, expanded, meaning, page

PAGE = Path(__file__).parents[2] / "nft_jax" / "record" / "metrics.md"


def test_the_page_is_what_the_code_says():
    """`python -m nft_jax.record.glossary > nft_jax/record/metrics.md` makes it again."""
    assert PAGE.read_text() == page()


def test_no_metric_is_explained_twice_and_every_line_is_one():
    names = [name for terms in SECTIONS.values() for term in terms for name in expanded(term.names)]
    assert len(names) == len(set(names)) == len(MEANINGS)
    assert all(term.meaning and "\n" not in term.meaning for term in MEANINGS.values())


@pytest.mark.parametrize(("key", "names"), [
    ("length/right", "length/{right,wrong}"), ("evaluation/pass@4", "evaluation/pass@K"),
    ("evaluation/aime24/pass@16", "evaluation/pass@K"), ("evaluation/mine/accuracy/all", "evaluation/accuracy/all"),
    ("evaluation/mine/truncated_share", "evaluation/truncated_share"),
    ("evaluation/mine/standard_error", "evaluation/standard_error"), ("objective/any/name", "objective/NAME")])
def test_a_metric_is_found_by_its_name(key, names):
    assert meaning(key).names == names


@pytest.mark.parametrize("key", ["accuracy", "evaluation/mine/grad_norm/mean", "lenght/all"])
def test_an_unknown_metric_has_none(key):
    assert meaning(key) is None


def test_the_metrics_that_the_pages_name_are_there():
    """Of the page that shows healthy curves: every name with a slash that stands between backticks."""
    text = (PAGE.parents[2] / "experiments" / "what_you_should_see.md").read_text()
    named = set(re.findall(r"`([a-z_]+/[a-z0-9_/]+)`", text))
    assert len(named) > 20 and [name for name in sorted(named) if meaning(name) is None] == []
