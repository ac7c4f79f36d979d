"""Model folders in: in pieces, each process its part, never much at once; what does not fit is refused by name."""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from model_folders import FIXTURES, NANO, SINGLE, tensors
from nft_jax.config import MeshConfig
from nft_jax.model import decoder, hf
from nft_jax.model.hf import load
from nft_jax.model.parameters import ARRAYS, parameter_shardings
from nft_jax.runtime.mesh import make_mesh, sharding
from refusal import refused

ROOT = Path(__file__).parents[3]


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture
def in_pieces(monkeypatch):
    """Layer by layer, and a few rows at a time, as large models are read."""
    monkeypatch.setattr(load, "AT_ONCE", 0)
    monkeypatch.setattr(load, "BLOCK", 100)


@pytest.fixture(scope="module")
def splittable(tmp_path_factory, tiny_model):
    """A model folder whose every size divides by 4, in bfloat16."""
    params = decoder.init(tiny_model, jax.random.key(3))
    return hf.save_params(params, tiny_model, tmp_path_factory.mktemp("model"), dtype=ml_dtypes.bfloat16,
                       max_shard_bytes=5_000)


@pytest.mark.parametrize("name", ["qwen2_untied", "qwen3_untied_sharded"])
def test_pieces_make_the_same_arrays(name, request):
    whole = hf.load_params(FIXTURES / name)
    request.getfixturevalue("in_pieces")
    parts = hf.load_params(FIXTURES / name)
    same(parts, whole)
    same(jax.tree.map(lambda leaf: leaf.committed, parts), jax.tree.map(lambda leaf: leaf.committed, whole))


@pytest.mark.parametrize("sizes", [MeshConfig(1, 4, 2), MeshConfig(2, 2, 2), MeshConfig(8, 1, 1)])
def test_sharded_arrays_are_those_of_one_device(sizes, splittable, tiny_model, in_pieces, tmp_path):
    shardings = parameter_shardings(decoder.parameter_shapes(tiny_model), make_mesh(sizes))
    placed = hf.load_params(splittable, shardings=shardings)
    jax.tree.map(lambda a, s: a.sharding == s or pytest.fail(f"{a.sharding} is not {s}"), placed, shardings)
    same(placed, hf.load_params(splittable))
    out = hf.save_params(placed, tiny_model, tmp_path / "out", dtype=ml_dtypes.bfloat16, max_shard_bytes=5_000)
    for file in splittable.glob("model*"):
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_only_the_parts_of_own_devices_are_read(splittable, tiny_model, monkeypatch):
    """A process with one of four devices reads a quarter of what is split, and nothing twice."""
    read = []
    plain = load._read_part

    def counted(*arguments):
        part = plain(*arguments)
        read.append(part.size)
        return part

    def of_one_process(shape, sharding, part):
        first = min(sharding.device_set, key=lambda device: device.id)
        part(sharding.devices_indices_map(shape)[first])
        return np.zeros(shape)

    monkeypatch.setattr(load, "_read_part", counted)
    mesh = make_mesh(MeshConfig(1, 4, 1), jax.devices()[:4])
    shapes = decoder.parameter_shapes(tiny_model)
    shardings = parameter_shardings(shapes, mesh)
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    replicated = sum(leaf.size for leaf, s in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
                     if s.is_fully_replicated)
    hf.load_params(splittable, shardings=shardings)
    assert sum(read) == total
    read.clear()
    hf.load_params(splittable, shardings=parameter_shardings(shapes, make_mesh(MeshConfig(2, 4, 1))))
    assert sum(read) == total                                    # two copies of the model, read once
    read.clear()
    monkeypatch.setattr(jax, "make_array_from_callback", of_one_process)
    hf.load_params(splittable, shardings=shardings)
    assert sum(read) == (total - replicated) // 4 + replicated


def test_a_large_parameter_is_never_whole_on_the_host(splittable, tiny_model, in_pieces, monkeypatch):
    handed = []
    plain = jax.make_array_from_callback

    def seen(shape, sharding, part):
        handed.append(int(np.prod(shape)))
        return plain(shape, sharding, part)

    monkeypatch.setattr(jax, "make_array_from_callback", seen)
    shapes = decoder.parameter_shapes(tiny_model)
    hf.load_params(splittable, shardings=parameter_shardings(shapes, make_mesh(MeshConfig(1, 4, 1), jax.devices()[:4])))
    layers = tiny_model.num_layers * len(jax.tree.leaves(shapes["layers"]))
    assert len(handed) == layers + 2 and sum(handed) == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert max(handed) == max(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(shapes["layers"]))


def test_parts_of_merged_axes(splittable, tiny_model):
    """Any box of any tensor, also one that cuts head_dim, which is not the first of its merged axes."""
    stored, rng = load.check_weights(splittable, tiny_model), np.random.default_rng(0)
    for tensor in load.tensors_of(tiny_model):
        name, shape = tensor.name.format(1), tensor.shapes(tiny_model)[0]
        everything = (slice(None),) * len(shape)
        whole = load._read_part(stored[name].file, name, tensor, tiny_model, stored[name].dtype, everything)
        np.testing.assert_array_equal(tensor.to_hf(whole, tiny_model), load_file(stored[name].file)[name])
        for _ in range(4):
            index = tuple(slice(*sorted(rng.choice(size + 1, 2, replace=False).tolist())) for size in shape)
            part = load._read_part(stored[name].file, name, tensor, tiny_model, np.dtype(np.float32), index)
            np.testing.assert_array_equal(part, whole[index].astype(np.float32))
            assert part.flags.c_contiguous


def test_experts_are_read_each_from_its_own_tensor_and_by_its_own_device(in_pieces):
    """Layer by layer, four of eight experts on each of two devices; and a tensor that is missing is named."""
    source = FIXTURES / "qwen3_moe_untied"
    config, plain = hf.read_config(source), hf.load_params(source)
    up = tensors(source)["model.layers.1.mlp.experts.3.up_proj.weight"]
    np.testing.assert_array_equal(plain["layers"]["expert_up"][1, 3], up.T)
    mesh = make_mesh(MeshConfig(1, 1, config.num_experts, 1), jax.devices()[:config.num_experts])
    places = {name: sharding(mesh, None, *ARRAYS[name].logical_axes) if name.startswith("expert_") else sharding(mesh)
              for name in plain["layers"]}
    split = hf.load_params(source, shardings={**dict.fromkeys(plain, sharding(mesh)), "layers": places})
    assert split["layers"]["expert_up"].addressable_shards[3].index[1] == slice(3, 4)
    same(split, plain)


def test_layers_of_different_types_lose_nothing(copy_of):
    first, second = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1))
    folder = copy_of("qwen2_untied", change=lambda a: a.update({first: a[first].astype(np.float16)}))
    up = hf.load_params(folder, dtype=None)["layers"]["up"]
    assert up.dtype == np.float32
    np.testing.assert_array_equal(up[1], tensors(folder)[second].T)


def test_a_split_of_the_layer_axis_is_kept(in_pieces):
    source = FIXTURES / "qwen2_untied"
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    plain = hf.load_params(source)
    split = jax.tree.map(lambda w: NamedSharding(mesh, PartitionSpec("x") if w.shape[0] % 2 == 0
                                                 else PartitionSpec()), plain)
    placed = hf.load_params(source, shardings=split)
    assert placed["layers"]["query"].sharding == split["layers"]["query"]
    same(placed, plain)


LOAD = """
import ctypes, gc, sys
import jax, jax.numpy as jnp
from nft_jax.config import MeshConfig
from nft_jax.model import decoder, hf
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
config = hf.read_config(folder)
for sizes, devices in ((MeshConfig(), 1), (MeshConfig(1, 4, 1), 4)):
    shardings = parameter_shardings(decoder.parameter_shapes(config), make_mesh(sizes, jax.devices()[:devices]))
    for _ in range(2):                                  # the first time also compiles
        params = None
        params, loading = beyond(lambda: hf.load_params(folder, shardings=shardings))
        loaded = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        _, saving = beyond(lambda: hf.save_params(params, config, out, max_shard_bytes=16_000_000) and ())
    print(loaded, loading - loaded, saving)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_memory_beyond_the_arrays_is_less_than_one_and_a_half_shards(tmp_path, tiny_model):
    """Peak of resident memory, mapped files included, while 67 MB come in from five files of 16 MB and go out again.
    With every file open at once and stacked parameters (17 MB) made on the host it was 5 shards."""
    config = replace(tiny_model, vocab_size=4000, hidden_size=256, intermediate_size=1024, num_layers=16, num_heads=8,
                     num_kv_heads=4, head_dim=32)
    shapes = decoder.parameter_shapes(config)
    hf.save_params(jax.tree.map(lambda s: np.full(s.shape, 0.5, np.float32), shapes), config, tmp_path / "large",
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
    index = json.loads((tmp_path / "out" / load.INDEX).read_text())
    assert len(set(index["weight_map"].values())) == 5


PROCESS = """
import sys
import jax
rank, folder, out, port = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
from nft_jax.config import MeshConfig
from nft_jax.model import decoder
from nft_jax.model.hf import load, save_params
from nft_jax.model.parameters import parameter_shardings
from nft_jax.runtime.mesh import make_mesh
load.AT_ONCE, read, plain = 0, [], load._read_part
load._read_part = lambda *arguments: read.append(plain(*arguments)) or read[-1]
config = load.read_config(folder)
shapes = decoder.parameter_shapes(config)
params = load.load_params(folder, config, shardings=parameter_shardings(shapes, make_mesh(MeshConfig(1, 4, 1))))
assert not params["layers"]["query"].is_fully_addressable
print(sum(part.size for part in read) / sum(leaf.size for leaf in jax.tree.leaves(shapes)))
save_params(params, config, out, max_shard_bytes=1_000_000)
"""


@pytest.mark.slow
def test_two_processes_each_read_half_and_write_one_folder(tmp_path):
    import socket
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(NANO), str(tmp_path / "out"),
                                   str(port)], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        assert float(output.split()[0]) == pytest.approx(0.5, abs=0.01)        # norms are on every device
    same(tensors(tmp_path / "out"), tensors(NANO))
    assert len(list((tmp_path / "out").glob("model-*"))) > 2


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_a_tied_model_may_carry_its_head_when_it_equals_the_embedding(copy_of):
    same = copy_of("qwen3_tied", change=lambda a: a.update({"lm_head.weight": a["model.embed_tokens.weight"].copy()}))
    assert "head" not in hf.load_params(same)
    other = copy_of("qwen2_tied", change=lambda a: a.update({"lm_head.weight": a["model.embed_tokens.weight"] + 1}))
    with refused("lm_head.weight", "tie_word_embeddings"):
        hf.load_params(other)


def test_every_wrong_tensor_is_named_in_one_error(copy_of):
    def spoil(arrays):
        del arrays["model.layers.1.mlp.up_proj.weight"]
        arrays["model.layers.0.self_attn.extra.weight"] = np.zeros(3, np.float32)
        arrays["model.norm.weight"] = np.zeros((7,), np.float32)
        arrays["model.layers.0.mlp.down_proj.weight"] = arrays["model.layers.0.mlp.down_proj.weight"].T.copy()
        arrays["model.layers.1.input_layernorm.weight"] = np.zeros(36, np.int8)

    with refused("model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.extra.weight",
                 "model.norm.weight", (7,), (36,), "model.layers.0.mlp.down_proj.weight", (26, 36), (36, 26),
                 "model.layers.1.input_layernorm.weight", "I8") as caught:
        hf.load_params(copy_of("qwen2_untied", change=spoil))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "said"), [
    (lambda arrays: arrays.pop("model.layers.1.mlp.experts.4.down_proj.weight"),
     ["model.layers.1.mlp.experts.4.down_proj.weight is missing"]),
    (lambda arrays: arrays.update({"model.layers.0.mlp.experts.gate_up_proj": np.zeros((7, 10, 20), np.float32)}),
     ["model.layers.0.mlp.experts.gate_up_proj", "save_original_format"])])
def test_a_missing_expert_is_named_and_so_are_experts_in_one_tensor(change, said, copy_of, monkeypatch):
    monkeypatch.setattr(load, "placed", None)         # nothing is put on a device
    with refused(*said):
        hf.load_params(copy_of("qwen3_moe_tied_local", change=change))


@pytest.mark.parametrize(("config", "said"), [
    ({"tie_word_embeddings": False}, ("lm_head.weight", "missing")),
    ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_bias": True},
     ("q_proj.bias", "q_norm.weight", "qwen2"))])
def test_an_untied_model_needs_its_head_and_weights_must_be_of_the_family(copy_of, config, said):
    with refused(*said):
        hf.load_params(copy_of("qwen3_tied", config=config))


@pytest.mark.parametrize("kept", [0, 5, 100, 20_000, -1])
def test_a_truncated_file_is_named(kept, copy_of):
    folder = copy_of("qwen3_tied")
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:kept])
    with refused(folder, "model.safetensors", "cut short"):
        hf.load_params(folder)


def test_missing_and_truncated_shards_are_named(copy_of):
    folder = copy_of("qwen3_untied_sharded")
    (folder / "model-00001-of-00003.safetensors").unlink()
    second = folder / "model-00002-of-00003.safetensors"
    second.write_bytes(second.read_bytes()[:-10])
    with refused("00001-of-00003.safetensors is missing", "00002-of-00003.safetensors is damaged"):
        hf.load_params(folder)


def test_no_weights_and_a_bad_index(copy_of):
    folder = copy_of("qwen3_tied")
    (folder / load.INDEX).write_text('{"weight_map": []}')
    assert hf.load_params(folder)           # one file goes before an index
    (folder / SINGLE).unlink()
    with refused("weight_map", []):
        hf.load_params(folder)
    (folder / load.INDEX).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with refused(folder, SINGLE, load.INDEX):
        hf.load_params(folder)


def test_a_tensor_in_two_files_is_refused(copy_of):
    folder = copy_of("qwen3_untied_sharded")
    one, two, *_ = sorted(folder.glob("model-*.safetensors"))
    name, array = next(iter(load_file(one).items()))
    save_file(load_file(two) | {name: array}, two)
    with refused(name, two.name, one.name):
        hf.load_params(folder)


@pytest.mark.parametrize("file", [
    "../private/model.safetensors", "/etc/passwd", "/etc/model.safetensors", "a/b.safetensors", "..", "", "model.bin",
    "x\0y.safetensors", 3, None, ["x"], {}, True])
def test_an_index_names_files_of_its_own_folder(file, copy_of):
    folder = copy_of("qwen3_untied_sharded")
    index = json.loads((folder / load.INDEX).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = file
    (folder / load.INDEX).write_text(json.dumps(index))
    with refused(folder / load.INDEX, name, repr(file)):
        hf.load_params(folder)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied_sharded"])
def test_weights_that_are_no_file_are_never_waited_for(kind, name, copy_of):
    folder = copy_of(name)
    file = sorted(folder.glob("*.safetensors"))[0]
    file.unlink()
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](file)
    with refused(file):
        hf.load_params(folder)


@pytest.mark.parametrize("layers", [1, 9_999, 200_000_000])
@pytest.mark.parametrize("name", ["qwen3_tied", "llama_tied", "gemma3_untied", "qwen2_last_layers_local"])
def test_more_or_fewer_layers_than_there_are_tensors(layers, name, copy_of):
    with refused("num_hidden_layers", layers) as caught:
        hf.load_params(copy_of(name, config={"num_hidden_layers": layers, "layer_types": None, "max_window_layers": 0}))
    assert "missing" not in str(caught.value)


def test_a_message_shows_the_beginning_of_a_long_value(copy_of):
    with refused("layer_types", "full_attention") as caught:
        hf.read_config(copy_of("qwen3_tied", config={"layer_types": ["full_attention"] * 100_000}))
    assert len(str(caught.value)) < 1000


def test_names_without_number_or_end_make_a_short_message(copy_of):
    def more(arrays):
        arrays.update({f"{'x' * 5_000}{i}": np.zeros(1, np.float32) for i in range(50)})

    with refused("xxx", "and 30 more") as caught:
        hf.load_params(copy_of("qwen3_tied", change=more))
    assert len(str(caught.value)) < 10_000
    folder = copy_of("qwen3_untied_sharded")
    (folder / load.INDEX).write_text(json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(5_000)}}))
    with refused("0.safetensors is missing", "more") as caught:
        hf.load_params(folder)
    assert len(str(caught.value)) < 10_000


def test_buffers_of_old_llama_folders_are_skipped(copy_of):
    """rotary_emb.inv_freq follows from rope_theta."""
    from nft_jax.model.hf import check
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32) for layer in (0, 1)}
    folder = copy_of("llama_tied", change=lambda arrays: arrays.update(buffers))
    same(hf.load_params(folder), hf.load_params(FIXTURES / "llama_tied"))
    config = hf.read_config(folder)
    assert not check.round_trip(folder, config, hf.check_weights(folder, config))


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_is_told_from_a_model(whole, copy_of):
    folder = copy_of("qwen3_tied")
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    if not whole:
        (folder / "config.json").unlink()
    with refused(folder, "org/base", "merge=True"):
        hf.load_params(folder)


NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("pieces", [False, True])
def test_values_that_are_not_finite_are_named_by_their_tensor(value, kind, pieces, copy_of, request):
    if pieces:
        request.getfixturevalue("in_pieces")
    for name in ("model.layers.1.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"):
        def spoil(arrays, name=name):
            spoiled = arrays[name].astype(kind)
            spoiled.reshape(-1)[-1] = value
            arrays[name] = spoiled

        folder = copy_of("qwen3_tied", change=spoil)
        with refused(folder / SINGLE, name, value):
            hf.load_params(folder)
        shutil.rmtree(folder)


def test_values_too_large_for_the_type_they_are_read_in(copy_of):
    def enlarge(arrays):
        arrays["model.norm.weight"][3] = 1e6

    folder = copy_of("qwen3_tied", change=enlarge)
    assert float(hf.load_params(folder)["final_norm"][3]) == 1e6
    with refused("model.norm.weight", "inf", "float16", "float32"):
        hf.load_params(folder, dtype=np.float16)
