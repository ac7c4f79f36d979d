"""Programs: hidden tests decide, and nothing a submission does passes one, leaves the sandbox, or lasts."""
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.config import VerifierConfig
from nft_jax.types import InputError
from nft_jax.verify import Verifier
from nft_jax.verify.rewards import sandbox
from nft_jax.verify.rewards.code import check_task, extract_program, read_gold, same, same_output, share_passed
from nft_jax.verify.rewards.sandbox import Limits, find_sandbox, run_submission
from refusal import refused

ADD = json.dumps({"entry": "f", "tests": [{"args": [i, i + 1], "expected": 2 * i + 1} for i in range(4)]})
DOUBLE = json.dumps({"tests": [{"stdin": "2\n", "expected": "4\n"}, {"stdin": "5\n", "expected": "10\n"}]})


@pytest.fixture(scope="module")
def strong():
    """The real sandbox; without it there is nothing to prove."""
    try:
        return find_sandbox(False)
    except InputError as problem:
        pytest.skip(f"no sandbox here: {problem}")


def run(strong, source: str, args=(0,), **limits) -> dict:
    """What `f(*args)` of the submission gives."""
    return run_submission(strong, source, "f", [{"args": list(args)}], Limits(**{"seconds": 2.0, **limits}))[0]


def attempt(strong, body: str, **limits):
    """Value of the expression or statements in `f`; the name of the exception that stopped them."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    found = run(strong, f"def f(x):\n    try:\n{lines}\n    except BaseException as problem:\n"
                        "        return type(problem).__name__\n", **limits)
    return found.get("value", found.get("failed"))


# What decides.

@pytest.mark.parametrize(("value", "expected", "right"), [
    (3, 3, True), (3.0, 3, True), (3, 3.0, True), (True, 1, False), (1, True, False), ("3", 3, False), (3, "3", False),
    (0.1 + 0.2, 0.3, True), (0.31, 0.3, False), (float("nan"), 1.0, False), (None, None, True), (None, 0, False),
    ([1, 2], [1, 2], True), ([2, 1], [1, 2], False), ([1], [1, 2], False), ({"a": 1}, {"a": 1}, True),
    ({"a": 1, "b": 2}, {"a": 1}, False), ([], {}, False), (2**70, 2**70, True), (2.0**53 + 2, 2**53 + 1, False),
])
def test_same(value, expected, right):
    assert same(value, expected) is right


plain_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(plain_values, plain_values)
def test_same_is_equality_of_json(a, b):
    assert same(a, a) and same(json.loads(json.dumps(a)), a)
    if same(a, b, 1e-15):
        assert type(a) is type(b) or {type(a), type(b)} == {int, float}


def test_same_output():
    assert same_output("1 2 \n3\n\n", "1 2\n3") and not same_output("1 2\n4", "1 2\n3")
    assert not same_output(["1"], "1") and not same_output(" 1", "1")


@pytest.mark.parametrize(("response", "program"), [
    ("```python\na = 1\n```", "a = 1\n"), ("x\n```\na\n```\ny\n```py\nb\n```\nz", "b\n"), ("a = 1", "a = 1"),
    ("<think>```\nno\n```</think>\n```\nyes\n```", "yes\n"), ("```python\ncut", "```python\ncut"),
    ("<think>```\nno\n```", ""),
])
def test_extract_program(response, program):
    assert extract_program(response) == program


@pytest.mark.parametrize(("gold", "told"), [
    ("def f", "not JSON"), ("[]", "missing"), ('{"tests": []}', "missing"),
    ('{"tests": [{"args": [1]}]}', "needs stdin"),
    ('{"entry": "f", "tests": [{"args": [1]}]}', "needs args and expected"),
    ('{"entry": "f()", "tests": [{"args": [1], "expected": 1}]}', "not the name of a function"),
    ('{"tests": [{"stdin": "1", "expected": 1}]}', "is text"),
    ('{"seconds": 0, "tests": [{"stdin": "1", "expected": "1"}]}', "seconds is 0"),
])
def test_unusable_tasks_are_named(gold, told):
    assert told in check_task(gold)
    with refused(told, kind=ValueError):
        read_gold({"answer": gold})


def test_usable_tasks():
    assert check_task(ADD) is None and check_task(DOUBLE) is None
    assert read_gold({"answer": json.loads(ADD)}) == ADD


# Right and wrong programs.

@pytest.mark.parametrize(("source", "share"), [
    ("def f(a, b): return a + b", 1.0), ("def f(a, b): return 1", 0.25), ("def f(a, b): return a - b", 0.0),
    ("def f(a, b): return (a + b) * 1.0", 1.0), ("import math\ndef f(*x): return math.fsum(x)", 1.0),
    ("def g(a, b): return a + b", 0.0), ("def f(a, b) return a", 0.0), ("", 0.0), ("\0", 0.0), ("f = 3", 0.0),
    ("def f(a, b):\n    if a == 2: raise KeyError\n    return a + b", 0.75), ("def f(a, b): return str(a + b)", 0.0),
    ("def f(a, b):\n    if a == 3:\n        while True: pass\n    return a + b", 0.75),
    ("def f(a, b):\n    f.n = getattr(f, 'n', 0) + 1\n    return a + b + f.n - 1", 1.0),    # tests share no state
    ("\ud800 = 1\ndef f(a, b): return 1", 0.0),
])
def test_functions(strong, source, share):
    assert share_passed(f"```python\n{source}\n```", ADD) == share


@pytest.mark.parametrize(("source", "share"), [
    ("print(int(input()) * 2)", 1.0), ("import sys\nfor line in sys.stdin: print(2 * int(line), end=' ')", 1.0),
    ("print(4)", 0.5), ("raise SystemExit(0)", 0.0), ("print('4\\n10')", 0.0),
    ("if __name__ == '__main__':\n    print(2 * int(input()))\n    exit()", 1.0), ("print(int(input()) * 2)\n1/0", 0.0),
])
def test_programs(strong, source, share):
    assert share_passed(source, DOUBLE) == share


# Cheats: none of them computes anything, none may pass a single test.

CHEATS = {
    "exit": "import os\nos._exit(0)",
    "exit in f": "import os\ndef f(a, b): os._exit(0)",
    "sys.exit": "import sys\ndef f(a, b): sys.exit(0)",
    "equal to everything": "class E:\n    __eq__ = lambda s, o: True\n    __hash__ = None\ndef f(a, b): return E()",
    "an int of its own": "class E(int):\n    __eq__ = lambda s, o: True\ndef f(a, b): return E(99)",
    "a str of its own": "class E(str):\n    __eq__ = lambda s, o: True\ndef f(a, b): return E('1')",
    "a list of its own": "class E(list):\n    __eq__ = lambda s, o: True\ndef f(a, b): return E()",
    "nan": "def f(a, b): return float('nan')",
    "prints pass": "print('PASS'); print('{\"test\": 0, \"value\": true}')\ndef f(a, b): print('ok 1')",
    "writes to every descriptor": "import os\ndef f(a, b):\n    for i in range(64):\n        try: os.write(i, b"
                                  "'{\"test\": 0, \"value\": null}\\n{\"test\": 1, \"passed\": true}\\n')\n"
                                  "        except OSError: pass",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(a, b): raise SystemExit(0)",
    "frames": "import sys\ndef f(a, b):\n    frame = sys._getframe(1)\n    while frame:\n"
              "        for name, value in {**frame.f_globals, **frame.f_locals}.items():\n"
              "            if 'expect' in str(name): return value\n        frame = frame.f_back",
    "expected in the job": "import gc\ndef f(a, b):\n    for o in gc.get_objects():\n"
                           "        if isinstance(o, dict) and 'expected' in o: return o['expected']",
    "patches json": "import json\njson.dumps = lambda *a, **k: 'true'\ndef f(a, b): return 1.5",
    "patches builtins": "import builtins\nbuiltins.type = lambda *a: int\nbuiltins.isinstance = lambda *a: True\n"
                        "def f(a, b): return object()",
    "kills the parent": "import os, signal\ndef f(a, b): os.kill(os.getppid(), 9)",
    "kills everyone": "import os\ndef f(a, b): os.kill(-1, 9)",
    "reads the parent's memory": "import os\ndef f(a, b):\n    text = open(f'/proc/{os.getppid()}/cmdline').read()\n"
                                 "    return text.count('expected')+1000",
    "traces": "import sys\nsys.settrace(lambda *a: None)\ndef f(a, b): return '3'",
    "returns the code of a pass": "def f(a, b): return {'value': a + b, 'passed': True, 'failed': None}",
    "deep": "def f(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "long": "def f(a, b): return 'x' * 10**8",
    "a key of its own": "def f(a, b): return {1: a + b}",
    "bytes": "def f(a, b): return b'3'",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_pass_no_test(strong, name):
    assert share_passed(f"```\n{CHEATS[name]}\n```", ADD) == 0.0


def test_expected_values_never_enter_the_sandbox(strong, monkeypatch):
    jobs = []
    original = sandbox.json.dumps
    monkeypatch.setattr(sandbox.json, "dumps", lambda value, *rest: (jobs.append(original(value)), jobs[-1])[1])
    secret = json.loads('{"entry": "f", "tests": [{"args": [1], "expected": "A SECRET"}]}')
    gold = original(secret)
    assert share_passed("def f(x): return 1", gold) == 0.0
    assert jobs and not any("SECRET" in job or "expected" in job.replace("INSIDE", "") for job in jobs)


# The walls.

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


def test_a_fork_bomb_stays_small(strong):
    found = attempt(strong, "import os, time\nfor n in range(500):\n    if os.fork() == 0:\n        time.sleep(30)\n"
                            "        os._exit(0)\nreturn n", seconds=5.0)
    assert found == "BlockingIOError"
    assert attempt(strong, "import threading, time\nfor i in range(500):\n    threading.Thread(target=time.sleep, "
                           "args=(9,), daemon=True).start()\nreturn 'started'") == "RuntimeError"


@pytest.mark.parametrize(("body", "stopped"), [
    ("with open('/tmp/a', 'wb') as f:\n    for i in range(100): f.write(b'x' * 2**20)", "OSError"),
    ("for i in range(100):\n    with open(f'/tmp/{i}', 'wb') as f: f.write(b'x' * 2**20)", "OSError"),
    ("return len(bytearray(10**9))", "MemoryError"),
])
def test_disk_and_memory_are_limited(strong, body, stopped):
    assert attempt(strong, body) == stopped


def test_output_is_limited(strong):
    assert run_submission(strong, "while True: print('x' * 10000)", None, [{"stdin": ""}], Limits())[0]["failed"]
    assert "failed" in run(strong, "def f(x): return 'x' * 10**6")


@pytest.mark.parametrize("source", [
    "while True: pass", "import time\ntime.sleep(100)", "def f(x):\n    while True: pass",
    "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
    "while True: pass",
    "def f(x): return 9**9**9**9", "import re\ndef f(x): return bool(re.match('(a+)+$', 'a' * 50 + 'b'))",
])
def test_the_deadline_holds(strong, source):
    assert run(strong, source, seconds=0.5) == {"failed": "out of time"}


def test_nothing_outlives_the_sandbox(strong, tmp_path):
    """A daemon of a daemon in a session of its own ends with the sandbox's process name space."""
    mark = f"nft-survivor-{os.getpid()}-{time.monotonic_ns()}"
    source = ("import os, sys\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
              f"            os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}])\n"
              "        os._exit(0)\n    return 1\n")
    assert run(strong, source).keys() & {"value", "failed"}
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
    assert attempt(strong, "import os\nreturn len([p for p in os.listdir('/proc') if p.isdigit()]) < 10") is True


def test_without_bubblewrap_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    find_sandbox.cache_clear()
    try:
        with refused("--verifier.allow-weak-sandbox"):
            Verifier(VerifierConfig(reward="code")).start()
        weak = find_sandbox(True)
        assert weak.is_weak
        assert run_submission(weak, "def f(x): return x", "f", [{"args": [7]}], Limits()) == [{"value": 7}]
        assert run_submission(weak, "while True: pass", "f", [{"args": [7]}], Limits()) == [{"failed": "out of time"}]
    finally:
        find_sandbox.cache_clear()


def test_in_the_pool(strong):
    answers = ["```python\ndef f(a, b): return a + b\n```", "def f(a, b): return 1", "while True: pass",
               "```\nimport os; os._exit(0)\n```"]
    for reward, expected in (("code", [1, 0, 0, 0]), ("code-share", [1, 0.25, 0, 0])):
        with Verifier(VerifierConfig(reward=reward, deadline=15.0)) as pool:
            found = pool.judge(answers, [ADD] * 4)
        assert [each.reward for each in found] == expected, found
        assert [each.outcome for each in found] == ["right", "wrong", "wrong", "wrong"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_takes_its_sandbox_along(strong):
    gold = json.dumps({"entry": "f", "tests": [{"args": [1], "expected": 1}], "seconds": 30})
    mark = f"nft-killed-{os.getpid()}-{time.monotonic_ns()}"
    source = ("import os, sys\nos.execv(sys.executable, "
              f"[sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}])")
    with Verifier(VerifierConfig(reward="code", deadline=2.0, workers=1)) as pool:
        assert pool.judge([source], [gold])[0].outcome == "timeout"
    assert_ends(mark)
