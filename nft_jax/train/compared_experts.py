"""How often sampler and trainer choose other experts for a token (rollout.compare_experts).

1. The sampler records the experts of the first answer to each prompt (`Rollout.experts`).
2. `compare` packs these answers into rows, and a program passes over them by the trainer's own graph.
3. The program counts, layer by layer, the recorded experts that are not among the trainer's.

One answer to each prompt is a fair sample of the answers, for a K-th of a scoring pass and of the host's memory.
The names of the field are those of vLLM (`routed_experts`) and of rollout routing replay (W. Ma et al., arXiv
2510.11370), which would train with the recorded experts. Here they are only counted."""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.decoder import states_and_load
from nft_jax.model.experts import chosen_otherwise, number_dtype
from nft_jax.runtime.mesh import place, sharding
from nft_jax.train.batch import BatchShape, Example, make_batch, pack
from nft_jax.train.plan import Plan
from nft_jax.train.run import Run
from nft_jax.train.step import batch_shardings, micro_batch, place_batch
from nft_jax.types import Group, TrainBatch

KIND = "compare experts"       # of the program, in the run's list


@dataclass
class Compared:
    """Counts over the recorded tokens."""
    tokens: int = 0
    choices: int = 0           # tokens x layers x experts of a token
    otherwise: int = 0         # of the choices, those that the trainer does not make
    rerouted: int = 0          # tokens with such a choice in some layer

    def metrics(self) -> dict[str, float]:
        """Empty where nothing was recorded."""
        if not self.tokens:
            return {}
        return {"mismatch/experts": self.otherwise / self.choices,
                "mismatch/rerouted_tokens": self.rerouted / self.tokens}


def count_otherwise(params, batch: TrainBatch, experts, *, model: ModelConfig, compute: Compute):
    """(choices that the trainer does not make, tokens with one) of a batch of one micro-batch. experts [1, R, T, L, K]:
    those recorded, at the tokens that were fed: the one before each token of an answer."""
    m = micro_batch(batch, 0)
    _, chosen_LBTK = states_and_load(params, model, m.tokens, m.positions, m.segment_ids, compute,
                                     tell=lambda probability, expert, counted: expert)
    # A row begins with a prompt, so nothing comes around from its first token.
    fed_BT = jnp.roll(m.weight > 0, -1, axis=1)
    otherwise_LBTK = chosen_otherwise(jnp.moveaxis(experts[0], 2, 0), chosen_LBTK) & fed_BT[None, :, :, None]
    return otherwise_LBTK.sum(dtype=jnp.int32), otherwise_LBTK.any((0, 3)).sum(dtype=jnp.int32)


def compile_count(mesh: Mesh, placements, *, model: ModelConfig, compute: Compute):
    """`count_otherwise` jitted over the mesh. `placements`: the shardings of the parameters."""
    return jax.jit(partial(count_otherwise, model=model, compute=replace(compute, mesh=mesh)),
                   in_shardings=(placements, batch_shardings(mesh), experts_sharding(mesh)),
                   out_shardings=sharding(mesh))


def experts_sharding(mesh: Mesh):
    """Where recorded experts [1, R, T, L, K] lie: with their tokens."""
    return sharding(mesh, None, "batch", "context")


def one_micro_batch(plan: Plan) -> BatchShape:
    """The shape that is compiled: the longest rows."""
    return replace(plan.longest, micro_batches=1)


def abstract_experts(plan: Plan):
    """The recorded experts of a batch, as the program takes them."""
    shape, model = one_micro_batch(plan), plan.model
    size = (1, shape.rows, shape.row_length, model.num_layers, model.experts_per_token)
    return place(jax.ShapeDtypeStruct(size, number_dtype(model)), experts_sharding(plan.mesh))


def compare(run: Run, params, groups: Sequence[Group], total: Compared) -> list[Group]:
    """Adds the groups' recorded experts to `total`, and returns the groups without them. `params`: those that
    sampled."""
    recorded = [r for group in groups for r in group.rollouts if r.experts is not None]
    shape, mesh, model = one_micro_batch(run.plan), run.plan.mesh, run.plan.model
    rows = pack([len(r.prompt.tokens) + len(r.tokens) for r in recorded], shape.row_length)
    counts = []
    with run.clock.phase("score"):
        for start in range(0, len(rows), shape.rows):
            chosen = [recorded[i] for row in rows[start:start + shape.rows] for i in row]
            batch, places = make_batch([Example(r.prompt.tokens, r.tokens) for r in chosen], shape)
            experts = np.zeros(abstract_experts(run.plan).shape, number_dtype(model))
            for (row, answer), r in zip(places, chosen, strict=True):
                experts[0, row, answer.start - 1:answer.stop - 1] = r.experts
            counts.append(run.count_otherwise(params, place_batch(batch, mesh), place(experts, experts_sharding(mesh))))
        for otherwise, rerouted in jax.device_get(counts):
            total.otherwise += int(otherwise)
            total.rerouted += int(rerouted)
    tokens = sum(len(r.tokens) for r in recorded)
    total.tokens += tokens
    total.choices += tokens * model.num_layers * model.experts_per_token
    return [replace(group, rollouts=tuple(replace(r, experts=None) for r in group.rollouts)) for group in groups]
