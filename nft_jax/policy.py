"""A model in the hand, for notebooks and scripts: load, sample, score, save."""
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nft_jax.config import DecodingConfig, MeshConfig, SamplingConfig
from nft_jax.config.checks import require
from nft_jax.data.prompts import render, token_ids
from nft_jax.model import decoder
from nft_jax.model.adapter import Adapter, unwrap
from nft_jax.model.adapter import merge as merged
from nft_jax.model.config import Compute, ModelConfig
from nft_jax.model.hf import eos_token_ids, load_tokenizer, save_params, save_tokenizer, special_ids
from nft_jax.model.hf.load import whole_model
from nft_jax.model.hf.peft import save_adapters
from nft_jax.model.kernels import compute_on
from nft_jax.model.logprobs import token_logprobs
from nft_jax.record.checkpoint import LATEST
from nft_jax.record.weights import find_weights
from nft_jax.rollout.engine import Sampler
from nft_jax.rollout.slots import require_positions
from nft_jax.runtime.mesh import make_mesh
from nft_jax.types import InputError, Prompt, Rollout


@dataclass(frozen=True, repr=False)
class Policy:
    """A model with its tokenizer. `params` is a plain dict of arrays: put others in its place with
    `dataclasses.replace(policy, params=...)`."""
    config: ModelConfig
    params: Any
    tokenizer: Any
    eos: tuple[int, ...]              # ids that end an answer
    mesh: Mesh | None = None          # that the parameters are split over; None: the default device
    date: str = ""                    # that its chat template writes (`data.date` of its run); "": today
    adapter: Adapter | None = None    # of the `Adapted` matrices among the parameters
    _samplers: dict = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        shape, leaves = self.config, jax.tree.leaves(self.params)
        counts = Counter()
        for leaf in leaves:
            counts[leaf.dtype.name] += leaf.size
        ends = ", ".join(repr(self.tokenizer.convert_ids_to_tokens(token)) for token in self.eos)
        sizes = " and ".join(f"{count:,} in {dtype}" for dtype, count in counts.most_common())
        adapter = "" if self.adapter is None else f", adapter of rank {self.adapter.config.rank}"
        where = "the default device" if self.mesh is None else f"a mesh of {self.mesh.size} devices"
        return (f"Policy: {shape.family}, {shape.num_layers} layers of width {shape.hidden_size}, vocabulary "
                f"{shape.vocab_size:,}, up to {shape.max_positions:,} tokens\n"
                f"  parameters: {sizes}{adapter}, on {where}\n"
                f"  answers end with {ends}")


def load(path: str | os.PathLike, *, dtype="float32", mesh: Mesh | None = None,
         step: int | str = LATEST, base: str | os.PathLike = "", ema: bool = False, max_tokens: int = 0) -> Policy:
    """The policy in `path`: a Hugging Face folder, a hub name, "nano" (the embedded model), a run's folder, or the
    folder of an adapter of PEFT.

    step: of a run's folder, the checkpoint to load: "latest", "best" or a number.
    ema: of a run with rollout.ema, the average that samples, instead of the trained parameters.
    dtype: of the parameters; float32, bfloat16 or float16. Adapters keep the type of their file.
    base: folder or hub name of the model under an adapter; "" is the one that its adapter_config.json names. The
        tokenizer is the base's.
    mesh: of `nft_jax.runtime.mesh.make_mesh`; the parameters are split over it as in training.
    max_tokens: of the longest sequence that the policy will see. Beyond the original context of LongRoPE (Phi-3,
        Phi-4-mini), the long factors hold for all sequences. 0: as in the run, else that context.

    Before weights are on a device, raises InputError for: no such folder; an architecture or feature that is not
    implemented; tensors missing or of the wrong shape; files cut short; whatever `load_tokenizer` refuses; sizes that
    the mesh does not divide; a run without such a checkpoint; `step` for a folder that is no run's; `ema` without
    rollout.ema; an adapter with an option that is not implemented, that does not fit its base, or that was trained on
    another one. Values that are not finite are refused as they are read."""
    weights = find_weights(path, step, base, ema).for_lengths(max_tokens)
    require(max_tokens <= weights.config.max_positions, "max_tokens", max_tokens,
            f"the model has {weights.config.max_positions} positions: use at most so many.")
    tokenizer = load_tokenizer(weights.folder, weights.chat_template)
    return Policy(weights.config, weights.read(dtype, mesh), tokenizer, eos_token_ids(weights.folder, tokenizer), mesh,
                  weights.date, weights.adapter)


def save(policy: Policy, path: str | os.PathLike, *, merge: bool = False) -> None:
    """Writes a folder that transformers and `load` read: weights, config, tokenizer, generation config.

    A policy with an adapter becomes an adapter's folder, for PEFT and `load`: the adapter alone, which needs its base.
    `merge` makes it a whole model instead, with the adapter added to the matrices in float32.

    Kept from the tokenizer's folder: its files byte for byte (unless the tokenizer was changed),
    generation_config.json, and config.json's ids of special tokens. Every process that holds a part of the
    parameters calls this, and the first one writes.

    A folder holds a model or an adapter. Raises InputError, before anything is written, where the other one is."""
    adapter_alone = policy.adapter is not None and not merge
    _require_one_kind(Path(path), adapter_alone)
    if adapter_alone:
        save_adapters(unwrap(policy.params), policy.config, policy.adapter, path)
    else:
        params = merged(policy.params, policy.params["embed"].dtype)
        save_params(params, policy.config, path, more=special_ids(policy.tokenizer))
    if jax.process_index() == 0:
        save_tokenizer(policy.tokenizer, policy.eos, path)


def _require_one_kind(folder: Path, adapter_alone: bool) -> None:
    name = whole_model(folder) if adapter_alone else min((file.name for file in folder.glob("adapter_*")), default="")
    if name:
        kinds = ("whole model", "adapter") if adapter_alone else ("adapter", "whole model")
        raise InputError(f"path is {str(folder)!r}, which holds the {kinds[0]} {name}, and this is of the "
                         f"{kinds[1]}: both in one folder could not be told apart. Choose another folder, or remove "
                         "what is there.")


def sample(policy: Policy, prompts: Sequence[str | list[dict]], *, num_samples: int = 1, max_new_tokens: int = 256,
           temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
           stop: Sequence[str] = (), stop_token_ids: Sequence[int] = (), seed: int = 0,
           slots: int = 64, raw: bool = False) -> list[Rollout]:
    """`num_samples` answers to every prompt: a question, or chat messages, rendered by the chat template.

    A model without a chat template, and any model with `raw`, continues strings as they are, after the ids that its
    tokenizer begins texts with (BOS).

    Returns len(prompts) * num_samples rollouts, prompt by prompt. An answer depends on the policy, its prompt, the
    prompt's position, the seed and the sample number, not on `slots`, the answers decoded at a time. temperature 0
    is greedy. `stop` and `stop_token_ids` end an answer as in a run's `rollout`. All is computed in the type of the
    parameters. Raises InputError for values out of range and for prompts that, with max_new_tokens, exceed the
    model's positions; Halted for a log-prob that is not finite."""
    require(not isinstance(prompts, str), "prompts", prompts, 'give a list of prompts, ["..."].')
    require(not isinstance(stop, str), "stop", stop, 'give a list of strings, ["..."].')
    require(num_samples >= 1, "num_samples", num_samples, "use 1 or more.")
    sampling = SamplingConfig(temperature, top_k, top_p, min_p)
    decoding = DecodingConfig(max_new_tokens=max_new_tokens, slots=slots, stop=tuple(stop),
                              stop_token_ids=tuple(stop_token_ids))
    for prompt in prompts if raw else ():
        require(isinstance(prompt, str), "prompts", prompt, "with raw, give strings: chat messages need the template.")
    if not prompts:
        return []
    texts = [prompt if raw else render(policy.tokenizer, prompt, date=policy.date) for prompt in prompts]
    ids = token_ids(policy.tokenizer, texts, raw=raw or policy.tokenizer.chat_template is None)
    problems = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
    made = [Prompt(index, problem, "", text, np.asarray(tokens, np.int32))
            for index, (problem, text, tokens) in enumerate(zip(problems, texts, ids, strict=True))]
    longest = max(len(prompt.tokens) for prompt in made)
    require_positions(policy.config, longest, max_new_tokens, fields=("tokens of the longest prompt", "max_new_tokens"))
    # A power of two, so that calls with other prompts compile nothing.
    longest = min(max(64, 1 << (longest - 1).bit_length()), policy.config.max_positions - max_new_tokens)
    sampler = _sampler(policy, decoding, longest)
    groups = dict(sampler.sample(sampler.cast(policy.params), made, num_samples, jax.random.key(seed), 0, sampling))
    return [rollout for index in range(len(made)) for rollout in groups[index]]


def _compute(policy: Policy) -> Compute:
    return Compute(policy.params["embed"].dtype.name)


def _sampler(policy: Policy, decoding: DecodingConfig, max_prompt_tokens: int) -> Sampler:
    """One sampler for all calls of the same sizes and stops."""
    compute, mesh = _compute(policy), policy.mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    # The key has all of the policy that a sampler is made of, because `dataclasses.replace` hands the dict on.
    key = (policy.config, policy.eos, id(policy.tokenizer), mesh, compute.dtype, decoding, max_prompt_tokens)
    if key not in policy._samplers:
        policy._samplers[key] = Sampler(
            policy.config, policy.tokenizer, policy.eos, decoding, mesh=mesh, max_prompt_tokens=max_prompt_tokens,
            compute=compute_on(mesh, compute.dtype, policy.config))
    return policy._samplers[key]


def _positions(tokens, lengths):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return positions, (positions < jnp.asarray(lengths)[:, None]).astype(jnp.int32)


def logits(policy: Policy, tokens, lengths) -> jax.Array:
    """tokens [B, T] int, right-padded, lengths [B] -> logits [B, T, V] float32, all in memory at once. At or after a
    row's length they mean nothing."""
    tokens = jnp.asarray(tokens, jnp.int32)
    hidden = decoder.hidden_states(policy.params, policy.config, tokens, *_positions(tokens, lengths),
                                   _compute(policy))
    return decoder.logits(policy.params, policy.config, hidden)


def logprobs(policy: Policy, rollouts: Sequence[Rollout], *, temperature: float = 1.0) -> list[np.ndarray]:
    """Log-probs [n] float32 of each rollout's tokens under the policy, computed by the trainer's
    graph in the type of the parameters."""
    if not rollouts:
        return []
    sequences = [np.concatenate([r.prompt.tokens, r.tokens]) for r in rollouts]
    lengths = np.array([len(s) for s in sequences])
    tokens = np.stack([np.pad(s, (0, lengths.max() - len(s))) for s in sequences]).astype(np.int32)
    values, _ = token_logprobs(policy.params, policy.config, jnp.asarray(tokens), *_positions(tokens, lengths),
                               temperature=temperature, compute=_compute(policy))
    values = np.asarray(values)
    return [row[len(r.prompt.tokens):n] for row, r, n in zip(values, rollouts, lengths, strict=True)]
