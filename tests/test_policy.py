"""The public face, on the embedded model: load, sample, verify, score, loss, save."""
import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.special

import nft_jax
from nft_jax.model import decoder
from nft_jax.model.config import Compute
from refusal import refused

ROOT = Path(__file__).parents[1]
NANO = ROOT / "nft_jax" / "assets" / "nano"


@pytest.fixture(scope="module")
def policy():
    return nft_jax.load(NANO)


@pytest.fixture(scope="module")
def rollouts(policy):
    return nft_jax.sample(policy, ["12+34-5", "(20-7)%5"], num_samples=3, max_new_tokens=40, seed=1)


def test_samples_stand_in_order_and_read_like_their_tokens(policy, rollouts):
    assert [(r.prompt.problem, r.sample) for r in rollouts] == [(p, k) for p in ("12+34-5", "(20-7)%5")
                                                                 for k in range(3)]
    for rollout in rollouts:
        assert policy.tokenizer.decode(rollout.tokens, skip_special_tokens=True) == rollout.text
        assert rollout.finish_reason == "stop" and rollout.tokens[-1] in policy.eos
        assert rollout.tokens.dtype == np.int32 and rollout.logprobs.dtype == np.float32


def test_an_answer_depends_on_seed_prompt_and_place_only(policy, rollouts):
    again = nft_jax.sample(policy, ["12+34-5", "(20-7)%5"], num_samples=3, max_new_tokens=40, seed=1, slots=2)
    other = nft_jax.sample(policy, ["12+34-5", "(20-7)%5"], num_samples=3, max_new_tokens=40, seed=2)
    assert [r.text for r in again] == [r.text for r in rollouts] != [r.text for r in other]
    greedy = nft_jax.sample(policy, ["12+34-5"], num_samples=2, max_new_tokens=40, temperature=0.0)
    assert greedy[0].text == greedy[1].text == "12+34=46;46-5=41;\\boxed{41}"


def test_what_a_person_holds_is_three_lines(policy, rollouts):
    lines = repr(policy).splitlines()
    assert len(lines) == 3 and f"{sum(x.size for x in jax.tree.leaves(policy.params)):,} in float32" in lines[1]
    assert "<|end|>" in lines[2]
    first = rollouts[0]
    lines = repr(first).splitlines()
    assert len(lines) == 3 and repr(first.prompt.problem) in lines[0] and repr(first.text) in lines[1]
    assert f"{len(first.tokens)} tokens" in lines[2] and f"{first.logprobs.sum():.2f}" in lines[2]
    empty = replace(first, text="x" * 500, tokens=first.tokens[:0], logprobs=first.logprobs[:0],
                    entropies=first.entropies[:0])
    assert "0 tokens, ended; no log-probs" in repr(empty) and max(map(len, repr(empty).splitlines())) < 120


def test_chat_messages_and_nothing(policy):
    text = [nft_jax.sample(policy, [prompt], max_new_tokens=8, temperature=0)[0].prompt.text
            for prompt in ("1+1", [{"role": "user", "content": "1+1"}])]
    assert text[0] == text[1] == "<|user|>1+1<|end|><|assistant|>"
    assert nft_jax.sample(policy, []) == []
    with refused(2011, 1024):
        nft_jax.sample(policy, ["1+" * 1000], max_new_tokens=8)
    for name, value in (("max_new_tokens", 2000), ("temperature", -1.0), ("top_p", 0.0), ("top_k", -1),
                        ("num_samples", 0), ("slots", 0)):
        with refused(name, value):
            nft_jax.sample(policy, ["1+1"], **{name: value})
    with refused("prompts", "1+1"):
        nft_jax.sample(policy, "1+1")


def test_strings_are_continued_as_they_are(policy):
    """By any model with `raw`, and by a model without a chat template."""
    base = replace(policy, tokenizer=copy.copy(policy.tokenizer))
    base.tokenizer.chat_template = None
    text = "<|user|>12+34-5<|end|><|assistant|>"
    expected, = nft_jax.sample(policy, ["12+34-5"], max_new_tokens=40, seed=1)
    for found in (*nft_jax.sample(policy, [text], max_new_tokens=40, seed=1, raw=True),
                  *nft_jax.sample(base, [text], max_new_tokens=40, seed=1)):
        assert found.prompt.text == found.prompt.problem == expected.prompt.text
        assert found.prompt.tokens.tolist() == expected.prompt.tokens.tolist() and found.text == expected.text
    chat = [{"role": "user", "content": "1+1"}]
    with refused("prompts", chat, "raw"):
        nft_jax.sample(policy, [chat], raw=True)
    with refused("chat template", "data.chat_template"):
        nft_jax.sample(base, [[{"role": "system", "content": "Add."}, *chat]])


def test_logprobs_are_those_of_sampling_and_of_the_logits(policy, rollouts):
    sequences = [np.concatenate([rollout.prompt.tokens, rollout.tokens]) for rollout in rollouts]
    lengths = np.array(list(map(len, sequences)))
    padded = np.stack([np.pad(tokens, (0, max(lengths) + 5 - len(tokens))) for tokens in sequences])
    logits = np.asarray(nft_jax.logits(policy, padded, lengths))
    assert logits.shape == (*padded.shape, policy.config.vocab_size)
    for row, tokens, rollout, values in zip(logits, sequences, rollouts, nft_jax.logprobs(policy, rollouts),
                                            strict=True):
        np.testing.assert_allclose(values, rollout.logprobs, atol=1e-5)
        logp = scipy.special.log_softmax(row, axis=-1)[np.arange(len(tokens) - 1), tokens[1:]]
        np.testing.assert_allclose(logp[len(rollout.prompt.tokens) - 1:], values, atol=1e-5)
    assert nft_jax.logprobs(policy, []) == []


def test_verify_is_the_function_even_after_the_package_is_imported():
    import nft_jax.verify.maths.extract
    verdicts = nft_jax.verify(["so \\boxed{41}", "\\boxed{40}", "41"], ["41"] * 3)
    assert [(v.outcome, v.reward, v.extracted) for v in verdicts] == [
        ("right", 1.0, "41"), ("wrong", 0.0, "40"), ("no_answer", 0.0, None)]
    assert nft_jax.verify.Verifier is not None and nft_jax.verify.maths.extract.last_box("\\boxed{1}") == "1"


def test_save_and_load(policy, rollouts, tmp_path):
    nft_jax.save(policy, tmp_path / "copy")
    copy = nft_jax.load(tmp_path / "copy")
    assert copy.config == policy.config and copy.eos == policy.eos
    for a, b in zip(jax.tree.leaves(copy.params), jax.tree.leaves(policy.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (NANO / "model.safetensors").read_bytes()
    again = nft_jax.sample(copy, ["12+34-5"], num_samples=3, max_new_tokens=40, seed=1)
    assert [r.text for r in again] == [r.text for r in rollouts[:3]]


SETTINGS = {"eos_token_id": [1, 3], "pad_token_id": 0, "do_sample": True, "temperature": 0.7, "top_p": 0.8,
            "transformers_version": "4.51.0"}


@pytest.fixture
def full_folder(tmp_path):
    """The embedded model with everything that a published folder may hold beside it."""
    folder = shutil.copytree(NANO, tmp_path / "full")
    (folder / "generation_config.json").write_text(json.dumps(SETTINGS))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"bos_token_id": 4, "eos_token_id": 1, "pad_token_id": 0}))
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|end|>",   "pad_token": "<|pad|>"}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def test_what_a_folder_says_of_tokens_and_generation_is_kept(full_folder, tmp_path):
    from transformers import AutoTokenizer
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "vocab.json").write_text("{}")                     # of another tokenizer, saved here before
    nft_jax.save(nft_jax.load(full_folder), copy)
    kept = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "merges.txt",
            "generation_config.json"}
    assert {path.name for path in copy.iterdir()} == kept | {"model.safetensors", "config.json"}
    for name in kept:
        assert (copy / name).read_bytes() == (full_folder / name).read_bytes(), name
    ids = json.loads((copy / "config.json").read_text())
    assert (ids["bos_token_id"], ids["eos_token_id"], ids["pad_token_id"]) == (4, 1, 0)
    messages = [{"role": "user", "content": "1+1"}]
    told = [AutoTokenizer.from_pretrained(folder) for folder in (full_folder, copy)]
    assert told[0].apply_chat_template(messages) == told[1].apply_chat_template(messages)
    assert nft_jax.load(copy).eos == (1, 3)


def test_transformers_computes_and_generates_the_same_from_a_saved_folder(policy, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    nft_jax.save(policy, tmp_path / "copy")
    model, tokenizer = (kind.from_pretrained(tmp_path / "copy") for kind in (AutoModelForCausalLM, AutoTokenizer))
    text = tokenizer.apply_chat_template([{"role": "user", "content": "12+34-5"}], add_generation_prompt=True,
                                         tokenize=False)
    answer, = nft_jax.sample(policy, ["12+34-5"], max_new_tokens=40, temperature=0)
    assert text == answer.prompt.text
    tokens = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logits = model(tokens).logits.numpy()
        continued = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=40, do_sample=False)
    np.testing.assert_allclose(logits, nft_jax.logits(policy, tokens.numpy(), np.array([tokens.shape[1]])), atol=1e-4)
    assert continued[0, tokens.shape[1]:].tolist() == answer.tokens.tolist()
    ends = GenerationConfig.from_pretrained(tmp_path / "copy").eos_token_id
    assert tuple(ends if isinstance(ends, list) else [ends]) == policy.eos


def test_other_ends_of_an_answer_and_a_changed_tokenizer_are_written(full_folder, tmp_path):
    policy = replace(nft_jax.load(full_folder), eos=(1, 5))
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<|end|>"
    nft_jax.save(policy, tmp_path / "copy")
    assert json.loads((tmp_path / "copy/generation_config.json").read_text()) == SETTINGS | {"eos_token_id": [1, 5]}
    again = nft_jax.load(tmp_path / "copy")
    assert again.eos == (1, 5) and again.tokenizer.chat_template == policy.tokenizer.chat_template
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert not (tmp_path / "copy/merges.txt").exists()


def test_saving_over_the_folder_it_came_from_and_after_that_is_gone(full_folder, tmp_path):
    policy, before = nft_jax.load(full_folder), (full_folder / "tokenizer.json").read_bytes()
    nft_jax.save(policy, full_folder)
    assert (full_folder / "tokenizer.json").read_bytes() == before and nft_jax.load(full_folder).eos == (1, 3)
    shutil.rmtree(full_folder)
    nft_jax.save(policy, tmp_path / "copy")
    copy = nft_jax.load(tmp_path / "copy")
    assert copy.eos == (1, 3) and copy.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert json.loads((tmp_path / "copy/generation_config.json").read_text()) == {
        "pad_token_id": 0, "eos_token_id": [1, 3]}


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_policy_split_over_a_mesh(policy, rollouts, stored, tmp_path):
    """The same policy, whatever holds its parameters; saved from there it is the same folder."""
    from nft_jax.config import MeshConfig
    from nft_jax.runtime.mesh import make_mesh
    split = nft_jax.load(NANO, dtype=stored, mesh=make_mesh(MeshConfig(2, 2, 2)))
    query = split.params["layers"]["query"]
    assert query.dtype == stored and not query.is_fully_replicated
    exact = jax.tree.map(lambda w: np.asarray(w.astype(stored)), policy.params)
    jax.tree.map(np.testing.assert_array_equal, split.params, exact)
    nft_jax.save(split, tmp_path / "copy")
    again = nft_jax.load(tmp_path / "copy", dtype=stored)
    jax.tree.map(np.testing.assert_array_equal, again.params, exact)
    if stored == "float32":
        assert (tmp_path / "copy/model.safetensors").read_bytes() == (NANO / "model.safetensors").read_bytes()
        texts = [r.text for r in nft_jax.sample(split, ["12+34-5"], num_samples=3, max_new_tokens=40, seed=1)]
        assert texts == [r.text for r in rollouts[:3]]
    np.testing.assert_allclose(nft_jax.logprobs(split, rollouts[:1])[0], rollouts[0].logprobs,
                               atol=1e-4 if stored == "float32" else 0.2)


def test_a_policy_computes_in_the_type_of_its_parameters(policy, rollouts):
    low = replace(policy, params=jax.tree.map(lambda w: w.astype("bfloat16"), policy.params))
    answers = nft_jax.sample(low, ["12+34-5", "(20-7)%5"], num_samples=3, max_new_tokens=40, seed=1)
    assert {sampler.compute.dtype for sampler in policy._samplers.values()} == {"float32", "bfloat16"}
    for rollout, values in zip(answers, nft_jax.logprobs(low, answers), strict=True):
        np.testing.assert_allclose(values, rollout.logprobs, atol=0.3)
    tokens, lengths = np.array([answers[0].prompt.tokens]), np.array([len(answers[0].prompt.tokens)])
    hidden = decoder.hidden_states(low.params, low.config, tokens, np.arange(lengths[0])[None], np.ones_like(tokens),
                                   Compute("bfloat16"))
    np.testing.assert_array_equal(nft_jax.logits(low, tokens, lengths),
                                  decoder.logits(low.params, low.config, hidden))


def test_a_policy_that_was_changed_gets_a_sampler_of_its_own(policy, rollouts):
    """`dataclasses.replace` hands on the dict of samplers."""
    capped = replace(policy, config=replace(policy.config, final_softcap=1e-3))
    answer, = nft_jax.sample(capped, ["12+34-5"], max_new_tokens=40)
    np.testing.assert_allclose(answer.logprobs, -np.log(policy.config.vocab_size), atol=0.01)
    never = replace(policy, eos=(0,))
    assert len(nft_jax.sample(never, ["12+34-5"], max_new_tokens=40, temperature=0)[0].tokens) == 40


def test_nano_is_the_embedded_model_from_any_folder(policy, tmp_path, monkeypatch):
    """A local folder of that name is ./nano."""
    monkeypatch.chdir(tmp_path)
    assert nft_jax.load("nano").config == policy.config and nft_jax.Config().policy.path == "nano"
    shutil.copytree(NANO, "nano")
    raw = json.loads(Path("nano/config.json").read_text())
    Path("nano/config.json").write_text(json.dumps(raw | {"max_position_embeddings": 77}))
    for path, positions in (("nano", 1024), ("./nano", 77), (Path("nano"), 77)):
        assert nft_jax.load(path).config.max_positions == positions


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    code = re.search(r"## In a notebook.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    code = code.replace("nft_jax/assets/nano", str(NANO))
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["loss"].shape == names["old"].shape and (tmp_path / "runs/copy/config.json").exists()
