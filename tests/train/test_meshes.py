"""One optimizer step on six meshes: the same loss and gradient on all of them, and nothing travels that need not.

The sizes of the model are such that every array that a collective could carry has a size of its own."""
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from made import make_step
from nft_jax.config import AdapterConfig, MeshConfig, ObjectiveConfig, OptimizerConfig, TermsConfig
from nft_jax.model import decoder
from nft_jax.model.adapter import adapter_shapes
from nft_jax.model.config import Compute, ModelConfig, ProportionalRope, YarnRope
from nft_jax.model.parameters import ARRAYS
from nft_jax.model.quantise import quantise_matrices
from nft_jax.objectives.registry import resolve
from nft_jax.preflight.hlo import collectives
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.state import make_optimizer, state_shardings
from nft_jax.train.step import Loss, compile_score
from nft_jax.train.step_metrics import summarise_load
from nft_jax.types import TrainBatch

VOCAB, HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD = 352, 48, 88, 3, 16, 2, 8
MODEL = ModelConfig("qwen3", VOCAB, HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD, max_positions=64, tie_embeddings=True,
                    qk_norm=True, qkv_bias=True, initializer_range=0.1)
GEMMA = ModelConfig("gemma3_text", VOCAB, HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD, max_positions=64, qk_norm=True,
                    initializer_range=0.1, local_layers=(0, 2), window=7, local_rope_theta=100.0, norm_offset=1.0,
                    activation="gelu_tanh", norms_after=True, scale_embeddings=True, final_softcap=3.0)
# What OLMo 3, SmolLM3 and Phi-4-mini bring, together.
OLMO = ModelConfig("olmo3", VOCAB, HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD, max_positions=64, initializer_range=0.1,
                   norms_before=False, norms_after=True, qk_norm_all_heads=True, rope_theta=50.0,
                   rope_scaling=YarnRope(4.0, 16), partial_rotary_factor=0.5, local_layers=(0,), window=7,
                   local_rope_theta=50.0, unrotated_layers=(2,))
# Every layer sees a window, as in Mistral's first models.
LOCAL = ModelConfig("mistral", VOCAB, HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD, max_positions=64,
                    initializer_range=0.1, local_layers=tuple(range(LAYERS)), window=7, local_rope_theta=10_000.0)
EXPERTS = ModelConfig("qwen3_moe", VOCAB, HIDDEN, FEED, LAYERS, HEADS, KV_HEADS, HEAD, max_positions=64, qk_norm=True,
                      initializer_range=0.1, num_experts=8, experts_per_token=3, expert_size=20, norm_topk_prob=True)
# Two periods of a layer with a delta net and one with attention, whose heads `tensor` divides.
DELTA = ModelConfig("qwen3_5_text", VOCAB, HIDDEN, FEED, 4, HEADS, KV_HEADS, HEAD, max_positions=64, qk_norm=True,
                    initializer_range=0.1, norm_offset=1.0, output_gate=True, partial_rotary_factor=0.5,
                    delta_layers=(0, 2), delta_key_heads=4, delta_value_heads=8, delta_key_dim=6,
                    delta_value_dim=10, delta_conv=4, norm_eps=1e-3)
# Gemma 4's: two layers share the keys and values of the two before them, which come after one turn of their own.
WIDE = ModelConfig("gemma4_text", VOCAB, HIDDEN, FEED, 6, HEADS, KV_HEADS, HEAD, max_positions=64, qk_norm=True,
                   initializer_range=0.1, local_layers=(0, 2, 4), window=7, local_rope_theta=100.0, rope_theta=50.0,
                   rope_scaling=ProportionalRope(0.5), activation="gelu_tanh", norms_after=True, scale_embeddings=True,
                   final_softcap=3.0, query_pre_attn_scalar=1, value_norm=True, wide_head_dim=12, wide_kv_heads=4,
                   shared_layers=2, double_shared_mlp=True, layer_input_size=24, layer_scale=True)
# As Gemma 4 12B: one matrix makes keys and values of the wide layers, for one head.
UNIFIED = replace(WIDE, family="gemma4_unified_text", num_layers=4, local_layers=(0, 2), wide_kv_heads=1,
                  keys_are_values=True, shared_layers=0, double_shared_mlp=False, layer_input_size=0)
MICRO, ROWS, LENGTH = 2, 8, 40
ONE = (1, 1, 1, 1)
MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 4, 1), (2, 2, 2, 1), (1, 2, 2, 2)]
OPTIMIZER = OptimizerConfig(eps=1e-3, clip_norm=1e6)      # a tiny eps makes Adam a sign, which noise turns
LEARNING_RATE = 1e-2


@cache
def batch() -> TrainBatch:
    """Two answers and padding in every row; the second micro-batch is full too."""
    rng, shape = np.random.default_rng(0), (MICRO, ROWS, LENGTH)
    starts = np.array([0, 17, 36])                         # of two segments and of the padding
    segment = np.searchsorted(starts, np.arange(LENGTH), side="right")
    positions = np.arange(LENGTH) - starts[segment - 1]
    answer = (segment < 3) & (positions >= 5)
    segments = np.broadcast_to(np.where(segment < 3, segment, 0), shape).astype(np.int32)
    rewards = rng.integers(0, 2, (*shape[:2], 3))[..., segment - 1]
    return TrainBatch(
        tokens=rng.integers(0, VOCAB, shape).astype(np.int32), segment_ids=segments,
        positions=np.broadcast_to(positions, shape).astype(np.int32),
        weight=np.broadcast_to(answer / (answer.sum() * MICRO * ROWS), shape).astype(np.float32),
        rewards=(rewards * answer).astype(np.float32), group_accuracy=np.full(shape, 0.4, np.float32),
        group_std=np.full(shape, 0.5, np.float32),
        old_logprobs=rng.normal(-np.log(VOCAB), 0.5, shape).astype(np.float32), num_micro=np.int32(MICRO))


@dataclass(frozen=True)
class Built:
    """A mesh, the compiled step, and the state, tally and gradient norm that it returned."""
    mesh: Any
    step: Any
    result: Any


@cache
def params(model=MODEL):
    return jax.device_get(decoder.init(model, jax.random.key(0)))


@cache
def built(sizes, model=MODEL, remat="none") -> Built:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[:int(np.prod(sizes))])
    loss = Loss("nft", resolve("nft", ObjectiveConfig()), model, Compute(remat=remat),
                TermsConfig(balance_weight=0.5 if model.num_experts else 0.0))
    step, first = make_step(params(model), OPTIMIZER, loss, mesh)
    arguments = first(), batch(), np.float32(LEARNING_RATE), np.float32(0.9), None
    step = step.lower(*arguments).compile()
    return Built(mesh, step, jax.device_get(step(*arguments)))


def assert_close(result, expected, share: float = 1e-5, sizes=None):
    """Within this share of the largest number of each array: of `sizes`, or of `expected`."""
    for (path, a), b, size in zip(jax.tree.leaves_with_path(result), jax.tree.leaves(expected),
                                  jax.tree.leaves(expected if sizes is None else sizes), strict=True):
        np.testing.assert_allclose(a, b, rtol=share, atol=share * np.abs(size).max(),
                                   err_msg=jax.tree_util.keystr(path))


def assert_same_step(result, one):
    """Adam's first moment is a tenth of the gradient."""
    (state, tally, norm, _), (expected, expected_tally, expected_norm, _) = result, one
    adam, expected_adam = (next(s for s in x.opt_state if hasattr(s, "mu")) for x in (state, expected))
    for path, leaf in jax.tree.leaves_with_path(expected_adam.mu):
        assert (np.abs(leaf).max() > 0) == (ARRAYS[path[-1].key].kind != "constant" if path[-1].key in ARRAYS else True)
    assert_close(adam.mu, expected_adam.mu)
    assert_close((tally, norm), (expected_tally, expected_norm))
    # A gradient far below eps moves its parameter by LEARNING_RATE / eps of it, and so does its rounding.
    slope = 10 * LEARNING_RATE / OPTIMIZER.eps
    assert_close(state.params, expected.params, sizes=jax.tree.map(
        lambda value, moment: np.abs(value).max() + slope * np.abs(moment).max(), expected.params, expected_adam.mu))


@pytest.mark.parametrize("sizes", MESHES)
def test_loss_gradient_and_step_do_not_depend_on_the_mesh(sizes):
    assert_same_step(built(sizes).result, built(ONE).result)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 2, 2, 2)])
def test_local_layers_soft_cap_and_a_head_of_its_own_on_meshes(sizes):
    """Everything that Gemma 3 adds, with both kinds of layers, every block computed again in the backward pass."""
    assert_same_step(built(sizes, GEMMA, "block").result, built(ONE, GEMMA).result)


@pytest.mark.slow
@pytest.mark.parametrize("model", [OLMO, LOCAL], ids=lambda model: model.family)
def test_layers_of_several_kinds_and_of_a_window_alone_on_a_mesh(model):
    assert_same_step(built((1, 2, 2, 2), model).result, built(ONE, model).result)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "remat"), [((1, 2, 2, 2), "none"), ((1, 8, 1, 1), "block"), ((1, 2, 4, 1), "block")])
def test_heads_of_two_sizes_and_shared_keys_and_values_on_meshes(sizes, remat):
    """The layers' own tables of tokens too. What scales a layer stays, whatever the decay."""
    assert_same_step(built(sizes, WIDE, remat).result, built(ONE, WIDE).result)
    assert OPTIMIZER.weight_decay > 0
    state, *_ = built(sizes, WIDE, remat).result
    for name, before in params(WIDE)["layers"].items():
        assert (state.params["layers"][name] == before).all() == name.endswith("layer_scale"), name


@pytest.mark.slow
def test_one_matrix_for_keys_and_values_on_a_mesh():
    """`tensor` exceeds the kv heads of all layers."""
    assert_same_step(built((1, 2, 4, 1), UNIFIED).result, built(ONE, UNIFIED).result)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 2, 2, 1), (1, 2, 2, 2)])
def test_a_step_with_delta_nets_does_not_depend_on_the_mesh(sizes):
    """The gradient, with heads and the tokens of a row on two devices; every block computed again in the backward pass.

    The norms of small outputs multiply rounding errors, so it agrees to 1e-4."""
    (state, tally, *_), (one, expected_tally, *_) = built(sizes, DELTA, "block").result, built(ONE, DELTA).result
    found, expected = (next(s.mu for s in x.opt_state if hasattr(s, "mu")) for x in (state, one))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected))
    # A ratio on the edge of a histogram's bin may fall on either side.
    sums, expected_sums = ({name: x for name, x in each.items() if not name.startswith("hist/")}
                           for each in (tally, expected_tally))
    assert_close((found, sums), (expected, expected_sums), 1e-4)


@pytest.mark.parametrize("sizes", [pytest.param((2, 2, 2, 1), marks=pytest.mark.slow), (1, 2, 2, 2)])
def test_a_step_with_experts_does_not_depend_on_the_mesh(sizes):
    """Their load-balancing loss included: its micro-batches' parts sum to the loss of the whole batch."""
    assert_same_step(built(sizes, EXPERTS).result, built(ONE, EXPERTS).result)
    _, tally, *_ = built(ONE, EXPERTS).result
    rows = (batch().segment_ids > 0).sum()
    np.testing.assert_array_equal(tally["count/routed"], [rows] * LAYERS)
    np.testing.assert_array_equal(tally["sum/expert_tokens"].sum(axis=1), [rows * EXPERTS.experts_per_token] * LAYERS)
    balance = summarise_load(tally)["router/balance"]
    np.testing.assert_allclose(tally["sum/term_balance"], 0.5 * balance, rtol=1e-5)
    assert EXPERTS.experts_per_token < balance < EXPERTS.num_experts


GROUPS = np.random.default_rng(1).integers(1, 5, (MICRO, ROWS, 3))     # over rows, micro-batches and devices


@cache
def dpo_step(sizes) -> Any:
    """One step of dpo, whose loss compares answers that lie in different micro-batches and on different devices."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[:int(np.prod(sizes))])
    segments = batch().segment_ids
    ids = np.take_along_axis(GROUPS, segments.clip(1) - 1, 2) * (batch().weight > 0)
    given = batch()._replace(group_ids=ids.astype(np.int32))
    loss = Loss("dpo", resolve("dpo", ObjectiveConfig(beta=0.5, nll_weight=0.1)), MODEL, Compute())
    step, first = make_step(params(), OPTIMIZER, loss, mesh)
    return jax.device_get(step(first(), given, np.float32(1e-2), np.float32(0.9), None))


@pytest.mark.parametrize("sizes", [pytest.param((2, 1, 1, 1), marks=pytest.mark.slow), (1, 2, 1, 2)])
def test_a_loss_over_whole_groups_does_not_depend_on_the_mesh(sizes):
    assert_same_step(dpo_step(sizes), dpo_step(ONE))


ADAPTER = AdapterConfig(rank=3, alpha=6.0)


@cache
def adapter_step(sizes, base_dtype, model=MODEL) -> Any:
    """One step of adapters that are random throughout, so that every gradient is there."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[:int(np.prod(sizes))])
    rng, shapes, base = np.random.default_rng(2), adapter_shapes(model, ADAPTER), params(model)
    adapters = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    base = base if base_dtype == "compute" else base | {"layers": quantise_matrices(base["layers"])}
    loss = Loss("nft", resolve("nft", ObjectiveConfig()), model, Compute(), adapter=ADAPTER)
    step, first = make_step(adapters, OPTIMIZER, loss, mesh, base)
    return jax.device_get(step(first(), batch(), np.float32(1e-2), np.float32(0.9), base))


@pytest.mark.parametrize(("sizes", "base_dtype"), [
    ((1, 2, 2, 2), "int8"), pytest.param((1, 2, 4, 1), "compute", marks=pytest.mark.slow)])
def test_a_step_of_adapters_does_not_depend_on_the_mesh(sizes, base_dtype):
    assert_same_step(adapter_step(sizes, base_dtype), adapter_step(ONE, base_dtype))


@pytest.mark.slow
def test_adapters_in_layers_of_every_form_and_outside_them_on_a_mesh():
    assert_same_step(adapter_step((1, 2, 2, 2), "int8", WIDE), adapter_step(ONE, "int8", WIDE))


@cache
def scored(sizes) -> np.ndarray:
    mesh = built(sizes).mesh
    placements = state_shardings(params(), make_optimizer(OPTIMIZER), mesh).params
    values = compile_score(mesh, placements, model=MODEL, compute=Compute())(params(), batch(), np.float32(0.9))
    return np.asarray(values) * (batch().weight > 0)


@pytest.mark.parametrize("sizes", [(1, 2, 4, 1), (1, 2, 2, 2)])
def test_score_does_not_depend_on_the_mesh(sizes):
    assert_close(scored(sizes), scored(ONE))


class Sizes:
    """Numbers of elements of what may travel on a mesh, as each device has it after a gather."""

    def __init__(self, data, fsdp, tensor, context):
        rows, length, kv_heads = ROWS // (data * fsdp), LENGTH // context, max(KV_HEADS // tensor, 1)
        self.query = HIDDEN * HEADS * HEAD // tensor       # of one layer; the output projection has the same size
        self.key = HIDDEN * kv_heads * HEAD if KV_HEADS % tensor == 0 else HIDDEN * KV_HEADS * HEAD
        self.gate = HIDDEN * FEED // tensor                # and up, and down
        self.layer = 2 * self.query + 2 * self.key + 3 * self.gate
        self.head = VOCAB * HIDDEN // tensor
        self.states = rows * length * HIDDEN
        self.keys = rows * kv_heads * LENGTH * HEAD        # of one layer, the whole row
        self.per_token = ROWS * LENGTH                     # numbers that each token of a micro-batch has one of
        self.small = 64 * self.per_token + 32 * LAYERS * HIDDEN        # tallies, norms and biases


def arrays(text: str, devices: int):
    """(kind, [elements of each result]) of the collectives between two or more devices, once each."""
    for line in text.splitlines():
        found = re.search(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\(", line)
        alone = re.search(rf"replica_groups=(\{{\{{\d+\}}|\[{devices},1\])", line)
        if found and not alone:
            yield found[2], [int(np.prod([int(n) for n in dims.split(",") if n]))
                             for dims in re.findall(r"[a-z]+\d*\[([\d,]*)\]", found[1])]


@pytest.mark.parametrize("sizes", MESHES[1:])
def test_only_one_layer_is_gathered_at_a_time(sizes):
    """Kinds and sizes of every collective. Weights are gathered inside the scan over the layers, forward and again
    backward, never stacked and never with the optimizer's moments; states and logits are not gathered at all."""
    s, context = Sizes(*sizes), sizes[3]
    gathered = [size for kind, found in arrays(built(sizes).step.as_text(), 8) if kind == "all-gather"
                for size in found if size > s.per_token]
    expected = [s.query] * 4 + [s.key] * 4 + [s.gate] * 6 + [s.head] + [s.keys] * (4 if context > 1 else 0)
    shared = {s.query, s.key, s.gate, s.head, s.keys}
    assert len(shared) == 5 and not shared & {s.states, s.states * context, s.layer}, "sizes must tell arrays apart"
    if sizes[2] > KV_HEADS:        # the kv heads' weights are whole there: their gradients' parts are joined
        expected += [s.key // sizes[1]] * 2
    assert sorted(gathered) == sorted(expected)


@pytest.mark.parametrize("sizes", MESHES)
def test_bytes_that_travel_are_bounded(sizes):
    """What one device receives in a micro-batch and the update after it. A reduce-scatter may be written as an
    all-reduce and a slice, as the CPU compiler does; an all-reduce counts twice its size."""
    (_, fsdp, tensor, context), s, word = sizes, Sizes(*sizes), 4
    received = collectives(built(sizes).step.as_text(), 8)
    gradients = LAYERS * (s.layer + s.layer // fsdp) + 2 * s.head // fsdp
    reduced = 2 * gradients + (2 * (9 * LAYERS + 2) * s.states if tensor > 1 else 0)
    bounds = {
        "all-gather": (2 * LAYERS * s.layer + s.head) * (fsdp > 1) + 4 * LAYERS * s.keys * (context > 1)
        + 2 * LAYERS * s.key * (tensor > KV_HEADS),
        "all-reduce": reduced,
        "reduce-scatter": (s.head + 2 * LAYERS * s.keys) * (fsdp * context > 1),
        "all-to-all": 2 * s.states * (fsdp > 1),
        "collective-permute": 2 * LAYERS * s.key * (tensor > KV_HEADS),
    }
    for kind, size in received.items():
        assert size <= word * (bounds[kind] + s.small), kind


def test_a_device_of_eight_needs_a_fraction_of_the_memory():
    one, eight = (built(sizes).step.memory_analysis() for sizes in (ONE, (1, 8, 1, 1)))
    assert eight.argument_size_in_bytes < one.argument_size_in_bytes / 5
    assert eight.temp_size_in_bytes < one.temp_size_in_bytes / 2


def test_attention_and_products_are_divided_over_every_axis():
    """Also where `tensor` exceeds the kv heads: a device has an eighth of the work, and what it does for others."""
    work = {sizes: built(sizes).step.cost_analysis()["flops"] for sizes in (ONE, *MESHES)}
    for sizes in MESHES:
        assert work[sizes] < work[ONE] / 8 * (1.6 if sizes[2] > KV_HEADS else 1.25), sizes
