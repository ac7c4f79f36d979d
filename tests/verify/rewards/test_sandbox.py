"""The walls around programs: nothing that a submission does leaves the sandbox, reaches another test, or lasts."""
import json
import os
import socket
import sys
import time
import types
from pathlib import Path

import pytest

from nft_jax.config import VerifierConfig
from nft_jax.verify import Verifier
from nft_jax.verify.rewards import sandbox, sandbox_child
from nft_jax.verify.rewards.sandbox import Limits, find_sandbox, run_submission
from refusal import refused
from submissions import NONE, attempt, run


def test_it_sees_no_home_no_tests_no_hosts_tmp(strong, tmp_path):
    secret = tmp_path / "tests.json"
    secret.write_text("the answers")
    tmp_path.chmod(0o755)
    for path in (secret, Path.home(), Path(__file__), "/root", "/home", "/etc/passwd", "/etc/shadow", Path.cwd()):
        found = attempt(strong, f"import os\nreturn os.listdir({str(path)!r}) if os.path.isdir({str(path)!r}) "
                                f"else open({str(path)!r}).read()")
        way_to_python = [part for part in Path(strong.python).parts if part in found] if found else []
        assert found in ("FileNotFoundError", "PermissionError", "NotADirectoryError") or \
            (Path(strong.python).is_relative_to(path) and found == way_to_python), (path, found)
    assert attempt(strong, "import os\nreturn os.listdir('/tmp')") == []
    assert attempt(strong, "import os\nreturn sorted(os.environ)") in ([], ["LC_CTYPE"], ["LC_CTYPE", "PWD"], ["PWD"])


def test_nothing_can_be_written_outside_tmp(strong):
    for path in ("/usr/x", "/x", "/dev/shm/x", "/dev/x", "/proc/x", "/var/x", "/etc/x"):
        found = attempt(strong, f"open({path!r}, 'w').write('x')\nreturn 'written'")
        assert found in ("FileNotFoundError", "PermissionError", "OSError"), (path, found)
    assert attempt(strong, "open('/tmp/x', 'w').write('x')\nreturn open('/tmp/x').read()") == "x"
    assert attempt(strong, "import os\nreturn os.listdir('/tmp')") == []          # nothing is left for the next one


def test_no_network(strong):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = attempt(strong, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nreturn 'in'")
    assert found in ("ConnectionRefusedError", "OSError", "PermissionError")
    assert attempt(strong, "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)\nreturn 'out'") == "OSError"
    assert attempt(strong, "import socket\nreturn len(socket.getaddrinfo('example.com', 80))") == "gaierror"
    name = f"\0nft-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        found = attempt(strong, f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})\nreturn 'in'")
    assert found == "ConnectionRefusedError"


def test_a_submission_is_one_process_with_threads(box):
    for start in ("os.fork()", "os.forkpty()", "os.posix_spawn('/bin/true', ['true'], {})", "os.popen('true')",
                  "__import__('subprocess').run(['true'])", "__import__('_posixsubprocess')",
                  "__import__('multiprocessing').Process(target=print).start()"):
        found = attempt(box, f"import os\n{start}\nreturn 'started'", seconds=5.0)
        assert found in ("BlockingIOError", "PermissionError") or "_posixsubprocess" in start, (start, found)
    assert attempt(box, "import threading\nfound = []\nt = threading.Thread(target=found.append, args=(1,))\n"
                        "t.start()\nt.join()\nreturn found") == [1]
    assert attempt(box, "import threading, time\nfor i in range(500):\n    threading.Thread(target=time.sleep, "
                        "args=(9,), daemon=True).start()\nreturn 'started'") == "RuntimeError"


CALL = "import ctypes, os, signal\nc = ctypes.CDLL(None, use_errno=True)\nparent = os.getppid()\n"


@pytest.mark.skipif(sys.platform != "linux", reason="system calls of Linux")
def test_calls_that_are_refused(box):
    column = sandbox_child.MACHINES[os.uname().machine][1]
    numbers = [call[column] for call in sandbox_child.REFUSED.values()] + [0x40000000 + 39] * (column == 0)
    found = attempt(box, f"{CALL}found = []\nfor number in {numbers}:\n    ctypes.set_errno(0)\n"
                         "    found.append((c.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno()))\nreturn found")
    assert found == [[-1, 1]] * len(numbers)


@pytest.mark.parametrize("body", [
    "os.kill(parent, signal.SIGSTOP)", "os.kill(parent, signal.SIGKILL)", "os.kill(parent, 0)", "os.kill(0, 9)",
    "os.kill(-1, 9)", "os.killpg(os.getpgid(0), 9)", "signal.pidfd_send_signal(os.pidfd_open(parent), 9)",
    "os.setsid()", "os.setpgid(0, 0)", "open(f'/proc/{parent}/mem', 'r+b', 0)",
    "open(f'/proc/{parent}/environ').read()", "os.listdir(f'/proc/{parent}/fd')", "open(f'/proc/{parent}/maps').read()",
    "import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, parent)", "import fcntl\nfcntl.fcntl(0, fcntl.F_SETSIG, 9)",
    "import fcntl\nfcntl.ioctl(0, 0x8901, b'1234')", "assert c.ptrace(16, parent, 0, 0) == 0",
    "assert c.prctl(1, 0, 0, 0, 0) == 0",
])
def test_its_parent_is_out_of_reach(box, body):
    found = attempt(box, f"{CALL}{body}\nreturn 'done'")
    assert found in ("PermissionError", "FileNotFoundError", "AssertionError"), found


@pytest.mark.parametrize("body", [
    "c.shmat.restype = ctypes.c_void_p\nfor i in range(20):\n    where = c.shmat(c.shmget(0, 64 << 20, 0o1600), 0, 0)\n"
    "    if where in (None, 2**64 - 1): break\n    ctypes.memset(where, 1, 64 << 20)\n"
    "    c.shmdt(ctypes.c_void_p(where))\n    held += 64",
    "for i in range(40):\n    fd = os.memfd_create('x')\n    while len(data) == os.write(fd, data): held += 1",
    "import mmap\nkept = []\nfor i in range(20):\n    kept.append(mmap.mmap(-1, 64 << 20))\n    for j in range(64):\n"
    "        kept[-1].write(data)\n    held += 64",
    "kept = []\nwhile held < 1000:\n    kept.append(bytearray(data))\n    held += 1",
    "while held < 1000:\n    with open(f'f{held}', 'wb') as file: file.write(data)\n    held += 1",
    "for i in range(9):\n    if os.fork() == 0:\n        kept = [bytearray(data) for _ in range(100)]\n"
    "        signal.pause()\n    held += 100",
], ids=["System V", "memfd", "mmap", "heap", "files", "processes"])
def test_all_memory_is_within_the_limit(strong, body):
    """Whatever holds it: MiB that a submission has filled before it is refused more."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    held = attempt(strong, f"{CALL}held, data = 0, b'x' * (1 << 20)\ntry:\n{lines}\n"
                           "except (OSError, MemoryError): pass\nreturn held", seconds=10.0, memory_mb=256)
    assert held < 256


@pytest.mark.parametrize("leave", [
    "os.makedirs('a/b/c')", "os.symlink('/usr', 'link')", "os.symlink('gone', 'dangling')", "os.mkfifo('pipe')",
    "os.mkdir('a')\n    open('a/b', 'w').write('x')\n    os.chmod('a/b', 0)\n    os.chmod('a', 0)",
    "for i in range(30):\n        os.mkdir('d' * 250)\n        os.chdir('d' * 250)",
    "for i in range(9):\n        os.makedirs(f'{i}/{i}/0/1/2')", "open('x' * 255, 'w').close()",
])
def test_tests_keep_no_files_for_each_other(box, leave):
    source = f"import os\ndef f(x):\n    found = os.listdir('.')\n    {leave}\n    return found\n"
    assert run_submission(box, source, "f", [{"args": [i]} for i in range(3)], Limits()) == [{"value": []}] * 3
    assert os.path.isdir("/usr")


def test_a_folder_that_cannot_be_emptied_ends_the_tests(weak):
    """The weak sandbox's folder stands in one that a submission may write."""
    source = "import os\ndef f(x):\n    os.rmdir(os.getcwd())\n    return 1\n"
    found = run_submission(weak, source, "f", [{"args": [i]} for i in range(3)], Limits())
    assert found == [{"value": 1}, NONE, NONE]


@pytest.mark.parametrize(("inside", "found"), [
    ("os.kill(os.getpid(), signal.SIGSTOP)", [{"failed": "out of time"}, NONE]),
    ("print('{\"value\": 7}', flush=True)\ntime.sleep(60)", [{"value": 7}, {"failed": "out of time"}]),
    ("os.write(1, b'x' * 10_000_000)", [NONE, NONE]), ("pass", [NONE, NONE]),
])
def test_deadlines_are_kept_outside(strong, monkeypatch, inside, found):
    """Whatever becomes of the process that runs the tests."""
    ready = "print('{\"ready\": true}', flush=True)"
    monkeypatch.setattr(sandbox, "INSIDE", f"import os, signal, time\n{ready}\n{inside}")
    assert run_submission(strong, "", "f", [{"args": []}] * 2, Limits(seconds=0.5)) == found


@pytest.mark.parametrize("inside", ["", "1/0", "import time\ntime.sleep(60)", "print('not ready')"])
def test_a_sandbox_that_does_not_start_is_no_verdict(strong, monkeypatch, inside):
    monkeypatch.setattr(sandbox, "INSIDE", inside)
    with pytest.raises(RuntimeError):
        run_submission(strong, "", "f", [{"args": []}], Limits(total_seconds=0.5))


def test_a_machine_without_a_table_of_calls_has_no_filter(monkeypatch):
    for machine, (_, column) in sandbox_child.MACHINES.items():
        monkeypatch.setattr(os, "uname", lambda machine=machine: types.SimpleNamespace(machine=machine))
        numbers = [call[column] for call in sandbox_child.REFUSED.values()]
        assert len(set(numbers)) == len(numbers) and len(sandbox_child.call_filter(7)) % 8 == 0
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(machine="abacus"))
    with pytest.raises(OSError, match="abacus"):
        sandbox_child.call_filter(7)


@pytest.mark.parametrize(("body", "stopped"), [
    ("with open('/tmp/a', 'wb') as f:\n    for i in range(100): f.write(b'x' * 2**20)", "OSError"),
    ("for i in range(100):\n    with open(f'/tmp/{i}', 'wb') as f: f.write(b'x' * 2**20)", "OSError"),
    ("return len(bytearray(10**9))", "MemoryError"),
])
def test_disk_and_memory_are_limited(strong, body, stopped):
    assert attempt(strong, body) == stopped


def test_output_is_limited(box):
    assert run_submission(box, "while True: print('x' * 10000)", None, [{"stdin": ""}], Limits())[0]["failed"]
    assert "failed" in run(box, "def f(x): return 'x' * 10**6")


@pytest.mark.parametrize("source", [
    "while True: pass", "import time\ntime.sleep(100)", "def f(x):\n    while True: pass",
    "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
    "while True: pass",
    "def f(x): return 9**9**9**9", "import re\ndef f(x): return bool(re.match('(a+)+$', 'a' * 50 + 'b'))",
])
def test_the_deadline_holds(box, source):
    assert run(box, source, seconds=0.5) == {"failed": "out of time"}


def test_nothing_outlives_the_sandbox(box, tmp_path):
    """Neither a daemon in a session of its own nor another program in its place."""
    mark = f"nft-survivor-{os.getpid()}-{time.monotonic_ns()}"
    source = ("import os, signal, sys\ndef f(x):\n    for leave in (os.fork, os.setsid):\n        try: leave()\n"
              "        except OSError: pass\n    for each in range(1, 32):\n"
              "        try: signal.signal(each, signal.SIG_IGN)\n        except OSError: pass\n"
              f"    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}])\n")
    assert run(box, source, seconds=0.5) == {"failed": "out of time"}
    assert_ends(mark)


def assert_ends(mark: str) -> None:
    """Within seconds, no process has the mark as an argument."""
    def is_running(path: Path) -> bool:
        try:
            return mark.encode() in path.read_bytes().split(b"\0")
        except OSError:
            return False

    deadline = time.monotonic() + 10
    while running := [path for path in Path("/proc").glob("[0-9]*/cmdline") if is_running(path)]:
        assert time.monotonic() < deadline, running
        time.sleep(0.05)


def test_no_new_name_spaces_and_no_privileges(strong):
    assert attempt(strong, "import ctypes\nreturn ctypes.CDLL(None).unshare(0x10000000)") == -1
    assert attempt(strong, "import os\nreturn os.listdir('/proc')") == "FileNotFoundError"


def test_without_bubblewrap_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    find_sandbox.cache_clear()
    try:
        with refused("--verifier.allow-weak-sandbox"):
            Verifier(VerifierConfig(reward="code")).start()
        assert find_sandbox(True).is_weak
    finally:
        find_sandbox.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("allow_weak", [False, True])
def test_a_killed_worker_takes_its_sandbox_along(strong, monkeypatch, allow_weak):
    if allow_weak:                    # the workers look for bubblewrap in PATH
        monkeypatch.setenv("PATH", "")
    gold = json.dumps({"entry": "f", "tests": [{"args": [1], "expected": 1}], "seconds": 30})
    mark = f"nft-killed-{os.getpid()}-{time.monotonic_ns()}"
    source = ("import os, sys\nos.execv(sys.executable, "
              f"[sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}])")
    with Verifier(VerifierConfig(reward="code", deadline=2.0, workers=1, allow_weak_sandbox=allow_weak)) as pool:
        assert pool.judge([source], [gold])[0].outcome == "timeout"
    assert_ends(mark)
