"""The sampler: K answers to every prompt, decoded in slots that are refilled as answers end.

The life of a sample; the loop is `Sampler.sample`:

1. Its prompt is prefilled, once for all K samples of the group (`prefill`). An answer that an earlier call began is
   prefilled behind its prompt, and goes on from there.
2. The sample is admitted to a free slot: the prompt's keys and values are laid into the slot's ring, and the
   memories of its delta nets are copied (`cache.admit`).
3. Blocks of decode steps run on the device (`decode_block`). The ring grows when a slot needs more of it.
4. The host reads the block, appends its tokens and frees the slots of ended answers (`Schedule.collect`).
5. When the last sample of a group has ended, the group is yielded while other groups are still decoded.
6. When no sample waits and half of the slots are free for good, the live ones move to a state with fewer slots and the
   longest ring (`Sampler.tails`).

On an accelerator the next block is asked for before the last one is read. The device then never waits for the host,
and the host decides with knowledge that is one block old.

A sample does not depend on this schedule. Its random numbers are a function of its identity (`rollout.sampling`),
and its slot attends to its own entries only (`rollout.cache`). A memory is a function of the slot's own tokens.
"""
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nft_jax.config import DecodingConfig, SamplingConfig
from nft_jax.model import decoder
from nft_jax.model.adapter import is_wrapped, merge
from nft_jax.model.config import FLOAT32, Attention, Compute, LayerKind, ModelConfig
from nft_jax.model.entries import cache_entries, heads_in_row, with_heads, without_heads
from nft_jax.model.experts import number_dtype
from nft_jax.model.parameters import ARRAYS, parameter_shardings
from nft_jax.model.quantise import quantise_matrices
from nft_jax.model.stack import split_layers
from nft_jax.rollout.cache import (
    DecodeState,
    Prefilled,
    abstract_decode_state,
    admit,
    buckets_up_to,
    cached_kinds,
    empty_state,
    entry_sharding,
    grow_layer,
    keep_slots,
    prefilled_shardings,
    ring_lengths,
    state_shardings,
)
from nft_jax.rollout.ends import Ends
from nft_jax.rollout.sampling import Sampled, SamplingParams, sample_by_column, sample_tokens, uniforms
from nft_jax.rollout.schedule import INERT, Admission, Prefill, Schedule, SlotUse
from nft_jax.runtime.compilation import Program, with_shardings
from nft_jax.runtime.mesh import RULES, data_parallel_size, host_mesh, hosts, platform_of, sharding
from nft_jax.types import Group, InputError, Prompt, Rollout

PLAIN = SamplingConfig()
Stored = Literal["compute", "int8"]
HALVINGS = 3                  # a draining batch moves to half, a quarter, an eighth of the slots,
SMALLEST_TAIL = 8             # but to no fewer than these: a step of fewer costs as much
TAIL_KINDS = ("shrink", "keep slots", "decode a tail")
# Kinds of programs: of prompts, and of prompts with answers that go on.
PREFILLS, ADMISSIONS = ("prefill", "prefill, begun"), ("admit", "admit, begun")
PREFILL_TOKENS = 16_384       # most tokens, padding included, of the prompts that are prefilled together
BEGUN_SHORTER = 4             # the shortest padding of a prompt with an answer so far is this part of the longest


def decode_weights(params, model: ModelConfig, compute: Compute, weight_dtype: Stored):
    """The parameters as decoding reads them: a dict of arrays for every layer, in the compute dtype.

    Adapters are merged into their matrices in float32, each layer's apart. Norms and routers stay in float32, as in
    the trainer. With "int8" the layers' matrices are quantised."""
    def cast(path, x):
        return x if ARRAYS[path[-1].key].exact or is_wrapped(x) else x.astype(compute.dtype)

    weights = split_layers(jax.tree_util.tree_map_with_path(cast, params, is_leaf=is_wrapped), model)
    weights = merge(weights, compute.dtype)
    if weight_dtype == "int8":
        weights["layers"] = [quantise_matrices(layer) for layer in weights["layers"]]
    return weights


def decode_weight_shardings(model: ModelConfig, mesh: Mesh, weight_dtype: Stored):
    """Shardings of `decode_weights`: over `tensor` only, so that a decode step gathers no weights."""
    def place(path, x):
        name = next(key.key for key in reversed(path) if isinstance(key, jax.tree_util.DictKey))
        # kv heads are whole where `tensor` exceeds them, and so are the axes of size 1 of a quantised matrix's scale.
        return sharding(mesh, *(axis if RULES[axis] == ("tensor",) and size % mesh.shape["tensor"] == 0 else None
                                for axis, size in zip(ARRAYS[name].logical_axes, x.shape, strict=True)))

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(
        partial(decode_weights, model=model, compute=FLOAT32, weight_dtype=weight_dtype),
        decoder.parameter_shapes(model)))


def prefill(params, model: ModelConfig, compute: Compute, length: int, quantised: bool,
            heads: Callable[[LayerKind], int], tokens, lengths):
    """Step 1: what prompts leave behind; keys and values are padded on the left to `length` entries. heads: of a
    layer of this kind, as of `cache_entries`.

    tokens [P, T]: left-padded prompts without their last tokens, which decoding feeds first. lengths [P]."""
    size = tokens.shape[1]
    place = jnp.arange(size)[None] - (size - lengths[:, None])
    entries, memories = decoder.prefill(params, model, tokens, jnp.maximum(place, 0), (place >= 0).astype(jnp.int32),
                                        compute)
    pad = ((0, 0), (0, 0), (length - size, 0), (0, 0))
    return Prefilled([cache_entries(jnp.pad(k, pad), jnp.pad(v, pad), quantised, heads(kind))
                      for (k, v), kind in zip(entries, cached_kinds(model), strict=True)], memories)


def decode_block(params, model: ModelConfig, mesh: Mesh, attention: Attention, eos: tuple[int, ...], block_size: int,
                 truncate: bool, record_experts: bool, state: DecodeState, steps, base_key, sampling: SamplingParams):
    """Step 3: `steps` <= `block_size` decode steps; the new state, a `Sampled` of arrays [block_size, S], and with
    `record_experts` the experts [block_size, L, S, K] of the tokens that were fed, else None.

    `steps` is a value, so a shorter block compiles nothing. The token is INERT where a slot was not active, and in
    the rows beyond `steps`."""
    capacity, slots = state.capacity, len(state.token)
    # All random numbers of the block at once: they depend on (sample, position) alone.
    positions = state.generated[None] + jnp.arange(block_size)[:, None]
    uniform = uniforms(base_key, state.rollout, state.stream, positions)
    nothing = jnp.zeros((block_size, slots), jnp.float32)
    eos_ids = jnp.array(eos, jnp.int32)
    by_column = platform_of(mesh) == "tpu" and not truncate
    sample = sample_by_column if by_column else partial(sample_tokens, truncate=truncate)

    def one(step, carry):
        state, out = carry
        # An ended slot has nothing to attend to. A kernel then reads as little of its ring.
        length = jnp.where(state.active, state.length, 0)
        logits, cache, memories, experts = decoder.decode(params, model, state.token, length, state.cache,
                                                          state.memories, state.write_index, mesh, attention)
        sampled = sample(logits, uniform[step], sampling)
        generated = state.generated + 1
        ended = (sampled.token[:, None] == eos_ids[None]).any(-1) | (generated >= state.limit)
        after = DecodeState(
            cache=cache, memories=memories, write_index=(state.write_index + 1) % capacity,
            length=state.length + state.active, token=sampled.token, generated=generated, limit=state.limit,
            stream=state.stream, rollout=state.rollout, active=state.active & ~ended)
        shown = sampled._replace(token=jnp.where(state.active, sampled.token, INERT))
        shown = shown, experts.astype(number_dtype(model)) if record_experts else None
        return after, jax.tree.map(lambda rows, row: rows.at[step].set(row), out, shown)

    blank = Sampled(jnp.full((block_size, slots), INERT, jnp.int32), nothing, nothing, nothing)
    fed = jnp.zeros((block_size, model.num_layers, slots, model.experts_per_token), number_dtype(model)) \
        if record_experts else None
    begun = state._replace(cache=[without_heads(layer) for layer in state.cache])
    state, out = jax.lax.fori_loop(0, steps, one, (begun, (blank, fed)))
    return state._replace(cache=[with_heads(layer) for layer in state.cache]), out


def prefills_of(slots: int, longest: int, data_parallel: int) -> int:
    """How many prompts of at most `longest` tokens a sampler of `slots` slots prefills together."""
    prompts = max(1, min(max(1, slots // 4) // 4, PREFILL_TOKENS // longest))
    return prompts - prompts % data_parallel if prompts >= data_parallel else prompts


class Sampler:
    """The compiled sampling programs of one model and one set of sizes, for any number of calls.

    A sample is a function of (params, prompt, seed, rollout index, prompt.index, sample). It does not depend on
    slots, block size, `delay`, `buckets`, the mesh, or on the prompts that are asked beside it.

    eos: ids that end an answer, beside those of `decoding`. Without any, only limits end answers.
    decoding: its slots are divided over all processes. Raises InputError for 0, and for ids that the model lacks.
    mesh: where the parameters lie. On a mesh of several processes each process has a sampler of its own, for its
    own prompts and on its own devices (`self.mesh`). Only `cast` is a program of all processes.
    delay: blocks asked for ahead of reading. None: 1 on an accelerator; 0 on CPU, which shares its cores with the
    host, so that a delay would only decode ended answers for longer.
    buckets: lengths of the ring. None: `ring_lengths`.
    begun_tokens: the most tokens of an answer that `sample` goes on with. 0: it has no programs for that.
    record_experts: whether the first answer to each prompt has `Rollout.experts`."""

    def __init__(self, model: ModelConfig, tokenizer, eos: tuple[int, ...], decoding: DecodingConfig, *, mesh: Mesh,
                 max_prompt_tokens: int, compute: Compute = FLOAT32, delay: int | None = None,
                 buckets: tuple[int, ...] | None = None, begun_tokens: int = 0, record_experts: bool = False):
        decoding.require(decoding.slots >= 1, "slots", "a sampler needs 1 or more.")
        self.params_mesh, self.mesh = mesh, host_mesh(mesh)
        self.model, self.eos, self.record_experts = model, eos, record_experts
        self.compute = compute if self.mesh is mesh else replace(compute, mesh=self.mesh)
        self.ends = Ends(tokenizer, eos, decoding, model.vocab_size)
        self.block_size, self.max_new_tokens = decoding.block_size, decoding.max_new_tokens
        self.max_prompt_tokens = max_prompt_tokens
        # Every device takes the same number of slots.
        data_parallel = data_parallel_size(self.mesh)
        here = -(-decoding.slots // hosts(mesh))
        self.slots = -(-here // data_parallel) * data_parallel
        self.admissions = max(1, self.slots // 4)
        self.prompt_buckets = buckets_up_to(max_prompt_tokens)
        self.prefills = prefills_of(self.slots, self.prompt_buckets[-1], data_parallel)
        # A prompt with its answer so far, which no other sample shares.
        longest = max_prompt_tokens + begun_tokens
        self.begun_buckets = buckets_up_to(longest, longest // BEGUN_SHORTER) if begun_tokens else ()
        self.begun_prefills = prefills_of(self.slots, longest, data_parallel)
        # Kind of program -> how many sequences it takes, and their lengths.
        self.prefilled = {kind: each for kind, each in zip(PREFILLS, (
            (self.prefills, self.prompt_buckets), (self.begun_prefills, self.begun_buckets)), strict=True) if each[1]}
        longest = max_prompt_tokens - 1 + self.max_new_tokens
        platform = platform_of(self.mesh)
        self.buckets = buckets or ring_lengths(longest, platform)
        self.tails = tuple(size for size in (self.slots >> halvings for halvings in range(1, HALVINGS + 1))
                           if size >= SMALLEST_TAIL and size % data_parallel == 0)
        self.delay = delay if delay is not None else int(platform != "cpu")
        self._stored = self.compute.dtype, decoding.kv_dtype == "int8", partial(heads_in_row, model, self.mesh)
        self._compile(decoding.weight_dtype)

    def _compile(self, weight_dtype: Stored) -> None:
        """Makes the jitted programs. Each shape is compiled when it is first needed."""
        model, mesh, compute = self.model, self.mesh, self.compute
        state, self._prefilled_shardings = state_shardings(model, mesh), prefilled_shardings(model, mesh)
        self._weight_shardings = decode_weight_shardings(model, mesh, weight_dtype)
        outputs = sharding(mesh, None, "batch"), sharding(mesh, None, None, "batch") if self.record_experts else None
        self._cast = jax.jit(partial(decode_weights, model=model, compute=compute, weight_dtype=weight_dtype),
                             out_shardings=decode_weight_shardings(model, self.params_mesh, weight_dtype))
        self._empty = {capacity: jax.jit(partial(empty_state, model, self.slots, capacity, *self._stored),
                                         out_shardings=state) for capacity in self.buckets}
        self._prefill = [jax.jit(
            lambda params, *arrays, length=sizes[-1]: prefill(params, model, compute, length, *self._stored[1:],
                                                              *arrays),
            out_shardings=self._prefilled_shardings) for _, sizes in self.prefilled.values()]
        self._admit = jax.jit(admit, donate_argnums=0, out_shardings=state)
        # The first layer of each kind stands for all that have rings like its own.
        self._rings = {kind.form: layer for layer, kind in reversed([*enumerate(cached_kinds(model))])}
        self._grow = {(capacity, form): jax.jit(partial(grow_layer, capacity=capacity),
                                                out_shardings=entry_sharding(model, form, mesh))
                      for capacity in self.buckets for form in self._rings}
        self._keep = jax.jit(keep_slots, out_shardings=state._replace(cache=[]))
        # Two programs: one computes top-k, top-p and min-p, the other has nothing of them.
        self._decode = {truncate: jax.jit(
            lambda params, *arrays, truncate=truncate: decode_block(
                params, model, mesh, compute.attention, self.ends.ids, self.block_size, truncate, self.record_experts,
                *arrays),
            donate_argnums=1, out_shardings=(state, outputs)) for truncate in (False, True)}

    def cast(self, params):
        """The weights that `sample` decodes with. Every process of the mesh must call it."""
        weights = self._cast(params)
        if self.mesh is self.params_mesh:
            return weights
        # Every part lies on this process's devices already; nothing is copied.
        return jax.tree.map(lambda x, place: jax.make_array_from_single_device_arrays(
            x.shape, place, [shard.data for shard in x.addressable_shards]), weights, self._weight_shardings)

    def sample(self, params, prompts: Sequence[Prompt | Group], samples: int, base_key, rollout_index: int,
               sampling: SamplingConfig = PLAIN, *, limits: np.ndarray | None = None, budget: int = 0,
               progress: Callable[[int], None] | None = None,
               use: SlotUse | None = None) -> Iterator[tuple[int, tuple[Rollout, ...]]]:
        """Yields (position in `prompts`, its K = `samples` rollouts) as groups finish.

        params: the weights of `cast`. prompts: new ones, and open groups, whose answers go on from where they stand;
        their rollout index is of the call that began them. limits [len(prompts), K]: the most tokens of each answer,
        instead of max_new_tokens. budget: the most tokens that this call samples of an answer; one that has not ended
        then has the finish_reason "budget". 0: no such limit. `progress` is called with the number of tokens of every
        block. `use` counts what the slots did. Raises InputError, before anything runs, for prompts that are empty or
        too long and for limits out of range; Halted for a log-prob that is not finite."""
        use = SlotUse() if use is None else use
        limits = self._checked(prompts, samples, limits)
        if budget:
            limits = np.minimum(limits, budget + np.array(
                [[len(r.tokens) for r in each.rollouts] if isinstance(each, Group) else [0] * samples
                 for each in prompts]).reshape(limits.shape))
        decode = self._decode[sampling.truncates]
        key = jax.device_put(base_key, sharding(self.mesh))
        values = SamplingParams.of(sampling)
        schedule = Schedule(
            prompts, limits, slots=self.slots, admissions=self.admissions, prefills=self.prefills,
            block_size=self.block_size, ends=self.ends, rollout_index=rollout_index,
            whole=self.max_new_tokens if budget else 0, begun_prefills=self.begun_prefills)
        capacity, state, prefilled, unread = 0, None, None, deque()
        while not schedule.finished:
            tail = self._tail(schedule)
            if tail and not unread:
                state = self._moved(state, capacity, self.buckets[-1], schedule.shrink(tail))
                capacity = self.buckets[-1]
                continue
            admissions = list(schedule.admissions())
            # Before a move, the blocks that were asked for are read.
            steps = 0 if tail else min(self.block_size, schedule.remaining)
            # The ring must hold the longest slot's entries at the end of the block.
            wanted = next(size for size in self.buckets if size >= schedule.entries_after(steps))
            if wanted > capacity:
                state = self._empty[wanted]() if state is None else self._moved(state, capacity, wanted)
                capacity = wanted
            for new, admission in admissions:
                if new is not None:
                    # Dropped before the next are made: the ring shares memory with one prefill, never with two.
                    prefilled = None
                    prefilled = self._prefill_padded(params, new)
                state = self._admit(state, prefilled, *admission)
            if not schedule.ready:
                prefilled = None
            if steps:
                state, outputs = decode(params, state, np.int32(steps), key, values)
                jax.tree.map(lambda x: x.copy_to_host_async(), outputs)
                unread.append((schedule.ask(steps), outputs))
                use.slot_steps += steps * schedule.slots
                use.drained_steps += steps * schedule.drains
            # A block is read once `delay` more are asked for, or when there is nothing left to ask for.
            if len(unread) > self.delay or not steps:
                block, outputs = unread.popleft()
                (tokens, *numbers), experts = jax.device_get(outputs)
                count, groups = schedule.collect(block, tokens, numbers, experts)
                use.tokens += count
                if progress is not None:
                    progress(count)
                yield from groups

    def _checked(self, prompts: Sequence[Prompt | Group], samples: int, limits: np.ndarray | None) -> np.ndarray:
        """The limits [len(prompts), K]. Raises InputError for prompts and limits out of range."""
        for each in prompts:
            prompt = each.prompt if isinstance(each, Group) else each
            if not 1 <= len(prompt.tokens) <= self.max_prompt_tokens:
                raise InputError(f"prompt {prompt.index} has {len(prompt.tokens)} tokens: use 1 to "
                                 f"{self.max_prompt_tokens}, allow longer prompts, or leave it out.")
        shape = len(prompts), samples
        limits = np.full(shape, self.max_new_tokens) if limits is None else np.asarray(limits)
        if limits.shape != shape or (limits.size and not 1 <= limits.min() <= limits.max() <= self.max_new_tokens):
            raise InputError(f"limits is an array {limits.shape} of {limits.min(initial=1)} to "
                             f"{limits.max(initial=1)}: give {shape} numbers from 1 to max_new_tokens = "
                             f"{self.max_new_tokens}.")
        return limits

    def _prefill_padded(self, params, new: Prefill):
        """`prefill` at the smallest bucket that holds the sequences."""
        longest = new.tokens.shape[1]
        size = next(size for size in (self.begun_buckets if new.begun else self.prompt_buckets) if size >= longest)
        return self._prefill[new.begun](params, np.pad(new.tokens, ((0, 0), (size - longest, 0))), new.lengths)

    def _tail(self, schedule: Schedule) -> int:
        """The fewest slots of `tails`, fewer than there are, that hold the live samples of a batch that drains; 0 for
        none."""
        fitting = [size for size in self.tails if len(schedule.owner) <= size < schedule.slots]
        return min(fitting, default=0) if schedule.drains else 0

    def _moved(self, state: DecodeState, capacity: int, wanted: int, rows: np.ndarray | None = None) -> DecodeState:
        """The state, or its slots `rows`, with a ring of `wanted` entries. Empties the list `state.cache`."""
        # A layer at a time, and popped: no other holder of the state keeps an old layer in memory. Memories do not
        # grow, and move to fewer slots with the other arrays.
        old, cache = state.cache, []
        for kind in cached_kinds(self.model):
            cache.append(self._grow[wanted, kind.form](old.pop(0), state.write_index, rows))
        write_index = jax.device_put(np.int32(capacity % wanted), state.write_index.sharding)
        if rows is not None:
            state = self._keep(state._replace(cache=[]), rows)
        return state._replace(cache=cache, write_index=write_index)

    def programs(self, truncations: Sequence[bool] = (False,), params=None) -> list[Program]:
        """What sampling compiles, with abstract arguments. `truncations`: without or with top-k, top-p and min-p.
        `params`: what `cast` takes, as jax.ShapeDtypeStruct with shardings; None: plain float32 parameters.

        The size of a program is the tokens of its prompts ("prefill"), the entries of its ring ("empty cache",
        "admit", "decode", "decode, truncated"), or of the new ring and the old ("grow"). Of a tail's programs it starts
        with the slots."""
        if params is None:
            shapes = decoder.parameter_shapes(self.model)
            params = with_shardings(shapes, parameter_shardings(shapes, self.params_mesh))
        weights = with_shardings(jax.eval_shape(self._cast, params), self._weight_shardings)
        base_key = jax.eval_shape(jax.random.key, 0)
        key = with_shardings(base_key, sharding(self.mesh))
        state_of = {ring: abstract_decode_state(self.model, self.mesh, self.slots, ring, *self._stored)
                    for ring in self.buckets}
        out, admitted = [Program("cast", (), self._cast, (params,))], {}
        for begun, (kind, (count, sizes)) in enumerate(self.prefilled.items()):
            for size in sizes:
                arrays = weights, np.zeros((count, size), np.int32), np.zeros(count, np.int32)
                out.append(Program(kind, (size,), self._prefill[begun], arrays))
            prefilled = with_shardings(jax.eval_shape(self._prefill[begun], *arrays), self._prefilled_shardings)
            admitted[ADMISSIONS[begun]] = prefilled, *Admission.empty(count if begun else self.admissions, 0)
        for ring, state in state_of.items():
            out.append(Program("empty cache", (ring,), self._empty[ring], ()))
            out += [Program(kind, (ring,), self._admit, (state, *arrays)) for kind, arrays in admitted.items()]
            for truncate in truncations:
                kind = "decode, truncated" if truncate else "decode"
                out.append(Program(kind, (ring,), self._decode[truncate],
                                   (weights, state, np.int32(0), key, SamplingParams.of(PLAIN))))
            for old in self.buckets[:self.buckets.index(ring)]:
                out += [Program("grow", (ring, old), self._grow[ring, form],
                                (state_of[old].cache[layer], state.write_index, None))
                        for form, layer in self._rings.items()]
        # A tail has the longest ring, and moves there from any ring of all slots, or from a larger tail.
        longest, sources = self.buckets[-1], [(self.slots, ring, state) for ring, state in state_of.items()]
        for tail in self.tails:
            rows = np.zeros(tail, np.int32)
            for slots, ring, state in sources:
                out += [Program(TAIL_KINDS[0], (tail, slots, ring), self._grow[longest, form],
                                (state.cache[layer], state.write_index, rows)) for form, layer in self._rings.items()]
            # The ring is left out, so one state of each size will do.
            for slots, state in {slots: state for slots, _, state in sources}.items():
                out.append(Program(TAIL_KINDS[1], (tail, slots), self._keep, (state._replace(cache=[]), rows)))
            state = abstract_decode_state(self.model, self.mesh, tail, longest, *self._stored)
            out += [Program(TAIL_KINDS[2], (tail, truncate), self._decode[truncate],
                            (weights, state, np.int32(0), key, SamplingParams.of(PLAIN))) for truncate in truncations]
            sources.append((tail, longest, state))
        return out
