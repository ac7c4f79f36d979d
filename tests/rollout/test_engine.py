"""The sampler's contracts: independent of the schedule, agreeing with the trainer, exact at its ends."""
import gc

import jax
import numpy as np
import pytest

from made import mixed_prompts
from nft_jax.config import AdapterConfig, DecodingConfig, MeshConfig, SamplingConfig
from nft_jax.model.adapter import adapter_shapes, merge, wrap
from nft_jax.model.logprobs import token_logprobs
from nft_jax.model.parameters import parameter_shardings
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.schedule import SlotUse
from nft_jax.runtime.compilation import CompileCounter, compile_all, largest
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import Prompt
from tests.support.refusal import refused

EOS, SAMPLES, PROMPTS, LONGEST = 3, 4, 11, 20


@pytest.fixture(scope="module")
def prompts():
    return mixed_prompts(PROMPTS)


@pytest.fixture(scope="module")
def make(tiny_model, number_tokenizer):
    """`make(**changes)`: a sampler of the tiny model."""
    def make(*, slots=16, block=4, devices=1, mesh=None, eos=(EOS,), delay=None, buckets=None, **more):
        mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:devices])
        decoding = DecodingConfig(max_new_tokens=LONGEST, slots=slots, block_size=block, **more)
        return Sampler(tiny_model, number_tokenizer, eos, decoding, mesh=mesh, max_prompt_tokens=13, delay=delay,
                       buckets=buckets)
    return make


def run(sampler, params, prompts, **kwargs):
    groups = dict(sampler.sample(sampler.cast(params), prompts, SAMPLES, jax.random.key(5), 2, **kwargs))
    return [groups[i] for i in range(len(prompts))]


@pytest.fixture(scope="module")
def sampler(make):
    """One device, one ring, no delay."""
    return make()


@pytest.fixture(scope="module")
def reference(make, tiny_params, prompts):
    return run(make(slots=8, block=1), tiny_params, prompts)


@pytest.fixture(scope="module")
def greedy(sampler, tiny_params, prompts):
    return run(sampler, tiny_params, prompts, sampling=SamplingConfig(0.0))


def assert_same(groups, reference):
    for group, expected in zip(groups, reference, strict=True):
        for a, b in zip(group, expected, strict=True):
            assert (a.prompt.index, a.sample, a.finish_reason) == (b.prompt.index, b.sample, b.finish_reason)
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            np.testing.assert_allclose(a.entropies, b.entropies, atol=1e-5)


@pytest.mark.parametrize(("slots", "block", "devices", "delay", "buckets"), [
    (32, 2, 1, 1, (24, 32)), (64, 64, 1, 0, None), (8, 8, 8, 1, None), (16, 1, 8, 2, (16, 24, 32)),
    (64, 8, 4, 0, None)])
def test_samples_do_not_depend_on_the_schedule(make, tiny_params, prompts, reference, slots, block, devices,
                                               delay, buckets):
    sampler = make(slots=slots, block=block, devices=devices, delay=delay, buckets=buckets)
    growths, tails, moved = [], [], sampler._moved

    def note(state, old, new, rows=None):
        growths.extend([new] * (new > old))
        tails.extend([] if rows is None else [len(rows)])
        return moved(state, old, new, rows)

    sampler._moved = note
    assert_same(run(sampler, tiny_params, prompts), reference)
    assert growths == list(buckets or ())[1:]
    assert tails == sorted(set(tails) & set(sampler.tails), reverse=True)
    # Of 44 answers, the last 12 are alone in 32 slots for a while.
    assert tails or slots != 32


@pytest.mark.parametrize("mesh", [MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2),
                                  MeshConfig(data=1, fsdp=2, tensor=4), MeshConfig(1, 2, 2, 2)])
def test_samples_do_not_depend_on_the_mesh(make, tiny_params, prompts, reference, greedy, mesh):
    sampler = make(mesh=make_mesh(mesh))
    assert_same(run(sampler, tiny_params, prompts), reference)
    assert_same(run(sampler, tiny_params, prompts, sampling=SamplingConfig(0.0)), greedy)


def test_growth_and_admission_hold_little_beside_the_ring(make, tiny_params, prompts):
    """A growth holds the new ring and one layer of the old one at most, and no prefilled prompts. Admitting all at once
    holds the entries of one prefill only."""
    slots, prefills, layers = 48, 3, 2
    sampler = make(slots=slots, buckets=(16, 32), delay=0)
    assert sampler.prefills == prefills and sampler.model.num_layers == layers
    gc.collect()
    older = {id(array) for array in jax.live_arrays()}
    growing, admitting = [], []

    def held(rows):
        return sum(array.nbytes for array in jax.live_arrays()
                   if array.ndim == 4 and array.shape[0] == rows and id(array) not in older)

    (_, form), grown_to = next((key, grown) for key, grown in sampler._grow.items() if key[0] == 32)

    def grow(layer, write_index, rows, grown=grown_to):
        new = grown(layer, write_index, rows)
        if rows is not None:
            return new
        growing.append((held(slots), held(prefills), sum(x.nbytes for x in new), sum(x.nbytes for x in layer)))
        return new

    def admit(state, entries, *rest, admitted=sampler._admit):
        admitting.append((held(prefills), sum(x.nbytes for x in jax.tree.leaves(entries))))
        return admitted(state, entries, *rest)

    sampler._grow[32, form], sampler._admit = grow, admit
    run(sampler, tiny_params, prompts)
    assert len(growing) == layers and len(admitting) >= 4
    for ring, entries, new, old in growing:
        assert new <= ring <= layers * new + old and entries == 0
    assert growing[-1][0] == layers * growing[-1][2] + growing[-1][3]
    assert all(live == one > 0 for live, one in admitting)


def test_a_decode_step_gathers_no_weights(make):
    """On a mesh with fsdp the weights that decode are whole on every device, but for their shards over tensor."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    for weight_dtype in ("compute", "int8"):
        program = largest(make(mesh=mesh, weight_dtype=weight_dtype).programs())["cast"]
        placed = jax.tree.leaves(program.function.lower(*program.arguments).out_info)
        assert {axis for leaf in placed for axis in leaf.sharding.spec} == {None, "tensor"}


@pytest.fixture(scope="module")
def adapted(tiny_model, tiny_params):
    """The tiny model with random adapters, wrapped and merged."""
    config = AdapterConfig(rank=3, alpha=6.0)
    rng, shapes = np.random.default_rng(4), adapter_shapes(tiny_model, config)
    adapters = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    wrapped = wrap(tiny_params, adapters, config)
    return wrapped, merge(wrapped, "float32")


@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)], ids=str)
@pytest.mark.parametrize("weight_dtype", ["compute", "int8"])
def test_adapters_are_merged_into_the_weights_that_decode(make, adapted, mesh, weight_dtype):
    mesh = make_mesh(mesh, jax.devices()[:1] if mesh.data == 1 else None)
    sampler = make(mesh=mesh, weight_dtype=weight_dtype)
    found, expected = (sampler.cast(jax.device_put(params, parameter_shardings(params, mesh))) for params in adapted)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.sharding == b.sharding and a.dtype == b.dtype
        # A value between two steps of int8 may be rounded to either.
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-5,
                                   atol=1 if a.dtype == np.int8 else 1e-5)


def test_unmerged_adapters_score_what_merged_ones_sample(tiny_model, sampler, adapted, prompts):
    test_logprobs_are_those_of_the_trainer(tiny_model, adapted[0], run(sampler, adapted[0], prompts))


def test_samples_do_not_depend_on_the_order_of_admission(sampler, tiny_params, prompts, reference):
    order = np.random.default_rng(1).permutation(PROMPTS)
    shuffled = run(sampler, tiny_params, [prompts[i] for i in order])
    assert_same([shuffled[list(order).index(i)] for i in range(PROMPTS)], reference)
    assert_same(run(sampler, tiny_params, prompts[4:6]), reference[4:6])


def test_other_seed_or_rollout_gives_other_samples(sampler, tiny_params, prompts, reference):
    for key, rollout in ((jax.random.key(6), 2), (jax.random.key(5), 3)):
        groups = dict(sampler.sample(sampler.cast(tiny_params), prompts, SAMPLES, key, rollout))
        assert any(a.tokens.tolist() != b.tolist() for i, group in groups.items()
                   for a, b in zip(group, (r.tokens for r in reference[i]), strict=True))


def test_logprobs_are_those_of_the_trainer(tiny_model, tiny_params, reference):
    rollouts = reference[0] + reference[5]
    tokens = np.zeros((len(rollouts), 13 + LONGEST), np.int32)
    segments = np.zeros_like(tokens)
    for row, rollout in enumerate(rollouts):
        sequence = np.concatenate([rollout.prompt.tokens, rollout.tokens])
        tokens[row, :len(sequence)], segments[row, :len(sequence)] = sequence, 1
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    scored = jax.jit(token_logprobs, static_argnums=1)(tiny_params, tiny_model, tokens, positions, segments)
    for rollout, logprobs, entropies in zip(rollouts, *map(np.asarray, scored), strict=True):
        answer = slice(len(rollout.prompt.tokens), len(rollout.prompt.tokens) + len(rollout.tokens))
        np.testing.assert_allclose(rollout.logprobs, logprobs[answer], atol=1e-5)
        np.testing.assert_allclose(rollout.entropies, entropies[answer], atol=1e-5)


def test_an_answer_ends_at_eos_or_at_its_limit(sampler, reference, tiny_params, prompts):
    answers = [rollout for group in reference for rollout in group]
    assert {rollout.finish_reason for rollout in answers} == {"stop", "length"}
    for rollout in answers:
        assert (rollout.tokens[-1] == EOS) == (rollout.finish_reason == "stop")
        assert EOS not in rollout.tokens[:-1]
        assert len(rollout.tokens) == LONGEST or rollout.finish_reason == "stop"
        assert len(rollout.tokens) == len(rollout.logprobs) == len(rollout.entropies)
    limits = np.random.default_rng(3).integers(1, LONGEST + 1, (PROMPTS, SAMPLES))
    limits[0, 0], limits[1, 1] = 1, LONGEST
    for group, full, limit in zip(run(sampler, tiny_params, prompts, limits=limits), reference, limits, strict=True):
        for a, b, n in zip(group, full, limit, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens[:n])
            assert a.finish_reason == ("stop" if a.tokens[-1] == EOS else "length")
            said = a.tokens[:-1] if a.finish_reason == "stop" else a.tokens       # the id that ended it is no text
            assert a.text == " ".join(map(str, said))


def test_without_ids_that_end_an_answer_all_reach_their_limits(make, tiny_params, prompts):
    limits = np.arange(PROMPTS * SAMPLES).reshape(PROMPTS, SAMPLES) % LONGEST + 1
    groups = run(make(eos=()), tiny_params, prompts, limits=limits)
    assert [[len(r.tokens) for r in group] for group in groups] == limits.tolist()
    assert {r.finish_reason for group in groups for r in group} == {"length"}


def cut(rollout, stop):
    """The number of tokens up to the first that completes one of the strings, or all of them."""
    text = [" ".join(map(str, rollout.tokens[:n])) for n in range(len(rollout.tokens) + 1)]
    return next((n for n, part in enumerate(text) if any(s in part for s in stop)), len(rollout.tokens))


@pytest.mark.parametrize(("slots", "block", "delay"), [(8, 8, 0), (8, 3, 1)])
def test_stop_strings_cut_where_they_are_complete(make, tiny_params, prompts, reference, slots, block, delay):
    """The slot of an answer that the host cut goes on on the device until it is refilled: nothing of that is seen."""
    common = reference[2][1].tokens
    stop = (f"{common[1]} {common[2]}", "17 1")
    groups = run(make(slots=slots, block=block, delay=delay, stop=stop), tiny_params, prompts)
    hits = 0
    for group, full in zip(groups, reference, strict=True):
        for a, b in zip(group, full, strict=True):
            n = cut(b, stop)
            np.testing.assert_array_equal(a.tokens, b.tokens[:n])
            np.testing.assert_allclose(a.logprobs, b.logprobs[:n], atol=1e-5)
            assert a.finish_reason == ("stop" if n < len(b.tokens) else b.finish_reason)
            hits += n < len(b.tokens)
    assert hits >= 3


def test_further_ids_end_answers_too(make, tiny_params, prompts, reference):
    extra = int(reference[1][0].tokens[0])
    sampler = make(stop_token_ids=(extra,))
    assert sampler.eos == (EOS,)
    for group, full in zip(run(sampler, tiny_params, prompts), reference, strict=True):
        for a, b in zip(group, full, strict=True):
            ends = np.flatnonzero(np.isin(b.tokens, (EOS, extra)))
            np.testing.assert_array_equal(a.tokens, b.tokens[:ends[0] + 1] if len(ends) else b.tokens)
            assert a.finish_reason == ("stop" if len(ends) else "length")


def test_truncated_and_greedy_sampling(sampler, tiny_params, prompts, greedy):
    for params in (SamplingConfig(1.0, 1, 1.0), SamplingConfig(1.0, 0, 1.0, 0.9999)):
        for a, b in zip(greedy, run(sampler, tiny_params, prompts, sampling=params), strict=True):
            assert len({rollout.tokens.tobytes() for rollout in a}) == 1
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x.tokens, y.tokens)
                np.testing.assert_allclose(y.truncated_logprobs, 0, atol=1e-6)
                np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-5)


def test_every_token_is_reported_to_progress(sampler, tiny_params, prompts):
    counts = []
    groups = run(sampler, tiny_params, prompts, progress=counts.append)
    assert sum(counts) == sum(len(r.tokens) for group in groups for r in group)


def test_the_use_of_the_slots_is_counted(sampler, tiny_params, prompts):
    """16 slots in blocks of 4, admitted 4 or more at a time: a first answer of 20 tokens beside others of 4. The long
    one alone drains: its last 4 blocks of 5 are decoded in 8 slots."""
    limits = np.full((4, SAMPLES), 4)
    limits[0, 0] = LONGEST
    use = SlotUse()
    groups = run(sampler, tiny_params, prompts[:4], limits=limits, use=use)
    tokens = [len(rollout.tokens) for group in groups for rollout in group]
    assert use.tokens == sum(tokens) and tokens[0] == LONGEST
    assert use.slot_steps == 16 * 4 + 8 * (LONGEST - 4) and use.drained_steps == LONGEST - 4
    other = SlotUse(1, 10, 32, 3)
    use.add(other)
    assert use.metrics() == {"rollout/batches": 0, "rollout/drained_steps": LONGEST - 4,
                             "rollout/occupancy": (sum(tokens) + 10) / use.slot_steps}


def test_bad_input_is_refused_before_anything_runs(make, sampler, tiny_params, prompts):
    for tokens in (np.ones(30, np.int32), np.ones(0, np.int32)):
        with refused("prompt 3", f"{len(tokens)} tokens"):
            run(sampler, tiny_params, [Prompt(3, "", "", "", tokens)])
    for limits in (np.ones((PROMPTS, SAMPLES + 1)), np.zeros((PROMPTS, SAMPLES)),
                   np.full((PROMPTS, SAMPLES), LONGEST + 1)):
        with refused("limits", limits.shape):
            run(sampler, tiny_params, prompts, limits=limits)
    assert run(sampler, tiny_params, []) == []
    with refused("slots", 0):
        make(slots=0)


def test_no_program_is_compiled_beside_those_that_are_listed(make, tiny_params, prompts):
    sampler = make(block=2, buckets=(16, 32))
    compile_all(sampler.programs((False, True)))
    weights, key = sampler.cast(tiny_params), jax.random.key(5)
    counter = CompileCounter()
    for sampling in (SamplingConfig(), SamplingConfig(0.7, 3, 0.9, 0.1)):
        assert len(list(sampler.sample(weights, prompts, SAMPLES, key, 1, sampling))) == PROMPTS
    assert counter.take() == 0
