"""Preflight of a small run on virtual CPU devices: sizes against the arrays themselves, the memory model
against XLA, what fits and what does not."""
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.presets import PRESETS
from nft_jax.config import AdapterConfig, MeshConfig, OptimizerConfig, TermsConfig
from nft_jax.model.adapter import adapter_shapes, wrap
from nft_jax.model.block import PLAIN
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.decoder import hidden_states, parameter_shapes, told_parameters
from nft_jax.model.flops import forward_flops
from nft_jax.model.hf.published import PUBLISHED
from nft_jax.preflight import report as report_module
from nft_jax.preflight.__main__ import main
from nft_jax.preflight.compiled import compile_programs
from nft_jax.preflight.devices import Topology
from nft_jax.preflight.dry_run import adapter_lines, describe, memory_estimate, process_peak
from nft_jax.preflight.estimate import BANDWIDTH, UTILISATION, flops
from nft_jax.preflight.memory import FACTOR, Split, Work, analytic
from nft_jax.preflight.report import calibrated, preflight
from nft_jax.preflight.text import text
from nft_jax.runtime.compilation import largest
from nft_jax.runtime.devices import DEVICES, GiB
from nft_jax.runtime.mesh import sharded_bytes
from nft_jax.train.batch import token_cost
from nft_jax.train.plan import make_plan, settle
from nft_jax.train.programs import programs_of, training_programs
from nft_jax.train.step import NO_ADAPTER
from nft_jax.types import InputError
from refusal import refused

ROOT = Path(__file__).parents[2]
# XLA for CPUs fuses the mask and the softmax into the scores of a pass without gradients, and never holds all of them.
# Other compilers may, so the model counts them.
MOST = {"score": 2 * FACTOR}
GPUS = ("quickstart", "--topology", "gpu:8xH100")


@pytest.fixture(scope="module")
def report(planned, model):
    return preflight(planned(MeshConfig(data=1, fsdp=4, tensor=2), 16, 128, remat="block"), model,
                     Topology.parse("cpu:8"))


def line(report, name):
    return next(line for line in report.lines if line.kind == name)


def test_arguments_are_those_of_the_arrays(report):
    state = sharded_bytes(report.plan.state)
    assert report.memory.parameters + report.memory.moments == pytest.approx(state, abs=8)
    batch = 8 * 4 * 64 * 512 // 4                          # eight fields; 64 answers of an optimizer step, one a row
    assert line(report, "train step").arguments == pytest.approx(state + batch, rel=1e-4)
    slot = 2 * 3 * 4 * 16 * 4 * 512                        # keys and values: layers, kv heads, sizes, float32, entries
    assert report.memory.cache == 128 * slot // 8
    assert line(report, "decode").arguments == pytest.approx(report.memory.cache + report.memory.weights, rel=0.02)


def test_the_memory_model_agrees_with_the_compiler(report):
    for name in ("train step", "score", "decode", "prefill", "admit"):
        count = report.plan.longest.rows if name in ("train step", "score") else report.sampler.slots
        ratio = report.memory.temporaries[name].at(count) / line(report, name).temporaries
        assert 1 / FACTOR < ratio < MOST.get(name, FACTOR), (name, ratio)


def test_without_rematerialisation_too_and_copies_send_no_weights(planned, model):
    plan = make_plan(planned(MeshConfig(data=8), 32, 128, remat="none"), model)
    memory = analytic(plan, plan.sampler(), "xla")
    kinds = largest(training_programs(plan))
    step, score = compile_programs([kinds["train step"], kinds["score"]], 8)
    for name, compiled in (("train step", step), ("score", score)):
        assert 1 / FACTOR < memory.temporaries[name].at(32) / compiled.temporaries < MOST.get(name, FACTOR), name
    assert score.received < 0.01 * memory.parameters < step.received                               # its gradients


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1.0), ("bfloat16", 0.5)])
def test_the_reference_of_a_kl_term_is_counted(planned, model, dtype, share):
    """Beside every program that does not read it; in the type in which a pass reads it."""
    plain = planned(MeshConfig(data=8), 32, 128)
    plain = replace(plain, policy=replace(plain.policy, compute_dtype=dtype))
    config = replace(plain, terms=TermsConfig(kl_weight=0.1))

    def memory(config):
        plan = make_plan(config, model)
        return analytic(plan, plan.sampler(), "xla")

    off, on = memory(plain), memory(config)
    assert off.reference == 0 and on.reference == pytest.approx(share * on.parameters, rel=0.01)
    for what in ("train step", "score", "decode", "prefill", "cast"):
        assert on.beside(what) == off.beside(what) + on.reference
    assert on.beside("reference score") == on.beside("score") - on.reference + on.parameters
    assert dict(memory_estimate(config, model))["the reference of the KL term"] > 0
    assert "the reference of the KL term" not in dict(memory_estimate(plain, model))
    free = 3 * on.parameters + on.weights + on.entries + on.cache // 2
    automatic = [make_plan(replace(each, rollout=replace(each.rollout, slots=0)), model, free=free).config.rollout.slots
                 for each in (plain, config)]
    assert 0 < automatic[1] < automatic[0]


def test_adapters_and_their_base_are_counted(planned, model):
    """The base once, though it is also the reference; gradients and moments of the adapters alone."""
    full = planned(MeshConfig(data=2, fsdp=2, tensor=2), 32, 128, remat="block", compute_dtype="bfloat16")
    config = replace(full, adapter=AdapterConfig(rank=4, base_dtype="int8"), terms=TermsConfig(kl_weight=0.1))
    plan, whole = make_plan(config, model), make_plan(full, model)
    sampler = plan.sampler()
    memory, before = analytic(plan, sampler, "xla"), analytic(whole, whole.sampler(), "xla")
    assert memory.reference == 0 and memory.base == sharded_bytes(plan.base) < before.parameters / 2
    assert memory.moments == pytest.approx(2 * memory.parameters, abs=8) and memory.parameters < before.parameters / 10
    programs = largest(programs_of(plan, sampler))
    # What is on a device, whether beside a program or among its arguments, is the same for all that sampling is not.
    everything = memory.base + memory.parameters + memory.moments
    for kind, given, rest in (("train step", (0, 4), 0), ("cast", (0,), 0), ("reference score", (0,), memory.weights
                              + memory.cache), ("score", (0,), memory.weights + memory.cache)):
        arguments = sharded_bytes([programs[kind].arguments[index] for index in given])
        assert memory.beside(kind) + arguments == pytest.approx(everything + rest, abs=8), kind
    assert memory.beside("decode") == everything + memory.entries
    kinds = ("train step", "score")
    for kind, compiled in zip(kinds, compile_programs([programs[kind] for kind in kinds], 8), strict=True):
        assert 1 / FACTOR < memory.temporaries[kind].at(32) / compiled.temporaries < FACTOR, kind
    free = before.parameters + before.moments + before.weights
    automatic = [replace(each, rollout=replace(each.rollout, slots=0)) for each in (full, config)]
    assert make_plan(automatic[1], model, free=2 * free).config.rollout.slots > 0
    with refused("rollout.slots", 0):
        make_plan(automatic[0], model, free=free)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_average_that_samples_is_counted(planned, model, rank):
    """Of all parameters, or of the adapters alone; in memory, slots, the dry run and beside every program."""
    plain = planned(MeshConfig(data=2, fsdp=2, tensor=2), 32, 128)
    plain = replace(plain, adapter=AdapterConfig(rank=rank))
    config = replace(plain, rollout=replace(plain.rollout, ema=0.5))
    plan, without = make_plan(config, model), make_plan(plain, model)
    memory, before = analytic(plan, plan.sampler(), "xla"), analytic(without, without.sampler(), "xla")
    assert memory.parameters == before.parameters == sharded_bytes(plan.state.average)
    assert memory.moments == before.moments + memory.parameters
    programs = largest(programs_of(plan, plan.sampler()))
    everything = memory.base + memory.parameters + memory.moments
    for kind, given in (("train step", (0, 4)), ("average", (0, 1)), ("cast", (0,))):
        arguments = sharded_bytes([programs[kind].arguments[index] for index in given])
        assert memory.beside(kind) + arguments == pytest.approx(everything, abs=8), kind
    assert memory.beside("decode") == everything + memory.entries
    told, others = dict(memory_estimate(config, model)), dict(memory_estimate(plain, model))
    more = told.keys() - others.keys()
    assert len(more) == 1 and "rollout.ema" in min(more) and told[min(more)] == pytest.approx(
        sum(told.values()) - sum(others.values()))
    if not rank:
        def least(config):
            """The least memory, in quarters of the parameters, in which one slot fits."""
            automatic = replace(config, rollout=replace(config.rollout, slots=0))
            for quarters in range(8, 200):
                with suppress(InputError):
                    make_plan(automatic, model, free=quarters * memory.parameters // 4)
                    return quarters
            return None

        assert least(config) == least(plain) + 4


def test_the_dry_run_says_what_is_trained_and_which_rate_suits_it(planned, model):
    config = replace(planned(MeshConfig(data=8), 32, 128), adapter=AdapterConfig(rank=8, targets=("query", "mlp")),
                     optimizer=OptimizerConfig(learning_rate=2e-6))
    trained = 8 * 3 * (128 + 8 * 16 + 3 * (128 + 384))
    shown = "\n".join(adapter_lines(config, model))
    assert f"{trained:,}" in shown and "2e-06" in shown and "2e-05" in shown and "query, gate, up, down" in shown
    assert adapter_lines(replace(config, adapter=AdapterConfig()), model) == []
    sizes = dict(memory_estimate(config, model))
    assert sizes["adapters, float32"] == 4 * trained
    assert sizes["the frozen model under the adapters, float32"] == 4 * sum(
        leaf.size for leaf in jax.tree.leaves(parameter_shapes(model)))


@pytest.mark.parametrize(("parts", "measured"), [(0.1, 0.55), (1.54, 2.61), (6.2, 8.7)])
def test_the_peak_of_a_process_is_what_was_measured(parts, measured):
    """GiB of the large things, and of the process (`memory/peak_mb`): three models on CPUs."""
    assert process_peak([("parameters", parts * GiB / 2), ("moments", parts * GiB / 2)]) / GiB == pytest.approx(
        measured, rel=0.15)


def test_the_dry_run_adds_up(planned, model):
    told = describe(settle(planned(MeshConfig(), 8, 64)), model).splitlines()
    sizes = {line.rpartition(":")[0]: float(line.split()[-2].replace(",", "")) for line in told
             if line.endswith(" MiB")}
    total = sizes.pop("total")
    peak = sizes.pop("peak of the process, where it runs on CPUs")
    assert total == pytest.approx(sum(sizes.values()), abs=0.5) and peak > total


def test_estimates_take_the_shares_that_were_measured():
    """Of the makers' peaks of an H100: shares of what products and copies reach there, by the stored benchmark."""
    device = DEVICES["H100"]
    rows = [json.loads(line) for line in
            (ROOT / "experiments/figures/benchmark_h100.jsonl").read_text().splitlines()]
    compute = [row["step_mfu"] * row["matmul_tflops"] * 1e12 / device.flops for row in rows if "step_mfu" in row]
    memory = [row["bandwidth_share"] * row["copy_gb_per_s"] * 1e9 / device.bandwidth for row in rows
              if "bandwidth_share" in row]
    assert pytest.approx(np.mean(compute), abs=0.01) == UTILISATION
    assert pytest.approx(np.mean(memory), abs=0.01) == BANDWIDTH


def test_frozen_weights_are_no_work_of_the_backward_pass(planned, model):
    full = planned(MeshConfig(data=8), 32, 128)
    plans = [make_plan(each, model) for each in (full, replace(full, adapter=AdapterConfig(rank=1)))]
    whole, ours = (flops(plan, plan.sampler())["train step"] for plan in plans)
    assert 2 / 3 < ours / whole < 0.72


def test_weights_travel_where_they_are_divided(report):
    layers = 3 * (128 * 16 * (8 + 8 + 4 + 4) + 3 * 128 * 384)
    assert line(report, "score").received > 4 * layers / 2 * 3 / 4       # float32, over tensor 2, three of four parts


def test_the_text_has_every_program_and_marks_its_estimates(report):
    shown = text(report)
    for what in ("train step", "score", "decode", "prefill", "admit", "cast", "it fits", "variants", "keys and values",
                 "rollout.slots"):
        assert what in shown
    times = [row for row in shown.splitlines() if " hours" in row or "decode step " in row or "= rollout" in row]
    assert times and all(row.startswith("estimate") for row in times)
    assert report.estimate.step == pytest.approx(report.estimate.rollout + report.estimate.score
                                                 + report.estimate.train)


def test_a_smaller_device_is_told_what_does_not_fit_and_by_how_much(report):
    assert report.fits
    peak = line(report, "train step").peak
    small = replace(report, topology=replace(report.topology, device=replace(
        report.topology.device, memory=(peak - 2**30 / 100) / 0.9, usable=0.9)))
    assert not small.fits and line(small, "train step") in small.too_large
    assert "DOES NOT FIT: train step, 0.01 GiB too much on each device" in text(small)


def test_the_memory_model_counts_what_the_programs_are_given(planned, model):
    """By arithmetic from the model's shape, and from the programs' own abstract arguments, the same bytes."""
    copies, divided = MeshConfig(data=8), MeshConfig(data=1, fsdp=2, tensor=4)
    for mesh, dtype, kv_dtype in ((copies, "float32", "compute"), (divided, "bfloat16", "int8")):
        config = planned(mesh, 32, 128, compute_dtype=dtype)
        config = replace(config, rollout=replace(config.rollout, kv_dtype=kv_dtype))
        plan = make_plan(config, model)
        sampler = plan.sampler()
        memory, programs = analytic(plan, sampler, "xla"), largest(sampler.programs())
        weights, state = programs["decode"].arguments[:2]
        assert memory.weights == sharded_bytes(weights) and memory.cache == sharded_bytes(state.cache)
        assert memory.entries == sharded_bytes(programs["admit"].arguments[1])


def test_the_model_is_calibrated_by_what_was_compiled():
    assert calibrated(Split(10, 2), 50, 10).at(20) == 90          # what grows is scaled
    assert calibrated(Split(10, 2), 6, 10) == (2, 0.4)            # all of it
    assert calibrated(Split(0, 0), 0, 10) == (0, 0)


def peaks(name: str, gpus: int) -> dict[str, float]:
    """Peak of each program of a preset on so many H100, by arithmetic alone, in shares of what is usable."""
    preset = replace(PRESETS[name], policy=replace(PRESETS[name].policy, attention="xla"))
    plan = make_plan(preset, PUBLISHED[preset.policy.path], jax.devices("cpu")[:gpus])
    sampler = plan.sampler()
    memory = analytic(plan, sampler, "cudnn")
    count = {"train step": plan.longest.rows, "decode": sampler.slots}
    arguments = {"train step": memory.parameters + memory.moments, "decode": memory.weights + memory.cache}
    usable = DEVICES["H100"].memory * DEVICES["H100"].usable
    return {what: (memory.beside(what) + arguments[what] + memory.temporaries[what].at(count[what])) / usable
            for what in arguments}


def test_the_papers_7b_fits_eight_h100_and_its_state_alone_does_not_fit_one():
    assert all(0.25 < share < 1 for share in peaks("qwen2_5_math_7b", 8).values())
    assert all(0.8 < share < 1.6 for share in peaks("qwen2_5_math_7b", 2).values())       # 46 GB of state on each
    assert all(1 < share < 5 for share in peaks("qwen2_5_32b", 8).values())
    assert all(share > 1.25 for share in peaks("qwen2_5_math_7b", 1).values())            # 91 GB of state


@pytest.mark.slow            # five sizes are compiled
def test_what_fits_by_the_report_fits_when_it_is_asked_for_and_one_step_more_does_not(planned, model, monkeypatch):
    model, mesh, known = replace(model, num_layers=1), MeshConfig(data=1, fsdp=2), {}

    def weigh(rows, slots, memory):
        def once(programs, devices, *_):          # on devices of another memory the programs are the same
            if (rows, slots) not in known:
                known[rows, slots] = compile_programs(programs, devices)
            return known[rows, slots]

        monkeypatch.setattr(report_module, "compile_programs", once)
        device = replace(DEVICES["H100"], memory=memory, usable=1.0)
        return preflight(planned(mesh, rows, slots, remat="block", compute_dtype="bfloat16"), model,
                         Topology("gpu:2", "gpu", device, 2))

    first = weigh(2, 32, 2**40)
    assert first.most_rows == 64 and first.most_slots == 256            # as many as an optimizer step and a step have
    memory = 2 * max(at.peak for at in first.lines)
    found = weigh(2, 32, memory)
    assert 2 < found.most_rows < 64 and 32 < found.most_slots < 256
    assert weigh(found.most_rows, 32, memory).fits and weigh(2, found.most_slots, memory).fits
    assert not weigh(found.most_rows + 2, 32, memory).fits and not weigh(2, found.most_slots + 2, memory).fits
    none = weigh(2, 32, line(first, "cast").peak - 1)
    assert none.most_rows == none.most_slots == 0 and "no size fits this mesh" in text(none)


def test_experts_are_counted_where_they_are_work_and_where_they_are_memory(planned, model):
    """What a layer keeps (as the next test), and the operations: of two of six experts."""
    shape = replace(model, num_layers=67, num_experts=6, experts_per_token=2, expert_size=48)
    plan = make_plan(planned(MeshConfig(data=1), 1, 16, compute_dtype="bfloat16"), shape, jax.devices("cpu")[:1])
    tokens = jax.ShapeDtypeStruct((1, 320), jnp.int32)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(
        lambda params, tokens: jax.vjp(lambda params: hidden_states(
            params, shape, tokens, tokens, tokens, Compute("bfloat16")), params)[1], parameter_shapes(shape), tokens))
        if leaf.shape[:1] == (67,) and {320, 640} & set(leaf.shape))
    work = Work(plan, plan.sampler(), "xla")
    assert work.kept(PLAIN) == kept / 67 / 320
    assert work.stack == 67 * 128 * 6 * 48
    one = replace(shape, num_experts=2)
    router = 67 * 128 * (6 - 2)
    assert forward_flops(shape, 1, 0) - forward_flops(one, 1, 0) == 2 * router
    assert token_cost(shape) > token_cost(one) > token_cost(replace(shape, experts_per_token=1))
    assert "of which a token meets" in told_parameters(shape) and "meets" not in told_parameters(model)


def kept_by_autodiff(shape, attention, remat, adapter=NO_ADAPTER) -> int:
    """Bytes of the residuals of 640 tokens that have an axis of 67 layers, by a trace: nothing is compiled."""
    params, tokens = parameter_shapes(shape), jax.ShapeDtypeStruct((1, 640), jnp.int32)
    trained = adapter_shapes(shape, adapter) if adapter.rank else params

    def backward(trained, params, tokens):
        return jax.vjp(lambda trained: hidden_states(wrap(params, trained, adapter), shape, tokens, tokens, tokens,
                                                     Compute("bfloat16", remat, attention)), trained)[1]

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(
        jax.eval_shape(backward, trained, params, tokens)) if leaf.shape[:1] == (67,) and 640 in leaf.shape)


@pytest.mark.parametrize(("attention", "remat", "qk_norm"), [
    ("splash", "none", True), ("splash", "none", False), ("splash", "attention", True), ("splash", "block", True),
    ("xla", "none", False), ("xla", "block", False)])
def test_what_a_layer_keeps_is_what_autodiff_says(planned, attention, remat, qk_norm):
    """Residuals with an axis of the layers, of a trace: nothing is compiled. 67 layers and 640 tokens: no other
    size is either."""
    shape = ModelConfig("qwen3", vocab_size=32, hidden_size=48, intermediate_size=136, num_layers=67, num_heads=8,
                        num_kv_heads=2, head_dim=64, max_positions=1024, qk_norm=qk_norm)
    kept = kept_by_autodiff(shape, attention, remat)
    config = planned(MeshConfig(data=1), 1, 16, remat=remat, compute_dtype="bfloat16")
    plan = make_plan(config, shape, jax.devices("cpu")[:1])
    work = Work(plan, plan.sampler(), attention)
    assert work.kept(shape.kinds[0].form) == kept / 67 / 640


@pytest.fixture(scope="module")
def delta_model(model):
    return replace(model, family="qwen3_5_text", num_layers=4, output_gate=True, delta_layers=(0, 2), delta_key_heads=4,
                   delta_value_heads=8, delta_key_dim=16, delta_value_dim=16, delta_conv=4)


@pytest.mark.parametrize(("attention", "remat", "rank"), [
    ("xla", "none", 0), ("splash", "none", 0), ("splash", "attention", 0), ("xla", "block", 4), ("xla", "none", 4)])
def test_what_layers_with_delta_nets_keep_is_what_autodiff_says(planned, delta_model, attention, remat, rank):
    """67 periods of one of them and one with attention; as the test above."""
    shape = replace(delta_model, num_layers=134, delta_layers=tuple(range(0, 134, 2)), max_positions=1024)
    adapter = AdapterConfig(rank=rank)
    kept = kept_by_autodiff(shape, attention, remat, adapter)
    config = replace(planned(MeshConfig(data=1), 1, 16, remat=remat, compute_dtype="bfloat16"), adapter=adapter)
    plan = make_plan(config, shape, jax.devices("cpu")[:1])
    work = Work(plan, plan.sampler(), attention)
    assert work.kept(PLAIN) + work.kept_around_delta() == pytest.approx(kept / 67 / 640, rel=0.02)


@pytest.fixture(scope="module")
def wide_model(model):
    """Two turns of a local and a wide layer, and two turns that share their keys and values."""
    return replace(model, family="gemma4_text", num_layers=8, local_layers=(0, 2, 4, 6), window=64,
                   local_rope_theta=50.0, norms_after=True, value_norm=True, wide_head_dim=32, wide_kv_heads=2,
                   shared_layers=4, double_shared_mlp=True, layer_input_size=8, layer_scale=True)


@pytest.mark.parametrize(("attention", "remat"), [("splash", "none"), ("xla", "block")])
def test_what_wide_and_shared_layers_keep_is_what_autodiff_says(planned, wide_model, attention, remat):
    """67 turns of two layers of their own, and 67 of two that share; as the tests above."""
    shape = replace(wide_model, num_layers=4 * 67, local_layers=tuple(range(0, 4 * 67, 2)), shared_layers=2 * 67,
                    max_positions=1024)
    kept = kept_by_autodiff(shape, attention, remat)
    plan = make_plan(planned(MeshConfig(data=1), 1, 16, remat=remat, compute_dtype="bfloat16"), shape,
                     jax.devices("cpu")[:1])
    work = Work(plan, plan.sampler(), attention)
    layers = sum(count * work.kept(form) for form, count in work.forms.items())
    assert layers + 2 * work.inputs == pytest.approx(kept / 640, rel=0.03)


def test_rings_of_two_sizes_are_counted_as_the_programs_have_them(planned, wide_model):
    plan = make_plan(planned(MeshConfig(data=1, fsdp=4, tensor=2), 16, 128, compute_dtype="bfloat16"), wide_model)
    sampler = plan.sampler()
    memory, programs = analytic(plan, sampler, "xla"), largest(sampler.programs())
    weights, state = programs["decode"].arguments[:2]
    assert memory.weights == sharded_bytes(weights)
    assert memory.cache == sharded_bytes(state.cache) and len(state.cache) == 4
    assert memory.entries == sharded_bytes(programs["admit"].arguments[1])
    # Prefill skips the layers that share keys and values, with their wider MLPs.
    other = make_plan(plan.config, replace(wide_model, double_shared_mlp=False))
    narrow = analytic(other, other.sampler(), "xla").temporaries
    assert memory.temporaries["prefill"] == narrow["prefill"]
    assert memory.temporaries["score"].each > narrow["score"].each
    # A pair costs two operations for each number of every head, in the product and in the sum.
    assert forward_flops(wide_model, 1, 1000) - forward_flops(wide_model, 1, 0) == 4 * 4 * 8 * (16 + 32) * 1000
    plain = replace(wide_model, layer_input_size=0)
    # Of what layers have for their tokens, only three matrices multiply.
    products = 128 * 8 * 8 + 2 * 8 * 128 * 8 + 8 + 8 * 128
    assert forward_flops(wide_model, 1, 0) - forward_flops(plain, 1, 0) == 2 * products
    assert token_cost(wide_model) > token_cost(replace(plain, double_shared_mlp=False))


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "rows", "remat"), [
    # Without `tensor`: with one kv head a device, XLA's CPU programs copy the rings, in every family.
    (MeshConfig(data=2, fsdp=4), 16, "block"), (MeshConfig(data=8), 32, "none")], ids=str)
def test_the_memory_model_agrees_with_the_compiler_on_rings_of_two_sizes(planned, wide_model, mesh, rows, remat):
    plan = make_plan(planned(mesh, rows, 128, remat=remat), wide_model)
    sampler = plan.sampler()
    memory, kinds = analytic(plan, sampler, "xla"), largest(programs_of(plan, sampler))
    names = ("train step", "score", "decode", "prefill", "admit")
    for name, compiled in zip(names, compile_programs([kinds[name] for name in names], 8), strict=True):
        count = rows if name in ("train step", "score") else 128
        ratio = memory.temporaries[name].at(count) / compiled.temporaries
        assert 1 / FACTOR < ratio < MOST.get(name, FACTOR), (name, ratio)


def test_memories_of_delta_nets_are_counted_as_the_programs_have_them(planned, delta_model):
    plan = make_plan(planned(MeshConfig(data=1, fsdp=4, tensor=2), 16, 128, compute_dtype="bfloat16"), delta_model)
    sampler = plan.sampler()
    memory, programs = analytic(plan, sampler, "xla"), largest(sampler.programs())
    weights, state = programs["decode"].arguments[:2]
    assert memory.weights == sharded_bytes(weights)
    assert memory.cache == sharded_bytes((state.cache, state.memories))
    assert memory.entries == sharded_bytes(programs["admit"].arguments[1])
    plain = replace(delta_model, delta_layers=())
    assert forward_flops(delta_model, 1, 1000) - forward_flops(delta_model, 1, 0) == 2 * 4 * 128 * 1000
    assert forward_flops(plain, 1, 1000) - forward_flops(plain, 1, 0) == 4 * 4 * 128 * 1000
    assert token_cost(delta_model) > token_cost(plain)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "rows", "remat"), [
    (MeshConfig(data=1, fsdp=4, tensor=2), 16, "block"), (MeshConfig(data=8), 32, "none")], ids=str)
def test_the_memory_model_agrees_with_the_compiler_on_delta_nets(planned, delta_model, mesh, rows, remat):
    plan = make_plan(planned(mesh, rows, 128, remat=remat), delta_model)
    sampler = plan.sampler()
    memory, kinds = analytic(plan, sampler, "xla"), largest(programs_of(plan, sampler))
    names = ("train step", "score", "decode", "prefill", "admit")
    for name, compiled in zip(names, compile_programs([kinds[name] for name in names], 8), strict=True):
        count = rows if name in ("train step", "score") else 128
        assert 1 / FACTOR < memory.temporaries[name].at(count) / compiled.temporaries < MOST.get(name, FACTOR), name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gpus"), [("gsm8k", 1), ("qwen2_5_math_7b", 8), ("qwen2_5_math_7b_official", 8),
                                            ("qwen2_5_32b", 64), ("qwen2_5_32b_official", 64)])
def test_every_preset_fits_its_hardware(name, gpus):
    done = subprocess.run([sys.executable, "-m", "nft_jax.preflight", name, "--topology", f"gpu:{gpus}xH100"], cwd=ROOT,
                          capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr


def test_status_2_when_it_does_not_fit(monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert main(["quickstart", "--topology", "gpu:RTX4090", "--rollout.slots", "400000"]) == 2
    shown = capsys.readouterr().out
    assert "DOES NOT FIT: decode" in shown and "XLA_PYTHON_CLIENT_MEM_FRACTION" in shown
    assert "temporaries by arithmetic" in shown


@pytest.mark.parametrize(("arguments", "told"), [
    (["nonsense"], "quickstart"), (["experiments.presets:NONE"], "NONE"), (["/nowhere/run.py:X"], "run.py"),
    (["quickstart", "--topology", "v9:1x1"], "v5p:4x4x4"), (["quickstart", "--accepted-share", "0"], "accepted_share"),
    (["quickstart", "--topology", "cpu:8", "--mesh.fsdp", "3"], "mesh (data, fsdp, tensor, context)"),
    # What the run itself refuses.
    ([*GPUS, "--rollout.max-new-tokens", "100000", "--batch.row-length", "0"], "positions"),
    ([*GPUS, "--policy.attention", "splash"], "does not run on this"),
    ([*GPUS, "--policy.attention", "cudnn"], "it has no float32"),
    ([*GPUS, "--mesh.data", "1", "--mesh.context", "-1", "--batch.row-length", "130"], "the 130 tokens")])
def test_a_mistake_is_one_paragraph_and_status_2(arguments, told, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_the_command_answers_without_jax():
    code = ("import runpy, sys; sys.argv = ['preflight', '--help']; "
            "import nft_jax.preflight.__main__ as command; assert command.main(['--help']) == 0; "
            "assert 'jax' not in sys.modules")
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "--topology" in shown
