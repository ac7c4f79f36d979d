"""Running programs that a model wrote, behind three layers (Linux):

1. bubblewrap gives the program name spaces of its own, no capabilities and an empty environment. It sees the
   system's programs read-only and a small, empty /tmp, and nothing of the home folder or of the network.
2. CPU time, memory, file size, open files and processes are limited before the submission starts. A run of
   root's starts it as another user, since the limit on processes does not bind root.
3. A deadline by kill ends everything in the sandbox, and the output is limited.

One sandbox runs one submission with all its tests: submissions in one sandbox could read or kill each other.
Without bubblewrap nothing runs, unless `allow_weak_sandbox` is set: layers 2 and 3 alone are no sandbox.
"""
from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nft_jax.types import InputError

INSIDE = (Path(__file__).parent / "sandbox_child.py").read_text()
NOBODY = 65534
FOLDER_BYTES = 16 << 20               # all of /tmp


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""
    seconds: float = 1.0              # wall clock of one test
    total_seconds: float = 20.0       # wall clock of all tests
    memory_mb: int = 256              # address space of one process
    file_mb: int = 4                  # size of one file
    processes: int = 16               # and threads
    output_bytes: int = 1 << 16       # of one test

    def of_system(self, processes: int | None) -> dict[str, int]:
        """Names of resource limits -> values. With `processes` None, their number is not limited."""
        # CPU seconds of one process are whole, and never less than its wall clock.
        wanted = {"RLIMIT_CPU": int(self.seconds) + 1, "RLIMIT_FSIZE": self.file_mb << 20, "RLIMIT_NOFILE": 64,
                  "RLIMIT_CORE": 0}
        if sys.platform == "linux":
            wanted["RLIMIT_AS"] = self.memory_mb << 20
        return wanted | ({} if processes is None else {"RLIMIT_NPROC": processes})


@dataclass(frozen=True)
class Sandbox:
    """How programs run here: `command` (bubblewrap, or nothing), then the interpreter."""
    python: str
    command: tuple[str, ...] = ()

    @property
    def is_weak(self) -> bool:
        return not self.command


@cache
def find_sandbox(allow_weak: bool) -> Sandbox:
    """The strongest sandbox that works here, found by trying. Raises InputError where there is none."""
    own = os.path.realpath(sys.executable)
    # An interpreter in the home folder comes last: the sandbox would have to show its folder.
    own_is_at_home = Path(own).is_relative_to(Path.home())
    interpreters = ("/usr/bin/python3", own) if own_is_at_home else (own, "/usr/bin/python3")
    if sys.platform == "linux" and shutil.which("bwrap"):
        for python in interpreters:
            sandbox = Sandbox(python, _bubblewrap(python))
            if _works(sandbox):
                return sandbox
        reason = ("bubblewrap is installed but cannot start (the kernel or a container forbids user namespaces, or it "
                  "is older than 0.8)")
    else:
        reason = "bubblewrap is not installed" if sys.platform == "linux" else f"{sys.platform} has no bubblewrap"
    weak = next((sandbox for sandbox in map(Sandbox, interpreters) if allow_weak and _works(sandbox)), None)
    if weak is None:
        raise InputError(f"The model's programs cannot be run safely here: {reason}. Install it (apt-get install "
                         "bubblewrap), or accept limits only, without a sandbox: --verifier.allow-weak-sandbox "
                         "(allow_weak_sandbox=True in VerifierConfig). Programs can then read your files.")
    return weak


def _works(sandbox: Sandbox) -> bool:
    try:
        found = run_submission(sandbox, "def f(x): return x + 1", "f", [{"args": [1]}], Limits(seconds=10.0))
    except (OSError, RuntimeError):
        return False
    return found == [{"value": 2}]


def _bubblewrap(python: str) -> tuple[str, ...]:
    """The command of bubblewrap 0.8: system and interpreter read-only, an empty /tmp of limited size."""
    command = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
               "--clearenv", "--hostname", "sandbox", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib64", "bin", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    prefix = Path(python).parent.parent
    if not prefix.is_relative_to("/usr"):
        command += ["--ro-bind", str(prefix), str(prefix)]
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    return (*command, "--size", str(FOLDER_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--")


def _threads_of(user: int) -> int:
    """Threads of a user at this moment: the system's limit on processes counts them all."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/task"):
        try:
            count += len(os.listdir(path)) if path.stat().st_uid == user else 0
        except OSError:               # the process has ended meanwhile
            continue
    return count


def run_submission(sandbox: Sandbox, source: str, entry: str | None, tests: Sequence[dict],
                   limits: Limits) -> list[dict]:
    """The result of each test, in order: {"value": plain JSON} or {"failed": why}. A test {"args"} calls the
    function `entry`; with `entry` None, the source is a program that runs on {"stdin"}, and its output is the
    value. Raises RuntimeError when the sandbox itself did not start (twice)."""
    for _ in range(2):
        lines = _run_once(sandbox, source, entry, tests, limits)
        if lines and lines[0] == {"ready": True}:
            break
    else:
        raise RuntimeError("the sandbox did not start")
    found: dict[int, dict] = {}
    for line in lines[1:]:
        if isinstance(line, dict) and type(line.get("test")) is int and ("value" in line or "failed" in line):
            found.setdefault(line["test"], {key: line[key] for key in ("value", "failed") if key in line})
    return [found.get(index, {"failed": "no result"}) for index in range(len(tests))]


def _run_once(sandbox: Sandbox, source: str, entry: str | None, tests: Sequence[dict], limits: Limits) -> list:
    user = NOBODY if os.getuid() == 0 else None
    processes = limits.processes
    if sandbox.is_weak:
        # Without a process name space of its own, the user's other processes count towards the limit.
        owner = os.getuid() if user is None else user
        processes = limits.processes + _threads_of(owner) if Path("/proc/self/task").exists() else None
    job = {"source": source, "entry": entry, "tests": list(tests), "seconds": limits.seconds,
           "limits": limits.of_system(processes), "output_bytes": limits.output_bytes}
    with ExitStack() as stack:
        given = stack.enter_context(tempfile.TemporaryFile())
        given.write(json.dumps(job).encode())
        given.seek(0)
        folder = "/"
        if sandbox.is_weak:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            if user is not None:
                os.chown(folder, user, user)
        process = subprocess.Popen(
            [*sandbox.command, sandbox.python, "-I", "-S", "-c", INSIDE], stdin=given, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={}, cwd=folder, start_new_session=True, user=user, group=user,
            extra_groups=None if user is None else [])
        try:
            data = _read(process, limits.total_seconds, len(tests) * 2 * limits.output_bytes + 4096)
        finally:
            _kill(process)
    return _lines(data)


def _read(process: subprocess.Popen, seconds: float, most: int) -> bytes:
    """The output of a process until it ends, `seconds` are over, or there are more than `most` bytes."""
    end, data, pipe = time.monotonic() + seconds, b"", process.stdout.fileno()
    while len(data) <= most:
        left = end - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return data
        piece = os.read(pipe, 65536)
        if not piece:
            return data
        data += piece
    return data


def _kill(process: subprocess.Popen) -> None:
    """End the process and its group. Everything in its own process name space ends with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.poll()                # the whole group has ended
    process.wait()
    process.stdout.close()


def _lines(data: bytes) -> list:
    """The JSON value of each line; None for a line that is not JSON."""
    found = []
    for line in data.split(b"\n"):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            found.append(None)
    return found
