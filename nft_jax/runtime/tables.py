"""Rows of .jsonl and .parquet files that anybody may have written: every row is read right, or told why not.

`Rows` are (row number, row) pairs. A row is a dict, or a string that says why it cannot be read. Row numbers count
from 1; in a .jsonl file they are line numbers. A file that cannot be read at all raises InputError. Its message
begins with `said`, the field and its value.
"""
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nft_jax.types import InputError

KINDS = (".jsonl", ".parquet")
DEEPEST = 100
"""Levels of lists and objects in a row. The JSON of Python itself ends somewhere beyond, in each version elsewhere."""
LONGEST_LINE = 64 << 20
"""Bytes of one line of a .jsonl file."""
LONGEST_INTEGER = 4300
"""Digits of one integer. Python has the same limit, but a library may lift it for the whole process."""
BATCH = 64
"""Rows that are decoded together: they fit in memory, however large a row is."""

Rows = Iterator[tuple[int, dict | str]]


@dataclass
class Table:
    """Rows, read as they are asked for. `columns` are the names that the file has; those of a .jsonl file are
    known as far as it is read."""
    rows: Rows
    columns: dict[str, None] = field(default_factory=dict)


def listed(names: Iterable[str]) -> str:
    """The first ten names, each cut at 60 characters, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(name[:60] for name in names[:10]) + more


def no_file(path: Path) -> str | None:
    """Why `path` cannot be read as a file: missing, a folder, a pipe, a link to itself. None if it can."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        # ValueError: a null character in the name.
        return f"there is no such file ({getattr(error, 'strerror', None) or error}; looked for {path.absolute()})"
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if not stat.S_ISREG(mode):
        return "it is a pipe, a socket or a device, not a file"
    return None if os.access(path, os.R_OK) else "this user may not read it"


def read_table(path: Path, said: str, wanted: Callable[[str], bool] = bool) -> Table:
    """The table in a .jsonl or .parquet file. Of a .parquet file, only the columns whose name is `wanted` are
    read. Raises InputError where there is no such file."""
    reason = no_file(path)
    if reason is not None:
        raise InputError(f"{said}: {reason}. Give the path of a .jsonl or .parquet file.")
    return _jsonl(path) if path.suffix == ".jsonl" else _parquet(path, said, wanted)


def _jsonl(path: Path) -> Table:
    table = Table(iter(()))           # its rows fill in its columns

    def rows() -> Rows:
        number = 0
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                    while (line := file.readline(LONGEST_LINE)) and not line.endswith(b"\n"):
                        pass
                    yield number, f"the line is longer than {LONGEST_LINE >> 20} MiB"
                elif line.strip():
                    row = _row(line)
                    if isinstance(row, dict):
                        table.columns |= dict.fromkeys(row)
                    yield number, row

    table.rows = rows()
    return table


def _row(line: bytes) -> dict | str:
    try:
        row = json.loads(line, parse_int=integer)
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason} at byte {error.start}"
    except RecursionError:
        return f"nested more than {DEEPEST} levels deep"
    except ValueError as error:       # also an integer of too many digits
        return f"not JSON: {error}"
    if not isinstance(row, dict):
        return f"JSON of type {type(row).__name__}, not an object"
    # Few rows have so many brackets at all.
    if line.count(b"[") + line.count(b"{") > DEEPEST and _is_deep(row):
        return f"nested more than {DEEPEST} levels deep"
    return row


def integer(digits: str) -> int:
    """An integer of JSON. Raises ValueError for one of more than LONGEST_INTEGER digits."""
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits):,} digits, more than {LONGEST_INTEGER}")
    return int(digits)


def _is_deep(row: dict) -> bool:
    """Whether a value stands below more than DEEPEST levels."""
    level: list = [row]
    for _ in range(DEEPEST):
        level = [each for value in level for each in (value.values() if isinstance(value, dict) else value)
                 if isinstance(each, (list, dict))]
    return bool(level)


def _parquet(path: Path, said: str, wanted: Callable[[str], bool]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{said}: it cannot be read as parquet ({_first_line(error)}). Fetch or write the file "
                         "again.") from error
    chosen = [name for name in names if wanted(name)]
    if twice := {name for name in chosen if chosen.count(name) > 1}:
        raise InputError(f"{said}: it has several columns of the name {listed(sorted(twice))}. Rename all but one.")
    return arrow_table(names, file.iter_batches(BATCH, columns=chosen), said)


def arrow_table(names: Iterable[str], batches: Iterable, said: str) -> Table:
    """The rows of Arrow batches or tables. Raises InputError, with the number of the last good row, where the
    data is damaged."""
    import pyarrow as pa

    def rows() -> Rows:
        number = 0
        try:
            for batch in batches:
                for row in _batch_rows(batch):
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError, MemoryError) as error:
            raise InputError(f"{said}: the file is damaged after row {number} ({_first_line(error)}). Fetch or write "
                             "it again.") from error

    return Table(rows(), dict.fromkeys(names))


def _batch_rows(batch) -> list[dict | str]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:        # text that is not UTF-8, a date that Python has not
        if batch.num_rows == 1:
            return [f"not UTF-8: {error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)]
        return [row for index in range(batch.num_rows) for row in _batch_rows(batch.slice(index, 1))]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
