"""What the processes of a run tell each other beside their collectives: a request to stop, a crash, silence.

All of it goes through the key-value store of jax's coordination service, which needs no devices and
no lockstep. With one process only `Stop` does anything, and it is a plain flag.

The life of a stop, over several processes:
1. A signal reaches one process.
2. Its watching thread leaves a note in the store.
3. Every watching thread finds the note, holds its process at the next point, and writes how many
   points that has passed.
4. Points are the same in all processes, so the point after the furthest is ahead of everyone: all stop there.

The scheme is TSL's preemption sync manager (jax.experimental.multihost_utils.reached_preemption_sync_point). That
one knows SIGTERM only and replaces its handler, and it cannot give up work that one process does alone."""
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
from contextlib import contextmanager, suppress
from typing import Any

from nft_jax.types import Halted, InputError

HEARTBEAT_SECONDS = 20      # for jax.distributed.initialize: after a silence of so long jax ends the other processes
SILENT_SECONDS = 10.0       # after a silence of so long the silent host is named
POLL_SECONDS = 1.0
ANSWER_SECONDS = 8.0        # how long process 0 waits until the others have shown the error
_FOLDER = "nft_jax/stops/"


class StopRun(Exception):
    """The work at hand is given up because the run was asked to stop. Never leaves `train`."""


def _print(text: str) -> None:
    # A standard error that cannot be written (full disk, closed pipe) must not keep this process from ending.
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Watch:
    """The watch that process `index` of `count` keeps over the others, in a thread. It reads and writes `store`
    every `poll` seconds. `end(status)` ends this process at once; `say` prints."""

    def __init__(self, store: Any, index: int, count: int, *, poll: float = POLL_SECONDS,
                 silent: float = SILENT_SECONDS, end: Callable[[int], Any] = os._exit,
                 say: Callable[[str], None] = _print):
        self.index, self.count = index, count
        # jax's coordination service client: key_value_set, key_value_dir_get. Its errors are RuntimeErrors.
        self._store, self._poll, self._silent, self._end, self._say = store, poll, silent, end, say
        self._name = f"host {index} ({socket.gethostname()}, process {os.getpid()})"
        self._lock = threading.Lock()                   # of `_passed` and `_stop_after`
        self._passed, self._stop_after = 0, None        # points passed here; the most that any process had passed
        self._asked, self._closing, self._ending = threading.Event(), threading.Event(), threading.Lock()
        self._heard: dict[str, tuple[str, float]] = {}  # of each host: its newest beat, and when it came
        self._beats, self._reported, self._ended = 0, set(), False
        self._thread = threading.Thread(target=self._run, name="nft-watch", daemon=True)

    def start(self) -> "Watch":
        self._beat()
        self._thread.start()
        return self

    def close(self) -> None:
        """Tells the others that this process ends as it should: its silence means nothing from now on."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join(5 * self._poll)
            self._write(f"alive/{self.index}", "left")

    def ask_to_stop(self) -> None:
        """Makes all processes stop at a point ahead. Returns at once, so a signal handler may call it."""
        self._asked.set()

    def reached(self, alone: bool) -> bool:
        """See `Stop.reached`. Waits only while the processes agree where to stop, some seconds at most."""
        with self._lock:
            self._passed += not alone
            return self._stop_after is not None and self._passed + alone > self._stop_after

    def crash(self, report: str, status: int) -> None:
        """Shows `report` (a traceback, or a paragraph) on all hosts and ends all processes, this one with `status`.

        If another host crashed before, this error is its consequence: then the first report is shown instead."""
        with self._ending:
            note = {"host": self.index, "name": self._name, "report": report[-20_000:], "status": status}
            try:
                first = next(iter(self._read("crash/").values()), None)
                if first is None:
                    self._write(f"crash/{self.index}", json.dumps(note))
                self._obey(json.loads(first) if first else note)
            # The store is gone: process 0, which holds it, has ended.
            except RuntimeError as error:
                self._say(f"{report}\n(The other hosts could not be told: {error})")
                self._end(status)

    def _obey(self, note: dict) -> None:
        """Shows the note of a crash and ends this process, once."""
        if self._ended:
            return
        self._ended, own = True, note["host"] == self.index
        self._say(note["report"] if own else f"{note['name']} ended, and with it this job. It said:\n{note['report']}")
        self._write(f"answered/{self.index}", "")
        # Process 0 holds the store, so it ends last: without the store jax aborts the others.
        if self.index == 0:
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
            # The process that answered last still has to end.
            time.sleep(self._poll)
        with suppress(OSError):
            sys.stdout.flush()
        self._end(note["status"])

    def _run(self) -> None:
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
            # The store does not answer. jax ends this process if that stays so.
            except RuntimeError as error:
                if not self._closing.is_set() and "store" not in self._reported:
                    self._reported.add("store")
                    self._say(f"{self._name}: the first host does not answer ({str(error).splitlines()[0][:200]})")

    def _beat(self) -> None:
        self._beats += 1
        self._write(f"alive/{self.index}", f"{self._beats} {self._name}")

    def _look_for_silence(self) -> None:
        """In process 0: names each host that is silent, once. Ends nothing."""
        # A process that holds Python for long is silent here too. jax's own heartbeat runs in C++
        # and cannot be held up, so the ending is left to jax.
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
        # The lock holds this process between two points until the number is known.
        with self._lock:
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


_watch: Watch | None = None      # one for this process, as jax.distributed has one client


def watch_other_hosts() -> None:
    """Starts the watch. Call it once, after jax.distributed.initialize. With one process it does nothing. From
    then on an uncaught exception of this process ends all others too."""
    global _watch
    # jax.process_index() would start the devices, which waits for all hosts.
    from jax._src import distributed
    job = distributed.global_state
    if _watch is not None or job.client is None or job.num_processes == 1:
        return
    _watch = Watch(job.client, job.process_id, job.num_processes).start()
    # Runs before jax's own exit handler, which waits for the other processes.
    atexit.register(_watch.close)
    usual = sys.excepthook

    def hook(kind, error, trace):
        crashed(error)
        usual(kind, error, trace)

    sys.excepthook = hook


def crashed(error: BaseException, status: int = 1) -> None:
    """Shows the error on all hosts and ends all processes, this one with `status`. With one process it returns.
    An error that is meant for the user is shown as its paragraph, any other as its traceback."""
    if _watch is None:
        return
    if isinstance(error, (InputError, Halted)):
        _watch.crash(f"error: {error}", status)
    elif isinstance(error, KeyboardInterrupt):
        _watch.crash("interrupted by a second signal", status)
    else:
        _watch.crash("".join(traceback.format_exception(error)), status)


class Stop:
    """Whether a run was asked to stop. All processes call `reached()` equally often. Each call is a point, and
    all processes get True at the same one."""

    def __init__(self):
        self._asked = threading.Event()

    def ask(self) -> None:
        self._asked.set()
        if _watch is not None:
            _watch.ask_to_stop()

    def reached(self, alone: bool = False) -> bool:
        """Whether to stop here.

        `alone`: this process does work in which no other takes part. It may ask any number of times, and gives the
        work up when the answer is True. After such work, and before the next collective, there must be a point."""
        return self._asked.is_set() if _watch is None else _watch.reached(alone)

    def check(self, alone: bool = False) -> None:
        """Raises StopRun if `reached(alone)` is True."""
        if self.reached(alone):
            raise StopRun


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A Stop that the first SIGINT or SIGTERM asks for. A second signal ends the process as usual. Outside the
    main thread Python allows no handlers, so signals keep their usual effect."""
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
