"""The page: one HTML file with its style, script and data inside. It loads nothing, and tells the browser so."""
import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from nft_jax.record.pictures import OUTCOMES
from nft_jax.report.data import heading, page_data
from nft_jax.runtime.files import replaced


def to_json(value: Any) -> str:
    """JSON that is safe in a script element, whatever its strings contain.

    It is ASCII only: lone surrogates and Unicode's line separators are escapes. It has no "<", so
    neither "</script>" nor "<!--". Numbers that are not finite are null."""
    return json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def palette(data: dict[str, Any]) -> str:
    """CSS: the colours of outcomes (--right, ...) and of the page's groups of runs (--c0, ...), light and dark."""
    pairs = OUTCOMES | {f"c{i}": group["colours"] for i, group in enumerate(data.get("groups", []))}
    light, dark = (" ".join(f"--{name}: {colours[place]};" for name, colours in pairs.items()) for place in (0, 1))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def build(data: dict[str, Any], title: str) -> str:
    """The page that shows `page_data`. Its content security policy allows this style, this script,
    and no request."""
    files = resources.files(__package__)
    style, script = ("".join((files / name).read_text(encoding="utf-8") for name in names)
                     for names in (["style.css"], ["charts.js", "page.js", "answers.js"]))
    style = palette(data) + style
    parts = {"title": html.escape(title), "style": style, "script": script, "data": to_json(data),
             "style_hash": _hash(style), "script_hash": _hash(script)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], (files / "page.html").read_text(encoding="utf-8"))


def write_page(folders: Sequence[Path], out: Path, rollouts: int, title: str = "",
               labels: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the page on these runs to `out`; returns what it shows. The title is `heading` unless given. `labels`:
    what each run is called, "" for its folder's name."""
    data = page_data(folders, rollouts, labels)
    # The names of folders may be no valid Unicode.
    with replaced(out) as partial:
        partial.write_bytes(build(data, title or heading(data)).encode("utf-8", "xmlcharrefreplace"))
    return data


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
