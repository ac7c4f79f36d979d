"""Attention against float64, by every implementation that can run here; which one is chosen, and why."""
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_reference import attention_float64
from nft_jax.model import decoder, kernels
from nft_jax.model.attention import MASKED, attend
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.kernels import choose_attention, splash
from nft_jax.model.logprobs import token_logprobs
from nft_jax.model.parameters import parameter_shardings
from nft_jax.model.stack import split_layers
from nft_jax.runtime.mesh import AXES, sharding
from refusal import refused

LENGTH, SCALE = 201, 0.2        # no multiple of a tile, nor of 2
SEGMENT_IDS = np.repeat(np.array([[1, 2, 0], [1, 1, 2]], np.int32), [70, 100, 31], axis=1)


def made(kv_heads: int = 2, group: int = 3, head_dim: int = 16):
    """q, k, v and a cotangent of the output, float32."""
    random = np.random.default_rng(0)
    shapes = [(2, kv_heads, group, LENGTH, head_dim), *[(2, kv_heads, LENGTH, head_dim)] * 2,
              (2, kv_heads, group, LENGTH, head_dim)]
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def by(function, q, k, v, cotangent, window: int):
    """The same, by one of ours."""
    def total(q, k, v):
        out = function(q, k, v, SEGMENT_IDS, scale=SCALE, window=window)
        return jnp.sum(cotangent * out), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


def in_shares(function, q, k, v, segment_ids, **settings):
    """Each third of the queries by itself, told where it starts by a traced value."""
    third = LENGTH // 3

    def share(start):
        return function(jax.lax.dynamic_slice_in_dim(q, start, third, axis=3), k, v, segment_ids, start=start,
                        **settings)

    return jnp.concatenate([share(start) for start in jnp.arange(3) * third], axis=3)


IMPLEMENTATIONS = {
    "xla": attend,
    "xla in shares": partial(in_shares, attend),
    "splash": partial(splash, interpret=True),
    "splash in shares": partial(in_shares, partial(splash, interpret=True)),
    "cudnn": partial(attend, implementation="cudnn"),
    "cudnn in shares": partial(in_shares, partial(attend, implementation="cudnn")),
}


@pytest.mark.parametrize("window", [0, 33])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "splash in shares" else name
                                  for name in IMPLEMENTATIONS])
def test_every_implementation_is_attention(monkeypatch, name, window):
    """Packed segments, grouped queries, a window. The TPU kernel runs interpreted. Where cuDNN's would, JAX's plain
    attention runs, which has the same contract: this tests what we pass to it."""
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, implementation, **k: plain(*a, **k))
    arrays = made()
    expected = attention_float64(*arrays, SEGMENT_IDS, scale=SCALE, window=window)
    got = by(jax.numpy_rank_promotion("allow")(IMPLEMENTATIONS[name]), *arrays, window)
    for ours, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-5)


def test_an_unseen_score_leaves_nothing():
    """`attend` adds MASKED to a score in place of choosing between the two, which must be the same bits."""
    scores = np.float32([0, -0.0, 1e-30, 3.7, -3.7, 6e4, -6e4, 1e20, -1e20])
    assert (scores + np.float32(MASKED) == np.float32(MASKED)).all()


GATED = {"output_gate": True, "qk_norm": True, "qkv_bias": False, "delta_layers": (0,), "delta_key_heads": 1,
         "delta_value_heads": 2, "delta_key_dim": 4, "delta_value_dim": 3, "delta_conv": 3}


@pytest.mark.parametrize(("remat", "changes"), [
    ("none", {}), ("attention", {}), ("none", {"local_layers": (1,), "window": 3}), ("none", GATED)])
def test_layers_around_a_kernel_are_the_same_layers(monkeypatch, remat, changes):
    """With a kernel the backward pass keeps what the kernel needs and not the whole layer's; the numbers do not change,
    whether the model has one kind of layers or both."""
    plain = jax.numpy_rank_promotion("allow")(jax.nn.dot_product_attention)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, implementation, **k: plain(*a, **k))
    config = ModelConfig("qwen2", 31, 12, 20, 3, 4, 2, 6, 64, **{
        "qkv_bias": True, "tie_embeddings": True, "initializer_range": 0.3, **changes})
    params = decoder.init(config, jax.random.key(0))
    tokens, positions = np.arange(16).reshape(2, 8), np.arange(8)[None].repeat(2, axis=0)

    def gradients(compute):
        def total(params):
            states = decoder.hidden_states(params, config, tokens, positions, np.ones((2, 8), int), compute)
            return jnp.sin(states).sum()
        return jax.jit(jax.grad(total))(params)

    expected, got = gradients(Compute(remat="block")), gradients(Compute(remat=remat, attention="cudnn"))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


def test_the_choice_follows_the_platform(monkeypatch):
    assert choose_attention("auto", "cpu", "bfloat16", 64) == ("xla", "there is no kernel for the platform cpu")
    assert choose_attention("auto", "tpu", "float32", 64)[0] == "splash"
    assert choose_attention("xla", "tpu", "bfloat16", 64) == ("xla", "as policy.attention says")
    monkeypatch.setattr(kernels, "cudnn_problem", lambda dtype, head_dim: None)
    assert choose_attention("auto", "gpu", "bfloat16", 64)[0] == "cudnn"
    monkeypatch.setattr(kernels, "cudnn_problem", lambda dtype, head_dim: f"no head dim {head_dim}")
    assert choose_attention("auto", "gpu", "bfloat16", 7) == ("xla", "cuDNN cannot: no head dim 7")
    with refused("policy.attention", "'cudnn'", "no head dim 7"):
        choose_attention("cudnn", "gpu", "bfloat16", 7)


@pytest.mark.parametrize(("requested", "platform"), [("splash", "cpu"), ("cudnn", "cpu"), ("splash", "gpu"),
                                                     ("cudnn", "tpu")])
def test_a_kernel_of_another_platform_is_refused(requested, platform):
    with refused("policy.attention", repr(requested), platform, "auto or xla"):
        choose_attention(requested, platform, "bfloat16", 64)


def test_cudnn_is_tried_before_it_is_chosen():
    assert "set policy.compute_dtype to bfloat16" in kernels.cudnn_problem("float32", 64)
    if jax.default_backend() == "cpu":
        assert kernels.cudnn_problem("bfloat16", 64)
    assert kernels.cudnn_problem("bfloat16", 63)


@pytest.fixture(scope="module")
def tpu_devices():
    """Four TPU devices that are not there, to compile for."""
    pytest.importorskip("libtpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    except RuntimeError as error:
        pytest.skip(f"no TPU topology: {error}")


# 7 queries of 64 per kv head, as in Qwen2.5-0.5B
MODEL = ModelConfig("qwen2", 1000, 256, 256, 2, 14, 2, 64, 1024, tie_embeddings=True, qkv_bias=True)


def on_mesh(devices, sizes):
    """The mesh, and the abstract parameters of MODEL on it."""
    mesh = jax.make_mesh(sizes, AXES, (jax.sharding.AxisType.Auto,) * 4, devices=devices)
    shapes = decoder.parameter_shapes(MODEL)
    return mesh, jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes,
                              parameter_shardings(shapes, mesh))


@pytest.mark.parametrize(("sizes", "dtype"), [
    ((1, 2, 2, 1), "bfloat16"), pytest.param((1, 1, 2, 2), "float32", marks=pytest.mark.slow)])
def test_training_compiles_for_a_tpu(tpu_devices, sizes, dtype):
    """The gradient of the log-probs over four devices: splash attention forward and backward, and the chunked head."""
    mesh, params = on_mesh(tpu_devices, sizes)
    compute = Compute(dtype, attention="splash", mesh=mesh)

    def loss(params, tokens, wanted):
        logprobs, entropies = token_logprobs(params, MODEL, tokens, tokens, tokens, wanted=wanted, compute=compute)
        return logprobs.sum() + entropies.sum()

    tokens, wanted = (jax.ShapeDtypeStruct((4, 1024), kind, sharding=sharding(mesh, "batch", None))
                      for kind in (jnp.int32, jnp.bool_))
    text = jax.jit(jax.grad(loss)).lower(params, tokens, wanted).compile().as_text()
    kernels_in_it = text.count('custom_call_target="tpu_custom_call"')
    assert kernels_in_it == 3 * sizes[-1]             # forward, dq, dk and dv, none twice; for every share of the row


@pytest.mark.parametrize(("prompts", "name"), [(4, "splash"), (3, "xla")])
def test_prompts_take_the_kernel_where_they_divide(tpu_devices, prompts, name):
    """XLA cannot divide a kernel over devices by itself; lowering refuses that."""
    mesh, params = on_mesh(tpu_devices, (1, 2, 2, 1))
    tokens = jax.ShapeDtypeStruct((prompts, 256), jnp.int32, sharding=sharding(mesh))
    prefill = partial(decoder.prefill, config=MODEL, compute=Compute("bfloat16", attention="splash", mesh=mesh))
    lowered = jax.jit(lambda params, tokens: prefill(
        split_layers(params, MODEL), tokens=tokens, positions=tokens, segment_ids=tokens)).lower(params, tokens)
    assert ("tpu_custom_call" in lowered.as_text()) == (name == "splash")
