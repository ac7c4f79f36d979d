"""Files that survive a kill at any moment.

1. `replaced`: a file or folder is written whole, or not at all.
2. `write_manifest`, `damage`: a folder's content is known, so damage is found and named.
3. `held`: one process at a time writes to a folder."""
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

from nft_jax.config.checks import on_this_machine, require
from nft_jax.types import InputError

MANIFEST = "manifest.json"
LOCK = "lock"
CHUNK = 1 << 20


def places(path: Path) -> tuple[Path, Path, Path]:
    """`path`, and the two beside it where `replaced` has the new content until it is whole, and the old folder until
    the new one is there."""
    return path, path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.old")


@contextmanager
def replaced(path: Path, *, writes: bool = True) -> Iterator[Path]:
    """Yields a path to write a file or folder to. It replaces `path` when the block ends without an error.

    A reader finds the old content or the new one, also after a kill. Replacing a folder takes two renames, so for
    an instant there is neither. A link stays, and its target is replaced. Of a link to a folder the content is
    replaced, entry by entry: a kill in between leaves some of both. With `writes` False another process writes:
    only the name is given."""
    content = path.is_symlink() and path.is_dir()
    if path.is_symlink():
        path = path.resolve()
    if content:
        # On the disk of the target: nothing can be renamed from one disk to another.
        partial = path / ".partial"
    else:
        _, partial, old = places(path)
    if writes:
        remove(partial)
    yield partial
    if not writes:
        return
    if content:
        _empty(path, but=partial)
        for entry in list(partial.iterdir()):
            entry.rename(path / entry.name)
        partial.rmdir()
        return
    if path.is_dir():
        remove(old)
        path.replace(old)
    partial.replace(path)
    remove(old)


def remove(path: Path) -> None:
    """Deletes a file, or a folder with its content, if it exists. A link to a folder stays, emptied."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif path.is_symlink():
        _empty(path)
    else:
        shutil.rmtree(path)


def _empty(folder: Path, but: Path | None = None) -> None:
    """Deletes what is in `folder`, but for one entry. Links there are deleted, not followed."""
    for entry in list(folder.iterdir()):
        if entry.is_symlink():
            entry.unlink()
        elif entry != but:
            remove(entry)


def make_folder(folder: Path, field: str) -> None:
    """Makes the folder with its parents, unless it is there. Raises InputError, which names `field`, for an address
    such as gs://bucket, which would become a folder gs: here, and where the system refuses."""
    require(on_this_machine(folder), field, str(folder), "name a folder of this machine, such as a mounted bucket's.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{field} is {str(folder)!r}, which cannot be made ({error.strerror}): name another "
                         "place.") from error


def checksum(path: Path) -> int:
    """CRC-32 of a file. It finds accidental changes, not deliberate ones."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _files(folder: Path, ignore: Collection[str]) -> dict[str, Path]:
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name not in ignore and name != MANIFEST}


def write_manifest(folder: Path, notes: dict, ignore: Collection[str] = ()) -> None:
    """Writes `manifest.json` into `folder`: size and checksum of every file below it, and `notes` (JSON). Files
    named in `ignore`, relative to `folder`, are left out. Each file is read once, several at a time."""
    found = _files(folder, ignore)
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(checksum, found.values()))
    content = {"files": {name: [path.stat().st_size, value]
                         for (name, path), value in zip(found.items(), sums, strict=True)}, "notes": notes}
    _write(folder / MANIFEST, content)


def write_notes(folder: Path, notes: dict) -> None:
    """Replaces the notes in the manifest of `folder`. Does nothing if the manifest is missing or damaged."""
    content = read_manifest(folder)
    if content is not None:
        with replaced(folder / MANIFEST) as partial:
            _write(partial, content | {"notes": notes})


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps({"checksum": _checksum_of(content)} | content))


def _checksum_of(content: dict) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def read_manifest(folder: Path) -> dict | None:
    """`files` and `notes` of the manifest; None if it is missing or damaged."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        return content if content.pop("checksum") == _checksum_of(content) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def damage(folder: Path) -> str:
    """How `folder` differs from its manifest, naming the first three files; "" if it does not differ. Compares
    all sizes before it reads any content."""
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


def is_lock(path: Path) -> bool:
    """Whether `held` wrote this file: it is empty, or names a process."""
    return path.is_file() and path.read_bytes()[:8] in (b"", b"process ")


@contextmanager
def held(folder: Path) -> Iterator[str]:
    """Keeps every other process from holding `folder` while the block runs.

    The lock is a flock of the file `lock` in the folder: it ends with the process, however that
    ends. Yields a remark for the user, "" if all is well: a file system may know no locks. Raises
    InputError, naming the other process, if another process holds the folder."""
    path = folder / LOCK
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
