"""Many answers, some of them hostile: every verdict present and the sane ones unchanged. Slow."""
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

import pytest

from corpus import CORPUS, box
from hostile import HOSTILE
from refusal import refused

pytest.importorskip("math_verify")

from nft_jax.config import VerifierConfig
from nft_jax.verify import Verifier, processes

DATA = os.environ.get("NFT_TEST_DATA")
SETS = ("math500", "minerva", "aime24", "amc", "gsm8k_test")


class Watch(threading.Thread):
    """Samples the address space and the age of the task of every worker, while it runs."""

    def __init__(self, pool: Verifier):
        super().__init__(daemon=True)
        self.pool, self.ended, self.largest_mb, self.latest = pool, threading.Event(), 0, 0.0

    def run(self):
        while not self.ended.wait(0.05):
            for worker in list(self.pool._workers):
                if worker.task is not None:
                    self.latest = max(self.latest, time.monotonic() - worker.deadline)
                try:
                    pages = Path(f"/proc/{worker.pid}/statm").read_text().split()[0]
                except OSError:
                    continue                          # it has just been replaced
                self.largest_mb = max(self.largest_mb, int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [2, 8])
def test_ten_thousand_answers_with_hostile_ones(workers):
    rng = random.Random(workers)
    sane = [case for cases in CORPUS.values() for case in cases]
    with Verifier(VerifierConfig(workers=2)) as pool:
        alone = dict(zip(sane, pool.judge([box(a) for _, a, _ in sane], [g for g, _, _ in sane]), strict=True))
    hostile = [(gold, answer) for answer in HOSTILE.values() for gold in ("42", r"\sqrt{2}+\pi", "1,2", "x^2+y")]
    work = [(*rng.choice(hostile), None) if i % 20 == 0 else rng.choice(sane) for i in range(10_000)]
    rng.shuffle(work)
    config = VerifierConfig(workers=workers)
    with Verifier(config) as pool:
        watch = Watch(pool.start())
        watch.start()
        groups = [work[i:i + 16] for i in range(0, len(work), 16)]
        pending = [pool.submit([box(a) for _, a, _ in group], [g for g, _, _ in group]) for group in groups]
        verdicts = [verdict for each in pending for verdict in each.result()]
        watch.ended.set()
        watch.join()
        assert len(verdicts) == 10_000 == sum(pool.counts.values()) and pool.counts["error"] == 0
    for case, found in zip(work, verdicts, strict=True):
        if case[2] is None:
            assert found.outcome in ("wrong", "too_large", "timeout", "no_answer"), (case[1][:80], found)
        else:
            assert (found.outcome, found.reward) == (alone[case].outcome, alone[case].reward), case
    assert watch.largest_mb <= config.memory_mb
    assert watch.latest < 5.0                         # seconds past a deadline before the worker is gone


def changed_copies(gold: str) -> list[str]:
    """The gold with another sign, another digit, and its two parts exchanged where it is a pair."""
    copies = [gold[1:] if gold.startswith("-") else f"-{gold}"]
    places = [i for i, character in enumerate(gold) if character.isdigit()]
    if places:
        last = places[-1]
        copies.append(f"{gold[:last]}{(int(gold[last]) + 1) % 10}{gold[last + 1:]}")
    parts = gold[1:-1].split(",")
    if gold[0] == "(" and gold[-1] == ")" and len(parts) == 2 and parts[0].strip() != parts[1].strip():
        copies.append(f"({parts[1]},{parts[0]})")
    return copies


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="NFT_TEST_DATA is not set")
def test_all_real_golds_are_right_and_their_changed_copies_are_not():
    golds = [str(json.loads(line)["answer"]).strip() for name in SETS
             for line in (Path(DATA) / "data" / f"{name}.jsonl").read_text().splitlines()]
    golds = [gold.rpartition("####")[2].strip() for gold in golds]
    with Verifier(VerifierConfig(workers=2)) as pool:
        assert all(found.outcome == "right" for found in pool.judge([box(gold) for gold in golds], golds))
        pairs = [(gold, copy) for gold in golds if not gold.startswith("[") for copy in changed_copies(gold)]
        verdicts = pool.judge([box(copy) for _, copy in pairs], [gold for gold, _ in pairs])
    passed = [pair for pair, found in zip(pairs, verdicts, strict=True) if found.outcome == "right"]
    assert {gold for gold, _ in passed} <= {"0"}     # minus nothing is nothing
    assert len(pairs) > 2 * len(golds) * 0.8


def test_what_a_platform_lacks_is_said_at_start(monkeypatch, caplog):
    monkeypatch.setattr("nft_jax.verify.pool.sys.platform", "darwin")
    with Verifier(VerifierConfig(workers=1)):
        assert "memory limits need Linux" in caplog.text
    monkeypatch.undo()
    caplog.clear()
    with Verifier(VerifierConfig(workers=1)):
        assert caplog.text == "" if sys.platform == "linux" else "memory limits" in caplog.text


def test_a_start_that_hangs_ends(monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 0.0)
    with Verifier(VerifierConfig(workers=1)) as pool, refused("verifier.reward", "0 s"):
        pool.judge([box(r"\sqrt{3+2\sqrt{2}}")], [r"1+\sqrt2"])
