"""Model folders out: the same bits, in one file or several, whole at any moment."""
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from model_folders import CASES, FIXTURES, SINGLE, assert_same_bits, tensors
from nft_jax.model import decoder, hf
from nft_jax.model.hf import save
from nft_jax.model.hf.load import INDEX
from refusal import refused


@pytest.fixture
def qwen3():
    """(parameters, config) of one fixture, as `save_params` takes them."""
    return hf.load_params(FIXTURES / "qwen3_tied"), hf.read_config(FIXTURES / "qwen3_tied")


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_bitwise(name, tmp_path):
    source = FIXTURES / name
    config = hf.read_config(source)
    params = hf.load_params(source)
    shapes = decoder.parameter_shapes(config)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(lambda a: (a.shape, a.dtype), shapes)
    hf.save_params(params, config, tmp_path / "out")
    assert_same_bits(tensors(tmp_path / "out"), tensors(source))
    assert hf.read_config(tmp_path / "out") == config


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16])
def test_round_trip_of_half_precision_through_float32(stored, tmp_path, copy_of):
    folder = copy_of("qwen2_untied", change=lambda arrays: arrays.update(
        {name: array.astype(stored) for name, array in arrays.items()}))
    config, params = hf.read_config(folder), hf.load_params(folder)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    hf.save_params(params, config, tmp_path / "out", dtype=stored)
    assert_same_bits(tensors(tmp_path / "out"), tensors(folder))
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == np.dtype(stored).name
    direct = hf.load_params(folder, dtype=stored)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b).astype(stored)), direct, params)
    hf.save_params(direct, config, tmp_path / "again")
    assert_same_bits(tensors(tmp_path / "again"), tensors(folder))


@pytest.mark.parametrize("limit", [1, 9_000, 20_000, 10**9])
def test_shards_hold_the_same_model_as_one_file(limit, tmp_path):
    source = FIXTURES / "qwen3_untied_sharded"
    config, params = hf.read_config(source), hf.load_params(source)
    out = hf.save_params(params, config, tmp_path / "out", max_shard_bytes=limit)
    assert_same_bits(tensors(out), tensors(source))
    files = sorted(out.glob("*.safetensors"))
    if limit == 10**9:
        assert [file.name for file in files] == [SINGLE] and not (out / INDEX).exists()
    else:
        index = json.loads((out / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors(out).values())
        assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
        for file in files:
            held = [array.nbytes for array in load_file(file).values()]
            assert sum(held) <= limit or len(held) == 1
    jax.tree.map(np.testing.assert_array_equal, hf.load_params(out), params)


def test_files_say_what_transformers_4_asks_for(qwen3, tmp_path):
    out = hf.save_params(*qwen3, tmp_path / "out")
    with safe_open(out / SINGLE, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert (out / SINGLE).stat().st_mode == (out / "config.json").stat().st_mode


def test_files_are_those_of_the_safetensors_writer(tmp_path):
    """Header and data, byte by byte, also with types of different sizes in one file."""
    source = FIXTURES / "qwen2_untied"
    arrays = load_file(source / SINGLE)
    mixed = {name: array.astype(np.float16) if "norm" in name else array for name, array in arrays.items()}
    params = hf.load_params(source)
    for path in ("attention_norm", "mlp_norm"):
        params["layers"][path] = params["layers"][path].astype(np.float16)
    params["final_norm"] = params["final_norm"].astype(np.float16)
    out = hf.save_params(params, hf.read_config(source), tmp_path / "out")
    save_file(mixed, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (out / SINGLE).read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    again = hf.load_params(out, dtype=None)
    jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail(f"{a.dtype} is not {b.dtype}"), again, params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_save_replaces_an_older_one_and_what_a_killed_one_left(qwen3, tmp_path):
    params, config = qwen3
    out = tmp_path / "out"
    (out / ".saving-dead").mkdir(parents=True)
    (out / "tokenizer.json").write_text("{}")
    for limit in (9_000, 10**9, 20_000):
        changed = jax.tree.map(lambda w, by=limit: w + by, params)
        hf.save_params(changed, config, out, max_shard_bytes=limit)
        jax.tree.map(np.testing.assert_array_equal, hf.load_params(out), changed)
        assert_same_bits(tensors(out), tensors(hf.save_params(changed, config, tmp_path / str(limit))))
    assert (out / "tokenizer.json").exists()
    assert not list(out.glob(".saving-*"))


def test_an_interrupted_save_leaves_the_older_model(qwen3, tmp_path, monkeypatch):
    params, config = qwen3
    out = hf.save_params(params, config, tmp_path / "out")
    writes = iter([save.write_file])
    monkeypatch.setattr(save, "write_file", lambda *arguments: next(writes)(*arguments))       # the second fails
    with pytest.raises(StopIteration):
        hf.save_params(jax.tree.map(lambda w: w + 1, params), config, out, max_shard_bytes=9_000)
    jax.tree.map(np.testing.assert_array_equal, hf.load_params(out), params)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", SINGLE]


def test_parameters_that_do_not_fit_the_config_are_not_saved(qwen3, tmp_path):
    with refused("layers/query", (2, 20, 6, 14)):
        hf.save_params(qwen3[0], replace(qwen3[1], head_dim=12), tmp_path / "out")


def test_a_type_that_model_files_do_not_hold(qwen3, tmp_path):
    with refused("dtype", "int8", "float32, bfloat16, float16"):
        hf.save_params(*qwen3, tmp_path / "out", dtype=np.int8)
    with refused("dtype", "bf16", "float32"):
        hf.load_params(FIXTURES / "qwen3_tied", dtype="bf16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", CASES)
def test_torch_computes_the_reference_logits_from_a_saved_folder(name, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM
    out = hf.save_params(hf.load_params(FIXTURES / name), hf.read_config(FIXTURES / name), tmp_path / "out",
                         max_shard_bytes=20_000, more={"pad_token_id": None})      # SmolLM3's default has no row here
    with np.load(FIXTURES / name / "reference.npz") as reference, torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(out).float().eval()
        logits = model(torch.from_numpy(reference["tokens"][:1].astype(np.int64))).logits
        np.testing.assert_allclose(logits.numpy(), reference["logits"][:1], atol=1e-4)
