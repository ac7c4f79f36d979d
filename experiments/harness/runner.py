"""Many runs, in turn or side by side: each a process with its own folder and log.

The life of a run here:

1. Its folder says that it finished: it is left alone.
2. Its folder is locked by another process (`nft_jax.runtime.files.held`): it waits, and other runs go first.
3. A process starts, on the cores or the GPU of one place. The run itself holds the lock of its folder, so a run
   that outlives a killed sweep is waited for, and two sweeps may share runs.
4. The process ends. A run that did not reach its end is reported at once, and the others go on.

A sweep can be killed at any moment: the same command goes on.
"""
import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nft_jax.runtime.files import held, make_folder
from nft_jax.types import InputError

POLL_SECONDS = 0.2              # between two looks at a folder that another process holds


@dataclass(frozen=True)
class Job:
    """A run to be made. `command` leaves a summary.json in `folder` that says whether it reached its end."""
    folder: Path
    command: tuple[str, ...]
    steps: int

    @property
    def name(self) -> str:
        """What the run is called in what is printed."""
        return self.folder.name

    @property
    def summary(self) -> dict:
        """summary.json; {} while there is none that can be read."""
        with suppress(OSError, json.JSONDecodeError):
            return json.loads((self.folder / "summary.json").read_text())
        return {}

    @property
    def finished(self) -> bool:
        return bool(self.summary.get("finished")) and self.summary.get("steps", 0) >= self.steps

    @property
    def held(self) -> bool:
        """Whether another process writes to the folder."""
        lock = self.folder / "lock"
        # The holder's name is in the file. Empty: nobody holds it, and a look must not lock out a run that starts.
        if not lock.exists() or not lock.stat().st_size:
            return False
        try:
            with held(self.folder):
                return False
        except InputError:
            return True


@dataclass(frozen=True)
class Place:
    """Where one run at a time goes: cores (empty: any), and variables of its environment."""
    cores: frozenset[int] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)


def places(jobs: int) -> list[Place]:
    """`jobs` places, among which the cores or GPUs are divided evenly; 0: one on CPUs, one for every GPU.

    Raises InputError for a number below 0, for more places than cores or GPUs, and for several on a TPU.
    """
    devices = _gpus()
    has_tpu = any(glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*"))
    if has_tpu and not devices and os.environ.get("JAX_PLATFORMS", "") != "cpu":
        if jobs > 1:
            raise InputError(f"jobs is {jobs}: a TPU belongs to one process at a time. Use 1.")
        return [Place()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    available = devices or cores or list(range(os.cpu_count() or 1))
    count = jobs or len(devices) or 1
    if not 0 < count <= len(available):
        raise InputError(f"jobs is {jobs}: this process may use {len(available)} {'GPUs' if devices else 'cores'}; "
                         f"use 1 to {len(available)}.")
    if count == 1:
        return [Place()]
    parts = [available[i::count] for i in range(count)]
    if devices:
        return [Place(environment={"CUDA_VISIBLE_DEVICES": ",".join(part)}) for part in parts]
    return [Place(frozenset(part) if cores else frozenset(), {"OMP_NUM_THREADS": str(len(part))}) for part in parts]


def _gpus() -> list[str]:
    """The GPUs that jax would take, as CUDA_VISIBLE_DEVICES names them."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in found.stdout.splitlines()))]


class Watch(Protocol):
    """Is told of every run as its process begins and ends, from several threads."""

    def begin(self, job: Job) -> None: ...

    def end(self, job: Job) -> None: ...


def run_all(jobs: Sequence[Job], at: Sequence[Place], say: Callable[[str], None] = print,
            watch: Watch | None = None) -> list[Job]:
    """Run what is not finished, in order. Returns the jobs that did not reach their end.

    SIGINT and SIGTERM go to the runs, which finish their step and save; nothing new starts.
    KeyboardInterrupt is raised when they have ended.
    """
    waiting = deque({job.folder: job for job in jobs}.values())
    total, done, failed, told = len(waiting), 0, [], set()
    telling, running, stopping = threading.Lock(), set(), threading.Event()

    def work(place: Place) -> None:
        nonlocal done
        if place.cores:
            # Of this thread only: processes inherit it, and XLA takes as many threads as cores.
            os.sched_setaffinity(0, place.cores)
        while not stopping.is_set():
            try:
                job = waiting.popleft()
            except IndexError:
                return
            free, began = not (job.finished or job.held), time.monotonic()
            status = None
            if free:
                if watch is not None:
                    watch.begin(job)
                status = _run(job, place, running, stopping)
                if watch is not None:
                    watch.end(job)
            # Another process holds the folder: it did all along, or it was faster than ours.
            busy = not job.finished and (not free or job.held)
            with telling:
                if busy:
                    waiting.append(job)
                    if job.folder not in told:
                        told.add(job.folder)
                        say(f"{job.name}: another process writes there; waiting for its end")
                elif job.finished:
                    done += 1
                    minutes = (time.monotonic() - began) / 60
                    say(f"[{done}/{total}] {job.name}: " + (
                        f"{_result(job)}, {minutes:.1f} min" if free else f"finished before, {_result(job)}"))
                else:
                    failed.append(job)
                    say(_failure(job, status))
            if busy:
                stopping.wait(POLL_SECONDS)

    with _forwarded(running, stopping), ThreadPoolExecutor(len(at)) as pool:
        list(pool.map(work, at))
    if stopping.is_set():
        raise KeyboardInterrupt
    return failed


def _run(job: Job, place: Place, running: set[subprocess.Popen], stopping: threading.Event) -> int:
    """The exit status of the job's process, whose command and output go to log.txt of its folder."""
    make_folder(job.folder, "--workdir")
    with (job.folder / "log.txt").open("a") as log:
        log.write(f"$ {shlex.join(job.command)}\n")
        log.flush()
        process = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True, env=os.environ | dict(place.environment))
    running.add(process)
    # The signal may have come between the last look and the line above.
    if stopping.is_set():
        process.terminate()
    status = process.wait()
    running.discard(process)
    return status


@contextmanager
def _forwarded(running: set[subprocess.Popen], stopping: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stopping` and go to the runs as SIGTERM: the first lets them save, a second ends them."""
    def handle(number, frame) -> None:
        stopping.set()
        for process in list(running):
            process.terminate()                     # does nothing to a process that has ended

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _result(job: Job) -> str:
    before, after = (job.summary.get(f"{name}_accuracy") for name in ("base", "final"))
    return "no evaluation" if before is None or after is None else f"{before:.1%} -> {after:.1%}"


def _failure(job: Job, status: int) -> str:
    log = job.folder / "log.txt"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    what = "stopped before its end" if status == 0 else f"FAILED with status {status}"
    return f"{job.name}: {what}: {lines[-1].strip()[:300]} (all of it: {log})"
