"""What a folder that a process may be killed in needs of its files: whole or not there (`replaced`), of known content
(`write_manifest`, `damage`), written by one process at a time (`held`)."""
from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from nft_jax.types import InputError

MANIFEST = "manifest.json"
CHUNK = 1 << 20


@contextmanager
def replaced(path: Path, *, writes: bool = True) -> Iterator[Path]:
    """A path to write a file or a folder to, which takes the place of `path` when the block ends: a reader, and who
    comes after a kill, finds the old one or the new one. (Between two folders there is an instant without either.)
    With `writes` false another process writes it: only the name is given."""
    partial, old = path.with_name(path.name + ".partial"), path.with_name(path.name + ".old")
    if writes:
        remove(partial)
    yield partial
    if writes:
        if path.is_dir():
            remove(old)
            path.replace(old)
        partial.replace(path)
        remove(old)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checksum(path: Path) -> int:
    """CRC-32 of a file: for bytes that changed by accident, not for those that someone changed."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _files(folder: Path, ignore: Collection[str]) -> dict[str, Path]:
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name not in ignore and name != MANIFEST}


def write_manifest(folder: Path, notes: dict, ignore: Collection[str] = ()) -> None:
    """`manifest.json` in `folder`: size and checksum of every file below it but those of `ignore` (names relative to
    it), and `notes` (JSON). The files are read once, several at a time."""
    found = _files(folder, ignore)
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(checksum, found.values()))
    content = {"files": {name: [path.stat().st_size, value]
                         for (name, path), value in zip(found.items(), sums, strict=True)}, "notes": notes}
    _write(folder / MANIFEST, content)


def write_notes(folder: Path, notes: dict) -> None:
    """The manifest of `folder` with other notes. A folder without one that can be read stays as it is."""
    content = read_manifest(folder)
    if content is not None:
        with replaced(folder / MANIFEST) as partial:
            _write(partial, content | {"notes": notes})


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps({"checksum": _checksum_of(content)} | content))


def _checksum_of(content: dict) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def read_manifest(folder: Path) -> dict | None:
    """`files` and `notes` as they were written; None where there is no manifest, or what there is was not written as
    it is."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        return content if content.pop("checksum") == _checksum_of(content) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def damage(folder: Path) -> str:
    """In what `folder` differs from its manifest, the first files of it by name; empty when it does not. All sizes are
    looked at before any content is read."""
    if not folder.is_dir():
        return "it is no folder"
    if not (folder / MANIFEST).exists():
        return f"{MANIFEST} is missing" if any(folder.iterdir()) else "the folder is empty"
    manifest = read_manifest(folder)
    if manifest is None:
        return f"{MANIFEST} is damaged"
    wanted = manifest["files"]
    faults = []
    for name, (size, _) in wanted.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif path.stat().st_size != size:
            faults.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
    if not faults:
        with ThreadPoolExecutor(4) as pool:
            sums = pool.map(checksum, [folder / name for name in wanted])
            faults = [f"the bytes of {name} have changed" for (name, (_, value)), found
                      in zip(wanted.items(), sums, strict=True) if found != value]
    more = f", and {len(faults) - 3} more files" if len(faults) > 3 else ""
    return ", ".join(faults[:3]) + more


@contextmanager
def held(folder: Path) -> Iterator[str]:
    """While the block runs no other process can hold `folder` (flock of its file `lock`, which ends with the process
    however that ends). Yields a remark for the user, empty where all is well: a file system may know no locks.

    Raises InputError when another process holds it, which it names."""
    path = folder / "lock"
    with path.open("a+") as file:
        remark = ""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.seek(0)
                raise InputError(
                    f"workdir is {str(folder)!r}, and another process writes there: {file.read() or 'unknown'}. Wait "
                    "for its end, stop it, or choose another workdir. (--fresh does not help: it would delete the "
                    "files of that run.)") from error
            remark = (f"{path} cannot be locked ({error.strerror}): see to it yourself that no second process writes "
                      f"to {folder}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since "
                   f"{datetime.now().astimezone().isoformat(' ', 'seconds')}")
        file.flush()
        try:
            yield remark
        finally:
            file.truncate(0)
