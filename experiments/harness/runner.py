"""Many runs, one after another or side by side: each a process of its own, in its own folder, with its own log.

1. A folder whose run is finished is left alone; one that was cut short goes on from its newest checkpoint.
2. A run that fails is told at once, and the others go on.
3. A folder is held (`sweep.lock`) by the run's own process too: killed at any moment, a sweep can be started again,
   waits for what still runs there, and goes on. Two sweeps that share runs wait for each other.
"""
from __future__ import annotations

import fcntl
import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nft_jax.types import InputError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A run to be made: `command` leaves a summary.json in `folder` that says whether it got to its end."""
    folder: Path
    command: tuple[str, ...]
    steps: int

    @property
    def summary(self) -> dict:
        with suppress(OSError, json.JSONDecodeError):
            return json.loads((self.folder / "summary.json").read_text())
        return {}

    @property
    def finished(self) -> bool:
        return bool(self.summary.get("finished")) and self.summary.get("steps", 0) >= self.steps


@dataclass(frozen=True)
class Place:
    """Where one run at a time goes: cores of this machine (empty = as they are), variables of its environment."""
    cores: frozenset[int] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Running:
    job: Job
    process: subprocess.Popen
    lock: IO
    began: float


def places(jobs: int) -> list[Place]:
    """As many places as `jobs` asks for; 0 = one on CPUs, one for every GPU. Cores and GPUs are divided evenly.

    Raises InputError for more than there are, and for more than one on a TPU, which a single process opens.
    """
    devices = _gpus()
    if not devices and _has_tpu():
        if jobs > 1:
            raise InputError(f"jobs is {jobs}: a TPU belongs to one process at a time. Use 1.")
        return [Place()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    available = devices or cores or list(range(os.cpu_count() or 1))
    count = jobs or (len(devices) or 1)
    if count > len(available):
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


def _has_tpu() -> bool:
    return os.environ.get("JAX_PLATFORMS", "") != "cpu" and any(
        glob.glob(pattern) for pattern in ("/dev/accel*", "/dev/vfio/[0-9]*"))


def run_all(jobs: Sequence[Job], at: Sequence[Place], say: Say = print) -> list[Job]:
    """Run what is not finished, in order; the jobs that did not get to their end.

    SIGINT and SIGTERM go to the runs, which finish their step and save; nothing new is started. KeyboardInterrupt
    is raised when they have ended.
    """
    waiting = deque({job.folder: job for job in jobs}.values())
    total, done, failed, told = len(waiting), 0, [], set()
    running: dict[int, Running] = {}

    def begin(index: int) -> None:
        """The next job that is neither finished nor held, at this place."""
        nonlocal done
        for _ in range(len(waiting)):
            job = waiting.popleft()
            started = _start(job, at[index])
            if isinstance(started, Running):
                running[index] = started
                return
            if started == "finished":
                done += 1
                say(f"[{done}/{total}] {job.folder.name}: finished before, {_result(job)}")
                continue
            waiting.append(job)
            if job.folder not in told:
                told.add(job.folder)
                say(f"{job.folder.name}: another process is at it; waiting for it")

    def end(index: int) -> None:
        nonlocal done
        each = running.pop(index)
        each.lock.close()
        if each.job.finished:
            done += 1
            minutes = (time.monotonic() - each.began) / 60
            say(f"[{done}/{total}] {each.job.folder.name}: {_result(each.job)}, {minutes:.1f} min")
        else:
            failed.append(each.job)
            say(_failure(each))

    with _forwarded(running) as stopping:
        while running or (waiting and not stopping):
            for index in range(len(at)):
                if index not in running and not stopping:
                    begin(index)
            for index in [i for i, each in running.items() if each.process.poll() is not None]:
                end(index)
            time.sleep(0.2)
    if stopping:
        raise KeyboardInterrupt
    return failed


def _start(job: Job, place: Place) -> Running | str:
    """The job's process; or "finished", or "held" where another process is at its folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    lock = (job.folder / "sweep.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return "held"
    if job.finished:
        lock.close()
        return "finished"
    with (job.folder / "log.txt").open("a") as log, _cores(place.cores):
        log.write(f"$ {shlex.join(job.command)}\n")
        log.flush()
        process = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True, pass_fds=(lock.fileno(),),
                                   env=os.environ | dict(place.environment))
    return Running(job, process, lock, time.monotonic())


@contextmanager
def _cores(cores: frozenset[int]) -> Iterator[None]:
    """Processes started inside are kept on these cores: XLA takes as many threads as it may use cores."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _forwarded(running: Mapping[int, Running]) -> Iterator[list[int]]:
    """The signals that came: each goes to the runs as SIGTERM (the first lets them save, a second ends them)."""
    came: list[int] = []

    def handle(number, frame):
        came.append(number)
        for each in running.values():
            with suppress(ProcessLookupError):
                each.process.terminate()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _result(job: Job) -> str:
    before, after = (job.summary.get(f"{name}_accuracy") for name in ("base", "final"))
    return "no evaluation" if before is None or after is None else f"{before:.1%} -> {after:.1%}"


def _failure(each: Running) -> str:
    """What is known of a run that did not get to its end."""
    log = each.job.folder / "log.txt"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    status = each.process.returncode
    what = "stopped before its end" if status == 0 else f"FAILED with status {status}"
    return f"{each.job.folder.name}: {what}: {lines[-1].strip()[:300]} (all of it: {log})"
