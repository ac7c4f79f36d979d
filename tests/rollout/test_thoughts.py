"""The text of an answer that is judged: special tokens of thoughts stay, a prompt may have opened the thought."""
from concurrent.futures import Future

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nft_jax.config import DecodingConfig, SamplingConfig
from nft_jax.rollout.ends import Ends
from nft_jax.rollout.judged import judged_groups
from nft_jax.types import Prompt, Rollout, Verdict
from nft_jax.verify import verify

SPECIAL = ("<|endoftext|>", "<|im_end|>", "<think>", "</think>")
WORDS = (*SPECIAL, r"\boxed{7}", "perhaps", "no", "stop")
IDS = {word: i for i, word in enumerate(WORDS)}


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(models.WordLevel(IDS, unk_token="no"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>",
                                   additional_special_tokens=list(SPECIAL[1:]))


def ids(text: str) -> np.ndarray:
    return np.array([IDS[word] for word in text.split()], np.int32)


@pytest.mark.parametrize(("said", "text", "outcome"), [
    (r"perhaps \boxed{7} </think> no <|endoftext|>", r"perhaps \boxed{7} </think> no", "no_answer"),
    (r"<think> perhaps \boxed{7} no", r"<think> perhaps \boxed{7} no", "no_answer"),
    (r"perhaps </think> \boxed{7} <|endoftext|>", r"perhaps </think> \boxed{7}", "right"),
    (r"\boxed{7} <|im_end|> no <|im_end|>", r"\boxed{7} <|im_end|> no <|im_end|>", "right"),
    (r"<|endoftext|>", "", "no_answer"), ("stop", "", "no_answer"), ("", "", "no_answer"),
])
def test_only_the_id_that_ended_an_answer_is_taken_off(tokenizer, said, text, outcome):
    ends = Ends(tokenizer, (IDS["<|endoftext|>"], IDS["stop"]), DecodingConfig(), len(IDS))
    found, = ends.texts([ids(said)])
    assert found.replace(" ", "") == text.replace(" ", "")
    assert verify([found], ["7"])[0].outcome == outcome


def test_a_special_token_may_be_a_stop_string(tokenizer):
    ends = Ends(tokenizer, (IDS["<|endoftext|>"],), DecodingConfig(stop=("<|im_end|>",)), len(IDS))
    tokens, count = ids("no perhaps <|im_end|> no no")[None], np.array([5])
    assert ends.find(tokens, np.array([1]), count, {0: (0, 0)}) == [True] and count == [3]


@pytest.mark.parametrize(("prompt", "judged"), [("Q<|im_end|><think>\n", "<think>7"), ("Q<|im_end|>", "7")])
def test_the_verifier_sees_the_thought_that_the_prompt_opened(prompt, judged):
    """Rewards get it too: the verifier hands them the response that it is given."""
    asked = Prompt(0, "Q", "7", prompt, np.array([1], np.int32))
    numbers = [np.zeros(1, np.float32)] * 3
    answers = tuple(Rollout(asked, k, "7", np.array([5], np.int32), *numbers, finish_reason="stop") for k in range(2))

    class Sampler:
        def sample(self, *_, **__):
            yield 0, answers

    class Verifier:
        def submit(self, responses, golds, prompts):
            assert responses == [judged] * 2 and prompts == ["Q"] * 2
            done = Future()
            done.set_result([Verdict("right", 1.0)] * 2)
            return done

    group, = judged_groups(Sampler(), Verifier(), None, [asked], 2, None, 0, SamplingConfig())
    assert group.rollouts == answers and [r.text for r in group.rollouts] == ["7"] * 2
