"""What bounds memory: what the backward pass keeps, types, and the optimizer's state. None of it changes the result."""
import dataclasses
import importlib.util
import re
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from nft_jax.config import BatchConfig, Config, DataConfig, MeshConfig, ObjectiveConfig, OptimizerConfig, RolloutConfig
from nft_jax.model import decoder
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.objectives.registry import resolve
from nft_jax.runtime.compilation import largest
from nft_jax.runtime.mesh import make_mesh, require_host_memory
from nft_jax.train.plan import make_plan
from nft_jax.train.programs import training_programs
from nft_jax.train.state import init_state, make_optimizer, state_shardings
from nft_jax.train.step import Loss, compile_step, micro_batch, micro_loss
from nft_jax.types import TrainBatch
from refusal import refused

MODEL = ModelConfig("qwen3", vocab_size=96, hidden_size=64, intermediate_size=128, num_layers=6, num_heads=8,
                    num_kv_heads=2, head_dim=8, max_positions=64, tie_embeddings=True, qk_norm=True,
                    initializer_range=0.1)

HALF = ModelConfig("qwen2", 151_936, 896, 4_864, 24, 14, 2, 64, 32_768, rope_theta=1e6, tie_embeddings=True,
                   qkv_bias=True)      # Qwen2.5-0.5B


@cache
def gradient(remat: str):
    """The compiled gradient of a number made of the hidden states, and its value."""
    tokens = jnp.tile(jnp.arange(64)[None], (4, 1))

    def number(params):
        states = decoder.hidden_states(params, MODEL, tokens, tokens, jnp.ones_like(tokens), Compute(remat=remat))
        return jnp.sin(states).sum()

    params = decoder.init(MODEL, jax.random.key(0))
    compiled = jax.jit(jax.grad(number)).lower(params).compile()
    return compiled, jax.device_get(compiled(params))


@pytest.mark.parametrize("remat", ["attention", "block", "offload"])
def test_what_is_computed_again_changes_no_gradient(remat):
    for a, b in zip(jax.tree.leaves(gradient(remat)[1]), jax.tree.leaves(gradient("none")[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_memory_falls_and_work_grows_from_none_to_attention_to_block():
    """Where there is no other memory for the host, as on CPU, offload equals block."""
    memory, work = ([measure(gradient(remat)[0]) for remat in ("none", "attention", "block")] for measure in
                    (lambda c: c.memory_analysis().temp_size_in_bytes, lambda c: c.cost_analysis()["flops"]))
    assert memory[0] > 1.3 * memory[1] and memory[1] > memory[2]
    assert work[0] < work[1] < work[2]


def test_offloading_needs_a_host_memory_that_the_platform_has():
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform="toaster", addressable_memories=list)]))
    with refused("policy.remat", "offload", "toaster", "block"):
        require_host_memory("offload", mesh)
    require_host_memory("block", mesh)
    require_host_memory("offload", make_mesh(MeshConfig(), jax.devices()[:1]))


def batch_shapes(rows: int, length: int) -> TrainBatch:
    ints, floats = (jax.ShapeDtypeStruct((2, rows, length), dtype) for dtype in (jnp.int32, jnp.float32))
    return TrainBatch(ints, ints, ints, *(floats,) * 5, jax.ShapeDtypeStruct((), jnp.int32))


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def test_types_of_mixed_precision():
    """Products in bfloat16; exponentials, logarithms, roots and sums in float32; loss and gradient in float32."""
    loss = partial(micro_loss, loss=Loss("nft", resolve("nft", ObjectiveConfig()), MODEL, Compute("bfloat16")))
    arguments = decoder.parameter_shapes(MODEL), micro_batch_shapes(), 1.0
    found = list(equations(jax.make_jaxpr(loss)(*arguments).jaxpr))
    products = [eqn for eqn in found if eqn.primitive.name == "dot_general"]
    assert len(products) >= 10                              # seven with weights, two of attention, the head's
    assert {v.aval.dtype.name for eqn in products for v in eqn.invars} == {"bfloat16"}
    heads = [eqn for eqn in products if MODEL.vocab_size in eqn.outvars[0].aval.shape[1:]]
    assert heads and all(eqn.outvars[0].aval.dtype == jnp.float32 for eqn in heads)
    wide = ("exp", "log", "rsqrt", "reduce_sum", "reduce_max", "tanh")
    narrow = [eqn for eqn in found if eqn.primitive.name in wide and eqn.invars[0].aval.dtype == jnp.bfloat16]
    assert not narrow
    (value, _), gradients = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), *arguments)
    assert {x.dtype.name for x in [value, *jax.tree.leaves(gradients)]} == {"float32"}


def micro_batch_shapes() -> TrainBatch:
    return jax.eval_shape(lambda batch: micro_batch(batch, 0), batch_shapes(4, 64))


def test_the_state_is_float32():
    start = partial(init_state, optimizer=make_optimizer(OptimizerConfig()))
    state = jax.eval_shape(start, decoder.parameter_shapes(MODEL))
    adam = next(s for s in state.opt_state if hasattr(s, "nu"))
    assert {x.dtype.name for x in jax.tree.leaves((state.params, adam.mu, adam.nu))} == {"float32"}


def peak(model, answers, rows, length):
    """Bytes of an optimizer step on so many answers of at most `length` tokens, and those of its arguments."""
    config = Config(
        data=DataConfig(max_prompt_tokens=length // 4),
        rollout=RolloutConfig(prompts_per_step=1, samples_per_prompt=answers, max_new_tokens=length * 3 // 4),
        batch=BatchConfig(updates_per_step=1, row_length=length, rows_per_micro_batch=rows))
    step = largest(training_programs(make_plan(config, model, jax.devices()[:1])))["train step"]
    sizes = step.function.lower(*step.arguments).compile().memory_analysis()
    return (sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            + sizes.temp_size_in_bytes, sizes.argument_size_in_bytes)


def test_one_micro_batch_keeps_one_gradient_and_the_state_is_updated_in_place(tiny_model):
    """Where the parameters dwarf the activations, the step needs them, the two moments and one gradient."""
    model = dataclasses.replace(tiny_model, hidden_size=64, intermediate_size=4096, num_layers=4)
    whole, arguments = peak(model, 2, 2, 16)
    several, _ = peak(model, 2, 1, 16)
    assert whole < 5 * arguments / 3 < several


@pytest.mark.slow
def test_half_a_billion_parameters_train_in_ten_gigabytes():
    """Float32 on CPU: 8 GB are parameters, moments and the gradient."""
    assert peak(HALF, 8, 8, 160)[0] <= 10e9


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_step_compiled_for_tpus(monkeypatch):
    """Weights travel in bfloat16, gradients in float32 and scattered as they are summed; the blocks' inputs wait in the
    host's memory."""
    from nft_jax.preflight.devices import Topology
    from nft_jax.runtime.compilation import with_shardings

    topology = Topology.parse("v5e:2x2")
    for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"),
                        ("TPU_ACCELERATOR_TYPE", "v5p-8"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "true"),
                        ("TPU_STDERR_LOG_LEVEL", "3"), ("TPU_MIN_LOG_LEVEL", "3")):
        monkeypatch.setenv(name, value)
    mesh, optimizer = make_mesh(MeshConfig(1, 4), topology.devices()), make_optimizer(OptimizerConfig())
    model = dataclasses.replace(MODEL, vocab_size=2048, hidden_size=512, intermediate_size=1024, head_dim=128)
    shapes = decoder.parameter_shapes(model)
    placements = state_shardings(shapes, optimizer, mesh)
    state = with_shardings(jax.eval_shape(partial(init_state, optimizer=optimizer), shapes), placements)
    loss = Loss("nft", resolve("nft", ObjectiveConfig()), model, Compute("bfloat16", "offload"))
    step = compile_step(mesh, placements, optimizer, loss)
    compiled = step.lower(state, batch_shapes(4, 256), 1e-6, 1.0, None).compile()
    layer = ("512,8,128]", "512,2,128]", "8,128,512]", "512,1024]", "1024,512]")
    gathers = [line.split(" = ")[1] for line in compiled.as_text().splitlines() if " all-gather(" in line]
    weights = [line for line in gathers if any(size in line.split("{")[0] for size in layer)]
    assert len(weights) >= 10 and all(line.startswith("bf16") for line in weights)
    scattered = re.findall(r"^%all-reduce-scatter\S* \((.*?)\) ->", compiled.as_text(), re.MULTILINE)
    assert all(any(size in group for group in scattered) for size in layer) and "bf16" not in "".join(scattered)
    assert compiled.memory_analysis().host_temp_size_in_bytes == model.num_layers * 256 * 512 * 2
