"""One run, many processes: how they find each other, exchange values, and end together.

1. `initialise` finds the other processes that the environment names, meets them (`meet`) and starts `jax.distributed`.
2. `together` is for work that one process may fail at alone, such as reading inputs: all succeed, or all stop.
3. `gather` gives every process the values of all.
4. `ends_together` is for every other error: all show it and end (`nft_jax.runtime.stops`).

With one process all of these do nothing. This module does not import jax: the command line reads it first."""
import json
import os
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from nft_jax.config.differences import differences
from nft_jax.runtime import stops
from nft_jax.types import Halted, InputError

VARIABLES = ("NFT_COORDINATOR", "NFT_NUM_PROCESSES", "NFT_PROCESS_ID")
TIMEOUT = 300.0            # seconds in which all processes must have come
SHUTDOWN = 30              # seconds that a process at its end waits for the others
LINGER = 10.0              # seconds in which latecomers still hear of a mistake that was found
CHUNK = 1 << 20            # bytes of each process that travel at a time: one shape, so one compiled program
EXPLICIT = "set NFT_COORDINATOR (host:port of process 0), NFT_NUM_PROCESSES and NFT_PROCESS_ID in every process, or " \
           "NFT_NUM_PROCESSES=1 for processes that have nothing to do with each other"


class SharedError(InputError):
    """An error that every process of the run raises."""


class Cluster(NamedTuple):
    """This process among the others."""
    address: str                           # host:port of process 0
    count: int
    index: int
    local_device_ids: list[int] | None     # None: all devices of this machine
    source: str                            # who names the others: a variable, a scheduler


# --- who takes part


def cluster_of(environment: Mapping[str, str], timeout: float = TIMEOUT) -> Cluster | None:
    """The processes that the environment names; None if there is only this one. Raises InputError for variables
    that are missing or make no sense, and if jax's detection of clusters fails."""
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if given == {"NFT_NUM_PROCESSES": "1"}:
        return None
    if given:
        return _explicit(given)
    source = _scheduler(environment)
    if not source:
        return None
    from jax._src.clusters import ClusterEnv
    # jax.distributed.initialize() would ask the same, but would not tell us the answer.
    try:
        with warnings.catch_warnings(record=True) as said:
            address, count, index, ids = ClusterEnv.auto_detect_unset_distributed_params(
                None, _tasks(environment) if source == "SLURM" else None, None, None, None, int(timeout))
    # A scheduler's API, a metadata server, or a variable of another form: each fails with errors of its own.
    except Exception as error:
        raise InputError(f"This looks like a job of several processes ({source}), but the others cannot be found "
                         f"({type(error).__name__}: {error}): {EXPLICIT}.") from error
    if source == "Kubernetes" and count is None:
        reason = " ".join(" ".join(str(warning.message).split()) for warning in said)
        raise InputError(f"This looks like a Kubernetes job of several processes (JOB_COMPLETION_INDEX is set), but "
                         f"jax does not find the others ({reason or 'no reason given'}): pip install kubernetes and "
                         f"let the job's service account read pods and jobs, or {EXPLICIT}.")
    if count is None or count == 1:
        return None
    return Cluster(address, count, index, None if _one_process_here(environment) else ids, source)


def _explicit(given: Mapping[str, str]) -> Cluster | None:
    """The cluster that our three variables describe; None for one process."""
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise InputError(f"Beside {', '.join(given)} there is no {', '.join(missing)}: {EXPLICIT}.")
    address, *numbers = (given[name] for name in VARIABLES)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"NFT_COORDINATOR is {address!r}: write host:port, where process 0 can be reached.")
    for name, value in zip(VARIABLES[1:], numbers, strict=True):
        if not value.isdecimal():
            raise InputError(f"{name} is {value!r}: write a number.")
    count, index = map(int, numbers)
    if not 0 <= index < count:
        raise InputError(f"NFT_PROCESS_ID is {index} and NFT_NUM_PROCESSES is {count}: ids run from 0 to the number of "
                         "processes less 1.")
    return None if count == 1 else Cluster(address, count, index, None, "NFT_COORDINATOR")


def _scheduler(environment: Mapping[str, str]) -> str:
    """The name of a scheduler that may have started several processes, or ""."""
    # SLURM_STEP_NODELIST is set inside srun, and not in salloc, which starts one shell.
    if min(_tasks(environment), _number(environment, "SLURM_NTASKS")) > 1 and "SLURM_STEP_NODELIST" in environment:
        return "SLURM"
    if _number(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    platforms = environment.get("JAX_PLATFORMS") or "tpu"
    if "tpu" in platforms and (find_spec("libtpu") or "TPU_LIBRARY_PATH" in environment):
        return "TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    return ""


def _number(environment: Mapping[str, str], name: str, default: int = 1) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else default


def _tasks(environment: Mapping[str, str]) -> int:
    """The processes of this SLURM step. In an interactive step SLURM_NTASKS is the number of the whole job."""
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS"))


def _one_process_here(environment: Mapping[str, str]) -> bool:
    """Whether the scheduler started one process on each machine."""
    # Such a process drives all devices of its machine. jax alone would give it the first device only.
    tasks, nodes = environment.get("SLURM_STEP_NUM_TASKS"), environment.get("SLURM_STEP_NUM_NODES")
    return (tasks is not None and tasks == nodes) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


# --- starting together


def initialise(timeout: float = TIMEOUT) -> None:
    """Joins the other processes of the run if the environment names any (`cluster_of`); at most once.

    Call it before jax uses a device. Raises InputError in every process when they do not come together within
    `timeout` seconds, disagree on their number, or one of them failed on its way here."""
    cluster = cluster_of(os.environ, timeout)
    if cluster is None:
        return
    import jax
    if jax.distributed.is_initialized():
        return
    meet(cluster, timeout)
    # jax's preemption service would swallow SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            cluster.address, cluster.count, cluster.index, cluster.local_device_ids, "deactivate",
            initialization_timeout=int(timeout), heartbeat_timeout_seconds=stops.HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN)
    except RuntimeError as error:
        raise InputError(f"process {cluster.index} of {cluster.count} could not join jax's coordinator at "
                         f"{cluster.address} ({error}): call nft_jax.runtime.distributed.initialise() before "
                         "anything asks jax for a device, and see that the port is open.") from error
    stops.watch_other_hosts()


def require_alone(command: str) -> None:
    """Raises InputError if the environment names other processes: `command` is work for one."""
    cluster = cluster_of(os.environ)
    if cluster is not None:
        raise InputError(f"{command} runs in one process, with all devices of its machine, and this is process number "
                         f"{cluster.index} of {cluster.count} ({cluster.source}): run it on one machine only. To run "
                         "independent copies on several, set NFT_NUM_PROCESSES=1, and give each copy an --out of its "
                         "own.")


# --- the meeting
#
# Why not jax.distributed.initialize alone? It knows a missing process, two processes of one number and a
# coordinator that nobody can reach. But its C++ client then aborts the process (xla/pjrt/distributed/client.h,
# LOG(FATAL)): no exception, nobody named, no way out. Its key-value store opens only after all have come. So the
# processes compare what each believes first, over plain sockets, and jax connects processes that fit together.
# jax's service then takes over the same port.


class Hello(NamedTuple):
    """What a process says of itself at the coordinator's address."""
    index: int
    count: int
    name: str          # of its machine
    error: str         # why it cannot take part in the run, or ""


def meet(cluster: Cluster, timeout: float, error: str = "") -> None:
    """Waits at most `timeout` seconds until all processes have come to the coordinator's address.

    `error` says why this process cannot take part. Process 0 tells every process that came what is
    wrong, and all raise SharedError: a missing process, two of one number, different counts, an
    error. A process that cannot reach process 0 raises SharedError too."""
    hello = Hello(cluster.index, cluster.count, socket.gethostname(), error[:5000])
    deadline = time.monotonic() + timeout
    fault = _receive(cluster, hello, deadline) if cluster.index == 0 else _join(cluster, hello, deadline)
    if fault:
        raise SharedError(fault)


def _receive(cluster: Cluster, hello: Hello, deadline: float) -> str:
    """In process 0: receives the others until all have come, tells them what is wrong ("" if
    nothing), returns it."""
    port, both = int(cluster.address.rpartition(":")[2]), socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, backlog=1024,
                                      dualstack_ipv6=both)
    except OSError as error:
        return f"the coordinator (process 0, {cluster.source}) cannot listen on port {port} of {hello.name} " \
               f"({error.strerror}): another run may be using it; choose another port."
    present, waiting, fault = [hello], [], _mistake(cluster, [hello])
    with server:
        while len({one.index for one in present}) < cluster.count:
            if fault:
                deadline = min(deadline, time.monotonic() + LINGER)
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            # A stranger that knocks at the port (a scanner, a health check) says something else.
            with suppress(OSError, ValueError, TypeError):
                connection.settimeout(5)
                index, count, name, error = json.loads(connection.makefile("rb").readline(1 << 16))
                present.append(Hello(int(index), int(count), str(name), str(error)))
                waiting.append(connection)
            fault = fault or _mistake(cluster, present)
        fault = fault or _absent(cluster, present)
        for connection in waiting:
            with connection, suppress(OSError):
                connection.sendall(json.dumps({"fault": fault}).encode() + b"\n")
                # The other side closes first: so the port is free for jax at once.
                connection.recv(1)
    return fault


def _mistake(cluster: Cluster, present: Sequence[Hello]) -> str:
    seen: dict[int, str] = {}
    for index, count, name, error in present:
        if error:
            return f"process {index} on {name} cannot take part in the run: {error}"
        if count != cluster.count:
            return f"process {index} on {name} was told of {count} processes, process 0 of {cluster.count} " \
                   f"({cluster.source}): give all of them the same number."
        if index in seen:
            return f"two processes are number {index} (on {seen[index]} and {name}): give each a number of its own."
        seen[index] = name
    return ""


def _absent(cluster: Cluster, present: Sequence[Hello]) -> str:
    absent = sorted(set(range(cluster.count)) - {one.index for one in present})
    if not absent:
        return ""
    names = ", ".join(map(str, absent[:8])) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
    return f"{len(absent)} of {cluster.count} processes did not come to the coordinator at {cluster.address} in time " \
           f"(number {names}; {cluster.source}): see in their output whether they were started, and that the port is " \
           "open to their machines."


def _join(cluster: Cluster, hello: Hello, deadline: float) -> str:
    """In every other process: says hello to process 0, and returns what it answers."""
    host, _, port = cluster.address.rpartition(":")
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), 5) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                # Process 0 answers at its own deadline, which may be a little later.
                connection.settimeout(max(deadline - time.monotonic(), 0) + 10)
                return json.loads(connection.makefile("rb").readline(1 << 16))["fault"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            time.sleep(0.2)
    return f"process {cluster.index} of {cluster.count} cannot reach the coordinator at {cluster.address} " \
           f"({reason}; {cluster.source}): see whether process 0 runs there, that the name is its machine's, and " \
           "that the port is open."


# --- exchanging values


def process_count() -> int:
    """The number of processes of the run. Starts no device."""
    if "jax" not in sys.modules:
        return 1
    import jax
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is process 0, which writes what only one process may write."""
    return process_count() == 1 or sys.modules["jax"].process_index() == 0


def gather(value: Any) -> list:
    """The values of all processes, in the order of the processes. Every process must call it at the same place. A
    value is anything that pickle takes, of any size. Nothing is compiled after the first call."""
    if process_count() == 1:
        return [value]
    from jax.experimental.multihost_utils import process_allgather
    data = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8)
    sizes = process_allgather(np.uint32(len(data)))
    # process_allgather compiles for every new shape, so the bytes travel in pieces of one size.
    padded = np.zeros(-(-int(sizes.max()) // CHUNK) * CHUNK, np.uint8)
    padded[:len(data)] = data
    rows = np.concatenate([process_allgather(piece) for piece in padded.reshape(-1, CHUNK)], 1)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


@contextmanager
def together(what: str) -> Iterator[None]:
    """All processes leave the block, or all raise SharedError with the error of the first that failed at `what`.

    A process whose own error is not an InputError raises that error, with its traceback. Nothing in
    the block may wait for another process."""
    error, said = None, ""
    try:
        yield
    # Any error of one process must reach the others, which wait in the `gather` below.
    except Exception as raised:
        if process_count() == 1:
            raise
        error, said = raised, str(raised) if isinstance(raised, InputError) else f"{type(raised).__name__}: {raised}"
    failed = [(index, *answer) for index, answer in enumerate(gather((said, socket.gethostname()))) if answer[0]]
    if error is not None and not isinstance(error, InputError):
        raise error
    if failed:
        index, text, name = failed[0]
        raise SharedError(text if said == text else f"process {index} on {name} failed in {what}: {text}") from error


def require_same(value: Mapping[str, Any], what: str) -> None:
    """Raises SharedError naming each entry of `what` that differs between the processes."""
    # Not multihost_utils.assert_equal: it takes arrays, and says that something differs, not what.
    values = gather(dict(value))
    for index, other in enumerate(values):
        different = [f"{name}: {here!r} in process 0, {there!r} in process {index}"
                     for name, (here, there) in differences(values[0], other).items()]
        if different:
            raise SharedError(f"The processes differ in {what} ({'; '.join(different[:5])}): start all of them with "
                              "the same command on the same files.")


# --- ending together


@contextmanager
def ends_together() -> Iterator[None]:
    """A process that raises in the block ends at once with its error's status, and all others end. A process that
    raises before it has met the others tells them at the coordinator's address."""
    try:
        yield
    except BaseException as error:
        status = _status(error)
        # The others raise a SharedError themselves, and a status of 0 is no failure.
        if status and not isinstance(error, SharedError | GeneratorExit):
            stops.crashed(error, status)
            # The others may still wait at the coordinator's address for this process.
            with suppress(InputError):
                cluster = cluster_of(os.environ)
                if cluster is not None:
                    meet(cluster, 30.0, str(error) or type(error).__name__)
        raise


def _status(error: BaseException) -> int:
    """The exit status that the error ends a command with."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, InputError | Halted):
        return error.status
    return 130 if isinstance(error, KeyboardInterrupt) else 1
