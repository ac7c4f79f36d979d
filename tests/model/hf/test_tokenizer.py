"""Tokenizers of model folders, the ids that end an answer, and folders by path or by hub name."""
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from model_folders import FIXTURES
from nft_jax.model import hf
from nft_jax.model.hf.published import PUBLISHED
from refusal import refused

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


@pytest.mark.parametrize(("value", "said"), [([3, 151645], "0 to 60"), ("<|end|>", "a list of integers")])
def test_eos_token_ids_of_another_model_or_type(value, said, tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with refused("eos_token_id", value, said):
        hf.eos_token_ids(folder, hf.load_tokenizer(folder))


@pytest.mark.parametrize(("words", "settings", "said"), [
    (20, {"chat_template": None}, ["chat_template"]),
    (20, {"eos_token": None}, ["eos_token"]),
    (61, {}, ["vocab_size", "61"]),
])
def test_tokenizers_that_will_not_do(words, settings, said, tokenizer_folder):
    folder = tokenizer_folder(words, **settings)
    with refused(folder, *said):
        hf.load_tokenizer(folder)


def test_a_tokenizer_as_large_as_the_embedding_will_do(tokenizer_folder):
    assert len(hf.load_tokenizer(tokenizer_folder(60))) == 61


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_tokenizer_that_cannot_be_read(content, tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with refused(folder, "tokenizer.json"):
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
    with refused("policy.path", repr(name)):
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
    with refused("policy.path", "'Qwen/none'", "no network"):
        hf.config_of("Qwen/none")
    with refused(tmp_path / "config.json"):
        hf.config_of(str(tmp_path))
