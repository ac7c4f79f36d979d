"""The embedded model: what it is made from, its exact tokenizer, and that the asset is what its README says."""
import json
import random
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nft_jax
from experiments.nano import make
from experiments.nano.make import CONFIG, END, FOLDER, respond
from nft_jax.data.arithmetic import generate, split_of
from nft_jax.model.decoder import count_parameters
from nft_jax.verify.maths.extract import extract

the_tokenizer = cache(make.build_tokenizer)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n")))
@settings(max_examples=60)
def test_the_tokenizer_gives_back_any_ascii_text(text):
    ids = the_tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert the_tokenizer().decode(ids) == text


def test_clean_solutions_are_right_and_every_step_is_true():
    rng = random.Random(0)
    for question in generate("base", 400, 0):
        text = respond(question, rng, imperfect=False)
        assert extract(text) == question.answer and len(text) <= 60
        for left, value in re.findall(r"([^;=]+)=(-?\d+);", text):
            assert eval(left) == int(value)


def test_the_mixture_is_imperfect_in_every_kind_and_every_way():
    rng = random.Random(0)
    drawn = [(q, respond(q, rng, imperfect=True)) for q in generate("base", 6000, 0)]
    for kind, shares in make.MIXTURE.items():
        assert sum(shares) == pytest.approx(1)
        right = np.mean([extract(text) == q.answer for q, text in drawn if q.kind == kind])
        assert 0.25 < right < shares[0] + shares[1] * 0.2
    texts = [text for _, text in drawn]
    assert 0.02 < np.mean([extract(text) is None for text in texts]) < 0.07
    assert 0.15 < np.mean([text.startswith("\\boxed") for text in texts]) < 0.35


@given(st.integers(0, 300), st.integers(0, 1000))
def test_a_slip_is_wrong_and_not_negative(value, seed):
    assert 0 <= make.slip(value, random.Random(seed)) != value


def test_rows_hold_whole_base_solutions_with_weight_on_the_response_only():
    tokenizer, rng = the_tokenizer(), random.Random(3)
    tokens, segments, positions, weights = make.pack(tokenizer, make.base_questions(rng), rng, imperfect=False)
    assert tokens.shape == segments.shape == positions.shape == weights.shape == (make.ROWS, make.ROW_LENGTH)
    assert (segments > 0).mean() > 0.85 and (weights[segments == 0] == 0).all()
    for row in range(make.ROWS):
        for segment in range(1, segments[row].max() + 1):
            inside = segments[row] == segment
            np.testing.assert_array_equal(positions[row, inside], np.arange(inside.sum()))
            text = tokenizer.decode(tokens[row, inside])
            prompt, response = re.fullmatch(r"(<\|user\|>.*<\|end\|><\|assistant\|>)(.*)", text).groups()
            assert response.endswith(END)
            assert weights[row, inside].sum() == len(tokenizer(response)["input_ids"])
            assert weights[row, inside][:len(tokenizer(prompt)["input_ids"])].sum() == 0


def test_base_questions_are_of_the_base_split():
    questions = make.base_questions(random.Random(1))
    assert {split_of(next(questions).solution) for _ in range(200)} == {"base"}


def test_the_asset_is_small_and_does_what_its_readme_says():
    assert (FOLDER / "model.safetensors").stat().st_size <= 4 * 2**20
    policy = nft_jax.load(FOLDER)
    assert policy.config == CONFIG and count_parameters(policy.config) < 10**6
    result = make.evaluate(policy, count=128)
    logged = json.loads((FOLDER / "train_log.jsonl").read_text().splitlines()[-1])
    assert 0.30 <= logged["avg@8"] <= 0.45 and logged["greedy"] >= 0.85
    assert abs(result["avg@8"] - logged["avg@8"]) < 0.06 and abs(result["greedy"] - logged["greedy"]) < 0.1
    assert f"**{logged['avg@8']:.1%}**" in (FOLDER / "README.md").read_text()
