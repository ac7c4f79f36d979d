"""How the embedded model was made, its three other tasks, and the base of one. Imports no jax."""
import json
from collections.abc import Sequence
from pathlib import Path


def write_questions(path: Path, rows: Sequence[dict]) -> None:
    """A .jsonl file for data.source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
