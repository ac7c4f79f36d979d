"""The sampler: K answers to every prompt, decoded in slots that are refilled as answers finish.

Life of a sample: its prompt is prefilled once for the whole group (1); the sample is admitted to a free slot (2);
blocks of decode steps run on the device (3); the host reads the block, notes which answers have ended and frees their
slots (4); when the last sample of a group has ended, the group leaves for the verifier (5), while others go on.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nft_jax.model import decoder
from nft_jax.model.config import FLOAT32, Compute, ModelConfig
from nft_jax.parallel import data_parallel_size, parameter_shardings, sharding
from nft_jax.programs import Program, with_shardings
from nft_jax.rollout.cache import DecodeState, admit, attended, empty_state, state_shardings
from nft_jax.rollout.sampling import SamplingParams, sample_tokens
from nft_jax.types import InputError, Prompt, Rollout

PLAIN = SamplingParams()
INERT = -1      # what a slot emits when it has nothing to decode


def prefill_and_admit(params, config: ModelConfig, compute: Compute, state, tokens, lengths, slots, source, stream,
                      limit):
    """Steps 1 and 2 of the life of a sample; tokens [P, T] are right-padded prompts."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    inside = (positions < lengths[:, None]).astype(jnp.int32)
    keys, values = decoder.prefill(params, config, tokens, positions, inside, compute)
    return admit(state, keys, values, tokens, lengths, slots, source, stream, limit)


def decode_block(params, config: ModelConfig, eos: tuple[int, ...], block_size: int, truncate: bool,
                 state: DecodeState, rollout_key, sampling: SamplingParams):
    """Step 3: `block_size` decode steps -> the state and what was sampled, [block_size, S] each (token INERT where a
    slot was not active)."""
    capacity = state.cache[0][0].shape[2]
    eos_ids = jnp.array(eos, jnp.int32)

    def one(state: DecodeState, _):
        valid = attended(state.write_index, state.length, capacity)
        logits, cache = decoder.decode(params, config, state.token, state.length, state.cache, state.write_index, valid)
        sampled = sample_tokens(logits, rollout_key, state.stream, state.generated, sampling, truncate=truncate)
        generated = state.generated + 1
        ended = (sampled.token[:, None] == eos_ids).any(-1) | (generated >= state.limit)
        after = DecodeState(
            cache=cache, write_index=(state.write_index + 1) % capacity, length=state.length + state.active,
            token=sampled.token, generated=generated, limit=state.limit, stream=state.stream,
            active=state.active & ~ended)
        return after, sampled._replace(token=jnp.where(state.active, sampled.token, INERT))

    return jax.lax.scan(one, state, None, length=block_size)


class Sampler:
    """Compiled sampling programs for one model and one set of sizes; `sample` may be called any number of times.

    What it returns for a sample does not depend on `slots`, `block_size`, the mesh, or which other prompts are asked
    at the same time: it is a function of (params, prompt, seed, rollout index, prompt.index, sample) only.
    """

    def __init__(self, config: ModelConfig, tokenizer, eos: tuple[int, ...], *, mesh: Mesh, slots: int,
                 block_size: int, max_prompt_tokens: int, max_new_tokens: int, compute: Compute = FLOAT32):
        data_parallel = data_parallel_size(mesh)
        self.tokenizer, self.eos = tokenizer, eos
        self.block_size, self.max_new_tokens = block_size, max_new_tokens
        self.slots = -(-slots // data_parallel) * data_parallel
        self.admissions = max(1, self.slots // 4)
        self.prefills = max(1, self.admissions // 4)
        self.prompt_length = -(-max_prompt_tokens // 8) * 8
        self._shardings = shardings = state_shardings(config, mesh)
        self._replicated = replicated = sharding(mesh)
        block_outputs = sharding(mesh, None, "batch")
        self._empty = jax.jit(partial(empty_state, config, self.slots, self.prompt_length + max_new_tokens,
                                      compute.dtype), out_shardings=shardings)
        self._admit = jax.jit(
            lambda params, state, *arrays: prefill_and_admit(params, config, compute, state, *arrays),
            donate_argnums=1, out_shardings=shardings)
        self._decode = {truncate: jax.jit(
            lambda params, state, key, sampling, truncate=truncate: decode_block(
                params, config, eos, block_size, truncate, state, key, sampling),
            donate_argnums=1, out_shardings=(shardings, block_outputs)) for truncate in (False, True)}
        shapes = decoder.parameter_shapes(config)
        placements = parameter_shardings(shapes, mesh)
        self.cast = jax.jit(lambda params: jax.tree.map(lambda x: x.astype(compute.dtype), params),
                            out_shardings=placements)
        self._trained = with_shardings(shapes, placements)
        self._rollout_key = jax.jit(jax.random.fold_in, out_shardings=replicated)

    def programs(self, truncations: Sequence[bool] = (False,)) -> dict[str, Program]:
        """What sampling compiles, by name, with abstract arguments; decoding once for each of `truncations` (with or
        without top-k and top-p)."""
        params = jax.eval_shape(self.cast, self._trained)
        params = with_shardings(params, jax.tree.map(lambda x: x.sharding, self._trained))
        state = with_shardings(jax.eval_shape(self._empty), self._shardings)
        key = jax.eval_shape(jax.random.key, 0)
        rollout_key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=self._replicated)
        ints = partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
        samples = ints((self.admissions,))
        admission = (ints((self.prefills, self.prompt_length)), ints((self.prefills,)), samples, samples,
                     jax.ShapeDtypeStruct((self.admissions,), jnp.uint32), samples)
        sampling = SamplingParams(np.float32(1), np.int32(0), np.float32(1))
        return {
            "cast": Program(self.cast, (self._trained,)),
            "empty cache": Program(self._empty, ()),
            "prefill and admit": Program(self._admit, (params, state, *admission)),
            **{"decode, truncated" if truncate else "decode":
               Program(self._decode[truncate], (params, state, rollout_key, sampling)) for truncate in truncations},
        }

    def sample(self, params, prompts: Sequence[Prompt], samples: int, base_key, rollout_index: int,
               sampling: SamplingParams = PLAIN, *,
               progress: Callable[[int], None] | None = None) -> Iterator[tuple[int, tuple[Rollout, ...]]]:
        """Yields (position in `prompts`, its K = `samples` rollouts) as groups finish. `params` as `cast` returns
        them; `progress` is called with the number of tokens of every block. Without top-k and top-p, what they need
        is not computed.
        """
        too_long = [p.index for p in prompts if len(p.tokens) > self.prompt_length]
        if too_long:
            raise InputError(f"prompt {too_long[0]} has more than the {self.prompt_length} tokens there is room for: "
                             "allow longer prompts, or leave it out.")
        host = _Host(self, prompts, samples)
        decode = self._decode[bool(sampling.top_k > 0 or sampling.top_p < 1)]
        rollout_key = self._rollout_key(base_key, rollout_index)
        sampling = SamplingParams(*(np.asarray(v, t) for v, t in zip(sampling, (np.float32, np.int32, np.float32),
                                                                     strict=True)))
        state = self._empty()
        while not host.finished:
            for arrays in host.admissions():
                state = self._admit(params, state, *arrays)
            state, block = decode(params, state, rollout_key, sampling)
            tokens, logprobs, truncated, entropies = jax.device_get(block)
            if progress is not None:
                progress(int((tokens != INERT).sum()))
            yield from host.collect(tokens, (logprobs, truncated, entropies))


class _Host:
    """Which sample is in which slot, and what it has produced."""

    def __init__(self, sampler: Sampler, prompts: Sequence[Prompt], samples: int):
        self.sampler, self.prompts, self.samples = sampler, prompts, samples
        self.queue = deque((p, k) for p in range(len(prompts)) for k in range(samples))
        self.free = list(range(sampler.slots))[::-1]
        self.owner: dict[int, tuple[int, int]] = {}
        self.groups: dict[int, dict[int, Rollout]] = {}
        width = sampler.max_new_tokens + sampler.block_size
        self.count = np.zeros(sampler.slots, np.int64)
        self.tokens = np.zeros((sampler.slots, width), np.int32)
        self.numbers = np.zeros((3, sampler.slots, width), np.float32)

    @property
    def finished(self) -> bool:
        return not self.queue and not self.owner

    def admissions(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Arguments of `admit` for the samples that go in now: as many as there are free slots, in stream order."""
        s = self.sampler
        while self.queue and len(self.free) >= min(s.admissions, len(self.queue)):
            tokens, lengths = np.zeros((s.prefills, s.prompt_length), np.int32), np.ones(s.prefills, np.int32)
            slots, source = np.full(s.admissions, s.slots, np.int32), np.zeros(s.admissions, np.int32)
            stream, row_of = np.zeros(s.admissions, np.uint32), {}
            for row in range(min(s.admissions, len(self.queue))):
                if self.queue[0][0] not in row_of and len(row_of) == s.prefills:
                    break
                position, sample = self.queue.popleft()
                slot, prompt = self.free.pop(), self.prompts[position]
                self.owner[slot], self.count[slot] = (position, sample), 0
                place = row_of.setdefault(position, len(row_of))
                tokens[place, :len(prompt.tokens)], lengths[place] = prompt.tokens, len(prompt.tokens)
                slots[row], source[row] = slot, place
                stream[row] = (prompt.index * self.samples + sample) % (1 << 32)
            yield tokens, lengths, slots, source, stream, np.full(s.admissions, s.max_new_tokens, np.int32)

    def collect(self, tokens, numbers) -> Iterator[tuple[int, tuple[Rollout, ...]]]:
        """Notes a block, [block, S] arrays; yields the groups that it completed."""
        columns = self.count[:, None] + np.arange(tokens.shape[0])
        rows = np.arange(len(self.count))[:, None]
        self.tokens[rows, columns] = tokens.T
        for buffer, values in zip(self.numbers, numbers, strict=True):
            buffer[rows, columns] = values.T
        self.count += (tokens != INERT).sum(0)
        last = self.tokens[rows[:, 0], np.maximum(self.count - 1, 0)]
        stopped = np.isin(last, self.sampler.eos)
        ended = [slot for slot in self.owner if stopped[slot] or self.count[slot] >= self.sampler.max_new_tokens]
        if not ended:
            return
        texts = self.sampler.tokenizer.batch_decode(
            [self.tokens[slot, :self.count[slot]] for slot in ended], skip_special_tokens=True)
        for slot, text in zip(ended, texts, strict=True):
            position, sample = self.owner.pop(slot)
            n = self.count[slot]
            group = self.groups.setdefault(position, {})
            group[sample] = Rollout(
                self.prompts[position], sample, text, self.tokens[slot, :n].copy(),
                *(buffer[slot, :n].copy() for buffer in self.numbers),
                finish_reason="stop" if stopped[slot] else "length")
            self.free.append(slot)
            if len(group) == self.samples:
                del self.groups[position]
                yield position, tuple(group[k] for k in range(self.samples))
