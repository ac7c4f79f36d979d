"""The sampler with what Gemma 3 brings: local layers on a ring that turns and grows, two ropes, a soft-cap."""
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nft_jax.config import DecodingConfig, MeshConfig
from nft_jax.model.hf import load_params, read_config
from nft_jax.model.logprobs import token_logprobs
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Prompt

GEMMA = Path(__file__).parents[1] / "model" / "fixtures" / "gemma3_untied"


def test_sampled_log_probs_of_a_model_with_local_layers_are_those_of_training(number_tokenizer):
    config = replace(read_config(GEMMA), final_softcap=3.0)
    params = load_params(GEMMA, config)
    assert 0 < config.window < 13
    assert 0 < len(config.local_layers) < config.num_layers
    rng = np.random.default_rng(0)
    prompts = [Prompt(i, "", "", "", rng.integers(0, config.vocab_size, n).astype(np.int32))
               for i, n in enumerate((1, 13, 5, 7))]
    sampler = Sampler(config, number_tokenizer, (), DecodingConfig(max_new_tokens=20, slots=3, block_size=4),
                      mesh=make_mesh(MeshConfig(), jax.devices()[:1]), max_prompt_tokens=13, buckets=(16, 40))
    limits = rng.integers(9, 21, (4, 2))
    limits[0, 0] = 20
    groups = dict(sampler.sample(sampler.cast(params), prompts, 2, jax.random.key(1), 0, limits=limits))
    answers = [rollout for i in range(4) for rollout in groups[i]]
    tokens, segments = np.zeros((2, 8, 33), np.int32)
    for row, answer in enumerate(answers):
        whole = np.concatenate([answer.prompt.tokens, answer.tokens])
        tokens[row, :len(whole)], segments[row, :len(whole)] = whole, 1
    positions = np.broadcast_to(np.arange(33, dtype=np.int32), tokens.shape)
    expected, entropies = jax.jit(lambda p, *arrays: token_logprobs(p, config, *arrays))(
        params, *map(jnp.asarray, (tokens, positions, segments)))
    for row, answer in enumerate(answers):
        inside = slice(len(answer.prompt.tokens), len(answer.prompt.tokens) + len(answer.tokens))
        assert len(answer.tokens) == limits.flat[row]
        np.testing.assert_allclose(answer.logprobs, expected[row, inside], atol=2e-5)
        np.testing.assert_allclose(answer.entropies, entropies[row, inside], atol=2e-5)
