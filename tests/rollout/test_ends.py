"""What ends an answer: ids, strings that are one added token, other strings; and what a user is told of it."""
from dataclasses import replace

import jax
import numpy as np
import pytest

import nft_jax
from model_folders import NANO
from nft_jax.config import AnswerConfig, DecodingConfig, MeshConfig, RolloutConfig
from nft_jax.data.prompts import turn_end
from nft_jax.rollout.answers import say
from nft_jax.rollout.ends import Ends
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.judged import judged_groups
from nft_jax.runtime.mesh import make_mesh
from nft_jax.runtime.terminal import Console
from nft_jax.types import Halted, Prompt
from refusal import refused

QUESTIONS, END = ["12+34-5", "(20-7)%5"], "<|end|>"


@pytest.fixture(scope="module")
def policy():
    return nft_jax.load(NANO)


@pytest.fixture(scope="module")
def ended(policy):
    return nft_jax.sample(policy, QUESTIONS, num_samples=3, max_new_tokens=40, seed=1)


@pytest.mark.parametrize("stops", [{"stop": [END]}, {"stop": [f"}}{END}"]}, {"stop_token_ids": [1]}])
def test_a_special_token_ends_an_answer_as_its_id_does(stops, policy, ended):
    """The model's end is no end-of-sequence id here, as in a folder whose chat template ends turns with <|im_end|>."""
    assert policy.tokenizer.convert_tokens_to_ids(END) == 1
    found = nft_jax.sample(replace(policy, eos=()), QUESTIONS, num_samples=3, max_new_tokens=40, seed=1, **stops)
    for a, b in zip(found, ended, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist() and a.finish_reason == "stop"
        # The text lacks an id that ended the answer. A string of several tokens belongs to the answer.
        assert a.text == b.text + END * (f"}}{END}" in stops.get("stop", ()))


def test_a_string_that_is_an_ordinary_token_stays_in_the_text(policy, ended):
    """Without its last brace, no answer would be read from a box."""
    found = nft_jax.sample(policy, QUESTIONS, num_samples=3, max_new_tokens=40, seed=1, stop=["}"])
    assert {r.text for r in ended} == {r.text for r in found} and all(r.text.endswith("}") for r in found)
    assert nft_jax.verify([r.text for r in found[:3]], ["41"] * 3)[0].extracted is not None


@pytest.mark.parametrize(("decoding", "field"), [
    (DecodingConfig, "stop_token_ids"), (RolloutConfig, "rollout.stop_token_ids"),
    (lambda **more: AnswerConfig(model="nano", **more), "--stop-token-ids")])
def test_an_id_that_the_model_lacks(decoding, field, policy):
    Ends(policy.tokenizer, (1,), decoding(stop_token_ids=(103,)), 104)
    with refused(field, (5, 104), "0 to 103"):
        Ends(policy.tokenizer, (1,), decoding(stop_token_ids=(5, 104)), 104)


def test_stops_of_sample_that_are_refused(policy):
    for name, value in (("stop", [""]), ("stop", "abc"), ("stop_token_ids", [99_999]), ("stop_token_ids", [-1])):
        shown = tuple(value) if isinstance(value, list) else value
        with refused(name, repr(shown)):
            nft_jax.sample(policy, ["1+1"], max_new_tokens=4, **{name: value})


def test_what_is_told(policy):
    def told(decoding, eos=(1,)):
        return list(Ends(policy.tokenizer, eos, decoding, 104).told())

    assert told(RolloutConfig()) == ["answers end with: '<|end|>' (1)"]
    assert told(RolloutConfig(stop=("<|user|>", "17")))[0].endswith(
        f"'<|end|>' (1), '<|user|>' ({policy.tokenizer.convert_tokens_to_ids('<|user|>')}), '17'")
    assert told(RolloutConfig(stop=(END,)), eos=()) == ["answers end with: '<|end|>' (1)"]
    _, remark = told(RolloutConfig(), eos=(0,))
    assert END in remark and "--rollout.stop-token-ids 1" in remark
    _, remark = told(AnswerConfig(model="nano"), eos=())
    assert "add --stop-token-ids 1" in remark


def test_tokens_that_look_like_markup_are_told_as_they_are(policy, capsys):
    strings = "[/INST]", "[bold]", ":key:"
    line, = Ends(policy.tokenizer, (1,), RolloutConfig(stop=strings), 104).told()
    say(line)
    with Console(1) as console:
        console.say(line)
    told = capsys.readouterr()
    assert all(repr(text) in told.out and repr(text) in told.err for text in strings)


@pytest.mark.parametrize(("template", "end"), [
    ("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}", 1),
    ("{% for m in messages %}{{ m.content }}\n  <|end|>\n{% endfor %}", 1),
    ("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}", None),          # nothing stands behind an answer
    ("{% for m in messages %}{{ m.content }}\n12<|end|>{% endfor %}", None),       # no added token
    ("{% for m in messages %}{{ m.role }}<|end|>{% endfor %}", None),              # the answer is not written
    ("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", None), ("{{ 1 / 0 }}", None)])
def test_the_end_of_a_turn(template, end, policy, monkeypatch):
    monkeypatch.setattr(policy.tokenizer, "chat_template", template)
    assert turn_end(policy.tokenizer) == end


# ---- log-probs that are not finite ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_shown_and_never_judged(value, tiny_model, tiny_params, number_tokenizer):
    params = dict(tiny_params) | {"final_norm": tiny_params["final_norm"].at[3].set(value)}
    sampler = Sampler(tiny_model, number_tokenizer, (3,), DecodingConfig(max_new_tokens=9, slots=8, block_size=4),
                      mesh=make_mesh(MeshConfig(), jax.devices()[:1]), max_prompt_tokens=8)
    prompts = [Prompt(i, f"question {i}", "", "", np.arange(4, 9, dtype=np.int32)) for i in range(3)]
    with refused("nan", "token 1 of", "question 0", "float32", kind=Halted):
        # There is no verifier that it could be handed to.
        next(judged_groups(sampler, None, sampler.cast(params), prompts, 2, jax.random.key(0), 0, DecodingConfig()))


def test_the_answer_is_shown_up_to_the_first_token_that_is_not_finite(number_tokenizer):
    from nft_jax.rollout.schedule import Schedule
    prompts = [Prompt(0, "the question", "", "", np.arange(2, dtype=np.int32))]
    schedule = Schedule(prompts, np.full((1, 2), 9), slots=2, admissions=2, prefills=1, block_size=3,
                        ends=Ends(number_tokenizer, (3,), DecodingConfig(), 32))
    list(schedule.admissions())
    finite = np.zeros((3, 3, 2), np.float32)
    tokens = np.array([[5, 6], [7, 8], [9, 10]])
    schedule.collect(schedule.ask(3), tokens, finite)
    wrong = finite.copy()
    wrong[0, 1:, 0] = -np.inf
    with refused("token 5 of", "-inf", "'5 7 9 5 7'", kind=Halted) as caught:
        schedule.collect(schedule.ask(3), tokens, wrong)
    assert "'the question'" in str(caught.value)
