"""What one of two processes does for test_two_processes.py: every check here holds in both, and the first writes what
the test compares with one process.

    worker.py FOLDER      with FOLDER/model, the tiny model"""
import os
import pickle
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import jax
import numpy as np

from nft_jax.config import DecodingConfig, MeshConfig, SamplingConfig
from nft_jax.model import decoder
from nft_jax.model.hf import load, load_params, read_config, save_params
from nft_jax.model.parameters import parameter_shardings
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.judged import judged_groups
from nft_jax.runtime import distributed
from nft_jax.runtime.compilation import CompileCounter, compile_all
from nft_jax.runtime.distributed import SharedError, gather, initialise, is_first, require_same, together
from nft_jax.runtime.mesh import host_mesh, hosts, make_mesh, place, sharding
from nft_jax.train.step import place_batch
from nft_jax.types import InputError, Prompt, TrainBatch, Verdict

SAMPLES, PROMPTS, MOST = 2, 5, 12


class Numbers:
    def batch_decode(self, sequences, **_):
        return [" ".join(map(str, sequence)) for sequence in sequences]


class Parity:
    """Right is an answer of an even number of characters; the reason says who judged."""

    def submit(self, responses, golds, prompts=None):
        future = Future()
        future.set_result([Verdict("right" if len(r) % 2 else "wrong", float(len(r) % 2), r, f"by {os.getpid()}")
                           for r in responses])
        return future


def prompts():
    rng = np.random.default_rng(0)
    return [Prompt(7 + i, f"question {i}", "1", "", rng.integers(4, 32, rng.integers(1, 9)).astype(np.int32))
            for i in range(PROMPTS)]


def sampler_on(config, mesh):
    decoding = DecodingConfig(max_new_tokens=MOST, slots=4, block_size=4)
    return Sampler(config, Numbers(), (3,), decoding, mesh=mesh, max_prompt_tokens=8)


def exchange():
    """Values of different sizes, some of several pieces, and nothing compiled after the first exchange."""
    compiles, process = CompileCounter(), jax.process_index()
    gather(None)
    compiles.take()
    values = gather({"process": process, "bytes": bytes(range(256)) * (20 if process else 0)})
    assert [value["process"] for value in values] == [0, 1]
    assert [len(value["bytes"]) for value in values] == [0, 5120] and values[1]["bytes"][:256] == bytes(range(256))
    assert compiles.take() == 0


def text(action, kind):
    """The message of the error that `action` raises."""
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError("no error")


def errors():
    process = jax.process_index()

    def fail(who, error):
        with together("a test"):
            if process in who:
                raise error

    assert text(lambda: fail({0, 1}, InputError("both")), SharedError) == "both"
    told = text(lambda: fail({1}, InputError("the second")), SharedError)
    assert told == "the second" if process == 1 else told.startswith("process 1 on ") and told.endswith("the second")
    told = text(lambda: fail({0}, KeyError("a bug")), SharedError if process else KeyError)
    assert ("failed in a test: KeyError" in told) == (process == 1)
    told = text(lambda: require_same({"seed": process, "steps": 1}, "what they were given"), SharedError)
    assert "seed: 0 in process 0, 1 in process 1" in told and "steps" not in told


def meshes():
    """tensor and context stay inside a process, whatever the order of the devices."""
    crossing = [jax.devices()[i] for i in (0, 2, 1, 3)]
    for sizes in (MeshConfig(data=2, tensor=2), MeshConfig(fsdp=2, data=1, tensor=2), MeshConfig(data=2, context=2)):
        for devices in (None, crossing):
            mesh = make_mesh(sizes, devices)
            owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
            assert hosts(mesh) == 2 and (owners == owners[:, :, :1, :1]).all()
            here = host_mesh(mesh)
            assert here.shape["tensor"] * here.shape["context"] == 2 and here.shape["data"] == 1
            assert set(here.devices.flat) == set(jax.local_devices())
    for sizes, devices, message in (
            (MeshConfig(data=1, tensor=4), None, "mesh.tensor * mesh.context is 4, which does not divide the 2"),
            (MeshConfig(data=1, tensor=2, context=2), None, "mesh.tensor * mesh.context is 4"),
            (MeshConfig(), jax.devices()[:3], "The processes have different numbers of devices (1, 2)")):
        assert message in text(partial(make_mesh, sizes, devices), InputError)


def placed():
    """A batch that every process holds whole; each puts its own part on its devices."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2))
    rows = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
    array = place(rows, sharding(mesh, "batch", None))
    assert array.shape == (8, 3) and not array.is_fully_addressable
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, rows[shard.index])
    assert float(jax.jit(lambda x: x.sum())(array)) == rows.sum()
    batch = TrainBatch(*[rows[None]] * 8, np.int32(1), group_ids=rows[None])              # fields that there may be
    there = place_batch(batch, mesh)
    assert there.group_ids.sharding == there.tokens.sharding == sharding(mesh, None, "batch", "context")
    assert there.reference_logprobs is None and int(there.num_micro) == 1


def main(folder: Path):
    distributed.CHUNK = 1024
    initialise()
    initialise()                                                    # once more is once
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    exchange()
    errors()
    meshes()
    placed()
    config, mesh = read_config(folder / "model"), make_mesh(MeshConfig(data=1, fsdp=4))
    load.AT_ONCE = 0                                             # layer by layer, as large models are
    shardings = parameter_shardings(decoder.parameter_shapes(config), mesh)
    params = load_params(folder / "model", config, shardings=shardings)
    save_params(params, config, folder / "saved")
    sampler, compiles, key = sampler_on(config, mesh), CompileCounter(), jax.random.key(5)
    compile_all(sampler.programs())
    compiles.take()
    answers = [list(judged_groups(sampler, Parity(), sampler.cast(params), some, SAMPLES, key, 2,
                                  SamplingConfig()))
               for some in (prompts(), prompts()[:1], [])]          # one process has less, or nothing, or both nothing
    assert compiles.take() == 0
    assert len({pickle.dumps(other) for other in gather(answers)}) == 1
    judges = [{verdict.reason for verdict in group.verdicts} for group in answers[0]]
    assert judges[0] == judges[2] == judges[4] != judges[1] == judges[3]
    if is_first():
        (folder / "answers.pickle").write_bytes(pickle.dumps(answers))
    gather(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
