"""Programs: hidden tests decide, and nothing that a submission does passes one."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nft_jax.config import VerifierConfig
from nft_jax.verify import Verifier
from nft_jax.verify.rewards import sandbox
from nft_jax.verify.rewards.code import check_task, extract_program, read_gold, same, same_output, share_passed
from refusal import refused
from submissions import ADD

DOUBLE = json.dumps({"tests": [{"stdin": "2\n", "expected": "4\n"}, {"stdin": "5\n", "expected": "10\n"}]})


# What decides.

@pytest.mark.parametrize(("value", "expected", "right"), [
    (3, 3, True), (3.0, 3, True), (3, 3.0, True), (True, 1, False), (1, True, False), ("3", 3, False), (3, "3", False),
    (0.1 + 0.2, 0.3, True), (0.31, 0.3, False), (float("nan"), 1.0, False), (None, None, True), (None, 0, False),
    (0.0, 6.6e-34, False), (6.7e-34, 6.6e-34, False), (6.6e-34 * (1 + 1e-12), 6.6e-34, True), (1e-12, 0.0, True),
    (1e-3, 0.0, False), (-6.6e-34, 6.6e-34, False), (10**400, 0.5, False), (-10**4000, 1e308, False),
    (10**400, 0.0, False), (10**22, 1e22, True), ([10**400], [0.5], False), (float("inf"), 1e308, False),
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
    assert same_output("1\r\n2\r\n", "1\n2") and same_output("1\n2", "1\r\n2\t\n \n")
    assert not same_output("1\n\n2", "1\n2")


# What str.splitlines and str.rstrip take for line breaks and blanks.
OTHER_BREAKS = [chr(i) for i in range(0x3000) if chr(i).isspace() and chr(i) not in " \t\n"]


@pytest.mark.parametrize("other", OTHER_BREAKS, ids=ascii)
def test_only_a_line_feed_is_a_line_break(other):
    assert not same_output(f"4{other}10", "4\n10") and not same_output("4\n10", f"4{other}10")
    assert not same_output(f"4{other}", "4") and same_output(f"4{other}10", f"4{other}10 \n")


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
    ('{"seconds": 1e400, "tests": [{"stdin": "1", "expected": "1"}]}', "seconds is inf"),
    ('{"tolerance": 1' + "0" * 400 + ', "tests": [{"stdin": "1", "expected": "1"}]}', "tolerance is 1000"),
    ("[" * 100_000, "not JSON"), ('{"tests": ' + "9" * 5000 + "}", "not JSON"),
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
def test_functions(box, source, share):
    assert share_passed(f"```python\n{source}\n```", ADD) == share


@pytest.mark.parametrize(("source", "share"), [
    ("print(int(input()) * 2)", 1.0), ("import sys\nfor line in sys.stdin: print(2 * int(line), end=' ')", 1.0),
    ("print(4)", 0.5), ("raise SystemExit(0)", 0.0), ("print('4\\n10')", 0.0),
    ("import threading\nt = threading.Thread(target=lambda: print(2 * int(input())))\nt.start()\nt.join()", 1.0),
    ("import os, signal\nsignal.signal(10, lambda *a: print(2 * int(input())))\nos.kill(os.getpid(), 10)", 1.0),
    ("open('a', 'w').write(input())\nprint(2 * int(open('a').read()))", 1.0),
    ("if __name__ == '__main__':\n    print(2 * int(input()))\n    exit()", 1.0), ("print(int(input()) * 2)\n1/0", 0.0),
])
def test_programs(box, source, share):
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
    "forges lines": "import os\ndef f(a, b):\n    for fd in os.listdir(f'/proc/{os.getppid()}/fd'):\n"
                    "        os.write(os.open(f'/proc/{os.getppid()}/fd/{fd}', 1), b'{\"value\": 3}\\n' * 9)",
    "writes the result and ends": "import os\nfor i in range(3, 64):\n    try: os.write(i, b'3')\n"
                                  "    except OSError: pass\nos._exit(1)",
    "another program": "import os\ndef f(a, b): os.execv('/bin/echo', ['echo', '3'])",
    "a list in itself": "def f(a, b):\n    x = []\n    x.append(x)\n    return x",
    "shared tuples": "def f(a, b):\n    x = (1,)\n    for _ in range(40): x = (x, x)\n    return x",
    "5,000 digits": "def f(a, b): return 10**5000",
    "half a pair": "def f(a, b): return '\\ud800\\0'",
    "a stack without end": "import sys\nsys.setrecursionlimit(10**8)\ndef f(a, b): return f(a, b)",
    "a segmentation fault": "import ctypes\ndef f(a, b): return ctypes.string_at(0)",
    "brackets": "x = " + "-" * 90_000 + "1\ndef f(a, b): return 1.5",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_pass_no_test(box, name):
    assert share_passed(f"```\n{CHEATS[name]}\n```", ADD) == 0.0


def test_expected_values_never_enter_the_sandbox(strong, monkeypatch):
    jobs = []
    original = sandbox.json.dumps
    monkeypatch.setattr(sandbox.json, "dumps", lambda value, *rest: (jobs.append(original(value)), jobs[-1])[1])
    secret = json.loads('{"entry": "f", "tests": [{"args": [1], "expected": "A SECRET"}]}')
    gold = original(secret)
    assert share_passed("def f(x): return 1", gold) == 0.0
    assert jobs and not any("SECRET" in job or "expected" in job.replace("INSIDE", "") for job in jobs)


def test_in_the_pool(strong):
    answers = ["```python\ndef f(a, b): return a + b\n```", "def f(a, b): return 1", "while True: pass",
               "```\nimport os; os._exit(0)\n```"]
    for reward, expected in (("code", [1, 0, 0, 0]), ("code-share", [1, 0.25, 0, 0])):
        with Verifier(VerifierConfig(reward=reward, deadline=15.0)) as pool:
            found = pool.judge(answers, [ADD] * 4)
        assert [each.reward for each in found] == expected, found
        assert [each.outcome for each in found] == ["right", "wrong", "wrong", "wrong"]
