"""The pool: one verdict per answer, in order, whatever happens to the processes."""
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from corpus import CORPUS, box, cases
from hostile import HOSTILE
from refusal import refused

pytest.importorskip("math_verify")

from nft_jax.config import VerifierConfig
from nft_jax.types import OUTCOMES
from nft_jax.verify import Verifier, verify
from nft_jax.verify.processes import Worker

SANE = [
    (r"2\sqrt{2}", r"\sqrt{8}", True), ("(x+1)(x-1)", "x^2-1", True),
    (r"\frac{\pi}{6}", r"\frac{\pi}{3}", False), ("7", "7", True), ("7", "8", False),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt3}{3}", True), ("e^{-t}", "e^{t}", False), ("1,-2", "-2,1", True),
    (r"\sqrt{2}", r"\sqrt{3}", False), (r"\cot x", r"\frac{1}{\tan x}", True),
]
# sympy looks for closed forms, and takes many seconds over each
SLOW = r"\int_0^1 x^{x}\sin(x^2+y)dx+\int_0^1 \frac{\sin(x^{3}+x)}{1+e^{x}+x^{2}}dx+\int_0^1 x^{x}\cos(x^3+y)dx"


def rewards(verdicts) -> list:
    return [found.reward for found in verdicts]


def submit(pool: Verifier, cases) -> Future:
    """The verdicts on cases (gold, answer, ...) as a future."""
    return pool.submit([box(answer) for _, answer, *_ in cases], [gold for gold, *_ in cases])


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def eventually(holds, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


@pytest.fixture(scope="module")
def verifier():
    with Verifier(VerifierConfig(workers=2)) as pool:
        yield pool


@pytest.fixture
def begun(monkeypatch):
    """The tasks that workers have begun."""
    tasks, begin = [], Worker.begin
    monkeypatch.setattr(Worker, "begin", lambda self, task, seconds: (tasks.append(task), begin(self, task, seconds)))
    return tasks


def test_labelled_corpus(verifier):
    """At least 98 % right, and nothing wrong is ever rewarded."""
    cases = [case for cases in CORPUS.values() for case in cases]
    verdicts = submit(verifier, cases).result()
    missed = [(case, found) for case, found in zip(cases, verdicts, strict=True)
              if (found.outcome == "right") != case[2]]
    assert [case for case, found in missed if found.outcome == "right"] == []
    assert len(missed) <= 0.02 * len(cases), missed
    assert verifier.counts["error"] == 0


def test_verdicts_do_not_depend_on_the_batch():
    rng, names = random.Random(1), ("algebra", "radicals", "equations", "constants")
    rows = rng.sample([(gold, box(answer)) for name in names for gold, answer, _ in CORPUS[name]], 24)
    rows += [(case.gold, case.response) for name in ("right", "hostile") for case in rng.sample(cases(name), 24)]
    golds, responses = zip(*rows, strict=True)
    with Verifier(VerifierConfig(workers=2)) as pool:
        together = pool.judge(responses, golds)
    with Verifier(VerifierConfig(workers=1)) as pool:
        order = rng.sample(range(len(rows)), len(rows))
        alone = {i: pool.judge([responses[i]], [golds[i]])[0] for i in order}
    assert together == [alone[i] for i in range(len(rows))]


def test_hostile_answers_change_no_other_verdict():
    work = [(gold, answer, right, True) for gold, answer, right in SANE * 4]
    work += [(r"\sqrt{2}+\pi", answer, False, False) for answer in HOSTILE.values()]
    random.Random(3).shuffle(work)
    with Verifier(VerifierConfig(workers=2)) as pool:
        verdicts = submit(pool, work).result()
    assert len(verdicts) == len(work) == sum(pool.counts.values())
    for (_, answer, right, sane), found in zip(work, verdicts, strict=True):
        assert found.outcome in OUTCOMES
        assert found.outcome != "error" and found.reward == float(right), (answer[:60], found)
        assert not sane or found.outcome == ("right" if right else "wrong")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_workers_change_nothing():
    cases = [case for name in ("algebra", "radicals", "constants", "complex") for case in CORPUS[name]]
    with Verifier(VerifierConfig(workers=2)) as pool:
        expected = submit(pool, cases).result()
    with Verifier(VerifierConfig(workers=2)) as pool:
        pending = submit(pool, cases)
        killed = set()

        def victims():
            """Not one that was killed already: it stays in the list until the dispatcher has seen its end. And not one
            that holds a task which lost a worker before: at a second loss the verdict is error."""
            return [worker.pid for worker in list(pool._workers) if worker.pid not in killed
                    and ((task := worker.task) is None or task.attempts == 1)]

        while len(killed) < 3 and not pending.done():
            left = len(pool._tasks)
            assert eventually(lambda: victims() or pending.done())
            for victim in victims()[:1]:
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
                # on to another task before the next kill
                assert eventually(lambda left=left: len(pool._tasks) < left - 3 or pending.done())
        assert pending.result() == expected
        # The other worker may have given the last verdict before the dispatcher saw the last death.
        assert killed and eventually(lambda: pool.restarts >= len(killed))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_forker_may_die_too():
    with Verifier(VerifierConfig(workers=2)) as pool:
        assert rewards(pool.judge([box(r"\sqrt{3+2\sqrt{2}}")], [r"1+\sqrt2"])) == [1.0]
        workers = pool.worker_pids
        parent = int(Path(f"/proc/{workers[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert rewards(pool.judge([box(r"\sqrt{4+2\sqrt{3}}"), box("9")], [r"1+\sqrt3", "9"])) == [1.0, 1.0]
        assert eventually(lambda: not any(alive(pid) for pid in workers))


def test_a_task_that_kills_its_worker_twice_is_an_error():
    """The worker is killed whenever it holds the task: no reward, and the others keep theirs."""
    with Verifier(VerifierConfig(workers=1, deadline=30.0)) as pool:
        assert rewards(pool.judge([box(r"\sqrt{3+2\sqrt{2}}")], [r"1+\sqrt2"])) == [1.0]
        gold = rf"{SLOW}+1"
        pending = pool.submit([box(SLOW), box("5"), box(r"\sqrt{4+2\sqrt{3}}")], [gold, "5", r"1+\sqrt3"])
        for _ in range(2):
            assert eventually(lambda: any(
                worker.task is not None and worker.task.key.responses == (SLOW,)
                for worker in list(pool._workers)))
            victim = pool.worker_pids[0]
            os.kill(victim, signal.SIGKILL)
            assert eventually(lambda victim=victim: victim not in pool.worker_pids)
        verdicts = pending.result()
    assert [found.outcome for found in verdicts] == ["error", "right", "right"]
    assert rewards(verdicts) == [None, 1.0, 1.0]


def test_all_outcomes_are_reachable():
    answers = {"right": "5", "wrong": "6", "too_large": r"9^{9^{9^9}}", "timeout": SLOW}
    with Verifier(VerifierConfig(workers=2)) as pool:
        verdicts = pool.judge([*map(box, answers.values()), "no box"], ["5", "5", "5", rf"{SLOW}+1", "5"])
        assert [found.outcome for found in verdicts] == [*answers, "no_answer"]
        assert rewards(verdicts) == [1.0, 0.0, 0.0, 0.0, 0.0]
        assert pool.counts == {**dict.fromkeys(answers, 1), "no_answer": 1}


def test_a_copy_of_the_question_earns_nothing(verifier, begun):
    """Whatever another question made of the same answer, and without a worker; mode strict compares strings only."""
    asked, other = "What is $\\sqrt{8}+1$?", "How long is it?"
    answers = [box(r"\sqrt{8}+1"), box(r"1+\sqrt{8}"), box(r"2\sqrt{2}+1")]
    for question, outcomes in ((other, ["right"] * 3), (asked, ["copied", "right", "right"]), (other, ["right"] * 3)):
        found = verifier.judge(answers, [r"2\sqrt2+1"] * 3, [question] * 3)
        assert [each.outcome for each in found] == outcomes
    assert len(begun) <= 2                           # the first time
    found = verify([box("17+25-8"), box("34"), box("17+25-8")], ["34", "34", "17+25-8"], prompts=["17+25-8="] * 3)
    assert [(each.outcome, each.reward) for each in found] == [("copied", 0.0), ("right", 1.0), ("right", 1.0)]
    assert found[0].extracted == "17+25-8" and "question" in found[0].reason
    assert [each.outcome for each in verify([box("17+25-8")], ["34"])] == ["right"]
    assert [each.outcome for each in verify([box("17+25-8")], ["34"], "strict", ["17+25-8"])] == ["wrong"]


def test_a_deadline_kills_what_ignores_the_cpu_clock():
    """A deadline shorter than the CPU limit: only SIGKILL from outside can end the task."""
    with Verifier(VerifierConfig(workers=1, deadline=0.2)) as pool:
        found, after = pool.judge([box(SLOW), box("5")], [rf"{SLOW}+1", "5"])
        assert (found.outcome, found.reward, after.outcome) == ("timeout", 0.0, "right")
        assert eventually(lambda: pool.restarts >= 1)


def test_bombs_that_the_gold_lets_through():
    """A gold with a tower or a factorial exempts its answers from that guard: limits in the worker remain."""
    golds, answers = [r"3^{2^{40}}", r"123456789!+\sqrt{2}"] * 2, [r"9^{9^{9^{9}}}", r"987654321!+\sqrt{3}"] * 2
    with Verifier(VerifierConfig(workers=2)) as pool:
        verdicts = pool.judge([box(answer) for answer in [*answers, r"\sqrt{3+2\sqrt{2}}"]], [*golds, r"1+\sqrt2"])
    assert all(found.outcome in ("wrong", "timeout", "too_large") for found in verdicts[:-1]), verdicts
    assert verdicts[-1].outcome == "right"


def test_memory_is_limited():
    with Verifier(VerifierConfig(workers=1, memory_mb=256, deadline=20.0)) as pool:
        found, sane = submit(pool, [(r"(x+y+z+t)^{900}+\sum_{k=1}^{n}\binom{n}{k}", r"(x+y+z+t+1)^{900}-1"),
                                    (r"1+\sqrt2", r"\sqrt{3+2\sqrt{2}}")]).result()
    assert found.outcome in ("wrong", "too_large", "timeout") and sane.outcome == "right"


def test_from_any_thread(verifier):
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: rewards(submit(verifier, SANE).result()), range(4)))
    assert found == [[float(right) for _, _, right in SANE]] * 4


def test_futures_stream(verifier):
    slow = verifier.submit([box(SLOW)], [rf"{SLOW}+2"])
    quick = verifier.submit([box("5"), "nothing"], ["5", "5"])
    assert isinstance(slow, Future) and quick.done()  # cheap answers never wait for workers
    assert rewards(quick.result()) == [1.0, 0.0]
    assert slow.result()[0].outcome == "timeout"


def test_the_response_never_reaches_a_worker(verifier, monkeypatch):
    sent = []
    connection = type(verifier._workers[0].connection) if verifier._workers else None
    assert verifier.judge([box(r"\sqrt{3+2\sqrt{2}}")], [r"1+\sqrt2"]) and connection is not None
    original = connection.send_bytes
    monkeypatch.setattr(connection, "send_bytes", lambda self, data: (sent.append(data), original(self, data))[1])
    verifier.judge(["A SECRET CHAIN OF THOUGHT " + box(r"\sqrt{6+2\sqrt{5}}")], [r"1+\sqrt{5}"])
    assert len(sent) == 1 and b"SECRET" not in sent[0] and rb"\\sqrt{6+" in sent[0]


def test_repeated_answers_are_judged_once(verifier, begun):
    verdicts = verifier.judge([box(r"\sqrt{11+6\sqrt{2}}")] * 16, [r"3+\sqrt{2}"] * 16)
    again = verifier.judge([box(r"\sqrt{11+6\sqrt{2}}")] * 3, [r"3+\sqrt{2}"] * 3)
    assert rewards(verdicts + again) == [1.0] * 19 and len(begun) == 1


def test_close_and_start_again():
    pool = Verifier(VerifierConfig(workers=1)).start()
    pending = pool.submit([box(SLOW)], [rf"{SLOW}+3"])
    pids = pool.worker_pids
    pool.close()
    with refused("closed", kind=RuntimeError):
        pending.result()
    assert pool.worker_pids == () and not any(alive(pid) for pid in pids)
    assert rewards(pool.judge([box(r"\sqrt{3+2\sqrt{2}}")], [r"1+\sqrt2"])) == [1.0]
    pool.close()
    pool.close()


def test_modes_and_errors():
    assert rewards(verify([box("8.0"), "it is 8"], ["8", "8"])) == [1.0, 0.0]
    assert rewards(verify([box("8.0"), box("8")], ["8", "8"], mode="strict")) == [0.0, 1.0]
    assert rewards(verify(["it is 8", "none"], ["8", "8"], mode="lenient")) == [1.0, 0.0]
    assert verify([], []) == []
    with refused("2 responses", "1 golds"):
        verify(["a", "b"], ["a"])
    with refused("golds[0]", 8):
        verify(["a"], [8])
    with refused("mode", "'fuzzy'", "equivalent, strict, lenient"):
        verify(["a"], ["a"], mode="fuzzy")


def test_the_word_of_mode_strict_stands_beside_every_verdict_where_asked_for(verifier):
    """The same word that a verifier in mode strict has, also for answers whose verdict is remembered."""
    cases = [(box(answer), gold) for gold, answer, _ in CORPUS["integers"] + CORPUS["algebra"]]
    cases += [("no box", "8"), (box("8") + " " * 100, "8"), (r"\boxed{}", "8"), (box(" 8"), "8"), (box("8"), " 8")]
    responses, golds = zip(*cases, strict=True)
    strict = [found.outcome == "right" for found in verify(responses, golds, mode="strict")]
    assert 0 < sum(strict) < len(strict)
    with Verifier(VerifierConfig(disagreement=True)) as both:
        for _ in range(2):
            assert [found.strict for found in both.judge(responses, golds)] == strict
    assert {found.strict for found in verifier.judge(responses, golds)} == {None}
    assert {found.strict for mode in ("strict", "lenient") for found in verify(responses, golds, mode)} == {None}


def test_reasons_and_extracted(verifier):
    found, missing = verifier.judge([box(" 5 "), "I think it is 5"], ["5", "5"])
    assert found.extracted == "5" and found.reason
    assert missing.extracted is None and "box" in missing.reason


def run(code: str, **kwargs) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.run([sys.executable, *kwargs.pop("arguments", ["-c", code])], capture_output=True, text=True,
                          env=environment, timeout=60, check=False, **kwargs)


@pytest.mark.parametrize(("module", "heavy"), [
    ("nft_jax.verify", "jax transformers datasets sympy math_verify latex2sympy2_extended"),
    ("nft_jax.verify.worker, nft_jax.verify.maths.algebra", "jax jaxlib transformers datasets")])
def test_importing_is_light(module, heavy):
    done = run(f"import sys, {module}; print([name for name in '{heavy}'.split() if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_jax_in_workers_and_main_without_a_file():
    """From a program on standard input, as in a notebook: `__main__` has no file to import again."""
    code = r"""
from nft_jax.verify import Verifier
pool = Verifier().start()
print(pool.judge(["\\boxed{\\sqrt{3+2\\sqrt{2}}}"], ["1+\\sqrt2"])[0].reward)
maps = [open(f"/proc/{pid}/maps").read() for pid in pool.worker_pids]
print(len(maps), [name for name in ("jax", "transformers", "datasets") for text in maps if f"/{name}" in text])
"""
    done = run(code, arguments=["-"], input=code)
    assert done.stdout.split("\n")[:2] == ["1.0", "2 []"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_with_their_parent():
    done = run("import os, signal\nfrom nft_jax.verify import Verifier\npool = Verifier().start()\n"
               rf"pool.judge(['\\boxed{{\\sqrt{{3+2\\sqrt{{2}}}}}}'], ['1+\\sqrt2']); "
               f"pool.submit([{box(SLOW)!r}], [{SLOW + '+4'!r}])\n"
               "print(*pool.worker_pids, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n")
    pids = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(pids) == 2, done.stderr
    assert eventually(lambda: not any(alive(pid) for pid in pids))
