"""What the processes of a job tell each other beside their collectives: that one of them was asked to stop, that one
crashed, that one is not heard of any more.

All of it goes through the key-value store of jax's coordination service, which needs no devices and no lockstep. With
one process nothing here does anything but `Stop`, which is then a plain flag.

Life of a stop over several processes: a signal reaches one of them (1), whose watching thread leaves a note (2). Every
watching thread finds it, holds its process at its next point and says how many points that has passed (3). All points
are the same in all processes, so the one after the furthest is ahead of everyone: all stop there (4). (The scheme is
that of the preemption sync manager of TSL, jax.experimental.multihost_utils.reached_preemption_sync_point, which knows
SIGTERM alone and replaces its handler.)
"""
from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from nft_jax.types import Halted, InputError

HEARTBEAT_SECONDS = 20      # for jax.distributed.initialize: so soon after a host's silence jax ends the others
SILENT_SECONDS = 10.0       # so soon the silence is said, with the host's name
POLL_SECONDS = 1.0
ANSWER_SECONDS = 8.0        # how long the first host waits until the others have shown the error
_FOLDER = "nft_jax/guard/"


class Store(Protocol):
    """The part of jax's coordination service client that is used."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


class StopRun(Exception):
    """The work at hand is given up, because the run was asked to stop; never leaves `train`."""


class Hosts:
    """The watch that one process of `count` keeps. `end` ends the process at once, with a status; `say` prints."""

    def __init__(self, store: Store, index: int, count: int, *, poll: float = POLL_SECONDS,
                 silent: float = SILENT_SECONDS, end: Callable[[int], Any] = os._exit,
                 say: Callable[[str], None] | None = None):
        self.index, self.count = index, count
        self._store, self._poll, self._silent, self._end = store, poll, silent, end
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._name = f"host {index} ({socket.gethostname()}, process {os.getpid()})"
        self._lock = threading.Lock()                   # of the two numbers below
        self._passed, self._stop_after = 0, None        # points passed; the furthest that anyone had
        self._asked, self._closing, self._ending = threading.Event(), threading.Event(), threading.Lock()
        self._heard: dict[str, tuple[str, float]] = {}  # of every host: its newest beat, and when that came
        self._beats, self._reported, self._ended = 0, set(), False
        self._thread = threading.Thread(target=self._watch, name="nft-hosts", daemon=True)

    def start(self) -> Hosts:
        self._beat()
        self._thread.start()
        return self

    def close(self) -> None:
        """This process ends as it should: its silence means nothing from now on."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join(5 * self._poll)
            self._write(f"alive/{self.index}", "left")

    def ask_to_stop(self) -> None:
        """All processes stop at a point ahead; returns at once (a signal handler may call it)."""
        self._asked.set()

    def reached(self, alone: bool) -> bool:
        """See `Stop.reached`. Waits, for some seconds at most, only while processes agree where to stop."""
        with self._lock:
            self._passed += not alone
            return self._stop_after is not None and self._passed + alone > self._stop_after

    def crash(self, report: str, status: int) -> None:
        """Shows `report` (a traceback, or a paragraph) on all hosts, and ends this process: the others end too. Where
        another host crashed before, this is its consequence, and that one's report is shown instead."""
        with self._ending:
            note = {"host": self.index, "name": self._name, "report": report[-20_000:], "status": status}
            try:
                first = next(iter(self._read("crash/").values()), None)
                if first is None:
                    self._write(f"crash/{self.index}", json.dumps(note))
                self._obey(json.loads(first) if first else note)
            except Exception as error:       # of the store, which is gone with the first process
                self._say(f"{report}\n(The other hosts could not be told: {error})")
                self._end(status)

    def _obey(self, note: dict) -> None:
        """Shows the note of a crash and ends this process, once."""
        if self._ended:
            return
        self._ended, own = True, note["host"] == self.index
        self._say(note["report"] if own else f"{note['name']} ended, and with it this job. It said:\n{note['report']}")
        self._write(f"answered/{self.index}", "")
        if self.index == 0:                  # it holds the store, so it leaves last: without it jax aborts the others
            missing, until = [], time.monotonic() + ANSWER_SECONDS * (self._poll / POLL_SECONDS)
            while time.monotonic() < until:
                answered = self._read("answered/")
                missing = [host for host in range(self.count) if str(host) not in answered]
                if not missing:
                    break
                time.sleep(self._poll / 4)
            if missing:
                self._say(f"no answer from host {', '.join(map(str, missing))}: dead already (killed, or out of "
                          "memory), and then probably the cause")
            time.sleep(self._poll)           # who answered last is still about to end
        sys.stdout.flush()
        self._end(note["status"])

    def _watch(self) -> None:
        while not self._closing.wait(self._poll):
            try:
                self._beat()
                notes = self._read("crash/")
                if notes:
                    with self._ending:
                        self._obey(json.loads(next(iter(notes.values()))))
                    return
                self._look_for_silence()
                self._pass_on_a_stop()
            except Exception as error:     # of the store: jax ends this process when it cannot be reached any more
                if not self._closing.is_set() and "store" not in self._reported:
                    self._reported.add("store")
                    self._say(f"{self._name}: the first host does not answer ({str(error).splitlines()[0][:200]})")

    def _beat(self) -> None:
        self._beats += 1
        self._write(f"alive/{self.index}", f"{self._beats} {self._name}")

    def _look_for_silence(self) -> None:
        """By the first process, said on all hosts' behalf. It ends nothing: that is left to jax's own heartbeat, which
        a process that is busy in Python cannot miss."""
        if self.index:
            return
        now = time.monotonic()
        for host, beat in self._read("alive/").items():
            known, since = self._heard.get(host, ("", now))
            if beat != known and host in self._reported:
                self._reported.discard(host)
                self._say(f"{beat.partition(' ')[2]} is heard of again")
            self._heard[host] = beat, since if beat == known else now
            if beat == known != "left" and now - since > self._silent and host not in self._reported:
                self._reported.add(host)
                self._say(f"{beat.partition(' ')[2]} has not been heard of for {self._silent:.0f} seconds. If it is "
                          "dead (killed, out of memory, no network), this job ends within as many")

    def _pass_on_a_stop(self) -> None:
        if self._stop_after is not None:
            return
        if self._asked.is_set():
            self._write("stop/asked", "")
        elif not self._read("stop/"):
            return
        with self._lock:                     # the process stays between two points until the number is known
            self._write(f"passed/{self.index}", str(self._passed))
            while len(passed := self._read("passed/")) < self.count and not self._read("crash/"):
                if self._closing.wait(self._poll / 10):
                    return
                self._beat()
            self._stop_after = max(map(int, passed.values()))

    def _write(self, name: str, value: str) -> None:
        self._store.key_value_set(_FOLDER + name, value, allow_overwrite=True)

    def _read(self, folder: str) -> dict[str, str]:
        return {key.rpartition("/")[2]: value for key, value in self._store.key_value_dir_get(_FOLDER + folder)}


_hosts: Hosts | None = None      # of this process, as jax.distributed has one client


def watch_other_hosts() -> None:
    """Starts the watch; to be called once, behind jax.distributed.initialize. Uncaught exceptions of this process end
    all others too, from now on. One process alone: does nothing."""
    global _hosts
    from jax._src import distributed  # jax.process_index() would start the devices, which waits for all hosts
    job = distributed.global_state
    if _hosts is not None or job.client is None or job.num_processes == 1:
        return
    _hosts = Hosts(job.client, job.process_id, job.num_processes).start()
    atexit.register(_hosts.close)            # before jax's own, which waits for the other processes
    usual = sys.excepthook

    def hook(kind, error, trace):
        crashed(error)
        usual(kind, error, trace)

    sys.excepthook = hook


def crashed(error: BaseException, status: int = 1) -> None:
    """With other hosts to tell: shows the error on all of them (a traceback, or the paragraph of an error that is
    meant for the user) and ends all, this process first, with `status`. Alone: returns."""
    if _hosts is None:
        return
    if isinstance(error, (InputError, Halted)):
        _hosts.crash(f"error: {error}", status)
    elif isinstance(error, KeyboardInterrupt):
        _hosts.crash("interrupted by a second signal", status)
    else:
        _hosts.crash("".join(traceback.format_exception(error)), status)


class Stop:
    """Whether a run was asked to stop. All processes call `reached()` equally often: each call is a point, and they
    all get True at the same one."""

    def __init__(self):
        self._asked = threading.Event()

    def ask(self) -> None:
        self._asked.set()
        if _hosts is not None:
            _hosts.ask_to_stop()

    def reached(self, alone: bool = False) -> bool:
        """Whether to stop here. `alone`: asked by a process at work that no other takes part in, any number of times;
        it gives that work up where this is True. Behind such work, and before the next collective, lies a point."""
        return self._asked.is_set() if _hosts is None else _hosts.reached(alone)

    def check(self, alone: bool = False) -> None:
        """Raises StopRun where `reached` is True."""
        if self.reached(alone):
            raise StopRun


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A Stop that the first SIGINT or SIGTERM asks for; a second one, of either, ends the process as usual. (Outside
    the main thread Python allows no handlers.)"""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore():
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number, frame):
        restore()
        stop.ask()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
