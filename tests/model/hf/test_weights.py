"""How tensors come in and go out: in pieces, each process its part, and never much of them at once."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from nft_jax.config import MeshConfig
from nft_jax.model import decoder
from nft_jax.model.hf import weights
from nft_jax.model.hf.weights import load_params, read_config, save_params
from nft_jax.model.parameters import parameter_shardings
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import InputError

ROOT = Path(__file__).parents[3]
FIXTURES = Path(__file__).parents[1] / "fixtures"


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture
def in_pieces(monkeypatch):
    """Layer by layer, and a few rows at a time, as large models are read."""
    monkeypatch.setattr(weights, "AT_ONCE", 0)
    monkeypatch.setattr(weights, "BLOCK", 100)


@pytest.fixture(scope="module")
def splittable(tmp_path_factory, tiny_model):
    """A model folder whose every size divides by 4, in bfloat16."""
    params = decoder.init(tiny_model, jax.random.key(3))
    return save_params(params, tiny_model, tmp_path_factory.mktemp("model"), dtype=ml_dtypes.bfloat16,
                       max_shard_bytes=5_000)


@pytest.mark.parametrize("name", ["qwen2_untied", "qwen3_untied_sharded"])
def test_pieces_make_the_same_arrays(name, monkeypatch, tmp_path):
    whole = load_params(FIXTURES / name)
    monkeypatch.setattr(weights, "AT_ONCE", 0)
    monkeypatch.setattr(weights, "BLOCK", 100)
    in_pieces = load_params(FIXTURES / name)
    same(in_pieces, whole)
    assert all(leaf.committed == other.committed for leaf, other in
               zip(jax.tree.leaves(in_pieces), jax.tree.leaves(whole), strict=True))


@pytest.mark.parametrize("sizes", [MeshConfig(1, 4, 2), MeshConfig(2, 2, 2), MeshConfig(8, 1, 1)])
def test_sharded_arrays_are_those_of_one_device(sizes, splittable, tiny_model, in_pieces, tmp_path):
    shardings = parameter_shardings(decoder.parameter_shapes(tiny_model), make_mesh(sizes))
    placed = load_params(splittable, shardings=shardings)
    jax.tree.map(lambda a, s: a.sharding == s or pytest.fail(f"{a.sharding} is not {s}"), placed, shardings)
    same(placed, load_params(splittable))
    out = save_params(placed, tiny_model, tmp_path / "out", dtype=ml_dtypes.bfloat16, max_shard_bytes=5_000)
    for file in splittable.glob("model*"):
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_only_the_parts_of_own_devices_are_read(splittable, tiny_model, monkeypatch):
    """A process with one of four devices reads a quarter of what is split, and nothing twice."""
    read = []
    plain = weights._read_part

    def counted(*arguments):
        part = plain(*arguments)
        read.append(part.size)
        return part

    def of_one_process(shape, sharding, part):
        first = min(sharding.device_set, key=lambda device: device.id)
        part(sharding.devices_indices_map(shape)[first])
        return np.zeros(shape)

    monkeypatch.setattr(weights, "_read_part", counted)
    mesh = make_mesh(MeshConfig(1, 4, 1), jax.devices()[:4])
    shapes = decoder.parameter_shapes(tiny_model)
    shardings = parameter_shardings(shapes, mesh)
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    replicated = sum(leaf.size for leaf, s in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
                     if s.is_fully_replicated)
    load_params(splittable, shardings=shardings)
    assert sum(read) == total
    read.clear()
    load_params(splittable, shardings=parameter_shardings(shapes, make_mesh(MeshConfig(2, 4, 1))))
    assert sum(read) == total                                    # two copies of the model, read once
    read.clear()
    monkeypatch.setattr(jax, "make_array_from_callback", of_one_process)
    load_params(splittable, shardings=shardings)
    assert sum(read) == (total - replicated) // 4 + replicated


def test_a_large_parameter_is_never_whole_on_the_host(splittable, tiny_model, in_pieces, monkeypatch):
    handed = []
    plain = jax.make_array_from_callback

    def seen(shape, sharding, part):
        handed.append(int(np.prod(shape)))
        return plain(shape, sharding, part)

    monkeypatch.setattr(jax, "make_array_from_callback", seen)
    shapes = decoder.parameter_shapes(tiny_model)
    load_params(splittable, shardings=parameter_shardings(shapes, make_mesh(MeshConfig(1, 4, 1), jax.devices()[:4])))
    layers = tiny_model.num_layers * len(jax.tree.leaves(shapes["layers"]))
    assert len(handed) == layers + 2 and sum(handed) == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert max(handed) == max(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(shapes["layers"]))


def test_parts_of_merged_axes(splittable, tiny_model):
    """Any box of any tensor, also one that cuts head_dim, which is not the first of its merged axes."""
    stored, rng = weights.check_weights(splittable, tiny_model), np.random.default_rng(0)
    for tensor in weights.tensors_of(tiny_model):
        name, shape = tensor.name.format(1), tensor.shapes(tiny_model)[0]
        everything = (slice(None),) * len(shape)
        whole = weights._read_part(stored[name].file, name, tensor, tiny_model, stored[name].dtype, everything)
        np.testing.assert_array_equal(tensor.to_hf(whole, tiny_model), load_file(stored[name].file)[name])
        for _ in range(4):
            index = tuple(slice(*sorted(rng.choice(size + 1, 2, replace=False).tolist())) for size in shape)
            part = weights._read_part(stored[name].file, name, tensor, tiny_model, np.dtype(np.float32), index)
            np.testing.assert_array_equal(part, whole[index].astype(np.float32))
            assert part.flags.c_contiguous


def test_files_are_those_of_the_safetensors_writer(tmp_path):
    """Header and data, byte by byte, also with types of different sizes in one file."""
    source = FIXTURES / "qwen2_untied"
    arrays = load_file(source / weights.SINGLE)
    mixed = {name: array.astype(np.float16) if "norm" in name else array for name, array in arrays.items()}
    params = load_params(source)
    for path in ("attention_norm", "mlp_norm"):
        params["layers"][path] = params["layers"][path].astype(np.float16)
    params["final_norm"] = params["final_norm"].astype(np.float16)
    out = save_params(params, read_config(source), tmp_path / "out")
    save_file(mixed, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (out / weights.SINGLE).read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    again = load_params(out, dtype=None)
    jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail(f"{a.dtype} is not {b.dtype}"), again, params)
    same(again, params)


def test_layers_of_different_types_lose_nothing(tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(FIXTURES / "qwen2_untied", folder)
    tensors = load_file(folder / "model.safetensors")
    first = "model.layers.0.mlp.up_proj.weight"
    tensors[first] = tensors[first].astype(np.float16)
    save_file(tensors, folder / "model.safetensors")
    up = load_params(folder, dtype=None)["layers"]["up"]
    assert up.dtype == np.float32
    np.testing.assert_array_equal(up[1], tensors["model.layers.1.mlp.up_proj.weight"].T)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    folder = tmp_path / "twice"
    shutil.copytree(FIXTURES / "qwen3_untied_sharded", folder)
    one, two, *_ = sorted(folder.glob("model-*.safetensors"))
    name, array = next(iter(load_file(one).items()))
    save_file(load_file(two) | {name: array}, two)
    with pytest.raises(InputError, match=f"{name} is in {two.name} and in {one.name}"):
        load_params(folder)


def test_a_type_that_model_files_do_not_hold(tmp_path):
    source = FIXTURES / "qwen3_tied"
    with pytest.raises(InputError, match="dtype is 'int8': use one of float32, bfloat16, float16"):
        save_params(load_params(source), read_config(source), tmp_path / "out", dtype=np.int8)
    with pytest.raises(InputError, match="dtype is 'bf16': use one of float32"):
        load_params(source, dtype="bf16")
    assert not (tmp_path / "out").exists()


LOAD = """
import ctypes, gc, sys
import jax, jax.numpy as jnp
from nft_jax.config import MeshConfig
from nft_jax.model import decoder
from nft_jax.model.hf.weights import load_params, read_config, save_params
from nft_jax.model.parameters import parameter_shardings
from nft_jax.runtime.mesh import make_mesh

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

def beyond(make):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)                    # what is free must not hide what comes
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")                                 # the peak starts again from here
    before = status("VmRSS")
    made = jax.block_until_ready(make())
    return made, status("VmHWM") - before

folder, out = sys.argv[1:]
config = read_config(folder)
for sizes, devices in ((MeshConfig(), 1), (MeshConfig(1, 4, 1), 4)):
    shardings = parameter_shardings(decoder.parameter_shapes(config), make_mesh(sizes, jax.devices()[:devices]))
    for _ in range(2):                                  # the first time also compiles
        params = None
        params, loading = beyond(lambda: load_params(folder, shardings=shardings))
        loaded = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        _, saving = beyond(lambda: save_params(params, config, out, max_shard_bytes=16_000_000) and ())
    print(loaded, loading - loaded, saving)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_memory_beyond_the_arrays_is_less_than_one_and_a_half_shards(tmp_path, tiny_model):
    """Peak of resident memory, mapped files included, while 67 MB come in from five files of 16 MB and go out again.
    With every file open at once and stacked parameters (17 MB) made on the host it was 5 shards."""
    from dataclasses import replace
    config = replace(tiny_model, vocab_size=4000, hidden_size=256, intermediate_size=1024, num_layers=16, num_heads=8,
                     num_kv_heads=4, head_dim=32)
    shapes = decoder.parameter_shapes(config)
    save_params(jax.tree.map(lambda s: np.full(s.shape, 0.5, np.float32), shapes), config, tmp_path / "large",
                max_shard_bytes=16_000_000)
    shard = max(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors"))
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "1",
                   "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path / "large"), str(tmp_path / "out")], cwd=ROOT,
                          capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        loaded, loading, saving = map(int, line.split())
        assert loaded > 4 * shard and loading < 1.5 * shard and saving < 1.5 * shard, line
    assert len(done.stdout.splitlines()) == 2
    index = json.loads((tmp_path / "out" / weights.INDEX).read_text())
    assert len(set(index["weight_map"].values())) == 5


def test_a_split_of_the_layer_axis_is_kept(in_pieces):
    source = FIXTURES / "qwen2_untied"
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    plain = load_params(source)
    split = jax.tree.map(lambda w: NamedSharding(mesh, PartitionSpec("x") if w.shape[0] % 2 == 0
                                                 else PartitionSpec()), plain)
    placed = load_params(source, shardings=split)
    assert placed["layers"]["query"].sharding == split["layers"]["query"]
    same(placed, plain)


PROCESS = """
import sys
import jax
rank, folder, out, port = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
from nft_jax.config import MeshConfig
from nft_jax.model import decoder
from nft_jax.model.hf import weights
from nft_jax.model.parameters import parameter_shardings
from nft_jax.runtime.mesh import make_mesh
weights.AT_ONCE, read, plain = 0, [], weights._read_part
weights._read_part = lambda *arguments: read.append(plain(*arguments)) or read[-1]
config = weights.read_config(folder)
shapes = decoder.parameter_shapes(config)
params = weights.load_params(folder, config, shardings=parameter_shardings(shapes, make_mesh(MeshConfig(1, 4, 1))))
assert not params["layers"]["query"].is_fully_addressable
print(sum(part.size for part in read) / sum(leaf.size for leaf in jax.tree.leaves(shapes)))
weights.save_params(params, config, out, max_shard_bytes=1_000_000)
"""


@pytest.mark.slow
def test_two_processes_each_read_half_and_write_one_folder(tmp_path):
    import socket
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nano = ROOT / "nft_jax" / "assets" / "nano"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(nano), str(tmp_path / "out"),
                                   str(port)], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert float(output.split()[0]) == pytest.approx(0.5, abs=0.01)        # norms are on every device
    written = {name: array for file in (tmp_path / "out").glob("model-*") for name, array in load_file(file).items()}
    original = load_file(nano / "model.safetensors")
    assert written.keys() == original.keys() and len(list((tmp_path / "out").glob("model-*"))) > 2
    same(written, original)
