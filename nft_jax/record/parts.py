"""A table of answers that is made part by part, and that a kill at any moment costs one part at most.

    FILE.parquet.parts/settings.json         what the answers depend on, and what was chosen at the first start
    FILE.parquet.parts/part_000000.parquet   a finished part, in place at once
    FILE.parquet                             all parts, in place at once; the folder of parts then goes

The finished table carries its settings in its metadata. Made again with the same settings it is
left alone; with other settings it is refused, and so are its parts. The same command ends with the
same bytes, however often it was killed."""
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nft_jax.config.differences import differences
from nft_jax.record.rollouts import ANSWERS, SCHEMA, answers_to_table, groups_to_table
from nft_jax.runtime.files import make_folder, replaced
from nft_jax.types import Group, InputError, Prompt, Rollout

METADATA = b"nft_jax.rollout.generate"     # the table's key for its settings
BEGUN = "settings.json"                    # beside the parts: the same settings, until the table is there


class Parts:
    """The table `out` and its parts. Rows are judged groups (`judged`), or answers without verdicts.

    settings: everything that the answers depend on, as json can write it."""

    def __init__(self, out: Path, settings: dict[str, Any], *, judged: bool = False):
        self.out, self.judged = out, judged
        # As they are read back: tuples are lists.
        self.settings = json.loads(json.dumps(settings))
        self.folder = _folder_of(out)

    @staticmethod
    def begun(out: Path) -> dict[str, Any]:
        """The settings of the table `out`, or of its parts; {} without either. Raises InputError for another file."""
        if out.exists():
            return _settings_of(out)
        path = _folder_of(out) / BEGUN
        return json.loads(path.read_text())["settings"] if path.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether the table is there already. Raises InputError for a table of other settings, or of none."""
        if not self.out.exists():
            return False
        _require_same(_settings_of(self.out), self.settings, self.out)
        # A kill between the table's arrival and the removal of its parts leaves them behind.
        if self.folder.exists():
            shutil.rmtree(self.folder)
        return True

    def claim(self, choose: Callable[[], dict[str, int]]) -> dict[str, int]:
        """The sizes of the table's parts: chosen by `choose` at the first start, and kept from then on. Raises
        InputError for parts of other settings, and for a place where nothing can be written."""
        path = self.folder / BEGUN
        if path.exists():
            found = json.loads(path.read_text())
            _require_same(found["settings"], self.settings, self.folder)
            return found["chosen"]
        chosen = choose()
        make_folder(self.folder, "--out")
        with replaced(path) as partial:
            partial.write_text(json.dumps({"settings": self.settings, "chosen": chosen}, indent=1))
        return chosen

    def fill(self, prompts: Sequence[Prompt], size: int,
             answer: Callable[[Sequence[Prompt]], Iterable[Group] | Iterable[Sequence[Rollout]]],
             part_done: Callable[[int, int], None]) -> None:
        """Answers the prompts of the missing parts, `size` prompts a part, and writes the table.

        `answer` returns the rows of a part in the order of its prompts. `part_done(part, parts)` is
        called as each part is written."""
        starts = range(0, len(prompts), size)
        for part, start in enumerate(starts):
            if not self._path(part).exists():
                self._write(part, list(answer(prompts[start:start + size])))
                part_done(part, len(starts))
        self._merge(len(starts))

    def done(self, prompts: Sequence[Prompt], size: int) -> int:
        """The number of prompts in finished parts."""
        return sum(len(prompts[start:start + size]) for part, start in enumerate(range(0, len(prompts), size))
                   if self._path(part).exists())

    def _path(self, part: int) -> Path:
        return self.folder / f"part_{part:06d}.parquet"

    def _write(self, part: int, groups: Sequence) -> None:
        table = groups_to_table(groups) if self.judged else answers_to_table(groups)
        with replaced(self._path(part)) as partial:
            pq.write_table(table, partial, compression="zstd")

    def _merge(self, count: int) -> None:
        """One table of all parts, a row group each."""
        schema = (SCHEMA if self.judged else ANSWERS).with_metadata({METADATA: json.dumps(self.settings).encode()})
        with replaced(self.out) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for part in range(count):
                writer.write_table(pq.read_table(self._path(part)).replace_schema_metadata(schema.metadata))
        shutil.rmtree(self.folder)


def _folder_of(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _settings_of(out: Path) -> dict[str, Any]:
    try:
        return json.loads(pq.read_schema(out).metadata[METADATA])
    # No metadata, none of ours, no parquet, no file.
    except (TypeError, KeyError, ValueError, OSError) as error:
        raise InputError(f"--out is {str(out)!r}, which exists and was not written by this command: name another "
                         "file.") from error


def _require_same(found: dict, wanted: dict, where: Path) -> None:
    """Raises InputError, naming the fields that differ, when `where` was made with other settings."""
    different = [f"{name}: {before!r} there, {now!r} now"
                 for name, (before, now) in differences(found, wanted).items()]
    if different:
        raise InputError(f"{str(where)!r} was made with other settings ({'; '.join(different)}): set these back to "
                         "go on with it, name another --out, or delete it.")
