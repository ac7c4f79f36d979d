"""Tokenizers and chat templates that would take all time or memory end in an error that names the file."""
import json
import shutil

import pytest

from model_folders import NANO
from nft_jax.model import hf
from nft_jax.model.hf import trial
from refusal import refused


@pytest.fixture
def nano(tmp_path):
    """A copy of the embedded model's folder without its weights."""
    shutil.copytree(NANO, tmp_path / "nano", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "nano"


@pytest.fixture
def limits(monkeypatch):
    monkeypatch.setattr(trial, "CPU_SECONDS", 1)
    monkeypatch.setattr(trial, "MEMORY", 1 << 30)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("template", [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x",
    "{{ 10 ** (10 ** 9) }}",
    "{{ 'a' * 10000000000 }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{{ 'abc ' * 500000 }}",
    "{% generation %}{{ 10 ** (10 ** 9) }}{% endgeneration %}",
    # Only an answer to the question, or a system message, sets it off.
    "{% if messages[1] %}{{ 10 ** (10 ** 9) }}{% endif %}{{ messages[0].content }}",
])
def test_templates_without_an_end(template, nano):
    (nano / "chat_template.jinja").write_text(template)
    with refused(nano, "chat_template"):
        hf.load_tokenizer(nano)


def test_templates_that_fail_or_refuse_are_no_matter_here(nano):
    for template in ("{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{% for i in range(10**9) %}x{% endfor %}", "{% for",
                     "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ ''.__class__.__mro__ }}", " "):
        (nano / "chat_template.jinja").write_text(template)
        assert hf.load_tokenizer(nano).chat_template == template


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("change", [
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(1+)+$|(7+|[0-9+-])+x"}, "behavior": "Isolated",
                       "invert": False}},
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "1" * 200_000}},
])
def test_tokenizers_without_an_end(change, nano):
    (nano / "chat_template.jinja").write_text("{{ '1' * 40 }}!")
    raw = json.loads((nano / "tokenizer.json").read_text())
    (nano / "tokenizer.json").write_text(json.dumps(raw | change))
    with refused(nano, "tokenizer.json"):
        hf.load_tokenizer(nano)


@pytest.mark.parametrize("change", [
    {"padding": {"strategy": {"Fixed": 300_000_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "<|pad|>"}},
    {"truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}},
])
def test_padding_and_truncation_of_the_file_are_off(change, nano):
    raw = json.loads((nano / "tokenizer.json").read_text())
    ids = hf.load_tokenizer(nano)("17+25-8", add_special_tokens=False)["input_ids"]
    (nano / "tokenizer.json").write_text(json.dumps(raw | change))
    assert hf.load_tokenizer(nano)("17+25-8", add_special_tokens=False)["input_ids"] == ids


def test_the_same_files_are_tried_once(nano, monkeypatch):
    from nft_jax.model.hf import tokenizer
    hf.load_tokenizer(nano)
    monkeypatch.setattr(tokenizer.subprocess, "Popen", None)
    assert hf.load_tokenizer(shutil.copytree(nano, nano.with_name("copy"))).eos_token == "<|end|>"
    (nano / "chat_template.jinja").write_text("another")
    with pytest.raises(TypeError):
        hf.load_tokenizer(nano)
