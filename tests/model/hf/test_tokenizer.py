"""Tokenizers of model folders, the ids that end an answer, and folders by path or by hub name."""
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


# ---- ids are those of tokenizer.json -------------------------------------------------------------------------------

KINDS = ("byte", "digits", "split", "prefix", "metaspace", "lowercase", "words")
# What folders call their tokenizer. None of these classes may change what tokenizer.json says.
CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer", "LlamaTokenizerFast", "GPT2Tokenizer",
           "Qwen2Tokenizer", "GemmaTokenizerFast", "NoSuchTokenizer")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def backend(kind):
    """A small tokenizer of the `tokenizers` library, with a pre-tokenizer, normaliser and decoder of its kind."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    text = ["What is 17+25-8? The answer is 34. Let us think.", "def f(n):\n    return n\n", "2023 1234 17 25"] * 5
    if kind == "words":
        made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("?", "a", ",", "17"))}, unk_token="?"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        made = Tokenizer(models.BPE(byte_fallback=kind == "metaspace"))
        byte = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix")
        split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
        made.pre_tokenizer, made.decoder = {
            "digits": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte]), None),
            "split": (pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)]), None),
            "metaspace": (pre_tokenizers.Metaspace(), decoders.Metaspace()),
        }.get(kind, (byte, None))
        made.decoder = made.decoder or decoders.ByteLevel()
        alphabet = [] if kind == "metaspace" else pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=400, show_progress=False,
                                                           initial_alphabet=alphabet))
        if kind == "lowercase":
            made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return made


def folder_of(path, made, family="llama", **settings):
    """A folder with this tokenizer and the config.json of a model of 512 ids."""
    path.mkdir(exist_ok=True)
    raw = json.loads((FIXTURES / f"{family}_tied" / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**raw, "vocab_size": 512}))
    made.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE, **settings}))
    return path


@pytest.fixture(scope="module", params=KINDS)
def of_kind(request, tmp_path_factory):
    """(tokenizer of the `tokenizers` library, a folder with its file)."""
    made = backend(request.param)
    return made, folder_of(tmp_path_factory.mktemp("kind") / request.param, made)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_class_that_a_folder_names_changes_no_id(of_kind, family):
    made, folder = of_kind
    text = "What is 2023+48-17?\n\n  The Answer, caf\u00e9 ."
    ids = made.encode(text, add_special_tokens=False).ids
    for name in CLASSES:
        tokenizer = hf.load_tokenizer(folder_of(folder, made, family, tokenizer_class=name, add_prefix_space=True,
                                                clean_up_tokenization_spaces=True, legacy=True))
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, name
        assert tokenizer.decode(ids) == made.decode(ids, skip_special_tokens=False), name


def test_any_text_has_the_ids_of_the_file_and_any_ids_their_text(of_kind):
    """Decoding rewrites nothing: transformers would make "a, 17" of "a , 17" where the settings ask for it."""
    made, folder = of_kind
    tokenizer = hf.load_tokenizer(folder_of(folder, made, clean_up_tokenization_spaces=True))

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=40) | st.lists(st.sampled_from(["a", " , ", "17", " n't", *SPECIALS])).map("".join))
    def same(text):
        ids = made.encode(text, add_special_tokens=False).ids
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        assert tokenizer.decode(ids) == made.decode(ids, skip_special_tokens=False)
        assert tokenizer.batch_decode([ids], skip_special_tokens=True) == [made.decode(ids)]

    same()


def test_ids_that_transformers_makes_differently_are_refused(of_kind, monkeypatch):
    import transformers
    made, folder = of_kind

    class Other(transformers.PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            return {"input_ids": [0]}

    monkeypatch.setattr(transformers, "PreTrainedTokenizerFast", Other)
    with refused(folder / "tokenizer.json", [0], "transformers"):
        hf.load_tokenizer(folder_of(folder, made))


def test_a_folder_saved_by_transformers_5_and_one_saved_years_ago(tmp_path):
    """Version 4 knows neither TokenizersBackend nor the list extra_special_tokens; before 4.34, special and added
    tokens had files of their own."""
    made = backend("byte")
    five = folder_of(tmp_path / "five", made, tokenizer_class="TokenizersBackend", backend="tokenizers", is_local=True,
                     extra_special_tokens=["<|im_start|>"], local_files_only=False)
    old = folder_of(tmp_path / "old", made)
    (old / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (old / "special_tokens_map.json").write_text(json.dumps(
        {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "additional_special_tokens": ["<|im_start|>"]}))
    (old / "added_tokens.json").write_text(json.dumps({token: made.token_to_id(token) for token in SPECIALS}))
    (old / "chat_template.jinja").write_text(TEMPLATE)
    for folder in (five, old):
        tokenizer = hf.load_tokenizer(folder)
        assert tokenizer.eos_token_id == made.token_to_id("<|im_end|>") and tokenizer.chat_template == TEMPLATE
        assert "<|im_start|>" in tokenizer.all_special_tokens


@pytest.mark.parametrize(("settings", "said"), [
    ({"eos_token": "</s>"}, ("eos_token", "</s>")),
    ({"bos_token": {"content": "<s>"}}, ("bos_token", "<s>")),
    ({"pad_token": "[PAD]"}, ("pad_token", "[PAD]")),
    ({"additional_special_tokens": [f"<|t{i}|>" for i in range(9)]}, ("<|t0|>", "<|t2|>", "6 more")),
    ({"extra_special_tokens": {"image_token": "<img>"}}, ("<img>",)),
    ({"added_tokens_decoder": {"511": {"content": "<new>"}}}, ("511", "<new>", "no token")),
    ({"added_tokens_decoder": {"1": {"content": "<|im_end|>"}}}, ("added token 1", "<|im_end|>")),
    ({"eos_token": {"__type": "AddedToken", "content": 5}}, ("eos_token", 5)),
    ({"additional_special_tokens": "<|im_end|>"}, ("additional_special_tokens", "<|im_end|>")),
    ({"added_tokens_decoder": [3]}, ("added_tokens_decoder", [3])),
])
def test_settings_that_name_tokens_that_the_file_lacks(settings, said, tmp_path):
    with refused(tmp_path / "folder" / "tokenizer_config.json", *said) as caught:
        hf.load_tokenizer(folder_of(tmp_path / "folder", backend("byte"), **settings))
    assert "<|t3|>" not in str(caught.value)


def test_an_added_token_without_a_row_is_left_out_unless_prompts_need_it(tmp_path):
    """Gemma 3 1B has 262,144 rows, and its tokenizer has one more id, for images."""
    made = backend("byte")
    made.add_special_tokens(["<image_soft_token>"])
    size = made.get_vocab_size() - 1
    settings = {"extra_special_tokens": {"image_token": "<image_soft_token>"},
                "added_tokens_decoder": {str(size): {"content": "<image_soft_token>"}}}

    def folder(rows, **more):
        path = folder_of(tmp_path / "folder", made, **settings, **more)
        raw = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**raw, "vocab_size": rows}))
        return path

    whole, without = hf.load_tokenizer(folder(size + 1)), hf.load_tokenizer(folder(size))
    text = "17 <|im_end|><image_soft_token> 25"
    assert max(whole(text)["input_ids"]) == size and max(without.get_vocab().values()) == size - 1
    assert max(without(text)["input_ids"]) < size and without.decode(without(text)["input_ids"]) == text
    for more in ({"eos_token": "<image_soft_token>"}, {"chat_template": "{{ messages[0].content }}<image_soft_token>"}):
        with refused("vocab_size", size):
            hf.load_tokenizer(folder(size, **more))
    with refused("vocab_size", size - 1):
        hf.load_tokenizer(folder(size - 1))


def test_of_several_templates_the_default_one_is_taken(tmp_path):
    several = [{"name": "tool_use", "template": "tools"}, {"name": "rag", "template": "rag"}]
    folder = folder_of(tmp_path / "folder", backend("byte"), chat_template=several)
    with refused(folder, "chat_template", "tool_use, rag", "chat_template.jinja"):
        hf.load_tokenizer(folder)
    folder_of(folder, backend("byte"), chat_template=[*several, {"name": "default", "template": "plain"}])
    assert hf.load_tokenizer(folder).chat_template == "plain"
    (folder / "chat_template.jinja").write_text("of the file")
    assert hf.load_tokenizer(folder).chat_template == "of the file"


@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("trusted", [False, True])
def test_code_in_a_folder_never_runs(place, trusted, tmp_path):
    folder = folder_of(tmp_path / "folder", backend("byte"), tokenizer_class="Planted", trust_remote_code=trusted)
    (folder / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n"
                                       "from transformers import PreTrainedTokenizerFast as Planted\n")
    for name, value in (("config.json", {"AutoConfig": "planted.Planted", "AutoTokenizer": "planted.Planted"}),
                        ("tokenizer_config.json", {"AutoTokenizer": ["planted.Planted", "planted.Planted"]})):
        if name == place:
            raw = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**raw, "auto_map": value}))
    if place == "config.json":
        with refused("auto_map"):
            hf.read_config(folder)
    else:
        assert hf.load_tokenizer(folder).eos_token == "<|im_end|>"
    assert not (tmp_path / "ran").exists() and "planted" not in sys.modules


# ---- with another chat template, or none ---------------------------------------------------------------------------


def test_the_chat_template_that_is_asked_for(tokenizer_folder, tmp_path):
    folder, other, mine = tokenizer_folder(chat_template=None), tmp_path / "other", tmp_path / "mine.jinja"
    shutil.copytree(folder, other)
    (other / "chat_template.jinja").write_text("of the other")
    mine.write_text("mine")
    found = {asked: hf.load_tokenizer(folder, asked).chat_template for asked in ("", "none", str(mine), str(other))}
    assert list(found.values()) == [None, None, "mine", "of the other"]
    assert hf.load_tokenizer(other).chat_template == "of the other"
    assert hf.load_tokenizer(other, "none").chat_template is None
    (tmp_path / "mine.txt").write_text("mine")
    for asked in ("mine", tmp_path / "mine.txt", folder):
        with refused("data.chat_template", asked, ".jinja", "none"):
            hf.load_tokenizer(folder, asked)
    mine.write_text("{{ 'a' * 10 ** 10 }}")
    with refused("chat_template", "memory"):
        hf.load_tokenizer(folder, mine)


def test_a_tokenizer_is_saved_with_the_chat_template_that_it_has(tmp_path):
    from tokenizers.processors import TemplateProcessing
    made, text = backend("byte"), "17 + 25"
    made.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 305)])
    folder = folder_of(tmp_path / "folder", made, bos_token="<|im_start|>")
    (tmp_path / "mine.jinja").write_text("mine")
    for asked, expected in (("none", None), (str(tmp_path / "mine.jinja"), "mine")):
        tokenizer = hf.load_tokenizer(folder, asked)
        saved = shutil.copytree(folder, tmp_path / f"saved_{expected}")
        hf.save_tokenizer(tokenizer, (306,), saved)
        again = hf.load_tokenizer(saved)
        assert again.chat_template == expected and again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again(text)["input_ids"][0] == made.token_to_id("<|im_start|>")


# ---- the ids that end an answer, and what will not do --------------------------------------------------------------


@pytest.mark.parametrize(("value", "ids"),
                         [(20, (20,)), (3, (3, 20)), ([7, 20, 5], (5, 7, 20)), (None, (20,)), ([], (20,))])
def test_eos_token_ids(value, ids, tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert hf.eos_token_ids(folder, hf.load_tokenizer(folder)) == ids


def test_config_json_says_what_ends_an_answer_where_there_is_no_generation_config(tokenizer_folder):
    folder = tokenizer_folder()
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": [3, 7]}))
    tokenizer = hf.load_tokenizer(folder)
    assert hf.eos_token_ids(folder, tokenizer) == (3, 7, 20)
    (folder / "generation_config.json").write_text("{}")
    assert hf.eos_token_ids(folder, tokenizer) == (20,)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(("value", "said"), [([3, 151645], "0 to 60"), ("<|end|>", "a list of integers")])
def test_eos_token_ids_of_another_model_or_type(name, value, said, tokenizer_folder):
    folder = tokenizer_folder()
    raw = json.loads((folder / "config.json").read_text()) if name == "config.json" else {}
    (folder / name).write_text(json.dumps(raw | {"eos_token_id": value}))
    with refused(folder / name, "eos_token_id", value, said):
        hf.eos_token_ids(folder, hf.load_tokenizer(folder))


@pytest.mark.parametrize(("words", "settings", "said"), [
    (20, {"chat_template": 7}, ["chat_template", 7]),
    (20, {"eos_token": None}, ["eos_token"]),
    (61, {}, ["vocab_size", "61"]),
])
def test_tokenizers_that_will_not_do(words, settings, said, tokenizer_folder):
    folder = tokenizer_folder(words, **settings)
    with refused(folder, *said):
        hf.load_tokenizer(folder)


def test_a_tokenizer_as_large_as_the_embedding_will_do(tokenizer_folder):
    assert len(hf.load_tokenizer(tokenizer_folder(60))) == 61


@pytest.mark.parametrize("content", [None, "{", "{}", "[" * 100_000, '{"model": null}'], ids=lambda text: str(text)[:9])
def test_a_tokenizer_that_cannot_be_read(content, tokenizer_folder):
    folder = tokenizer_folder()
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with refused(folder, "tokenizer.json", "opy the files" if content else "save_pretrained"):
        hf.load_tokenizer(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                                  "generation_config.json"])
@pytest.mark.parametrize("kind", ["pipe", "link to itself", "folder"])
def test_what_is_no_file_is_refused_and_never_waited_for(name, kind, tokenizer_folder):
    path = tokenizer_folder() / name
    path.unlink(missing_ok=True)
    {"pipe": os.mkfifo, "folder": Path.mkdir, "link to itself": lambda path: path.symlink_to(path.name)}[kind](path)
    with refused(path):
        hf.eos_token_ids(path.parent, hf.load_tokenizer(path.parent))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_json_that_is_nested_too_deep(name, tokenizer_folder):
    path = tokenizer_folder() / name
    path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with refused(path, "nested"):
        hf.eos_token_ids(path.parent, hf.load_tokenizer(path.parent))


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
