"""The file itself: one whole HTML document that loads nothing, whatever the model wrote."""
import json
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from made import make_run
from nft_jax.record import pictures
from nft_jax.report.__main__ import main
from nft_jax.report.page import build, to_json

HOSTILE = ["</script><script>hacked = 1</script>", "<!-- <script>", "<img src=x onerror=hacked=1>", "a\u2028b\u2029c",
           "\u202eabc\u200f", "\ud800 alone", "]]> & &lt; \" ' \\ \x00 \x7f", "{{data}} {{title}}", "😀"]
VOID = {"meta", "input", "link", "br", "img"}


class Outline(HTMLParser):
    """Elements in order, with attributes; a mismatch of open and closed ones is an error."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self._open = [], {}, []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(text)

    def close(self):
        super().close()
        assert self._open == []


def outline(page):
    found = Outline()
    found.feed(page)
    found.close()
    return found


def test_json_cannot_leave_its_element():
    text = to_json({"texts": HOSTILE, "numbers": [1.5, float("nan"), float("inf"), None, True], "pair": (1, 2)})
    assert text.isascii() and "<" not in text and text.isprintable()
    assert json.loads(text) == {"texts": HOSTILE, "numbers": [1.5, None, None, None, True], "pair": [1, 2]}


def test_the_page_is_whole_and_loads_nothing(tmp_path, capsys):
    runs = [make_run(tmp_path / name, steps=2, **fields) for name, fields in
            {"a": {}, "b": {"seed": 1}, "c": {"objective": "grpo"}}.items()]
    main([*map(str, runs), "-o", str(tmp_path / "page.html"), "--rollouts", "50"])
    assert "page.html: 3 runs, 52 of 72 answers" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    found = outline(page)
    tags = [tag for tag, _ in found.elements]
    assert not {"link", "img", "iframe", "object", "embed", "base", "style src"} & set(tags)
    for tag, attributes in found.elements:
        assert not {"src", "action", "data", "srcset"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")], tag
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and all(a["href"][1:] in ids for t, a in found.elements if t == "a")
    assert "url(" not in "".join(found.texts["style"]) and "@import" not in "".join(found.texts["style"])
    policy = next(a["content"] for t, a in found.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    data = json.loads(found.texts["script"][0])
    assert found.texts["h1"] == ["nft · grpo"]
    style = found.texts["style"][0]
    assert f"--c0: {pictures.HUES[0][0]};" in style and f"--c1: {pictures.HUES[2][1]};" in style
    assert len(data["rollouts"]["rows"]) == 52 and len(data["groups"]) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_data(text):
    page = build({"text": text}, title=text)
    found = outline(page.encode("utf-8", "xmlcharrefreplace").decode())
    assert found.texts["script"][0] == to_json({"text": text})
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in outline(build({}, "plain")).elements]


@pytest.mark.parametrize(("arguments", "told"), [
    (["--rollouts", "-1"], "--rollouts is -1"), (["-o", "nowhere/page.html"], "--out is 'nowhere/page.html'")])
def test_mistakes_are_one_paragraph(tmp_path, arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_an_installed_package_has_the_template():
    patterns = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"]["nft_jax"]
    files = [file.name for file in resources.files("nft_jax.report").iterdir()
             if Path(file.name).suffix not in (".py", ".md", "") and file.is_file()]
    assert set(files) == {"page.html", "style.css", "charts.js", "page.js", "answers.js"}
    assert all(any(fnmatch(f"report/{name}", pattern) for pattern in patterns) for name in files)
