"""The decoder against transformers' logits, and its passes against each other."""
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model_folders import CASES, FIXTURES
from nft_jax.model import decoder, delta
from nft_jax.model.adapter import is_wrapped
from nft_jax.model.attention import attend
from nft_jax.model.config import (
    FLOAT32,
    Compute,
    LinearRope,
    Llama3Rope,
    LongRope,
    ModelConfig,
    ProportionalRope,
    YarnRope,
)
from nft_jax.model.entries import cache_entries
from nft_jax.model.hf import load_params, read_config
from nft_jax.model.hf.families import FAMILIES
from nft_jax.model.parameters import ARRAYS, by_name
from nft_jax.model.quantise import dequantise, quantise_matrices
from nft_jax.model.stack import split_layers

TINY = ModelConfig("qwen3", vocab_size=31, hidden_size=12, intermediate_size=20, num_layers=2, num_heads=6,
                   num_kv_heads=2, head_dim=6, max_positions=64, rope_theta=100.0, qk_norm=True, initializer_range=0.3)
# Everything that some family has, together: no family is this, the decoder can be.
MIXED = replace(TINY, qkv_bias=True, local_layers=(0,), window=3, unrotated_layers=(1,), local_rope_theta=10.0,
                partial_rotary_factor=0.67, activation="gelu_tanh",
                rope_scaling=Llama3Rope(4.0, 1.0, 4.0, 16), norm_offset=1.0, norms_after=True,
                scale_embeddings=True, query_pre_attn_scalar=5, final_softcap=9.0)


def rows(lengths, width):
    """positions and segment_ids of one sequence per row, padded on the right."""
    index = np.arange(width)[None].repeat(len(lengths), 0)
    return index.astype(np.int32), (index < np.asarray(lengths)[:, None]).astype(np.int32)


@partial(jax.jit, static_argnames=("config", "compute"))
def all_logits(params, config, tokens, positions, segment_ids, compute=FLOAT32):
    hidden = decoder.hidden_states(params, config, tokens, positions, segment_ids, compute)
    return decoder.logits(params, config, hidden)


# LongRoPE where the reference's rows are longer than the original context.
BEYOND = "phi3_tied_longrope, beyond"


@pytest.fixture(scope="module", params=[*CASES, BEYOND])
def case(request):
    folder = FIXTURES / request.param.partition(",")[0]
    config = read_config(folder)
    with np.load(folder / "reference.npz") as file:
        reference = {key: file[key] for key in file.files}
    if request.param == BEYOND:
        scaling = replace(config.rope_scaling, original_max_position_embeddings=8)
        short, config = config, replace(config, rope_scaling=scaling, max_positions=8).for_lengths(9)
        assert short.for_lengths(32) == short and config.stretches and config.max_positions == 128
        reference["logits"] = reference.pop("long_logits")
    return config, load_params(folder, config), reference


@pytest.fixture(scope="module")
def tiny():
    return decoder.init(TINY, jax.random.key(0))


def test_fixtures_cover_every_family_and_what_sets_it_apart():
    configs = [read_config(FIXTURES / name) for name in CASES]
    assert {(c.family, c.tie_embeddings) for c in configs} == {(f, t) for f in FAMILIES for t in (False, True)}
    scalings = {(c.family, type(c.rope_scaling)) for c in configs if c.rope_scaling}
    assert scalings == {("llama", Llama3Rope), ("llama", LinearRope), ("gemma3_text", LinearRope),
                        ("smollm3", YarnRope), ("phi3", LongRope), ("olmo2", LinearRope),
                        ("olmo3", YarnRope), ("gemma4_text", ProportionalRope),
                        ("gemma4_unified_text", ProportionalRope)}
    kinds = {(c.family, len(c.local_layers) == c.num_layers) for c in configs if c.local_layers}
    assert kinds == {("gemma3_text", False), ("qwen2", False), ("qwen3", True), ("mistral", True),
                     ("smollm3", False), ("qwen3_moe", True), ("phi3", True), ("olmo3", False),
                     ("gemma4_text", False), ("gemma4_unified_text", False)}
    gemma4 = [c for c in configs if c.wide_head_dim]
    # A layer may share keys and values, or have its own; one matrix may make both; stages may be one turn or several.
    assert {(bool(c.shared_layers), c.keys_are_values, c.layer_input_size > 0) for c in gemma4} >= {
        (True, False, True), (False, True, False)}
    assert {stage.count // stage.period for c in gemma4 for stage in c.stages} >= {1, 2}
    assert {c.norm_topk_prob for c in configs if c.num_experts} == {True, False}
    assert any(c.final_softcap for c in configs)


def one_forward(case):
    """Logits [4, 17, V] of the reference's tokens. Tests of a case share its shape, and so its compiled program."""
    config, params, reference = case
    return all_logits(params, config, reference["tokens"], *rows(reference["lengths"], reference["tokens"].shape[1]))


def test_logits_match_transformers(case):
    reference, ours = case[-1], np.asarray(one_forward(case))
    for row, length in enumerate(reference["lengths"]):
        np.testing.assert_allclose(ours[row, :length], reference["logits"][row, :length], atol=1e-4, rtol=0)
    assert np.isfinite(ours).all()


def test_prefill_and_decode_steps_match_one_forward(case):
    config, params, reference = case
    expected = np.asarray(one_forward(case))[[0, 3]]
    length, prompt, capacity = 16, 7, 20
    tokens = reference["tokens"][[0, 3], :length]
    positions, segment_ids = rows([length, length], length)
    split = split_layers(params, config)
    entries, memories = jax.jit(decoder.prefill, static_argnums=1)(
        split, config, tokens[:, :prompt], positions[:, :prompt], segment_ids[:, :prompt])
    assert (len(entries), len(memories)) == (len(config.cached_layers), len(config.delta_layers))
    longer = ((0, 0), (0, 0), (0, capacity - prompt), (0, 0))
    cache = [cache_entries(*(np.pad(part, longer) for part in pair), False) for pair in entries]
    step = jax.jit(partial(decoder.decode, split, config))
    for t in range(prompt, length):
        logits, cache, memories, _ = step(tokens[:, t], positions[:, t], cache, memories, t)
        np.testing.assert_allclose(logits, expected[:, t], atol=2e-5, rtol=0)


@pytest.mark.parametrize("first", [9, 20])
def test_decode_ignores_other_entries_and_where_its_own_are_written(tiny, first):
    """Slots keep their own positions: a shared write index changes nothing. The second entries go around the end."""
    tokens = np.arange(8, dtype=np.int32)[None] % TINY.vocab_size
    positions, segment_ids = rows([8], 8)
    expected = all_logits(tiny, TINY, tokens, positions, segment_ids)[0, -1]
    split = split_layers(tiny, TINY)
    entries, _ = jax.jit(decoder.prefill, static_argnums=1)(
        split, TINY, tokens[:, :7], positions[:, :7], segment_ids[:, :7])
    noise = np.random.default_rng(5).normal(0, 1e3, (1, TINY.num_kv_heads, 24, TINY.head_dim)).astype(np.float32)

    def in_noise(part):
        return np.roll(np.concatenate([part, noise[:, :, 7:]], axis=2), first, axis=2)

    cache = [cache_entries(*map(in_noise, pair), False) for pair in entries]
    logits, *_ = jax.jit(partial(decoder.decode, split, TINY))(tokens[:, 7], positions[:, 7], cache, [],
                                                               (first + 7) % 24)
    np.testing.assert_allclose(logits[0], expected, atol=2e-5, rtol=0)


def test_logits_by_column_are_the_logits(tiny):
    """Tied and untied, with a cap."""
    hidden = np.random.default_rng(3).normal(size=(5, TINY.hidden_size)).astype(np.float32)
    for params in ({"embed": tiny["embed"]}, {"embed": tiny["embed"], "head": 2 * tiny["embed"].T}):
        config = replace(TINY, final_softcap=3.0)
        np.testing.assert_allclose(decoder.logits_by_column(params, config, hidden),
                                   decoder.logits(params, config, hidden), atol=1e-5, rtol=0)


# The packed rows: the reference's rows, and how many tokens of each one.
PACKED = (((0, 9), (2, 5)), ((3, 7), (0, 7), (1, 1)), ((2, 9), (3, 8)), ((3, 16),))


@pytest.mark.parametrize("case", ["olmo2_tied", "olmo3_untied", "mistral_tied_local", "qwen3_5_untied_sharded",
                                  "gemma4_tied", "qwen3_moe_untied", "smollm3_tied_local", BEYOND], indirect=True)
def test_decoding_with_int8_weights_is_decoding_with_what_they_stand_for(case):
    config, params, reference = case
    quantised = params | {"layers": quantise_matrices(params["layers"])}
    tokens, start = reference["tokens"][:, 0], np.zeros(4, np.int32)
    heads = [config.heads_of(config.kinds[layer]) for layer in config.cached_layers]
    cache = [cache_entries(*[np.zeros((4, count, 3, size), np.float32)] * 2, False) for count, size in heads]
    memories = [delta.empty(config, 4, np.float32) for _ in config.delta_layers]
    step = jax.jit(decoder.decode, static_argnums=1)
    found, expected = (step(split_layers(weights, config), config, tokens, start, cache, memories, 0)[0]
                       for weights in (quantised, jax.tree.map(dequantise, quantised, is_leaf=is_wrapped)))
    np.testing.assert_allclose(found[:1], expected[:1], atol=1e-4)
    np.testing.assert_allclose(expected[:1], reference["logits"][:1, 0], atol=0.5)


def test_packed_rows_equal_separate_rows(case):
    config, params, reference = case
    expected = np.asarray(one_forward(case))
    tokens, positions, segment_ids = np.zeros((3, *reference["tokens"].shape), np.int32)
    for row, pieces in enumerate(PACKED):
        start = 0
        for number, (source, length) in enumerate(pieces, start=1):
            place = row, slice(start, start + length)
            tokens[place], positions[place] = reference["tokens"][source, :length], np.arange(length)
            segment_ids[place] = number
            start += length
    together = np.asarray(all_logits(params, config, tokens, positions, segment_ids))
    for row, pieces in enumerate(PACKED):
        start = 0
        for source, length in pieces:
            np.testing.assert_allclose(together[row, start:start + length], expected[source, :length],
                                       atol=2e-5, rtol=0)
            start += length


def test_padding_on_the_right_changes_nothing(tiny):
    tokens = np.asarray(jax.random.randint(jax.random.key(1), (1, 12), 0, TINY.vocab_size))
    short = all_logits(tiny, TINY, tokens[:, :7], *rows([7], 7))
    for filler in (0, 30):
        padded = np.concatenate([tokens[:, :7], np.full((1, 6), filler, np.int32)], axis=1)
        long = all_logits(tiny, TINY, padded, *rows([7], 13))
        np.testing.assert_allclose(long[:, :7], short, atol=1e-5, rtol=0)


def test_a_token_sees_what_precedes_it_and_nothing_else(tiny):
    tokens = np.asarray(jax.random.randint(jax.random.key(2), (1, 10), 0, TINY.vocab_size - 1))
    changed = tokens.copy()
    changed[0, 5] = TINY.vocab_size - 1
    positions, segment_ids = rows([10], 10)
    before, after = (np.asarray(all_logits(tiny, TINY, t, positions, segment_ids))[0] for t in (tokens, changed))
    np.testing.assert_array_equal(before[:5], after[:5])
    assert (np.abs(before[5:] - after[5:]).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize("case", ["qwen2_tied", "qwen3_tied", "llama_tied", "gemma3_tied_softcap",
                                  "phi3_tied_longrope", "olmo3_untied", "qwen3_5_tied", "gemma4_tied"], indirect=True)
def test_bfloat16_is_close_to_float32(case):
    config, params, reference = case
    tokens, lengths = reference["tokens"], reference["lengths"]
    layout = rows(lengths, tokens.shape[1])
    full, half = (np.asarray(all_logits(params, config, tokens, *layout, Compute(dtype)), np.float64)
                  for dtype in ("float32", "bfloat16"))
    real = layout[1].astype(bool)
    error = np.sqrt(np.mean((full - half)[real] ** 2)) / np.std(full[real])
    assert 0 < error < 0.05


def test_remat_gives_the_same_gradients():
    params = decoder.init(MIXED, jax.random.key(3))
    tokens = np.asarray(jax.random.randint(jax.random.key(4), (2, 9), 0, MIXED.vocab_size))
    layout = rows([9, 6], 9)

    def gradients(remat):
        def loss(p):
            return jnp.sum(jnp.sin(all_logits(p, MIXED, tokens, *layout, Compute(remat=remat))))
        return jax.jit(jax.grad(loss))(params)

    kept, recomputed = gradients("none"), gradients("block")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), recomputed, kept)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(kept))


@pytest.mark.slow
@pytest.mark.parametrize("case", {re.sub("_(un)?tied.*", "", name): name for name in CASES}.values(), indirect=True)
def test_every_array_has_a_gradient_and_padding_leaves_it_finite(case):
    """A case of each family; the rows end in padding, and one has a single token."""
    config, params, reference = case
    layout = rows(reference["lengths"], reference["tokens"].shape[1])

    def loss(params):
        logits = all_logits(params, config, reference["tokens"], *layout)
        return jnp.sum(jnp.sin(logits) * layout[1][..., None])

    found = by_name(jax.jit(jax.grad(loss))(params))
    assert found.keys() == by_name(params).keys()
    for name, gradient in found.items():
        assert np.isfinite(gradient).all() and (np.abs(gradient).max() > 0) == (ARRAYS[name].kind != "constant"), name


def test_gradient_matches_a_finite_difference():
    tokens = np.asarray(jax.random.randint(jax.random.key(6), (2, 9), 0, TINY.vocab_size))
    layout = (np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * 2, np.int32), np.array([[1] * 4 + [2] * 5, [1] * 4 + [0] * 5]))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda w: np.asarray(w, np.float64), decoder.init(MIXED, jax.random.key(3)))
        loss = jax.jit(lambda p: jnp.sum(jnp.sin(all_logits(p, MIXED, tokens, *layout, Compute("float64")))))
        random = np.random.default_rng(7)
        direction = jax.tree.map(lambda w: random.normal(size=w.shape), params)
        step = 1e-4     # the sums inside are float32, and the loss bends within 1e-3
        ahead, behind = (loss(jax.tree.map(lambda w, d, s=s: w + s * d, params, direction)) for s in (step, -step))
        slope = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(jax.jit(jax.grad(loss))(params)),
                                                   jax.tree.leaves(direction), strict=True))
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=2e-2)


def test_parameter_count_and_initial_values():
    params, mixed = (jax.device_get(decoder.init(config, jax.random.key(0))) for config in (TINY, MIXED))
    assert decoder.count_parameters(TINY) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert decoder.count_parameters(MIXED) == sum(leaf.size for leaf in jax.tree.leaves(mixed))
    norms = [leaf for name, leaf in mixed["layers"].items() if name.endswith("norm")]
    assert len(norms) == 6
    assert all((leaf == 0).all() for leaf in norms)         # where norms multiply by 1 + w
    for name, leaf in params["layers"].items():
        assert leaf.shape[0] == TINY.num_layers
        if name.endswith("norm"):
            assert (leaf == 1).all()
        else:
            np.testing.assert_allclose(leaf.std(), TINY.initializer_range, rtol=0.2)
            assert (leaf[0] != leaf[1]).any()


def test_a_window_hides_what_lies_further_back():
    random = np.random.default_rng(8)
    q = random.normal(size=(1, 2, 3, 9, 6)).astype(np.float32)
    k, v = (random.normal(size=(1, 2, 9, 6)).astype(np.float32) for _ in range(2))
    segments = np.array([[1] * 5 + [2] * 4])
    got = np.asarray(jax.jit(partial(attend, scale=0.5, window=3))(q, k, v, segments))
    for t in range(9):
        seen = [s for s in range(max(0, t - 2), t + 1) if segments[0, s] == segments[0, t]]
        scores = np.einsum("kge,kse->kgs", q[0, :, :, t], k[0][:, seen]) * 0.5
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(got[0, :, :, t], np.einsum("kgs,kse->kge", weights, v[0][:, seen]), atol=1e-5)
