"""Adapter folders of PEFT: the same logits and the same updates as PEFT's, the same bits back, other options refused.

The folders and PEFT's numbers are of tests/model/make_adapter_fixtures.py."""
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nft_jax
from made import make_step
from model_folders import FIXTURES, assert_same_bits
from nft_jax.config import AdapterConfig, MeshConfig, ObjectiveConfig, OptimizerConfig
from nft_jax.config.training import TARGETS
from nft_jax.model import adapter, decoder
from nft_jax.model.adapter import is_wrapped, unwrap
from nft_jax.model.config import FLOAT32
from nft_jax.model.hf import peft, read_config
from nft_jax.model.hf.families import FAMILIES
from nft_jax.model.parameters import parameter_shardings
from nft_jax.objectives.registry import resolve
from nft_jax.record.weights import find_weights
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.batch import BatchShape, Example, make_batch
from nft_jax.train.step import Loss
from refusal import refused

ADAPTERS = FIXTURES.parent / "adapters"
CASES = sorted(folder.name for folder in ADAPTERS.iterdir())
UPDATES, RATE = 3, 1e-3


def load_case(name):
    weights = find_weights(ADAPTERS / name, base=FIXTURES / name)
    with np.load(ADAPTERS / name / "reference.npz") as reference:
        return weights, weights.read(), dict(reference)


@pytest.fixture
def copy_of(tmp_path):
    """An adapter's folder to break: copy_of(name, change of adapter_config.json, change of the tensors)."""
    def make(name, settings=None, change=None):
        folder = tmp_path / f"adapter_{name}"
        shutil.copytree(ADAPTERS / name, folder)
        raw = json.loads((folder / peft.SETTINGS).read_text())
        (folder / peft.SETTINGS).write_text(json.dumps({**raw, **(settings or {})}))
        if change:
            arrays = load_file(folder / peft.WEIGHTS)
            change(arrays)
            save_file(arrays, folder / peft.WEIGHTS)
        return partial(find_weights, folder, base=FIXTURES / name)
    return make


def test_every_family_has_an_adapter_of_peft():
    assert {read_config(FIXTURES / name).family for name in CASES} == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_logits_match_peft(name):
    weights, params, reference = load_case(name)
    tokens, lengths = reference["tokens"], reference["lengths"]
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    segments = (positions < lengths[:, None]).astype(jnp.int32)
    hidden = jax.jit(decoder.hidden_states, static_argnums=1)(params, weights.config, tokens, positions, segments)
    ours = np.asarray(decoder.logits(params, weights.config, hidden))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(ours[row, :length], reference["logits"][row, :length], atol=1e-4, rtol=0)
    # The adapter is seen: the base alone has other logits.
    with np.load(FIXTURES / name / "reference.npz") as base:
        assert np.abs(base["logits"] - reference["logits"])[0].max() > 0.1


@pytest.mark.parametrize("name", ["gemma3_tied_softcap", "llama_untied_linear", "phi3_tied_longrope",
                                  "qwen3_5_untied_sharded", "gemma4_tied_shared"])
def test_updates_match_torch_on_a_model_of_peft(name, tmp_path):
    """NFT's loss on fixed answers, packed into rows, by the compiled step."""
    weights, params, reference = load_case(name)
    given = {key.removeprefix("answers/"): value for key, value in reference.items() if key.startswith("answers/")}
    examples = []
    for tokens, prompt, answer, reward, accuracy, old in zip(*(given[key] for key in (
            "tokens", "prompt_lengths", "answer_lengths", "rewards", "accuracy", "old_logprobs")), strict=True):
        end = prompt + answer
        examples.append(Example(tokens[:prompt], tokens[prompt:end], reward, accuracy, 1.0, old[prompt:end]))
    loss, mesh = resolve("nft", ObjectiveConfig()), make_mesh(MeshConfig(), jax.devices()[:1])
    batch, _ = make_batch(examples, BatchShape.for_sequences(len(examples), 4, 32), loss.loss_agg)
    base = jax.tree.map(lambda x: getattr(x, "base", x), params, is_leaf=is_wrapped)
    step, first = make_step(unwrap(params), OptimizerConfig(), Loss(
        "nft", loss, weights.config, FLOAT32, adapter=weights.adapter.config), mesh, base)
    state = first()
    for _ in range(UPDATES):
        state, *_ = step(state, batch, RATE, 1.0, base)
    peft.save_adapters(state.params, weights.config, weights.adapter, tmp_path)
    before, ours = load_file(ADAPTERS / name / peft.WEIGHTS), load_file(tmp_path / peft.WEIGHTS)
    # Adam divides a gradient by its size, and so a gradient near 0 by its rounding: most where no score is scaled down.
    near = 1e-4 if weights.config.query_pre_attn_scalar == 1 else 1e-5
    assert ours.keys() == {key.removeprefix("after/") for key in reference if key.startswith("after/")}
    for key, found in ours.items():
        np.testing.assert_allclose(found, reference[f"after/{key}"], atol=near, rtol=0, err_msg=key)
        assert np.abs(found - before[key]).max() > RATE


@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_an_adapter_comes_back_bit_for_bit(name, kind, copy_of, tmp_path):
    def cast(arrays):
        arrays |= {key: value.astype(kind) for key, value in arrays.items()}

    weights = copy_of(name, change=cast)()
    peft.save_adapters(unwrap(weights.read()), weights.config, weights.adapter, tmp_path / "out")
    assert_same_bits(load_file(weights.home / peft.WEIGHTS), load_file(tmp_path / "out" / peft.WEIGHTS))
    before, after = (json.loads((folder / peft.SETTINGS).read_text()) for folder in (weights.home, tmp_path / "out"))
    # What differs is said in other words, and means the same.
    assert {key: after[key] for key in after if key not in ("target_modules", "base_model_name_or_path")} == {
        key: before[key] for key in after if key not in ("target_modules", "base_model_name_or_path")}
    again = find_weights(tmp_path / "out")
    assert again.adapter.config == weights.adapter.config and again.folder.samefile(FIXTURES / name)


def test_an_adapter_is_split_over_a_mesh_as_it_is_read(tiny_model, tmp_path):
    config = AdapterConfig(rank=4)
    made = jax.tree.map(lambda x: x + 1, adapter.init(tiny_model, config, jax.random.key(0)))
    peft.save_adapters(made, tiny_model, adapter.Adapter(config, "somewhere", "0f"), tmp_path)
    assert peft.read_digest(tmp_path) == "0f"
    places = parameter_shardings(made, make_mesh(MeshConfig(1, 4, 2)))
    found = peft.load_adapters(tmp_path, tiny_model, config, places)
    jax.tree.map(np.testing.assert_array_equal, found, made)
    assert jax.tree.map(lambda x: x.sharding, found) == places


@pytest.mark.parametrize("place", ["file/below", "gs://bucket/adapter"])
def test_a_place_where_no_folder_can_be_made_is_refused(place, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    config = AdapterConfig(rank=4)
    made = adapter.init(tiny_model, config, jax.random.key(0))
    with refused("path", str(Path(place))):
        peft.save_adapters(made, tiny_model, adapter.Adapter(config, "somewhere"), place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_parts_of_a_fused_matrix_share_one_a():
    """As in PEFT, whose adapter of qkv_proj has one A: some of its parts alone are refused by name."""
    config = read_config(FIXTURES / "phi3_tied_longrope")
    for targets in (("query", "value"), ("up",)):
        with refused("adapter.targets", targets, "phi3"):
            adapter.adapter_shapes(config, AdapterConfig(rank=2, targets=targets))
    made = adapter.init(config, AdapterConfig(rank=2), jax.random.key(0))
    assert {name for name, parts in made["layers"].items() if "lora_a" in parts} == {"query", "out", "gate", "down"}


@pytest.mark.parametrize(("asked", "left_out", "found"), [
    (["q_proj", "down_proj", "c_attn"], None, ("query", "down")),
    ("all-linear", ["mlp.up_proj"], ("query", "key", "value", "out", "gate", "down")),
    (r".*\.(q|up)_proj", r".*up_proj", ("query",)),
    ([f"model.layers.{i}.self_attn.v_proj" for i in range(3)], None, ("value",)),
])
def test_targets_are_read_as_peft_reads_them(asked, left_out, found):
    settings = {"r": 2, "lora_alpha": 3, "target_modules": asked, "exclude_modules": left_out}
    assert peft.adapter_config(settings, read_config(FIXTURES / "qwen2_tied"), "F").targets == found


@pytest.mark.parametrize(("name", "asked", "found"), [
    ("gemma4_tied", "all-linear", ("all",)), ("gemma4_unified_tied", "all-linear", TARGETS["all"]),
    ("gemma4_tied", ["per_layer_projection"], ("input_projection",)),
    ("gemma4_tied", ["per_layer_model_projection", "q_proj"], ("query", "layer_projection"))])
def test_matrices_of_gemma_4_beside_a_layers_own(name, asked, found):
    """One of them stands outside the layers. Only E2B and E4B have any."""
    model = read_config(FIXTURES / name)
    config = peft.adapter_config({"r": 2, "lora_alpha": 3, "target_modules": asked}, model, "F")
    assert config.targets == found
    assert ("layer_projection" in adapter.adapter_shapes(model, config)) == (
        found == ("all",) or "layer_projection" in found)


@pytest.mark.parametrize(("name", "value"), [
    ("use_dora", True), ("modules_to_save", ["lm_head"]), ("bias", "all"), ("layers_to_transform", [0]),
    ("rank_pattern", {"q_proj": 8}), ("alpha_pattern", {"q_proj": 8}), ("layer_replication", [[0, 2]]),
    ("fan_in_fan_out", True), ("lora_bias", True), ("init_lora_weights", "pissa"), ("use_qalora", True),
    ("trainable_token_indices", [1]), ("target_parameters", ["gate"]), ("layers_pattern", "layers"),
    ("loftq_config", {"loftq_bits": 4}), ("task_type", "SEQ_CLS"), ("peft_type", "LOHA"), ("r", 0), ("r", "8"),
    ("lora_alpha", 0), ("use_rslora", "yes"), ("target_modules", None), ("target_modules", ["c_attn"]),
    ("target_modules", ["q_proj", "lm_head"]), ("target_modules", ["model.layers.0.self_attn.q_proj"]),
    ("target_modules", "["), ("an_option_of_tomorrow", 1)])
def test_options_that_are_not_implemented_are_refused_by_name(copy_of, name, value):
    case = "qwen3_untied_sharded"
    with refused(peft.SETTINGS, name, value):
        copy_of(case, {name: value})()


@pytest.mark.parametrize("asked", [["q_proj", "gate_proj"], "all-linear", r".*experts\.0\.up_proj"])
def test_adapters_of_experts_are_refused_by_name(copy_of, asked):
    with refused(peft.SETTINGS, "target_modules", "experts.0"):
        copy_of("qwen3_moe_untied", {"target_modules": asked})()


def test_an_adapter_that_does_not_fit_its_base_is_refused(copy_of):
    def spoil(arrays):
        key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        del arrays[key.replace("layers.0", "layers.1")]
        arrays[key.replace("q_proj", "z_proj")] = arrays[key]
        arrays[key] = arrays[key][:1].copy()

    with refused(peft.WEIGHTS, "layers.1.self_attn.q_proj.lora_A.weight is missing", "z_proj", "(1, 20)"):
        copy_of("qwen2_tied", change=spoil)()
    with refused(peft.WEIGHTS, "expected", "base"):
        find_weights(ADAPTERS / "qwen2_tied", base=FIXTURES / "qwen2_untied")


def test_values_that_are_not_finite_are_refused(copy_of):
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

    def spoil(arrays):
        arrays[key][0, 0] = np.nan

    with refused(peft.WEIGHTS, key, "nan"):
        copy_of("qwen2_tied", change=spoil)().read()


def test_files_that_are_missing_or_cut_short_are_refused(copy_of):
    find = copy_of("qwen2_tied")
    file = find.args[0] / peft.WEIGHTS
    file.write_bytes(file.read_bytes()[:-8])
    with refused(peft.WEIGHTS, "cut short"):
        find()
    file.unlink()
    with refused(peft.WEIGHTS, "missing"):
        find()
    with refused("base_model_name_or_path", "qwen2_tied"):
        find_weights(ADAPTERS / "qwen2_tied")


def test_an_adapter_beside_a_model_is_refused_and_so_is_a_base_without_adapter(copy_of):
    find = copy_of("qwen2_tied")
    shutil.copy(FIXTURES / "qwen2_tied" / "model.safetensors", find.args[0])
    shutil.copy(FIXTURES / "qwen2_tied" / "config.json", find.args[0])
    for use in (find, partial(nft_jax.model.hf.load_params, find.args[0])):
        with refused(find.args[0], peft.SETTINGS, "model.safetensors"):
            use()
    with refused("base", "elsewhere", FIXTURES / "qwen2_tied"):
        find_weights(FIXTURES / "qwen2_tied", base="elsewhere")


def test_a_digest_is_of_the_weights_and_not_of_their_files(tmp_path):
    name = "qwen3_untied_sharded"
    config = read_config(FIXTURES / name)
    whole = nft_jax.model.hf.save_params(nft_jax.model.hf.load_params(FIXTURES / name), config, tmp_path / "whole")
    assert peft.weights_digest(whole, config) == peft.weights_digest(FIXTURES / name, config)
    arrays = load_file(whole / "model.safetensors")
    arrays["model.norm.weight"][0] += 1
    save_file(arrays, whole / "model.safetensors")
    assert peft.weights_digest(whole, config) != peft.weights_digest(FIXTURES / name, config)
