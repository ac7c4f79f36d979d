"""Recorded experts against the trainer's: counts of answers whose experts were changed by hand."""
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from made import make_group
from nft_jax.config import MeshConfig
from nft_jax.model import decoder
from nft_jax.model.config import FLOAT32
from nft_jax.model.parameters import parameter_shardings
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.batch import BatchShape
from nft_jax.train.compared_experts import Compared, compare, compile_count

SIZES = 4, 2, 2          # experts, of a token, layers


@pytest.fixture(scope="module", params=[MeshConfig(data=1), MeshConfig(data=1, fsdp=2, tensor=2)])
def run(request, tiny_model):
    experts, chosen, layers = SIZES
    model = replace(tiny_model, family="qwen3_moe", num_experts=experts, experts_per_token=chosen, expert_size=24,
                    num_layers=layers)
    mesh = make_mesh(request.param, jax.devices()[:request.param.fsdp * request.param.tensor])
    params = decoder.init(model, jax.random.key(0))
    places = parameter_shardings(params, mesh)
    plan = SimpleNamespace(longest=BatchShape(8, 2, 24, request.param.fsdp), mesh=mesh, model=model)
    return SimpleNamespace(plan=plan, params=jax.device_put(params, places), clock=SimpleNamespace(phase=nullcontext),
                           count_otherwise=compile_count(mesh, places, model=model, compute=FLOAT32))


def with_experts(run, groups):
    """The groups with the trainer's own experts of their first answers, each computed alone."""
    tell = partial(decoder.states_and_load, tell=lambda probability, expert, counted: expert)
    program, width = jax.jit(tell, static_argnums=1), 18

    def first(group):
        rollout = group.rollouts[0]
        prompt, tokens = rollout.prompt.tokens, np.zeros((1, width), np.int32)
        whole = np.concatenate([prompt, rollout.tokens])
        tokens[0, :len(whole)] = whole
        _, chosen = program(run.params, run.plan.model, tokens, np.arange(width)[None],
                            (np.arange(width)[None] < len(whole)).astype(np.int32))
        experts = np.moveaxis(np.asarray(chosen, np.uint8)[:, 0], 1, 0)[len(prompt) - 1:len(whole) - 1]
        return replace(group, rollouts=(replace(rollout, experts=experts), *group.rollouts[1:]))

    return [first(group) for group in groups]


def test_only_what_was_changed_is_counted(run):
    rng, (experts, chosen, layers) = np.random.default_rng(0), SIZES
    groups = with_experts(run, [make_group(i, (1, 0), rng=rng) for i in range(7)])
    tokens, total = sum(len(group.rollouts[0].tokens) for group in groups), Compared()
    bare = compare(run, run.params, groups, total)
    assert total == Compared(tokens, tokens * layers * chosen, 0, 0)
    assert total.metrics() == {"mismatch/experts": 0, "mismatch/rerouted_tokens": 0}
    assert all(rollout.experts is None for group in bare for rollout in group.rollouts)
    changed = [group.rollouts[0].experts for group in groups]
    # The order of a token's experts says nothing.
    changed[0][:] = changed[0][..., ::-1]
    for group, token, layer, place in ((1, 0, 0, 0), (1, 0, 1, 1), (5, -1, 1, 0)):
        others = set(range(experts)) - set(changed[group][token, layer].tolist())
        changed[group][token, layer, place] = min(others)
    compare(run, run.params, groups, total)
    assert total == Compared(2 * tokens, 2 * tokens * layers * chosen, 3, 2)


def test_nothing_recorded_has_no_metrics(run):
    total = Compared()
    assert compare(run, run.params, [], total) == [] and total.metrics() == {}
