"""Writes that fail are kept, tried again in their order, and reported."""
import errno
import os
import resource
import signal
from contextlib import contextmanager

import pytest

from nft_jax.runtime.writing import Writing, append
from nft_jax.types import Halted
from refusal import refused


@contextmanager
def small_files():
    """No file may grow over 100 bytes, as if the disk were full there. Not a fixture: pytest writes its own log before
    it tears one down."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_line_is_there_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines"
    with small_files():
        append(path, b"a" * 79 + b"\n")
        with pytest.raises(OSError) as caught:
            append(path, b"b" * 79 + b"\n")                      # 20 bytes of it would fit
        assert path.read_bytes() == b"a" * 79 + b"\n"
        append(path, b"c" * 20)
    assert caught.value.errno == errno.EFBIG
    assert path.stat().st_size == 100


class Disk:
    """Holds what is written, unless it is full."""

    def __init__(self):
        self.full, self.held = False, []

    def write(self, what):
        def now():
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.held.append(what)
        return now


def test_what_fails_waits_and_comes_in_its_order():
    disk, said = Disk(), []
    writing = Writing(said.append)
    for step in range(6):
        disk.full = step in (2, 3)
        writing("rows", f"row {step}", disk.write(step))
        assert disk.held == list(range(step + 1 if not disk.full else 2))
    assert disk.held == list(range(6)) and writing.waiting == [] and writing.retry()
    assert len(said) == 2 and "row 2 cannot be written (OSError: [Errno 28] No space left" in said[0]
    assert "written again" in said[1]


def test_queues_do_not_hold_each_other_up_and_the_oldest_of_too_many_is_given_up():
    disk, other, said = Disk(), Disk(), []
    writing, disk.full = Writing(said.append), True
    for step in range(4):
        writing("rollouts", f"step {step}", disk.write(step), most=3)
        writing("rows", f"row {step}", other.write(step))
    assert other.held == [0, 1, 2, 3] and not writing.retry()
    assert writing.waiting == ["rollouts (step 1, step 2, step 3): OSError: [Errno 28] No space left on device"]
    disk.full = False
    assert writing.retry() and disk.held == [1, 2, 3]
    assert [line for line in said if "is lost" in line] == [
        "rollouts: step 0 is lost: no more than 3 are kept until they can be written"]


def failing(error):
    def write():
        raise error
    return write


FULL = [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "full"),
        Exception("No space left on device (os error 28)"),               # as Rust's libraries say it
        ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device"),        # tensorstore
        OSError("in process 1: OSError: [Errno 122] Disk quota exceeded")]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_waited_for(error):
    said = []
    writing = Writing(said.append)
    writing("rows", "row 1", failing(error))
    assert writing.waiting and len(said) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ENOENT, errno.EISDIR, errno.ELOOP])
def test_any_other_refusal_of_the_system_ends_the_run_and_names_what_and_why(number):
    said = []
    writing = Writing(said.append)
    with refused("rows: row 1", os.strerror(number), "a/place", kind=Halted):
        writing("rows", "row 1", failing(OSError(number, os.strerror(number), "a/place")))
    assert said == []


def test_a_bug_keeps_its_traceback():
    with refused("a bug", kind=TypeError):
        Writing([].append)("rows", "row 1", failing(TypeError("a bug")))
