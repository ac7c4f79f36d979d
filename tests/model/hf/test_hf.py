import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nft_jax.model import decoder, hf
from nft_jax.model.hf import weights
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.types import InputError

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = sorted(folder.name for folder in FIXTURES.iterdir())
SINGLE = "model.safetensors"


def tensors(folder):
    return {name: array for file in sorted(folder.glob("*.safetensors")) for name, array in load_file(file).items()}


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


@pytest.fixture
def copy_of(tmp_path):
    """A fixture folder to break: copy_of(name, change of config.json, change of the tensors)."""
    def make(name, config=None, change=None):
        folder = tmp_path / name
        shutil.copytree(FIXTURES / name, folder)
        if config:
            raw = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**raw, **config}))
        if change:
            arrays = load_file(folder / SINGLE)
            change(arrays)
            save_file(arrays, folder / SINGLE)
        return folder
    return make


# --- weights in and out


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
        assert [file.name for file in files] == [SINGLE]
        assert not (out / weights.INDEX).exists()
    else:
        index = json.loads((out / weights.INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors(out).values())
        assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
        for file in files:
            held = [array.nbytes for array in load_file(file).values()]
            assert sum(held) <= limit or len(held) == 1
    jax.tree.map(np.testing.assert_array_equal, hf.load_params(out), params)


def test_files_say_what_transformers_4_asks_for(tmp_path):
    source = FIXTURES / "qwen3_tied"
    out = hf.save_params(hf.load_params(source), hf.read_config(source), tmp_path / "out")
    with safe_open(out / SINGLE, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert (out / SINGLE).stat().st_mode == (out / "config.json").stat().st_mode


def test_a_save_replaces_an_older_one_and_what_a_killed_one_left(tmp_path):
    source = FIXTURES / "qwen3_tied"
    config, params = hf.read_config(source), hf.load_params(source)
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


def test_an_interrupted_save_leaves_the_older_model(tmp_path, monkeypatch):
    source = FIXTURES / "qwen3_tied"
    config, params = hf.read_config(source), hf.load_params(source)
    out = hf.save_params(params, config, tmp_path / "out")
    writes = iter([weights._write_file])

    def second_fails(*arguments):
        next(writes)(*arguments)

    monkeypatch.setattr(weights, "_write_file", second_fails)
    with pytest.raises(StopIteration):
        hf.save_params(jax.tree.map(lambda w: w + 1, params), config, out, max_shard_bytes=9_000)
    jax.tree.map(np.testing.assert_array_equal, hf.load_params(out), params)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", SINGLE]


def test_parameters_that_do_not_fit_the_config_are_not_saved(tmp_path):
    source = FIXTURES / "qwen3_tied"
    config, params = hf.read_config(source), hf.load_params(source)
    with pytest.raises(InputError, match=r"params layers/query has shape \(2, 20, 6, 14\)"):
        hf.save_params(params, replace(config, head_dim=12), tmp_path / "out")


def test_load_onto_a_mesh():
    source = FIXTURES / "qwen2_untied"
    devices = jax.devices()[:2]
    mesh = Mesh(np.array(devices), ("x",))
    plain = hf.load_params(source)
    split = jax.tree.map(lambda w: NamedSharding(mesh, PartitionSpec("x") if w.shape[0] % len(devices) == 0
                                                 else PartitionSpec()), plain)
    placed = hf.load_params(source, shardings=split)
    jax.tree.map(lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(str(s)), placed, split)
    jax.tree.map(np.testing.assert_array_equal, placed, plain)


def test_a_tied_model_may_carry_its_head_when_it_equals_the_embedding(copy_of):
    same = copy_of("qwen3_tied", change=lambda a: a.update({"lm_head.weight": a["model.embed_tokens.weight"].copy()}))
    assert "head" not in hf.load_params(same)
    other = copy_of("qwen2_tied", change=lambda a: a.update({"lm_head.weight": a["model.embed_tokens.weight"] + 1}))
    with pytest.raises(InputError, match=r"lm_head\.weight differs from the embedding"):
        hf.load_params(other)


def test_every_wrong_tensor_is_named_in_one_error(copy_of):
    def spoil(arrays):
        del arrays["model.layers.1.mlp.up_proj.weight"]
        arrays["model.layers.0.self_attn.extra.weight"] = np.zeros(3, np.float32)
        arrays["model.norm.weight"] = np.zeros((7,), np.float32)
        arrays["model.layers.0.mlp.down_proj.weight"] = arrays["model.layers.0.mlp.down_proj.weight"].T.copy()
        arrays["model.layers.1.input_layernorm.weight"] = np.zeros(36, np.int8)

    with pytest.raises(InputError) as caught:
        hf.load_params(copy_of("qwen2_untied", change=spoil))
    message = str(caught.value)
    for part in ("model.layers.1.mlp.up_proj.weight is missing",
                 "model.layers.0.self_attn.extra.weight is not part of",
                 "model.norm.weight has shape (7,), expected (36,)",
                 "model.layers.0.mlp.down_proj.weight has shape (26, 36), expected (36, 26)",
                 "model.layers.1.input_layernorm.weight has type I8"):
        assert part in message
    assert "\n" not in message


def test_an_untied_model_needs_its_head(copy_of):
    with pytest.raises(InputError, match=r"lm_head\.weight is missing"):
        hf.load_params(copy_of("qwen3_tied", config={"tie_word_embeddings": False}))


def test_weights_of_another_family_are_refused(copy_of):
    folder = copy_of("qwen3_tied", config={"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
                                            "attention_bias": True})
    with pytest.raises(InputError, match=r"q_proj\.bias is missing.*q_norm\.weight is not part of a qwen2 model"):
        hf.load_params(folder)


@pytest.mark.parametrize("kept", [0, 5, 100, 20_000, -1])
def test_a_truncated_file_is_named(kept, copy_of):
    folder = copy_of("qwen3_tied")
    content = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(content[:kept])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged or cut short"):
        hf.load_params(folder)


def test_missing_and_truncated_shards_are_named(copy_of):
    folder = copy_of("qwen3_untied_sharded")
    (folder / "model-00001-of-00003.safetensors").unlink()
    second = folder / "model-00002-of-00003.safetensors"
    second.write_bytes(second.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"00001-of-00003\.safetensors is missing; .*00002-of.* is damaged"):
        hf.load_params(folder)


def test_no_weights_and_a_bad_index(copy_of):
    folder = copy_of("qwen3_tied")
    (folder / weights.INDEX).write_text('{"weight_map": []}')
    assert hf.load_params(folder)           # one file goes before an index
    (folder / SINGLE).unlink()
    with pytest.raises(InputError, match="weight_map is"):
        hf.load_params(folder)
    (folder / weights.INDEX).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="converted to safetensors"):
        hf.load_params(folder)


@pytest.mark.parametrize("name", CASES)
def test_torch_computes_the_reference_logits_from_a_saved_folder(name, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM
    out = hf.save_params(hf.load_params(FIXTURES / name), hf.read_config(FIXTURES / name), tmp_path / "out",
                         max_shard_bytes=20_000)
    with np.load(FIXTURES / name / "reference.npz") as reference, torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(out).float().eval()
        logits = model(torch.from_numpy(reference["tokens"][:1].astype(np.int64))).logits
        np.testing.assert_allclose(logits.numpy(), reference["logits"][:1], atol=1e-4)


# --- tokenizer, folders

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}<|end|>"


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A folder with a word-level tokenizer of `words` words and a model of 61 ids."""
    def make(words=20, **settings):
        from tokenizers import Tokenizer, models, pre_tokenizers
        vocabulary = {f"w{i}": i for i in range(words)} | {"<|end|>": words}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(["<|end|>"])
        folder = tmp_path / "tokenizer"
        folder.mkdir()
        shutil.copy(FIXTURES / "qwen3_tied" / "config.json", folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        configured = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": TEMPLATE,
                      **settings}
        (folder / "tokenizer_config.json").write_text(json.dumps(configured))
        return folder
    return make


def test_load_tokenizer(tokenizer_folder):
    folder = tokenizer_folder()
    tokenizer = hf.load_tokenizer(folder)
    assert tokenizer.encode("w3 w5 <|end|>") == [3, 5, 20]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False) == "w1<|end|>"
    assert hf.eos_token_ids(folder, tokenizer) == (20,)


@pytest.mark.parametrize(("value", "ids"),
                         [(20, (20,)), (3, (3, 20)), ([7, 20, 5], (5, 7, 20)), (None, (20,)), ([], (20,))])
def test_eos_token_ids(value, ids, tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert hf.eos_token_ids(folder, hf.load_tokenizer(folder)) == ids


def test_eos_token_ids_of_another_model(tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 151645]}')
    with pytest.raises(InputError, match="the model has the ids 0 to"):
        hf.eos_token_ids(folder, hf.load_tokenizer(folder))


def test_eos_token_ids_of_the_wrong_type(tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "generation_config.json").write_text('{"eos_token_id": "<|end|>"}')
    with pytest.raises(InputError, match=r"eos_token_id is '<\|end\|>'"):
        hf.eos_token_ids(folder, hf.load_tokenizer(folder))


@pytest.mark.parametrize(("words", "settings", "said"), [
    (20, {"chat_template": None}, "no chat template"),
    (20, {"eos_token": None}, "no eos token"),
    (61, {}, "ids up to 61, but vocab_size in config.json is 61"),
])
def test_tokenizers_that_will_not_do(words, settings, said, tokenizer_folder):
    folder = tokenizer_folder(words, **settings)
    with pytest.raises(InputError, match=said) as caught:
        hf.load_tokenizer(folder)
    assert str(folder) in str(caught.value)


def test_a_tokenizer_as_large_as_the_embedding_will_do(tokenizer_folder):
    assert len(hf.load_tokenizer(tokenizer_folder(60))) == 61


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_tokenizer_that_cannot_be_read(content, tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=rf"{folder}: the tokenizer could not be loaded"):
        hf.load_tokenizer(folder)


def test_the_tokenizer_of_qwen3(data_folder, tmp_path):
    shutil.copytree(data_folder / "tokenizers" / "qwen3", tmp_path / "qwen3")
    raw = json.loads((FIXTURES / "qwen3_tied" / "config.json").read_text())
    (tmp_path / "qwen3" / "config.json").write_text(json.dumps({**raw, "vocab_size": 151_936}))
    tokenizer = hf.load_tokenizer(tmp_path / "qwen3")
    assert tokenizer.decode(hf.eos_token_ids(tmp_path / "qwen3", tokenizer)) == "<|im_end|>"


def test_importing_is_light_and_loading_a_tokenizer_prints_nothing(tokenizer_folder):
    program = ("import sys; from nft_jax.model import hf; assert 'transformers' not in sys.modules; "
               "assert 'huggingface_hub' not in sys.modules; hf.load_tokenizer(sys.argv[1]); "
               "import os; assert 'TRANSFORMERS_NO_ADVISORY_WARNINGS' not in os.environ")
    environment = {k: v for k, v in os.environ.items() if k != "TRANSFORMERS_NO_ADVISORY_WARNINGS"}
    root = str(Path(hf.__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", program, str(tokenizer_folder())], capture_output=True, text=True,
                          cwd=root, env={**environment, "JAX_PLATFORMS": "cpu"}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_resolve_folder(tmp_path, monkeypatch):
    import huggingface_hub
    assert hf.resolve_folder(tmp_path) == tmp_path
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda name, allow_patterns: asked.update({name: allow_patterns}) or str(tmp_path))
    assert hf.resolve_folder("Qwen/Qwen3-0.6B") == tmp_path
    (patterns,) = asked.values()
    from huggingface_hub.utils import filter_repo_objects
    wanted = ["config.json", "generation_config.json", "model.safetensors", "model-00001-of-00002.safetensors",
              "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
              "chat_template.jinja", "special_tokens_map.json"]
    others = ["pytorch_model.bin", "original/consolidated.safetensors", "README.md", "onnx/config.bin"]
    assert list(filter_repo_objects(wanted + others, allow_patterns=patterns)) == wanted


@pytest.mark.parametrize("name", ["runs/no_such_folder", "no_such_model", "/no/such/folder", "two words", ""])
def test_what_is_neither_folder_nor_model(name, monkeypatch, tmp_path):
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        partial(huggingface_hub.snapshot_download, cache_dir=tmp_path))
    with pytest.raises(InputError, match=rf"policy\.path is '{name}'"):
        hf.resolve_folder(name)


def test_config_of_takes_the_first_that_can_be_had(monkeypatch, tmp_path):
    import huggingface_hub
    assert hf.config_of(str(FIXTURES / "qwen3_tied")) == hf.read_config(FIXTURES / "qwen3_tied")

    def download(name, allow_patterns):
        assert (name, allow_patterns) == ("Qwen/Qwen2.5-Math-7B", ["config.json"])
        return str(FIXTURES / "qwen2_tied")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hf.config_of("Qwen/Qwen2.5-Math-7B") == hf.read_config(FIXTURES / "qwen2_tied")

    def unreachable(name, allow_patterns):
        raise FileNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    assert hf.config_of("Qwen/Qwen2.5-Math-7B") == PUBLISHED["Qwen/Qwen2.5-Math-7B"]
    with pytest.raises(InputError, match=r"policy\.path is 'Qwen/none': there is no such folder.*no network"):
        hf.config_of("Qwen/none")
    with pytest.raises(InputError, match=r"config\.json is missing"):
        hf.config_of(str(tmp_path))
