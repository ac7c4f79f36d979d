"""The host's side of decoding: which sample is in which slot, how far it is, and which tokens it has so far.

A `Schedule` lives for one call of `Sampler.sample`. Per turn of the sampler's loop:

1. `admissions` says what to prefill and which samples go into which slots.
2. `ask` notes that a block of decode steps was asked for.
3. `collect` reads a block, some blocks later: it cuts ended answers (`Ends`), frees their slots and completes groups.

Its decisions move samples between slots and in time. They change no sample.
"""
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nft_jax.rollout.ends import Ends
from nft_jax.types import Group, Halted, Prompt, Rollout

INERT = -1      # the token of a slot that has nothing to decode


class Admission(NamedTuple):
    """A samples that go into slots: the last arguments of `cache.admit`, [A] each. Slot S means none."""
    slots: np.ndarray
    source: np.ndarray
    token: np.ndarray
    length: np.ndarray
    generated: np.ndarray
    limit: np.ndarray
    stream: np.ndarray
    rollout: np.ndarray

    @classmethod
    def empty(cls, size: int, slots: int) -> "Admission":
        zeros = np.zeros((5, size), np.int32)
        return cls(np.full(size, slots, np.int32), *zeros, *np.zeros((2, size), np.uint32))


class Prefill(NamedTuple):
    """Sequences that are prefilled together, without their last tokens."""
    tokens: np.ndarray       # [P, T] int32, left-padded
    lengths: np.ndarray      # [P] int32
    begun: bool              # whether they are prompts with answers so far, each for one sample


@dataclass
class SlotUse:
    """What the slots did, over some batches of prompts and some processes."""
    batches: int = 0
    tokens: int = 0          # decoded, of answers
    slot_steps: int = 0      # decode steps, times the slots
    drained_steps: int = 0   # decode steps with an empty slot and no answer left to fill it; of several processes the
                             # most, which the others wait for

    def add(self, other: "SlotUse") -> None:
        """The counts of another process, of the same batches."""
        self.tokens += other.tokens
        self.slot_steps += other.slot_steps
        self.drained_steps = max(self.drained_steps, other.drained_steps)

    def metrics(self) -> dict[str, float]:
        """Share of the slots' steps that decoded a token, and the counts."""
        return {"rollout/batches": self.batches, "rollout/drained_steps": self.drained_steps,
                "rollout/occupancy": self.tokens / max(self.slot_steps, 1)}


class Schedule:
    """Admits samples, reads blocks and puts groups together. It uses no device.

    The answers that go on are admitted first, then the new ones, both in the order of what is asked.

    asked: prompts, and open groups. limits [len(asked), K]: the most tokens of each answer. whole: the tokens that an
    answer may have in all; one with fewer that reaches its limit goes on in the next step. 0: none goes on.
    rollout_index: of the answers to new prompts. slots: S. admissions: the most samples of one admission (A).
    prefills: prompts that are prefilled together (P). begun_prefills: of prompts with answers so far."""

    def __init__(self, asked: Sequence[Prompt | Group], limits: np.ndarray, *, slots: int, admissions: int,
                 prefills: int, block_size: int, ends: Ends, rollout_index: int = 0, whole: int = 0,
                 begun_prefills: int = 0):
        self.prompts = [each.prompt if isinstance(each, Group) else each for each in asked]
        self.limits, self.ends, self.whole, self.rollout_index = limits, ends, whole, rollout_index
        self.slots, self.admissions_size, self.prefills = slots, admissions, prefills
        self.begun_prefills, self.samples = begun_prefills, limits.shape[1]
        # Prompts are named by their position in `asked`.
        self.so_far: dict[tuple[int, int], Rollout] = {}        # answers that go on
        self.waiting: deque[int] = deque()                      # new prompts that are not prefilled yet
        self.ready: deque[tuple[int, int, int]] = deque()       # (row of the prefill, prompt, sample)
        self.free = list(range(slots))[::-1]
        self.owner: dict[int, tuple[int, int]] = {}             # slot -> (prompt, sample)
        self.groups: dict[int, dict[int, Rollout]] = {}         # prompt -> its finished rollouts, by sample
        for position, each in enumerate(asked):
            if isinstance(each, Group):
                ended = [rollout.finish_reason != "budget" for rollout in each.rollouts]
                self.groups[position] = {k: each.rollouts[k] for k, done in enumerate(ended) if done}
                self.so_far |= {(position, k): each.rollouts[k] for k, done in enumerate(ended) if not done}
            else:
                self.waiting.append(position)
        self.begun = deque(self.so_far)                         # of them, those that are in no slot yet
        # Blocks are counted, since they are read later than they are asked for.
        self.asked = 0                                          # blocks asked for so far
        self.since = np.zeros(slots, np.int64)                  # the first block of the slot's sample
        # Of each slot's sample: its prompt's entries, its limit, the steps asked for, the tokens that were read.
        self.prompt_entries, self.limit, self.steps, self.count = np.zeros((4, slots), np.int64)
        width = int(limits.max(initial=0)) + block_size
        self.tokens = np.zeros((slots, width), np.int32)
        self.numbers = np.zeros((3, slots, width), np.float32)
        # Slots with the first answer to a prompt -> the experts of its tokens, an array [n, L, K] for each block. One
        # array for all slots would hold hundreds of bytes for each token that an answer may have.
        self.experts: dict[int, list[np.ndarray]] = {}

    @property
    def finished(self) -> bool:
        return not (self.begun or self.waiting or self.ready or self.owner)

    @property
    def drains(self) -> bool:
        """Whether a slot is empty for good."""
        return bool(self.free) and not (self.begun or self.waiting or self.ready)

    @property
    def remaining(self) -> int:
        """Steps after which every sample in a slot has surely ended."""
        owned = list(self.owner)
        return int((self.limit - self.steps)[owned].max(initial=0))

    def shrink(self, slots: int) -> np.ndarray:
        """Moves the live samples to the first of `slots` slots. Returns the slot that each had, -1 for none. Every
        block asked for must have been read, and no sample may wait."""
        live = sorted(self.owner)
        rows = np.full(slots, -1, np.int32)
        rows[:len(live)] = live
        self.owner = {slot: self.owner[old] for slot, old in enumerate(live)}
        self.experts = {slot: self.experts[old] for slot, old in enumerate(live) if old in self.experts}
        self.free = list(range(len(live), slots))
        for name in ("since", "prompt_entries", "limit", "steps", "count", "tokens"):
            setattr(self, name, getattr(self, name)[rows])
        self.numbers, self.slots = self.numbers[:, rows], slots
        return rows

    def entries_after(self, steps: int) -> int:
        """Ring entries that the longest sample takes up once `steps` more steps are done."""
        owned = list(self.owner)
        after = self.prompt_entries + np.minimum(self.steps + steps, self.limit)
        return int(after[owned].max(initial=0))

    def ask(self, steps: int) -> int:
        """Notes that a block of `steps` was asked for. Returns the block's number, for `collect`."""
        self.steps += steps
        self.asked += 1
        return self.asked - 1

    def admissions(self) -> Iterator[tuple[Prefill | None, Admission]]:
        """The samples that go in now, and what to prefill before each admission; None: they are of the prompts that
        were prefilled last."""
        # One admission costs about as much for one sample as for a full one: slots wait for each other.
        while self.begun and len(self.free) >= min(self.begun_prefills, len(self.begun)):
            chosen = [self.begun.popleft() for _ in range(min(self.begun_prefills, len(self.begun)))]
            yield self._prefill([np.concatenate([self.prompts[position].tokens, self.so_far[position, k].tokens])
                                 for position, k in chosen], self.begun_prefills, True), self._admission(
                self.begun_prefills, [(row, *sample) for row, sample in enumerate(chosen)])
        while not self.begun:
            left = len(self.ready) + len(self.waiting) * self.samples
            if not left or len(self.free) < min(self.admissions_size, left):
                return
            prompts = None if self.ready else self._next_prompts()
            number = min(self.admissions_size, len(self.free), len(self.ready))
            yield prompts, self._admission(self.admissions_size, [self.ready.popleft() for _ in range(number)])

    def _next_prompts(self) -> Prefill:
        chosen = [self.waiting.popleft() for _ in range(min(self.prefills, len(self.waiting)))]
        self.ready.extend((row, position, k) for row, position in enumerate(chosen) for k in range(self.samples))
        return self._prefill([self.prompts[position].tokens for position in chosen], self.prefills, False)

    @staticmethod
    def _prefill(sequences: Sequence[np.ndarray], size: int, begun: bool) -> Prefill:
        longest = max(len(sequence) for sequence in sequences)
        tokens = np.zeros((size, max(longest - 1, 1)), np.int32)
        lengths = np.zeros(size, np.int32)
        for row, sequence in enumerate(sequences):
            tokens[row, tokens.shape[1] - len(sequence) + 1:], lengths[row] = sequence[:-1], len(sequence) - 1
        return Prefill(tokens, lengths, begun)

    def _admission(self, size: int, chosen: Iterable[tuple[int, int, int]]) -> Admission:
        """Gives slots to samples: (row of the prefill, prompt, sample)."""
        out = Admission.empty(size, self.slots)
        for i, (row, position, sample) in enumerate(chosen):
            slot, prompt, begun = self.free.pop(), self.prompts[position], self.so_far.get((position, sample))
            so_far = prompt.tokens[:0] if begun is None else begun.tokens
            n = len(so_far)
            self.owner[slot], self.count[slot], self.steps[slot] = (position, sample), n, n
            self.since[slot], self.limit[slot] = self.asked, self.limits[position, sample]
            self.prompt_entries[slot] = len(prompt.tokens) - 1
            if begun is not None:
                self.tokens[slot, :n] = so_far
                self.numbers[:, slot, :n] = begun.logprobs, begun.truncated_logprobs, begun.entropies
            out.slots[i], out.source[i], out.limit[i] = slot, row, self.limit[slot]
            out.token[i] = so_far[-1] if n else prompt.tokens[-1]
            out.length[i], out.generated[i] = len(prompt.tokens) - 1 + n, n
            out.stream[i] = (prompt.index * self.samples + sample) % (1 << 32)
            # An answer that goes on has the random numbers of the step that began it.
            out.rollout[i] = self.rollout_index if begun is None else begun.steps[0]
        return out

    def collect(self, block: int, tokens, numbers,
                experts=None) -> tuple[int, list[tuple[int, tuple[Rollout, ...]]]]:
        """Reads the outputs of a block, [steps, S] each, and experts [steps, L, S, K] where they are recorded. Returns
        its number of tokens and the completed groups. Raises Halted for a log-prob that is not finite."""
        # Where the slot's sample was admitted after the block was asked for, the tokens belong to a cut answer.
        owned = np.zeros(self.slots, bool)
        owned[list(self.owner)] = True
        tokens = np.where((owned & (self.since <= block))[None], tokens, INERT)
        before = self.count.copy()
        columns, rows = before[:, None] + np.arange(len(tokens)), np.arange(self.slots)[:, None]
        self.tokens[rows, columns] = tokens.T
        for buffer, values in zip(self.numbers, numbers, strict=True):
            buffer[rows, columns] = values.T
        self.count += (tokens != INERT).sum(0)
        if experts is not None:
            for slot, (_, sample) in self.owner.items():
                if sample == 0:
                    new = self.count[slot] - before[slot]
                    self.experts.setdefault(slot, []).append(experts[:new, :, slot].copy())
        self._require_finite(before, np.argwhere((tokens != INERT) & ~np.isfinite(numbers[0])))
        stopped = self.ends.find(self.tokens, before, self.count, self.owner)
        ended = [slot for slot in self.owner if stopped[slot] or self.count[slot] >= self.limit[slot]]
        return int((self.count - before).sum()), list(self._finish(ended, stopped))

    def _require_finite(self, before: np.ndarray, wrong: np.ndarray) -> None:
        """`wrong` [n, 2]: step of the block and slot of each token whose log-prob is not finite."""
        if not len(wrong):
            return
        step, slot = wrong[0]
        place = before[slot] + step
        prompt = self.prompts[self.owner[slot][0]]
        text, = self.ends.texts([self.tokens[slot, :place + 1]])
        raise Halted(f"the log-prob of token {place + 1} of an answer is {self.numbers[0, slot, place]}: the model's "
                     "logits are not finite, so the answer is not judged. The question: "
                     f"{prompt.problem[:200]!r}. The answer so far: {text[-200:]!r}. Try the same model in float32. If "
                     "that is no help, take other weights, or an earlier checkpoint and a lower learning rate.")

    def _finish(self, ended: list[int], stopped: np.ndarray) -> Iterator[tuple[int, tuple[Rollout, ...]]]:
        """Makes rollouts of the slots that ended and frees the slots. Yields the groups that are complete."""
        texts = self.ends.texts([self.tokens[slot, :self.count[slot]] for slot in ended])
        for slot, text in zip(ended, texts, strict=True):
            position, sample = self.owner.pop(slot)
            n = self.count[slot]
            group = self.groups.setdefault(position, {})
            reason = "stop" if stopped[slot] else "budget" if n < self.whole else "length"
            group[sample] = Rollout(
                self.prompts[position], sample, text, self.tokens[slot, :n].copy(),
                *(buffer[slot, :n].copy() for buffer in self.numbers), finish_reason=reason,
                steps=self._steps(self.so_far.get((position, sample)), n) if self.whole else None,
                experts=np.concatenate(self.experts.pop(slot))[:n] if slot in self.experts else None)
            self.free.append(slot)
            if len(group) == self.samples:
                del self.groups[position]
                yield position, tuple(group[k] for k in range(self.samples))

    def _steps(self, begun: Rollout | None, tokens: int) -> np.ndarray:
        """The step that sampled each token of an answer."""
        before = np.zeros(0, np.int32) if begun is None else begun.steps
        return np.concatenate([before, np.full(tokens - len(before), self.rollout_index, np.int32)])
