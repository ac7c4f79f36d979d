"""The resumable stream of prompts: questions in a seeded order, without end."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from nft_jax.data.prompts import Question
from nft_jax.types import InputError, Prompt


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
        self._questions, self._seed = questions, seed
        self._index, self._epoch, self._order = 0, -1, np.zeros(0, np.int64)

    def _question(self, index: int) -> Question:
        epoch, place = divmod(index, len(self._questions))
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed % 2**63, epoch])
            self._epoch, self._order = epoch, generator.permutation(len(self._questions))
        return self._questions[self._order[place]]

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts. Their indices continue from the last call's."""
        start, self._index = self._index, self._index + count
        return [self._question(index).prompt(index) for index in range(start, self._index)]

    @property
    def first(self) -> Prompt:
        """The prompt at index 0, wherever the stream stands."""
        return self._question(0).prompt(0)

    @property
    def size(self) -> int:
        """The number of questions."""
        return len(self._questions)

    def digest(self) -> str:
        """Streams with equal digests and seeds give the same prompts."""
        return digest(self._questions)

    def state(self) -> dict[str, int]:
        return {"index": self._index}

    def restore(self, state: dict[str, int]) -> None:
        """Continue exactly where `state` was taken. Raises InputError for a negative index."""
        if state["index"] < 0:
            raise InputError(f"the prompt stream's index is {state['index']}: it must be 0 or more.")
        self._index = int(state["index"])
