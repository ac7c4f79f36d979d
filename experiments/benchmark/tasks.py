"""Our side of the benchmark: a rollout, an optimizer update, and both with a reward between them.

1. A `Case` is a workload made concrete: what to sample and what to train on, with the sizes of the programs.
2. `Rollouts`, `Training` and `EndToEnd` run it. `run(repetition)` is timed; `tokens` says what a repetition is worth.
3. `check()` compares the results with a plain forward pass in the same process.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.peers import common
from experiments.peers.common import MODELS, PROMPT_LENGTH, WORKLOADS
from nft_jax.config import AdapterConfig, DecodingConfig, MeshConfig, ObjectiveConfig, OptimizerConfig
from nft_jax.model import adapter, decoder
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.logprobs import token_logprobs
from nft_jax.objectives.registry import resolve
from nft_jax.rollout.engine import Sampler
from nft_jax.runtime.mesh import make_mesh
from nft_jax.train.batch import BatchShape, Example, make_batch, pack, unpack
from nft_jax.train.state import init_state, make_optimizer, state_shardings
from nft_jax.train.step import NO_ADAPTER, Loss, compile_score, compile_step, micro_batch, micro_loss
from nft_jax.train.step_metrics import summarise
from nft_jax.types import Prompt, Rollout, TrainBatch

OBJECTIVE = "nft"
LEARNING_RATE = 1e-5
# Differences from a plain forward pass, over all tokens. The largest of many in bfloat16 says little, the mean more.
LOGPROB_TOLERANCE = {"float32": {"largest": 1e-4, "mean": 2e-5}, "bfloat16": {"largest": 0.25, "mean": 0.02}}
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}


class WrongResult(RuntimeError):
    """The timed work did not compute what was asked for."""


@dataclass(frozen=True)
class Case:
    """What to sample and to train on. Slots, block size and rows are speed settings."""
    model: ModelConfig
    compute: Compute
    prompts: tuple[Prompt, ...] = ()
    limits: np.ndarray | None = None           # [prompts, samples] int32: tokens of each answer
    slots: int = 1
    block_size: int = 16
    examples: tuple[Example, ...] = ()
    sequences: int = 1                         # of a train step
    rows: int = 1                              # of a micro-batch
    row_length: int = 0
    adapter: AdapterConfig = NO_ADAPTER        # what is trained beside a frozen model; rank 0: the model itself


def model_config(shape: common.ModelShape) -> ModelConfig:
    return ModelConfig("qwen2", shape.vocab, shape.hidden, shape.intermediate, shape.layers, shape.heads,
                       shape.kv_heads, shape.head_dim, 4096, rope_theta=shape.rope_theta, tie_embeddings=True,
                       qkv_bias=True)


def rows_for(lengths: Sequence[int], row_length: int, most: int) -> int:
    """Rows of a micro-batch: at most `most`, and such that the last micro-batch is as full as the others."""
    needed = len(pack(lengths, row_length))
    return -(-needed // -(-needed // most))


def standard_case(name: str, task: str, *, slots: int = 0, micro: int = 0, block_size: int = 0) -> Case:
    """A workload of `experiments.peers.common` on one of its models, in float32.

    With lengths that vary, a quarter of the answers is decoded at a time, so that slots are refilled.
    """
    shape, work, varied = MODELS[name], WORKLOADS[name], task.endswith("_var")
    lengths = common.rollout_lengths(work, varied)
    prompts = tuple(Prompt(i, "", "", "", tokens) for i, tokens in enumerate(common.prompt_tokens(shape, work)))
    arrays = common.train_arrays(shape, work, varied)
    rewards = (arrays.advantages > 0).astype(np.float32)
    size = min(work.samples, work.sequences)
    accuracy, std = (np.repeat(f(rewards.reshape(-1, size), axis=1), size) for f in (np.mean, np.std))
    examples = tuple(
        Example(tokens[:PROMPT_LENGTH], tokens[PROMPT_LENGTH:length], *numbers) for tokens, length, *numbers in
        zip(arrays.tokens, arrays.lengths, rewards, accuracy, std, strict=True))
    end_to_end = task.startswith("e2e")
    packed = PROMPT_LENGTH + lengths if end_to_end else arrays.lengths
    return Case(model_config(shape), Compute(), prompts, lengths.reshape(work.prompts, work.samples),
                slots=slots or work.answers // (4 if varied else 1), block_size=block_size or (16 if varied else 32),
                examples=examples,
                sequences=work.answers if end_to_end else work.sequences, row_length=work.length,
                rows=rows_for(packed, work.length, micro or work.micro_batch))


def one_device_mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def random_params(case: Case):
    return jax.jit(partial(decoder.init, case.model))(jax.random.key(0))


class Rollouts:
    """Rollouts of a case, with random parameters of its own or with a trainer's."""

    trained = 0                                # prompt and answer tokens of a repetition's update

    def __init__(self, case: Case, own_params: bool = True):
        self.case, self.rollouts = case, []
        self.sampler = Sampler(
            case.model, common.NumberTokenizer(), (),
            DecodingConfig(max_new_tokens=int(case.limits.max()), slots=case.slots, block_size=case.block_size),
            mesh=one_device_mesh(), max_prompt_tokens=max(len(prompt.tokens) for prompt in case.prompts),
            compute=case.compute)
        self.weights = jax.block_until_ready(self.sampler.cast(random_params(case))) if own_params else None

    @property
    def tokens(self) -> int:
        return int(self.case.limits.sum())

    def run(self, repetition: int) -> None:
        self.rollouts = self.sample(self.weights, repetition)

    def sample(self, weights, repetition: int) -> list[Rollout]:
        """All answers, in the order of prompts and samples. `weights` are as `Sampler.cast` returns them."""
        groups = dict(self.sampler.sample(weights, self.case.prompts, self.case.limits.shape[1], jax.random.key(0),
                                          repetition, limits=self.case.limits))
        return [rollout for position in sorted(groups) for rollout in groups[position]]

    def check(self) -> dict[str, float]:
        """Checks the last repetition: lengths as asked, and log-probs equal to a plain forward pass."""
        self.check_lengths(self.rollouts)
        self.weights = None                     # makes room for the parameters
        return self.logprob_error(random_params(self.case), self.rollouts)

    def check_lengths(self, rollouts: Sequence[Rollout]) -> None:
        """Raises WrongResult when an answer is not as long as asked."""
        found, wanted = np.array([len(rollout.tokens) for rollout in rollouts]), self.case.limits.ravel()
        if found.shape != wanted.shape or (found != wanted).any():
            raise WrongResult(f"answers of {found.tolist()} tokens instead of {wanted.tolist()}")

    def logprob_error(self, params, rollouts: Sequence[Rollout]) -> dict[str, float]:
        examples = [Example(r.prompt.tokens, r.tokens, old_logprobs=r.logprobs) for r in rollouts]
        return check_logprobs(params, self.case, examples, "log-probs of the sampled tokens")


def check_logprobs(params, case: Case, examples: Sequence[Example], what: str, rows: int = 8) -> dict[str, float]:
    """Largest and mean difference between `old_logprobs` and a plain forward pass, one sequence in a row.

    Raises WrongResult for a difference beyond LOGPROB_TOLERANCE.
    """
    longest = max(len(e.prompt) + len(e.response) for e in examples)
    forward = jax.jit(lambda params, tokens, positions, segments: token_logprobs(
        params, case.model, tokens, positions, segments, compute=case.compute)[0])
    differences = []
    for start in range(0, len(examples), rows):
        part = examples[start:start + rows]
        batch, places = make_batch(part, BatchShape(1, rows, longest), rows=[[i] for i in range(len(part))])
        values = forward(params, batch.tokens[0], batch.positions[0], batch.segment_ids[0])
        differences += [np.abs(found - e.old_logprobs)
                        for e, found in zip(part, unpack(np.asarray(values), places), strict=True)]
    return require_logprobs(np.concatenate(differences), case.compute.dtype, what)


def require_logprobs(differences: np.ndarray, dtype: str, what: str) -> dict[str, float]:
    found = {"largest": float(differences.max()), "mean": float(differences.mean(dtype=np.float64))}
    for statistic, tolerance in LOGPROB_TOLERANCE[dtype].items():
        require_close(found[statistic], tolerance, f"{what} ({statistic} of {differences.size:,} tokens)")
    return {"logprob_error": found["largest"], "logprob_error_mean": found["mean"]}


def require_close(difference: float, tolerance: float, what: str) -> None:
    # Written so that NaN is refused too.
    if not difference <= tolerance:
        raise WrongResult(f"{what} differ from a plain forward pass by {difference:.2e}, more than {tolerance:.0e}")


class Training:
    """Old log-probs and optimizer updates of a case; the state is carried along."""

    def __init__(self, case: Case):
        self.case, mesh = case, one_device_mesh()
        optimizer = make_optimizer(OptimizerConfig(learning_rate=LEARNING_RATE))
        self.loss = resolve(OBJECTIVE, ObjectiveConfig())
        first, self.base = random_params(case), None
        if case.adapter.rank:
            # As a run keeps a frozen base: in the dtype of the passes.
            self.base = jax.tree.map(lambda x: x.astype(case.compute.dtype), first)
            first = adapter.init(case.model, case.adapter, jax.random.key(1))
        placements = state_shardings(jax.eval_shape(lambda: first), optimizer, mesh)
        self.state = jax.jit(partial(init_state, optimizer=optimizer), out_shardings=placements,
                             donate_argnums=0)(first)
        self.shape = BatchShape.for_sequences(case.sequences, case.rows, case.row_length)
        placed = jax.tree.map(lambda x: x.sharding, (self.params, self.base))
        self.score = compile_score(mesh, placed[0], model=case.model, compute=case.compute)
        self.step = compile_step(mesh, placements, optimizer, Loss(OBJECTIVE, self.loss, case.model, case.compute,
                                                                   adapter=case.adapter), placed[1])

    @property
    def adapter_parameters(self) -> int:
        """Parameters that are trained beside a frozen model; 0 where the model is trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params)) if self.case.adapter.rank else 0

    @property
    def params(self):
        """The parameters of a pass."""
        return adapter.wrap(self.base, self.state.params, self.case.adapter)

    @property
    def tokens(self) -> int:
        return sum(len(e.prompt) + len(e.response) for e in self.case.examples)

    @property
    def trained(self) -> int:
        return self.tokens

    def run(self, repetition: int) -> None:
        """Old log-probs by the present parameters, then the optimizer update with them."""
        examples = self.case.examples
        old = self.old_logprobs(examples)
        self.update([replace(example, old_logprobs=values) for example, values in zip(examples, old, strict=True)])

    def batch(self, examples: Sequence[Example], fresh: bool = False):
        return make_batch(examples, self.shape, self.loss.loss_agg, self.loss.constant_length, fresh=fresh)

    def old_logprobs(self, examples: Sequence[Example]) -> list[np.ndarray]:
        batch, places = self.batch(examples)
        return unpack(np.asarray(self.score(self.params, batch, 1.0)), places)

    def update(self, examples: Sequence[Example]) -> float:
        """The loss of one optimizer update, whose work is done on return."""
        return self.take(self.batch(examples)[0])[0]

    def take(self, batch: TrainBatch) -> tuple[float, Any]:
        """The loss of the update on `batch`, and the old log-probs of a fresh one."""
        self.state, tally, _, old = self.step(self.state, batch, LEARNING_RATE, 1.0, self.base)
        loss = summarise(jax.device_get(tally), 1)["loss/total"]
        jax.block_until_ready(self.state)
        if not np.isfinite(loss):
            raise WrongResult(f"the loss is {loss}")
        return loss, old

    def learn_fresh(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """The optimizer update of the policy that sampled the answers, as a run with one update a step takes it.
        Returns the update's own log-probs, which are the old ones."""
        batch, places = self.batch(examples, fresh=True)
        return unpack(np.asarray(self.take(batch)[1]), places)

    def check(self) -> dict[str, float]:
        """Checks one packed micro-batch against a forward pass over each sequence alone.

        Checked are the compiled old log-probs, and the compiled step's loss with old log-probs that
        make it differ from 0. Takes an optimizer update.
        """
        examples = self.case.examples
        rows = pack([len(e.prompt) + len(e.response) for e in examples], self.case.row_length)[:self.case.rows]
        rng, chosen = np.random.default_rng(0), [examples[i] for row in rows for i in row]
        chosen = [replace(e, old_logprobs=old) for e, old in zip(chosen, self.old_logprobs(chosen), strict=True)]
        found = check_logprobs(self.params, self.case, chosen, "old log-probs", min(self.case.rows, 8))
        chosen = [replace(e, old_logprobs=e.old_logprobs + np.float32(rng.normal(0, 0.2, e.old_logprobs.shape)))
                  for e in chosen]
        expected = unpacked_loss(self.params, self.case, chosen, self.loss)
        difference = abs(self.update(chosen) - expected)
        require_close(difference, LOSS_TOLERANCE[self.case.compute.dtype],
                      f"the losses of a packed micro-batch ({expected:.6f} expected)")
        return found | {"loss_error": difference}


def unpacked_loss(params, case: Case, examples: Sequence[Example], loss: ObjectiveConfig) -> float:
    """The loss of the examples, each alone in a row that is padded to the longest."""
    longest = max(len(e.prompt) + len(e.response) for e in examples)
    batch, _ = make_batch(examples, BatchShape(1, len(examples), longest), loss.loss_agg, loss.constant_length,
                          rows=[[i] for i in range(len(examples))])
    plain = jax.jit(partial(micro_loss, loss=Loss(OBJECTIVE, loss, case.model, case.compute)))
    return float(plain(params, micro_batch(batch, 0), 1.0)[0])


class EndToEnd:
    """A rollout, a reward in Python, and one optimizer update, which computes its old log-probs itself."""

    def __init__(self, case: Case):
        self.case, self.rollouts, self.training = case, Rollouts(case, own_params=False), Training(case)
        self.old: list[np.ndarray] = []

    @property
    def tokens(self) -> int:
        return self.rollouts.tokens

    @property
    def trained(self) -> int:
        samples = self.case.limits.shape[1]
        return self.tokens + samples * sum(len(prompt.tokens) for prompt in self.case.prompts)

    def run(self, repetition: int) -> None:
        sampler, params = self.rollouts.sampler, self.training.params
        self.rollouts.rollouts = self.rollouts.sample(sampler.cast(params), repetition)
        rewards = np.array([common.even_share(rollout.text.split()) for rollout in self.rollouts.rollouts])
        groups = rewards.reshape(self.case.limits.shape)
        mean, std = (np.repeat(f(groups, axis=1), groups.shape[1]) for f in (np.mean, np.std))
        self.old = self.training.learn_fresh([
            Example(rollout.prompt.tokens, rollout.tokens, *numbers)
            for rollout, *numbers in zip(self.rollouts.rollouts, rewards, mean, std, strict=True)])

    def check(self) -> dict[str, float]:
        """Checks lengths, and the sampler's log-probs against the trainer's, whose programs are checked apart."""
        rollouts = self.rollouts.rollouts
        self.rollouts.check_lengths(rollouts)
        differences = np.concatenate([np.abs(old - rollout.logprobs)
                                      for old, rollout in zip(self.old, rollouts, strict=True)])
        found = require_logprobs(differences, self.case.compute.dtype, "log-probs of the sampled tokens")
        return found | {f"trainer_{name}": value for name, value in self.training.check().items()}


TASK_CLASSES = {"rollout": Rollouts, "train": Training, "e2e": EndToEnd}
