"""A model folder that will not do is one clear error, before anything is on a device or a run folder is made."""
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nft_jax
from nft_jax.config import AdapterConfig, MeshConfig, PolicyConfig
from nft_jax.model import adapter
from nft_jax.model.hf import load, peft, read_config
from nft_jax.record.weights import find_weights
from nft_jax.train import opening, plan
from refusal import refused

NANO = Path(__file__).parents[2] / "nft_jax" / "assets" / "nano"


def tensors(change):
    def spoil(folder):
        arrays = load_file(folder / "model.safetensors")
        change(arrays)
        save_file(arrays, folder / "model.safetensors")
    return spoil


def broken(arrays):
    arrays["model.layers.1.mlp.down_proj.weight"][0, 0] = np.nan


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def configured(**changes):
    def spoil(folder):
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**raw, **changes}))
    return spoil


def smaller_embedding(folder):
    """Weights and config.json agree, and the tokenizer has more ids."""
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] - 5
    configured(vocab_size=rows)(folder)
    tensors(lambda a: a.update({"model.embed_tokens.weight": a["model.embed_tokens.weight"][:rows].copy()}))(folder)


def instead(name, make):
    """`make(path)` puts something else where the file was."""
    def spoil(folder):
        (folder / name).unlink()
        make(folder / name)
    return spoil


def indexed(file):
    """An index names this file for every tensor; the weights lie beside the folder."""
    def spoil(folder):
        names = list(load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
        (folder / load.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))
    return spoil


CASES = {
    "pipe": (instead("config.json", os.mkfifo), ("config.json", "pipe")),
    "pipe of weights": (instead("model.safetensors", os.mkfifo), ("model.safetensors", "pipe")),
    "link": (instead("config.json", lambda path: path.symlink_to(path.name)), ("config.json",)),
    "nested": (lambda folder: (folder / "config.json").write_text('{"a":' * 100_000), ("config.json", "nested")),
    "outside": (indexed("../model.safetensors"), ("weight_map", "'../model.safetensors'")),
    "no name": (indexed(None), ("weight_map", "None")),
    "layers": (configured(num_hidden_layers=200_000_000), ("num_hidden_layers", "200000000")),
    "template": (lambda folder: (folder / "chat_template.jinja").write_text("{{ 'a' * 10 ** 10 }}"),
                 ("chat_template", "memory")),
    "missing": (tensors(lambda a: a.pop("model.norm.weight")), ("model.norm.weight",)),
    "extra": (tensors(lambda a: a.update(stray=np.zeros(2, np.float32))), ("stray",)),
    "shape": (tensors(lambda a: a.update({"model.norm.weight": np.zeros(3, np.float32)})),
              ("model.norm.weight", "(3,)")),
    "cut": (cut, ("model.safetensors", "damaged")),
    "architecture": (configured(architectures=["MambaForCausalLM"], model_type="mamba"), ("MambaForCausalLM",)),
    "vocabulary": (smaller_embedding, ("vocab_size",)),
}


class TooLate(Exception):
    """The input should have been refused by now."""


@pytest.fixture
def nothing_placed(monkeypatch):
    def too_late(*arguments, **options):
        raise TooLate
    monkeypatch.setattr(load, "placed", too_late)
    return lambda: monkeypatch.setattr(plan, "make_mesh", too_late)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_that_will_not_do(case, tmp_path, nothing_placed, small_run):
    spoil, told = CASES[case]
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder)
    spoil(folder)
    with refused(*told, folder) as caught:
        nft_jax.load(folder)
    assert "\n" not in str(caught.value)
    nothing_placed()
    config = small_run(tmp_path / "run", policy=PolicyConfig(path=str(folder)))
    with refused(*told), opening.open_run(config, fresh=False, quiet=True):
        pass
    assert not (tmp_path / "run").exists()


def test_a_sound_folder_comes_to_where_these_tests_stop(tmp_path, nothing_placed, small_run):
    with pytest.raises(TooLate):
        nft_jax.load(NANO)
    nothing_placed()
    with pytest.raises(TooLate), opening.open_run(small_run(tmp_path / "run"), fresh=False, quiet=True):
        pass


# ---- adapters to go on from


def settled(**changes):
    def spoil(adapter, base):
        raw = json.loads((adapter / peft.SETTINGS).read_text())
        (adapter / peft.SETTINGS).write_text(json.dumps({**raw, **changes}))
    return spoil


def without(name):
    def spoil(adapter, base):
        arrays = load_file(adapter / peft.WEIGHTS)
        save_file({key: value for key, value in arrays.items() if name not in key}, adapter / peft.WEIGHTS)
    return spoil


def another_shape(adapter, base):
    """The folder of the base has another model now: its config.json fits its weights, and not the adapter."""
    configured(intermediate_size=64)(base)
    tensors(lambda a: a.update({key: value[:, :64].copy() if "down" in key else value[:64].copy()
                                for key, value in a.items() if ".mlp." in key}))(base)


def beside_its_base(adapter, base):
    shutil.copy(base / "model.safetensors", adapter)


ADAPTERS = {
    "targets": (settled(target_modules=["c_attn"]), ("target_modules", "['c_attn']", "q_proj")),
    "option": (settled(use_dora=True), ("use_dora", True)),
    "kind": (settled(peft_type="IA3"), ("peft_type", "IA3")),
    "rank": (settled(r=0), ("r is 0",)),
    "another rank": (settled(r=3), ("lora_A.weight", "(2, 128)", "(3, 128)")),
    "shapes": (another_shape, ("gate_proj.lora_B.weight", "(64, 2)")),
    "missing": (without("layers.1.mlp.up_proj.lora_B"), ("layers.1.mlp.up_proj.lora_B.weight is missing",)),
    "beside": (beside_its_base, ("model.safetensors", peft.SETTINGS)),
    "no base": (settled(base_model_name_or_path="/no/such/model"), ("base_model_name_or_path", "'/no/such/model'")),
    "no weights": (lambda adapter, base: (adapter / peft.WEIGHTS).unlink(), (peft.WEIGHTS,)),
    None: (lambda adapter, base: None, ()),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_that_will_not_do(case, tmp_path, nothing_placed, small_run):
    spoil, told = ADAPTERS[case]
    base, folder, config = shutil.copytree(NANO, tmp_path / "base"), tmp_path / "adapter", AdapterConfig(rank=2)
    model = read_config(base)
    made = adapter.init(model, config, jax.random.key(0))
    peft.save_adapters(made, model, adapter.Adapter(config, str(base)), folder)
    spoil(folder, base)
    nothing_placed()
    run = small_run(tmp_path / "run", policy=PolicyConfig(path=str(folder)))
    if case is None:
        with pytest.raises(TooLate), opening.open_run(run, fresh=False, quiet=True):
            pass
        return
    with refused(folder, *told) as caught, opening.open_run(run, fresh=False, quiet=True):
        pass
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    with refused(*told):
        find_weights(folder)


def test_not_enough_devices(tmp_path, nothing_placed, small_run):
    config = small_run(tmp_path / "run", mesh=MeshConfig(1, 16, 1))
    with refused("mesh", (1, 16, 1, 1), "8 devices"), opening.open_run(config, fresh=False, quiet=True):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["load", "generate", "evaluate", "train"])
def test_weights_that_are_not_finite_end_every_command(command, tmp_path, small_run, capsys):
    """0.0 ± 0.0 and status 0 would look like a result."""
    from nft_jax.rollout import evaluate, generate
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder)
    tensors(broken)(folder)
    (tmp_path / "q.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    shared = ["--model", str(folder), "--max-new-tokens", "8", "--max-prompt-tokens", "300", "--slots", "2"]
    told = "model.layers.1.mlp.down_proj.weight", "nan"
    if command == "load":
        with refused(*told):
            nft_jax.load(folder)
    elif command == "train":
        config = small_run(tmp_path / "run", policy=PolicyConfig(path=str(folder)))
        with refused(*told), opening.open_run(config, fresh=False, quiet=True):
            pass
    else:
        with pytest.raises(SystemExit) as stopped:
            if command == "generate":
                generate.main([*shared, "--prompts", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "a.parquet")])
            else:
                evaluate.main([*shared, "--suite", f"own={tmp_path / 'q.jsonl'}", "--out", str(tmp_path / "out")])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and all(text in said for text in told)
        assert "answers end with: '<|end|>' (1)" in said
