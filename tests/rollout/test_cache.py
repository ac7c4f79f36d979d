"""The decode state: its ring, its memory, and int8 in it."""
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nft_jax.config import DecodingConfig, MeshConfig
from nft_jax.model.entries import Rows, attended, cache_entries, ring_axes
from nft_jax.model.logprobs import token_logprobs
from nft_jax.model.quantise import Quantized
from nft_jax.record.metrics import mismatch_metrics
from nft_jax.rollout.cache import Prefilled, admit, buckets_up_to, empty_state, grow_layer, ring_lengths
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.compilation import largest
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Group, Prompt, Verdict
from rows import use_rows


def test_buckets():
    assert buckets_up_to(160) == (64, 128, 160)
    assert buckets_up_to(64) == (64,) and buckets_up_to(13) == (16,) and buckets_up_to(1) == (8,)
    assert buckets_up_to(4095, 255) == (256, 512, 1024, 2048, 4096)


def test_rings_of_tpus_grow_in_smaller_steps():
    assert ring_lengths(831, "cpu") == (128, 256, 512, 832)
    assert ring_lengths(831, "tpu") == (128, 256, 416, 528, 624, 736, 832)
    assert ring_lengths(4095, "gpu") == (256, 512, 1024, 2048, 4096)
    assert ring_lengths(4095, "tpu") == (256, 512, 1024, 2048, 2560, 3072, 3584, 4096)
    assert ring_lengths(20, "tpu") == (16, 24)


def entries_of(state, slot, kv_heads):
    """The keys and values that a slot attends to, oldest first, as numpy [layers, kv_heads, entries, head_dim]."""
    seen = np.array(attended(state.write_index, state.length, state.capacity))[slot]
    seen[int(state.write_index)] = False
    order = (np.arange(state.capacity) + int(state.write_index)) % state.capacity
    order = order[seen[order]]

    def values_of(layer, part):
        x = layer[part]
        x, scale = (x.values, np.asarray(x.scale)[slot]) if isinstance(x, Quantized) else (x, 1.0)
        x = np.asarray(x, np.float32)[slot]
        if isinstance(layer, Rows):
            x = x.reshape(len(x), x.shape[1], kv_heads // len(x), -1).swapaxes(1, 2)
            x = x.reshape(kv_heads, x.shape[2], -1)
        x = x * scale
        return np.take(x if ring_axes(layer)[part] == 2 else x.swapaxes(1, 2), order, axis=1)

    return [np.stack([values_of(layer, part) for layer in state.cache]) for part in (0, 1)]


@pytest.mark.parametrize("quantised, heads", [(False, 0), (True, 0), (False, 2), (True, 2)])
@pytest.mark.parametrize("write_index", [0, 5, 15])
def test_admitted_entries_survive_growth(tiny_model, quantised, heads, write_index):
    """A prompt laid anywhere in the ring (also longer than what is kept of its padding) is found again, also after the
    ring has grown; other slots are left alone."""
    rng = np.random.default_rng(write_index)
    state = empty_state(tiny_model, 4, 16, jnp.float32, quantised, lambda kind: heads)._replace(
        write_index=jnp.int32(write_index))
    shape = (2, tiny_model.num_kv_heads, 20, tiny_model.head_dim)
    prompts = [(rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32))
               for _ in range(tiny_model.num_layers)]
    entries = [cache_entries(jnp.asarray(k), jnp.asarray(v), quantised, heads) for k, v in prompts]
    length = np.array([6, 12, 0], np.int32)
    state = admit(state, Prefilled(entries, []), np.array([2, 0, 9]), np.array([1, 0, 0]), np.array([3, 4, 5]), length,
                  np.zeros(3, np.int32), np.ones(3, np.int32), np.zeros(3, np.uint32), np.zeros(3, np.uint32))
    grown = state._replace(cache=[grow_layer(layer, state.write_index, capacity=24) for layer in state.cache],
                           write_index=jnp.int32(16))
    assert grown.capacity == 24 and state.active.tolist() == [True, False, True, False]
    for found in (state, grown):
        assert all(isinstance(layer, Rows) == bool(heads) for layer in found.cache)
        for slot, prompt, n in ((2, 1, 6), (0, 0, 12)):
            for got, part in zip(entries_of(found, slot, tiny_model.num_kv_heads), (0, 1), strict=True):
                expected = np.stack([layer[part][prompt][:, 20 - n:] for layer in prompts])
                np.testing.assert_allclose(got, expected, atol=np.abs(expected).max() / 127 if quantised else 0)


def make(model, tokenizer, buckets=None, **decoding):
    return Sampler(model, tokenizer, (3,), DecodingConfig(**decoding), mesh=make_mesh(MeshConfig(), jax.devices()[:1]),
                   max_prompt_tokens=16, buckets=buckets)


@pytest.mark.parametrize("kv_dtype", ["compute", "int8"])
def test_a_block_holds_the_cache_once(tiny_model, number_tokenizer, kv_dtype):
    """The compiled block writes into the cache that it is given, and its temporaries are at most 1.1 times its bytes:
    far less, but for int8 on CPU, which multiplies no int8. There XLA converts a layer at a time, from the ring before
    the write, of which it therefore keeps a copy."""
    model = replace(tiny_model, head_dim=16, num_layers=12)
    sampler = make(model, number_tokenizer, slots=32, block_size=4, max_new_tokens=497, buckets=(512,),
                   kv_dtype=kv_dtype)
    program = largest(sampler.programs())["decode"]
    memory = program.function.lower(*program.arguments).compile().memory_analysis()
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.arguments[1].cache))
    assert cache == 12 * 2 * 32 * 2 * 512 * (16 * 4 if kv_dtype == "compute" else 16 + 4)
    assert memory.alias_size_in_bytes >= cache
    assert memory.temp_size_in_bytes <= (0.25 if kv_dtype == "compute" else 1.1) * cache


def test_a_block_writes_each_entry_once(tiny_model, number_tokenizer):
    """Also into rings of one head, which XLA's CPU compiler would keep twice."""
    for heads in (1, 2):
        model = replace(tiny_model, num_kv_heads=heads, head_dim=16, num_layers=3)
        sampler = make(model, number_tokenizer, slots=32, block_size=4, max_new_tokens=497, buckets=(512,))
        program = largest(sampler.programs())["decode"]
        text = program.function.lower(*program.arguments).compile().as_text()
        rings = rf"f32\[32,({heads},)?(16,512|512,16)\]"
        assert len(re.findall(rf"= {rings}\S* dynamic-update-slice\(", text)) == 2 * 3, heads


def test_samples_do_not_depend_on_the_layout(tiny_model, tiny_params, number_tokenizer, monkeypatch):
    """Rows of both heads, as on a TPU, through prefill, admission, growth and decode steps; read by XLA, and by the
    kernel in chunks of 16 entries."""
    rng = np.random.default_rng(0)
    prompts = [Prompt(i, "", "", "", rng.integers(4, 32, n).astype(np.int32)) for i, n in enumerate((9, 3, 14))]
    found = []
    for heads, attention in ((0, "xla"), (2, "xla"), (2, "splash")):
        use_rows(monkeypatch, heads, attention)
        sampler = make(tiny_model, number_tokenizer, slots=4, block_size=8, max_new_tokens=24, buckets=(16, 40))
        groups = dict(sampler.sample(sampler.cast(tiny_params), prompts, 2, jax.random.key(0), 0))
        found.append([rollout for position in sorted(groups) for rollout in groups[position]])
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(one.tokens, other.tokens)
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


@pytest.mark.parametrize("quantised", ["kv_dtype", "weight_dtype"])
def test_int8_is_close_to_the_trainer_and_says_how_close(tiny_model, tiny_params, number_tokenizer, quantised):
    """Log-probs of the trainer's graph against the sampler's: a mismatch that is small and not nothing."""
    sampler = make(tiny_model, number_tokenizer, slots=16, block_size=8, max_new_tokens=16, **{quantised: "int8"})
    rng = np.random.default_rng(0)
    prompts = [Prompt(i, "", "", "", rng.integers(4, 32, 9).astype(np.int32)) for i in range(4)]
    score, groups = jax.jit(lambda tokens: token_logprobs(
        tiny_params, tiny_model, tokens, jnp.arange(tokens.shape[1])[None], jnp.ones_like(tokens))[0]), []
    for position, rollouts in sampler.sample(sampler.cast(tiny_params), prompts, 4, jax.random.key(0), 0):
        old = []
        for rollout in rollouts:
            tokens = np.concatenate([prompts[position].tokens, rollout.tokens])
            old.append(np.asarray(score(np.pad(tokens, (0, 25 - len(tokens)))[None]))[0, 9:len(tokens)])
        groups.append(Group(prompts[position], rollouts, (Verdict("right", 1.0),) * 4, tuple(old)))
    metrics = mismatch_metrics(groups)
    assert 1e-4 < metrics["mismatch/mean"] < 0.05, metrics
