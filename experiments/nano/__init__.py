"""How the embedded model was made, its three other tasks, and the base of one. Imports no jax."""
import json
from collections.abc import Sequence
from pathlib import Path

from nft_jax.runtime.files import replaced


def write_questions(path: Path, rows: Sequence[dict]) -> None:
    """A .jsonl file for data.source. One that has these rows is left alone: another run may be reading it."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        with replaced(path) as partial:
            partial.write_text(text)
