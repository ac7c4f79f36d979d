"""The resumable streams of prompts: questions in a seeded order, without end.

`PromptStream` asks every question once in an epoch (`data.order permutation`). `AccuracyStream` lets a question rest
that the policy always or never answers right (`data.order accuracy`)."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nft_jax.data.prompts import Question
from nft_jax.types import Group, InputError, Prompt

LONGEST_RIGHT, LONGEST_WRONG = 27, 4      # epochs until a question comes again, at most


def hash_of(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits that tell sequences of parts apart."""
    out = hashlib.blake2b(digest_size=8)
    for part in parts:
        out.update(len(part).to_bytes(8, "little") + part)
    return out.hexdigest()


def digest(questions: Iterable[Question | Prompt]) -> str:
    """Hash of the tokens and golds of the questions, in their order."""
    return hash_of(part for question in questions
                   for part in (question.tokens.tobytes(), question.gold.encode("utf-8", "replace")))


class PromptStream:
    """An endless stream of prompts: every epoch permutes the questions anew, by (seed, epoch). The prompt at an
    index is a function of (questions, seed, index) only, so the index is all there is to save."""

    def __init__(self, questions: Sequence[Question], seed: int = 0):
        """Raises InputError without questions."""
        if not questions:
            raise InputError("the prompt stream has no questions: give it at least one.")
        self._questions, self._seed, self._digest = questions, seed, ""
        self._index, self._epoch, self._order = 0, -1, np.zeros(0, np.int64)

    def _place_of(self, epoch: int, place: int) -> int:
        """The number of the question at this place of the epoch's permutation."""
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed % 2**63, epoch])
            self._epoch, self._order = epoch, generator.permutation(len(self._questions))
        return int(self._order[place])

    def _next(self) -> int:
        """The number of the question at the stream's index."""
        return self._place_of(*divmod(self._index, self.size))

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts. Their indices continue from the last call's."""
        taken = []
        for _ in range(count):
            taken.append(self._questions[self._next()].prompt(self._index))
            self._index += 1
        return taken

    def observe(self, groups: Iterable[Group]) -> None:
        """Notes what came of prompts that were taken. This order does not depend on it."""

    def metrics(self) -> dict[str, float]:
        """What is told of the prompts taken since the last call."""
        return {}

    @property
    def first(self) -> Prompt:
        """The prompt at index 0, wherever the stream stands."""
        return self._questions[self._place_of(0, 0)].prompt(0)

    @property
    def size(self) -> int:
        """The number of questions."""
        return len(self._questions)

    def digest(self) -> str:
        """Streams with equal digests and seeds give the same prompts."""
        if not self._digest:
            self._digest = digest(self._questions)
        return self._digest

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"index": self._index}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises InputError for a negative index."""
        if state["index"] < 0:
            raise InputError(f"the prompt stream's index is {state['index']}: it must be 0 or more.")
        self._index = int(state["index"])


def rest_of(streak: int) -> int:
    """Epochs until a question comes again, by its groups in a row of right answers only; of wrong ones: negative."""
    if streak > 0:
        return min(3 ** min(streak, 9), LONGEST_RIGHT)
    return min(1 - streak, LONGEST_WRONG)


class AccuracyStream(PromptStream):
    """A stream in which the accuracy of a question's groups decides when it comes again, counted in epochs:

        right and wrong answers            in the next epoch
        only right, n times in a row       after 3^n epochs, at most 27
        only wrong, n times in a row       after 1 + n epochs, at most 4

    An epoch walks through its permutation, which is `PromptStream`'s, and skips the questions that rest. The prompt at
    an index is a function of (questions, seed, index) and of the groups observed before. Every process observes the
    groups of all processes, so all have the same stream.

    A wrong answer comes again sooner than a right one: the policy learns from other questions meanwhile."""

    def __init__(self, questions: Sequence[Question], seed: int = 0):
        super().__init__(questions, seed)
        self._forget()
        self._ages: list[int] = []                                        # epochs since a prompt's question was asked
        self._fresh = 0                                                   # prompts whose question was never asked

    def _forget(self) -> None:
        self._turn, self._place = 0, 0                                    # the epoch, and the next place in it
        # Of each question: the epoch in which it may come again, its groups in a row of right answers only (of wrong
        # ones: negative), and the epoch in which it was asked last (-1: never).
        self._due, self._streak = np.zeros((2, self.size), np.int64)
        self._asked = np.full(self.size, -1)
        self._open: dict[int, tuple[int, int]] = {}                       # prompt index -> (question, epoch)

    def _next(self) -> int:
        while True:
            if self._place == self.size:
                # Where every question rests, the epochs without any are passed over.
                self._turn, self._place = max(self._turn + 1, int(self._due.min())), 0
            question = self._place_of(self._turn, self._place)
            self._place += 1
            if self._due[question] <= self._turn:
                break
        if self._asked[question] < 0:
            self._fresh += 1
        else:
            self._ages.append(int(self._turn - self._asked[question]))
        self._asked[question] = self._turn
        self._open[self._index] = question, self._turn
        return question

    def observe(self, groups: Iterable[Group]) -> None:
        """Notes the groups of prompts that were taken, each once. A group without a reward counts as one of right and
        wrong answers."""
        for group in groups:
            question, asked = self._open.pop(group.prompt.index, (None, 0))
            if question is None:
                # It was asked by the stream that this run was forked from.
                continue
            streak = 0
            if len(group.rewards) and not group.has_signal:
                before = int(self._streak[question])
                streak = max(before, 0) + 1 if group.accuracy >= 0.5 else min(before, 0) - 1
            self._streak[question], self._due[question] = streak, asked + rest_of(streak)

    def metrics(self) -> dict[str, float]:
        """Age and novelty of the prompts taken since the last call, and how many questions rest now."""
        ages, fresh = self._ages, self._fresh
        self._ages, self._fresh = [], 0
        found = {"prompts/new_share": fresh / max(fresh + len(ages), 1),
                 "prompts/resting_share": float((self._due > self._turn + 1).mean())}
        return found | ({"prompts/age": float(np.mean(ages))} if ages else {})

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "questions": self.digest(), "epoch": self._turn, "place": self._place, "due": self._due.tolist(),
            "streak": self._streak.tolist(), "asked": self._asked.tolist(),
            "open": [[index, *asked] for index, asked in self._open.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        """As `PromptStream.restore`. A state of other questions, or of another order (a run that was forked), says
        nothing of these: then no question rests, and a new epoch begins."""
        super().restore(state)
        self._forget()
        if state.get("questions") != self.digest():
            self._turn = -(-self._index // self.size)
            return
        self._turn, self._place = state["epoch"], state["place"]
        self._due, self._streak, self._asked = (np.array(state[name]) for name in ("due", "streak", "asked"))
        self._open = {index: (question, epoch) for index, question, epoch in state.get("open", ())}


STREAMS: dict[str, type[PromptStream]] = {"permutation": PromptStream, "accuracy": AccuracyStream}
"""The streams by `data.order`."""
