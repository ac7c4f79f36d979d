"""One run, many processes: how they find each other, hand things to each other, and end together.

1. `initialise` learns from the environment whether there are others (variables of ours, SLURM, Open MPI, a TPU pod, a
   Kubernetes JobSet), meets them at the coordinator's address, where a missing or misnumbered one is told apart while
   that is still easy, and starts `jax.distributed`. Where the environment names no others it does nothing.
2. `together` is for what one process may fail at alone (reading inputs, writing files): all go on, or all stop.
3. `gather` hands any value of each process to all of them.
4. `ends_together` is for everything else: a process that fails ends at once, and the others, which wait for it in some
   collective, show its error and end too (`nft_jax.runtime.stops`).

In one process all of these do nothing. No jax at import: this is read before the command line is understood.
"""
from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from nft_jax.config.differences import differences
from nft_jax.runtime import stops
from nft_jax.types import InputError

VARIABLES = ("NFT_COORDINATOR", "NFT_NUM_PROCESSES", "NFT_PROCESS_ID")
TIMEOUT = 300.0            # seconds in which all processes must have come
SHUTDOWN = 30              # seconds that a process which is done waits for the others
LINGER = 10.0              # seconds in which the others are told of a mistake that was found
CHUNK = 1 << 20            # bytes of each process that are exchanged at a time: one shape, so one program
EXPLICIT = "set NFT_COORDINATOR (host:port of process 0), NFT_NUM_PROCESSES and NFT_PROCESS_ID in every process, or " \
           "NFT_NUM_PROCESSES=1 for processes that have nothing to do with each other"


class SharedError(InputError):
    """An error that every process of the run raises."""


class Cluster(NamedTuple):
    """This process among the others."""
    address: str                       # host:port of process 0
    count: int
    index: int
    local_device_ids: list[int] | None     # None: all devices of this machine
    source: str                        # who says so


# --- who is there


def cluster_of(environment: Mapping[str, str], timeout: float = TIMEOUT) -> Cluster | None:
    """The processes that the environment names; None where there is only this one. Raises InputError for variables
    that are missing or make no sense, and where jax's detection of clusters fails."""
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if given == {"NFT_NUM_PROCESSES": "1"}:
        return None
    if given:
        return _explicit(given)
    source = _surroundings(environment)
    if not source:
        return None
    from jax._src.clusters import ClusterEnv
    try:       # what jax.distributed.initialize() would ask, without telling what it was told
        with warnings.catch_warnings(record=True) as said:
            address, count, index, ids = ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, int(timeout))
    except Exception as error:       # of a scheduler's API, a metadata server, or a variable of another form
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


def _explicit(given: Mapping[str, str]) -> Cluster:
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise InputError(f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} set, and {', '.join(missing)} "
                         f"{'is' if len(missing) == 1 else 'are'} not: {EXPLICIT}.")
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


def _surroundings(environment: Mapping[str, str]) -> str:
    """Who may have started this process beside others, or ""."""
    def number(name: str) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else 1

    if number("SLURM_NTASKS") > 1 and "SLURM_STEP_NODELIST" in environment:      # inside srun, and not in salloc
        return "SLURM"
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    platforms = environment.get("JAX_PLATFORMS") or "tpu"
    if "tpu" in platforms and (find_spec("libtpu") or "TPU_LIBRARY_PATH" in environment):
        return "TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    return ""


def _one_process_here(environment: Mapping[str, str]) -> bool:
    """Whether the scheduler started one process on each machine, which then drives all of its devices. (jax takes the
    first device only.)"""
    tasks, nodes = environment.get("SLURM_STEP_NUM_TASKS"), environment.get("SLURM_STEP_NUM_NODES")
    return (tasks is not None and tasks == nodes) or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


# --- starting together


def initialise(timeout: float = TIMEOUT) -> None:
    """Join the other processes of the run, if the environment names any (see `cluster_of`); at most once.

    Must come before jax uses a device. Raises InputError in every process when they do not come together within
    `timeout` seconds, disagree on their number, or one of them failed on its way here.
    """
    cluster = cluster_of(os.environ, timeout)
    if cluster is None:
        return
    import jax
    if jax.distributed.is_initialized():
        return
    meet(cluster, timeout)
    jax.config.update("jax_enable_preemption_service", False)      # it would swallow SIGTERM
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
    """Raises InputError where the environment names other processes, and `command` is work for one."""
    cluster = cluster_of(os.environ)
    if cluster is not None:
        raise InputError(f"{command} is one process, which uses all devices of its machine, and this is number "
                         f"{cluster.index} of {cluster.count} ({cluster.source}): start it on one machine alone, with "
                         "NFT_NUM_PROCESSES=1 where the others do something else, such as other questions with an "
                         "--out of their own.")


def meet(cluster: Cluster, timeout: float, error: str = "") -> None:
    """Wait until all processes have come to the coordinator's address; there process 0 compares what each believes, and
    tells all of them. `error`: why this one cannot take part. Raises SharedError.

    jax's own service takes over the port afterwards. It knows most of these mistakes as well, but ends the process over
    them from C++, without a word on what to do."""
    deadline = time.monotonic() + timeout
    hello = {"index": cluster.index, "count": cluster.count, "name": socket.gethostname(), "error": error}
    verdict = _host_meeting(cluster, hello, deadline) if cluster.index == 0 else _join(cluster, hello, deadline)
    if verdict:
        raise SharedError(verdict)


def _host_meeting(cluster: Cluster, hello: dict, deadline: float) -> str:
    """Process 0: what is wrong, "" if nothing is, once all have come or one has that cannot take part."""
    port = int(cluster.address.rpartition(":")[2])
    try:
        both = socket.has_dualstack_ipv6()
        server = socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, backlog=1024,
                                      dualstack_ipv6=both)
    except OSError as error:
        return f"the coordinator (process 0, {cluster.source}) cannot listen on port {port} of {hello['name']} " \
               f"({error.strerror}): another run may be using it; choose another port."
    present, waiting, verdict = [hello], [], _mistake(cluster, [hello])
    with server:
        while len({hello["index"] for hello in present}) < cluster.count:
            if verdict:
                deadline = min(deadline, time.monotonic() + LINGER)      # the others come about now, and are told too
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            with suppress(OSError, ValueError):        # a stranger at the door
                connection.settimeout(5)
                present.append(_checked_hello(connection.makefile("rb").readline(4096)))
                waiting.append(connection)
                verdict = verdict or _mistake(cluster, present)
        verdict = verdict or _absent(cluster, present)
        for connection in waiting:
            with closing(connection), suppress(OSError):
                connection.sendall(json.dumps({"verdict": verdict}).encode() + b"\n")
                connection.recv(1)                     # they close first: the port is free for jax then
    return verdict


def _checked_hello(line: bytes) -> dict:
    """What a process says of itself; ValueError for anything else."""
    hello = json.loads(line)
    kinds = {"index": int, "count": int, "name": str, "error": str}
    if not isinstance(hello, dict) or {name: type(value) for name, value in hello.items()} != kinds:
        raise ValueError("not a process of this run")
    return hello


def _mistake(cluster: Cluster, present: list[dict]) -> str:
    seen: dict[int, str] = {}
    for hello in present:
        who = f"process {hello['index']} on {hello['name']}"
        if hello["error"]:
            return f"{who} cannot take part in the run: {hello['error']}"
        if hello["count"] != cluster.count:
            return f"{who} was told of {hello['count']} processes, process 0 of {cluster.count} ({cluster.source}): " \
                   "give all of them the same number."
        if hello["index"] in seen:
            return f"two processes are number {hello['index']} (on {seen[hello['index']]} and {hello['name']}): give " \
                   "each a number of its own."
        seen[hello["index"]] = hello["name"]
    return ""


def _absent(cluster: Cluster, present: list[dict]) -> str:
    absent = sorted(set(range(cluster.count)) - {hello["index"] for hello in present})
    if not absent:
        return ""
    names = ", ".join(map(str, absent[:8])) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
    return f"{len(absent)} of {cluster.count} processes did not come to the coordinator at {cluster.address} in time " \
           f"(number {names}; {cluster.source}): see in their output whether they were started, and that the port is " \
           "open to their machines."


def _join(cluster: Cluster, hello: dict, deadline: float) -> str:
    """Another process: the verdict of process 0."""
    host, _, port = cluster.address.rpartition(":")
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), 5) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                connection.settimeout(max(deadline - time.monotonic(), 0) + 10)     # process 0 speaks at its deadline
                return json.loads(connection.makefile("rb").readline(1 << 16))["verdict"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            time.sleep(0.2)
    return f"process {cluster.index} of {cluster.count} cannot reach the coordinator at {cluster.address} " \
           f"({reason}; {cluster.source}): see whether process 0 runs there, that the name is that of its machine, " \
           "and that the port is open."


# --- going on together


def process_count() -> int:
    """Processes of the run; asks no device before there are several."""
    if "jax" not in sys.modules:
        return 1
    import jax
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes what only one may write."""
    if process_count() == 1:
        return True
    import jax
    return jax.process_index() == 0


def gather(value: Any) -> list:
    """The values of all processes, in their order; every process must call it at the same place. Any size: what
    travels is cut into pieces of one size, so nothing is compiled after the first call."""
    if process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8)
    sizes = _all_gather(np.array([len(data)], np.uint32))[:, 0]
    pieces = []
    for start in range(0, int(sizes.max()), CHUNK):
        piece = np.zeros(CHUNK, np.uint8)
        part = data[start:start + CHUNK]
        piece[:len(part)] = part
        pieces.append(_all_gather(piece))
    rows = np.concatenate(pieces, 1)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


@cache
def _exchange():
    """Where a process's row lies before and after the exchange, and the program."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(devices).reshape(jax.process_count(), -1), ("process", "device"))
    program = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return NamedSharding(mesh, PartitionSpec("process")), program


def _all_gather(row: np.ndarray) -> np.ndarray:
    """[n] of each process, of one shape -> [processes, n]."""
    import jax
    sharding, program = _exchange()
    here = jax.make_array_from_process_local_data(sharding, row[None], (process_count(), *row.shape))
    return np.asarray(program(here).addressable_data(0))


@contextmanager
def together(what: str) -> Iterator[None]:
    """All processes leave the block, or all raise: SharedError with the text of the first that failed `what`. Nothing
    in the block may wait for another process."""
    error, said = None, ""
    try:
        yield
    except Exception as raised:
        if process_count() == 1:
            raise
        error, said = raised, str(raised) if isinstance(raised, InputError) else f"{type(raised).__name__}: {raised}"
    failed = [(index, *answer) for index, answer in enumerate(gather((said, socket.gethostname()))) if answer[0]]
    if error is not None and not isinstance(error, InputError):
        raise error                        # with its traceback
    if failed:
        index, text, name = failed[0]
        raise SharedError(text if said == text else f"process {index} on {name} failed in {what}: {text}") from error


def require_same(value: Mapping[str, Any], what: str) -> None:
    """Raises SharedError where an entry of `what` is not the same in all processes, and names it."""
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
    """A process that raises in here ends at once with its error's status, without waiting for the others, which would
    wait for it. One that raises before it has met the others tells them."""
    try:
        yield
    except BaseException as error:
        status = _status(error)
        if status and not isinstance(_cause(error), SharedError | GeneratorExit):
            stops.crashed(_cause(error), status)
            _excuse(error)
        raise


def _cause(error: BaseException) -> BaseException:
    """What a SystemExit was raised for."""
    return error.__context__ if isinstance(error, SystemExit) and error.__context__ is not None else error


def _status(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 2 if isinstance(error, InputError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def _excuse(error: BaseException) -> None:
    """Tell the others, who wait at the coordinator's address, why this process does not come."""
    with suppress(InputError):
        cluster = cluster_of(os.environ)
        if cluster is not None:
            meet(cluster, 30.0, str(_cause(error)) or type(error).__name__)
