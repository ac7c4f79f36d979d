"""Running programs that a model wrote, behind four layers (Linux):

1. bubblewrap gives the program name spaces of its own, no capabilities and an empty environment. It sees the
   system's programs read-only and a small, empty /tmp, and nothing of the home folder, of /proc or of the network.
2. A filter of system calls (`sandbox_child`) keeps a submission one process, with threads. It cannot start, signal,
   trace or write another process, and has no memory outside of its own: its memory limit is the limit of all it uses.
3. CPU time, memory, file size, open files and threads are limited before the submission starts. A run of root's
   starts it as another user, since the limit on threads does not bind root.
4. The deadline of every test is kept out here, where the submission cannot reach it, and the output is limited.

One sandbox runs one submission with all its tests: submissions in one sandbox could read each other's files. Each
test is a process of its own, and files that it leaves are removed before the next one.

Without bubblewrap nothing runs, unless `allow_weak_sandbox` is set. The weak sandbox has layers 2 to 4. It does not
stop a submission from reading the files that its user may read, from using the network, from leaving files in any
folder that its user may write, such as the system's /tmp, or from reading /proc. Where the run is not root's, its
user is yours: what it finds and changes there is yours. On systems other than Linux it lacks layer 2 as well.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nft_jax.types import InputError
from nft_jax.verify.rewards.sandbox_child import emptied

INSIDE = (Path(__file__).parent / "sandbox_child.py").read_text()
NOBODY = 65534
FOLDER_BYTES = 16 << 20               # all of /tmp


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""
    seconds: float = 1.0              # wall clock of one test
    total_seconds: float = 20.0       # wall clock of all tests
    memory_mb: int = 256              # address space
    file_mb: int = 4                  # size of one file
    threads: int = 16
    output_bytes: int = 1 << 16       # of one test

    def of_system(self, threads: int | None) -> dict[str, int]:
        """Names of resource limits -> values. With `threads` None, their number is not limited."""
        # CPU seconds of one process are whole, and never less than its wall clock.
        wanted = {"RLIMIT_CPU": int(self.seconds) + 1, "RLIMIT_FSIZE": self.file_mb << 20, "RLIMIT_NOFILE": 64,
                  "RLIMIT_CORE": 0}
        if sys.platform == "linux":
            wanted["RLIMIT_AS"] = self.memory_mb << 20
        return wanted | ({} if threads is None else {"RLIMIT_NPROC": threads})


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
        reason = ("bubblewrap is installed but cannot start (the kernel or a container forbids user namespaces or "
                  "filters of system calls, or it is older than 0.8)")
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
    command += ["--dev", "/dev", "--remount-ro", "/dev"]
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
        found = _run_once(sandbox, source, entry, tests, limits)
        if found is not None:
            return found
    raise RuntimeError("the sandbox did not start")


def _run_once(sandbox: Sandbox, source: str, entry: str | None, tests: Sequence[dict],
              limits: Limits) -> list[dict] | None:
    """The results, None when the sandbox did not start."""
    user = NOBODY if os.getuid() == 0 else None
    threads = limits.threads
    if sandbox.is_weak:
        # Without a process name space of its own, the user's other threads count towards the limit.
        owner = os.getuid() if user is None else user
        threads = limits.threads + _threads_of(owner) if Path("/proc/self/task").exists() else None
    job = {"source": source, "entry": entry, "tests": list(tests), "limits": limits.of_system(threads),
           "output_bytes": limits.output_bytes}
    with ExitStack() as stack:
        given = stack.enter_context(tempfile.TemporaryFile())
        given.write(json.dumps(job).encode())
        given.seek(0)
        folder = "/"
        if sandbox.is_weak:
            folder = stack.enter_context(_folder_of(user))
        process = subprocess.Popen(
            [*sandbox.command, sandbox.python, "-I", "-S", "-c", INSIDE], stdin=given, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={}, cwd=folder, start_new_session=True, user=user, group=user,
            extra_groups=None if user is None else [])
        try:
            return _results(process.stdout.fileno(), len(tests), limits)
        finally:
            _kill(process)


@contextmanager
def _folder_of(user: int | None) -> Iterator[str]:
    """A folder for the weak sandbox, which goes with all that is in it."""
    folder = tempfile.mkdtemp()
    try:
        if user is not None:
            os.chown(folder, user, user)
        yield folder
    finally:
        if emptied(folder):
            os.rmdir(folder)


def _results(pipe: int, tests: int, limits: Limits) -> list[dict] | None:
    """The results of so many tests as they arrive. A test begins when the line before its own is there."""
    end, data = time.monotonic() + limits.total_seconds, bytearray()
    # JSON writes a byte as six at most.
    most = 6 * limits.output_bytes + 4096
    try:
        if _next_line(pipe, data, most, end) != b'{"ready": true}':
            return None
    except TimeoutError:
        return None
    found: list[dict] = []
    try:
        while len(found) < tests:
            line = _next_line(pipe, data, most, min(end, time.monotonic() + limits.seconds))
            found.append({"failed": "no result"} if line is None else json.loads(line))
    except TimeoutError:
        found.append({"failed": "out of time"})
    return found + [{"failed": "no result"}] * (tests - len(found))


def _next_line(pipe: int, data: bytearray, most: int, end: float) -> bytes | None:
    """The next line, of at most so many bytes; `data` keeps what came after it. None when there is none any more.
    Raises TimeoutError at `end`, in time.monotonic()."""
    while b"\n" not in data:
        if not select.select([pipe], [], [], max(end - time.monotonic(), 0))[0]:
            raise TimeoutError
        piece = os.read(pipe, 65536)
        if not piece or len(data) > most:
            return None
        data += piece
    line, _, data[:] = data.partition(b"\n")
    return bytes(line)


def _kill(process: subprocess.Popen) -> None:
    """End the process and its group. Everything in its own process name space ends with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.poll()                # the whole group has ended
    process.wait()
    process.stdout.close()
