"""Processes that are asked to stop, crash or fall silent: several watches on one store, without jax."""
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_jax.runtime import distributed, stops
from nft_jax.runtime.stops import Stop, StopRun, Watch, stop_on_signals
from nft_jax.types import Halted, InputError
from refusal import refused


class Store:
    """What the coordination service keeps."""

    def __init__(self):
        self.values, self.lock, self.gone = {}, threading.Lock(), False

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.lock:
            if self.gone:
                raise RuntimeError("UNAVAILABLE: no connection")
            assert allow_overwrite or key not in self.values
            self.values[key] = value

    def key_value_dir_get(self, key):
        with self.lock:
            if self.gone:
                raise RuntimeError("UNAVAILABLE: no connection")
            return sorted((name, value) for name, value in self.values.items() if name.startswith(key))


class Told:
    """What a host said, and the status that it ended with."""

    def __init__(self):
        self.said, self.statuses, self.ended = [], [], threading.Event()

    def end(self, status):
        self.statuses.append(status)
        self.ended.set()

    @property
    def text(self):
        return "\n".join(self.said)


def watches(count, started=0, **settings):
    """`count` hosts that watch each other, the first `started` of them already, and what each is told."""
    store, told = Store(), [Told() for _ in range(count)]
    options = {"poll": 0.01, "silent": 3600.0} | settings
    hosts = [Watch(store, index, count, end=each.end, say=each.said.append, **options)
             for index, each in enumerate(told)]
    for host in hosts[:started]:
        host.start()
    return store, hosts, told


def run_all(work, count):
    """`work(index)` in a thread for each host; their results."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count), timeout=60))


@settings(max_examples=15)
@given(st.integers(2, 4), st.integers(0, 2**32), st.booleans())
def test_all_stop_at_the_same_point_whoever_was_asked_and_however_far_apart_they_are(count, seed, lockstep):
    """With a barrier behind every point hosts are one point apart at most; without one, anything."""
    _, hosts, _ = watches(count, count)
    random = Random(seed)
    asked, at = random.randrange(count), random.randrange(1, 30)
    slow = [random.random() * 0.004 for _ in range(count)]
    barrier = threading.Barrier(count)

    def work(index):
        for point in range(2000):
            if index == asked and point == at:
                hosts[index].ask_to_stop()
            if hosts[index].reached(alone=False):
                return point
            if lockstep:
                barrier.wait(30)
            time.sleep(slow[index])
        return None

    stopped = run_all(work, count)
    for host in hosts:
        host.close()
    assert stopped[0] is not None and stopped[0] >= at and len(set(stopped)) == 1


@settings(max_examples=10)
@given(st.integers(2, 3), st.integers(0, 2**32))
def test_work_done_alone_is_given_up_by_all_or_finished_by_all(count, seed):
    """Each step: any number of blocks alone, a point, then a collective. Nobody waits there for one who gave up."""
    _, hosts, _ = watches(count, count)
    random = Random(seed)
    asked, at = random.randrange(count), random.randrange(60)
    randoms = [Random(seed + 1 + index) for index in range(count)]
    barrier = threading.Barrier(count)

    def work(index):
        done = 0
        for step in range(500):
            if hosts[index].reached(alone=False):
                return step
            for _ in range(randoms[index].randrange(1, 12)):
                done += 1
                if index == asked and done == at + 1:
                    hosts[index].ask_to_stop()
                if hosts[index].reached(alone=True):
                    return step
                time.sleep(0.001)
            if hosts[index].reached(alone=False):
                return step
            barrier.wait(30)
        return None

    steps = run_all(work, count)
    for host in hosts:
        host.close()
    assert steps[0] is not None and len(set(steps)) == 1


def test_a_crash_ends_all_with_the_first_traceback():
    _, hosts, told = watches(3, 3)
    hosts[1].crash("Traceback: the disk of host 1", 1)
    assert all(each.ended.wait(30) for each in told)
    assert [each.statuses for each in told] == [[1]] * 3
    assert told[1].text == "Traceback: the disk of host 1"
    for index in (0, 2):
        assert told[index].said[0].startswith("host 1 (") and "the disk of host 1" in told[index].said[0]


def test_what_follows_from_a_crash_is_not_shown_in_its_place():
    _, hosts, told = watches(2)
    hosts[0].crash("the cause", 2)                   # nobody watches yet, so nobody answers
    assert "no answer from host 1: dead already" in told[0].text
    hosts[1].crash("a consequence", 1)
    assert told[1].statuses == [2] and "the cause" in told[1].text and "a consequence" not in told[1].text


def test_a_crash_where_the_store_is_gone_still_shows_itself():
    store, hosts, told = watches(2)
    store.gone = True
    hosts[1].crash("my traceback", 1)
    assert told[1].statuses == [1] and "my traceback" in told[1].text and "could not be told" in told[1].text


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_silence_is_said_once_with_the_name_and_ends_nobody():
    store, hosts, told = watches(3, silent=0.2)
    store.key_value_set("nft_jax/stops/alive/2", "1 host 2 (pod-2, process 7)")
    hosts[0].start()
    hosts[1].start()
    wait_for(lambda: told[0].said)
    hosts[1].close()                                 # this one says that it leaves
    silence = [line for line in told[0].said if "has not been heard of" in line]
    assert len(silence) == 1 and silence[0].startswith("host 2 (pod-2, process 7) ")
    store.key_value_set("nft_jax/stops/alive/2", "2 host 2 (pod-2, process 7)", allow_overwrite=True)
    wait_for(lambda: "is heard of again" in told[0].text)
    hosts[0].close()
    assert not told[0].statuses and not told[1].said
    assert "host 1" not in told[0].text


def test_a_store_that_does_not_answer_is_said_once():
    store, hosts, told = watches(2)
    hosts[1].start()
    store.gone = True
    wait_for(lambda: told[1].said)
    store.gone = False
    hosts[1].close()
    assert len(told[1].said) == 1 and "the first host does not answer (UNAVAILABLE" in told[1].text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_handlers_of_before_get_the_second(number):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with stop_on_signals() as stop:
        assert not stop.reached() and not stop.reached(alone=True)
        stop.check()
        os.kill(os.getpid(), number)
        wait_for(stop.reached)
        with pytest.raises(StopRun):
            stop.check(alone=True)
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_outside_the_main_thread_there_are_no_handlers():
    def work(_):
        with stop_on_signals() as stop:
            return signal.getsignal(signal.SIGTERM), stop.reached()

    assert run_all(work, 1) == [(signal.getsignal(signal.SIGTERM), False)]


@pytest.mark.parametrize(("error", "shown", "status"), [
    (InputError("data.limit is -1: use more."), "error: data.limit is -1: use more.", 2),
    (Halted("it halted."), "error: it halted.", 1),
    (KeyboardInterrupt(), "interrupted by a second signal", 130),
    (ValueError("of the program"), "ValueError: of the program", 1)])
def test_errors_leave_as_what_they_are_and_end_all_hosts_before_anything_is_closed(monkeypatch, error, shown, status):
    _, hosts, told = watches(2, 1)
    monkeypatch.setattr(stops, "_watch", hosts[1])
    closed = []
    with pytest.raises(type(error)):
        try:
            with distributed.ends_together():
                raise error
        finally:
            closed.append(told[1].statuses[:])
    assert closed == [[status]] and told[1].text.strip().endswith(shown)
    assert told[0].ended.wait(30) and shown in told[0].text and told[0].statuses == [status]


def test_one_process_alone_watches_nobody(monkeypatch):
    hook = sys.excepthook
    stops.watch_other_hosts()
    assert stops._watch is None and sys.excepthook is hook
    with refused("mine", kind=ValueError), distributed.ends_together():
        raise ValueError("mine")
    stop = Stop()
    stop.ask()
    assert stop.reached() and stop.reached(alone=True)
