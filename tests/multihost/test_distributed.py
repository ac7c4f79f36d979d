"""Who is there, and how the processes of a run meet: in threads."""
import contextlib
import importlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from nft_jax.runtime import distributed
from nft_jax.runtime.distributed import Cluster, SharedError, cluster_of, ends_together, gather, meet, together
from nft_jax.types import InputError
from refusal import refused

SLURM = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
         "SLURM_STEP_NODELIST": "node[07-08]", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}
EXPLICIT = {"NFT_COORDINATOR": "10.0.0.1:1234", "NFT_NUM_PROCESSES": "2", "NFT_PROCESS_ID": "1"}


def test_nothing_says_that_there_are_others():
    for environment in ({}, {"NFT_NUM_PROCESSES": "1"}, EXPLICIT | {"NFT_NUM_PROCESSES": "1", "NFT_PROCESS_ID": "0"},
                        {"SLURM_NTASKS": "4"}, SLURM | {"SLURM_NTASKS": "1"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
                        # `srun --pty` and an interactive step of salloc: one task of an allocation for several.
                        SLURM | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"},
                        SLURM | {"NFT_NUM_PROCESSES": "1"}):
        assert cluster_of({"JAX_PLATFORMS": "cpu"} | environment) is None


def test_variables_of_ours():
    assert cluster_of(EXPLICIT) == Cluster("10.0.0.1:1234", 2, 1, None, "NFT_COORDINATOR")
    assert cluster_of(SLURM | EXPLICIT).address == "10.0.0.1:1234"


@pytest.mark.parametrize(("change", "named"), [
    ({"NFT_PROCESS_ID": ""}, ("Beside NFT_COORDINATOR, NFT_NUM_PROCESSES", "no NFT_PROCESS_ID")),
    ({"NFT_COORDINATOR": "", "NFT_PROCESS_ID": ""},
     ("Beside NFT_NUM_PROCESSES", "no NFT_COORDINATOR, NFT_PROCESS_ID")),
    ({"NFT_COORDINATOR": "10.0.0.1"}, ("NFT_COORDINATOR", "'10.0.0.1'", "host:port")),
    ({"NFT_COORDINATOR": "a:99999"}, ("NFT_COORDINATOR", "'a:99999'", "host:port")),
    ({"NFT_PROCESS_ID": "one"}, ("NFT_PROCESS_ID", "'one'")),
    ({"NFT_PROCESS_ID": "2"}, ("NFT_PROCESS_ID is 2", "NFT_NUM_PROCESSES is 2")),
])
def test_variables_that_make_no_sense_are_named(change, named):
    with refused(*named):
        cluster_of(EXPLICIT | change)


def test_slurm_is_asked_through_jax(monkeypatch):
    """jax reads the process's own environment. Two processes on a machine get a device each, one gets all of them."""
    monkeypatch.setattr("os.environ", os.environ | SLURM)
    found = cluster_of(SLURM)
    assert found == Cluster(found.address, 4, 3, [1], "SLURM") and found.address.startswith("node07:")
    assert cluster_of(SLURM | {"SLURM_STEP_NUM_NODES": "4"}).local_device_ids is None
    # The step has as many processes as SLURM started in it, not as the job may have.
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert cluster_of(SLURM | {"SLURM_NTASKS": "8"}).count == 4
    without = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NUM_TASKS"}
    assert cluster_of(without | {"SLURM_NTASKS": "8"}).count == 8


def test_a_cluster_that_jax_cannot_read_is_an_input_error(monkeypatch):
    monkeypatch.setattr("os.environ", os.environ | SLURM)
    monkeypatch.setenv("SLURM_PROCID", "third")
    with refused("SLURM", "ValueError: ", "NFT_COORDINATOR"):
        cluster_of(SLURM)


def test_a_tpu_pod_is_asked_through_jax(monkeypatch):
    """As GKE describes one to its pods; the coordinator's name must be one that can be looked up."""
    environment = {"TPU_WORKER_HOSTNAMES": "localhost,elsewhere", "TPU_WORKER_ID": "1", "TPU_SKIP_MDS_QUERY": "1",
                   "MEGASCALE_COORDINATOR_ADDRESS": "localhost", "MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0",
                   "TPU_LIBRARY_PATH": "libtpu.so"}
    monkeypatch.setattr("os.environ", os.environ | environment)
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    assert cluster_of(environment) == Cluster("localhost:8482", 2, 1, None, "TPU")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert cluster_of(environment) is None


def test_too_late(monkeypatch):
    """After jax has started its devices; what jax says of it stays in the message."""
    jax.devices()
    monkeypatch.setattr("os.environ", os.environ | EXPLICIT)
    monkeypatch.setattr(distributed, "meet", lambda *_: None)
    with refused("before any JAX calls", "nft_jax.runtime.distributed.initialise()"):
        distributed.initialise()


def test_a_kubernetes_job_without_its_package_says_so(monkeypatch):
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0", "JAX_PLATFORMS": "cpu"}
    monkeypatch.setattr("os.environ", os.environ | environment)
    monkeypatch.setitem(__import__("sys").modules, "kubernetes", None)
    with refused("pip install kubernetes", "NFT_COORDINATOR"):
        cluster_of(environment)


@pytest.fixture
def address():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{chosen.getsockname()[1]}"


@pytest.fixture
def gathering(address, monkeypatch):
    """`gathering((count, index), ..., errors={index: text})`: what each that meets there is told, "" when all is well;
    within so many seconds."""
    monkeypatch.setattr(distributed, "LINGER", 0.5)

    def gathering(*who, errors=None, seconds=10.0):
        def come(place):
            count, index = who[place]
            try:
                meet(Cluster(address, count, index, None, "a test"), seconds, (errors or {}).get(place, ""))
            except SharedError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(len(who)) as pool:      # the first comes last: the others wait for it
            return list(pool.map(come, reversed(range(len(who)))))[::-1]
    return gathering


def test_all_come(gathering):
    assert gathering((3, 0), (3, 1), (3, 2)) == ["", "", ""]


@pytest.mark.parametrize(("who", "errors", "named"), [
    (((2, 0), (3, 1)), {}, ("process 1 ", "3 processes", "process 0 of 2")),
    (((3, 0), (3, 1), (3, 1)), {}, ("two processes", "number 1")),
    (((3, 0), (3, 1), (3, 2)), {1: "no sandbox here"}, ("process 1 ", "no sandbox here")),
    (((3, 0), (3, 1), (3, 2)), {0: "bad input"}, ("process 0 ", "bad input")),
])
def test_a_mistake_is_told_to_all(gathering, who, errors, named):
    told = gathering(*who, errors=errors)
    assert len(set(told)) == 1 and all(text in told[0] for text in named), told


def test_who_does_not_come_is_named(gathering):
    told = gathering((4, 0), (4, 2), seconds=1.0)
    assert told[0] == told[1] and "2 of 4 processes" in told[0] and "number 1, 3;" in told[0]


def test_nobody_at_the_address(address):
    with refused("process 1 of 2", address, "a test", kind=SharedError):
        meet(Cluster(address, 2, 1, None, "a test"), 0.5)


def test_a_port_that_is_taken(address):
    port = int(address.rpartition(":")[2])
    with socket.create_server(("", port)), refused("port", port, "another port", kind=SharedError):
        meet(Cluster(address, 2, 0, None, "a test"), 5.0)


def test_a_stranger_at_the_door_is_ignored(gathering, address):
    def knock():
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(address[10:]))) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return
            time.sleep(0.01)

    thread = threading.Thread(target=knock)
    thread.start()
    assert gathering((2, 0), (2, 1)) == ["", ""]
    thread.join()


def test_who_fails_on_the_way_tells_the_others(gathering, address, monkeypatch):
    monkeypatch.setattr("os.environ", os.environ | EXPLICIT | {"NFT_COORDINATOR": address})
    told = []
    thread = threading.Thread(target=lambda: told.extend(gathering((2, 0))))
    thread.start()
    with refused("no such reward"), ends_together():
        raise InputError("no such reward")
    thread.join()
    assert "process 1 " in told[0] and "no such reward" in told[0]


@pytest.mark.parametrize(("module", "command"), [("nft_jax.rollout.evaluate", "nft-jax evaluate"),
                                                 ("nft_jax.rollout.generate", "nft_jax.rollout.generate")])
def test_work_for_one_process_is_refused_to_one_of_several(module, command, monkeypatch, tmp_path, capsys):
    """All of them would write the same files."""
    monkeypatch.setattr("os.environ", os.environ | EXPLICIT)
    arguments = ["--model", "nothing", "--out", str(tmp_path / "out.parquet")]
    if module.endswith("generate"):
        arguments += ["--prompts", "p"]
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and command in said
    assert "number 1 of 2" in said and "NFT_NUM_PROCESSES=1" in said


def test_one_process_alone():
    assert gather({"a": 1}) == [{"a": 1}]
    with pytest.raises(KeyError), together("anything"):
        raise KeyError("own error")
    with pytest.raises(ZeroDivisionError), ends_together():
        raise ZeroDivisionError
