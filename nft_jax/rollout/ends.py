"""Where answers end: at an id, or at the first token that completes a string. And what is said of it at the start."""
from collections.abc import Iterator

import numpy as np

from nft_jax.config import DecodingConfig
from nft_jax.data.prompts import turn_end


class Ends:
    """ids: every id that ends an answer. They are `eos`, the stop_token_ids of `decoding`, and its stop strings that
    are one added token, such as <|im_end|>.

    Without a tokenizer, a program may be compiled, but nothing sampled. Raises InputError for an id that the model
    lacks."""

    def __init__(self, tokenizer, eos: tuple[int, ...], decoding: DecodingConfig, vocab_size: int):
        decoding.require(all(i < vocab_size for i in decoding.stop_token_ids), "stop_token_ids",
                         f"the model has the ids 0 to {vocab_size - 1}.")
        self.tokenizer, self.stop, self.prefix = tokenizer, decoding.stop, decoding.prefix
        # Another string that is one token may stand inside other tokens too, and it belongs to the answer's text.
        added = tokenizer.get_added_vocab() if self.stop and tokenizer is not None else {}
        self.ids = tuple(dict.fromkeys((*eos, *decoding.stop_token_ids,
                                        *(added[text] for text in self.stop if text in added))))
        # A stop string stands in at most so many tokens: a token has a byte or more. 16 are to spare.
        self.reach = max((len(text.encode()) for text in self.stop), default=0) + 16

    def told(self) -> Iterator[str]:
        """Lines for the user: what ends an answer, and that the end of the template's turns does not."""
        known = self._decode([[i] for i in self.ids])
        strings = [repr(text) for text in self.stop if text not in known]
        yield f"answers end with: {', '.join([*map(self._named, sorted(self.ids)), *strings]) or 'nothing'}"
        end = turn_end(self.tokenizer)
        if end not in (None, *self.ids):
            flag = "--stop-token-ids" if self.prefix == "--" else f"--{self.prefix}stop-token-ids"
            yield (f"the chat template ends a turn with {self._named(end)}, which ends no answer: add {flag} {end}, "
                   "unless answers are meant to go on")

    def _named(self, i: int) -> str:
        return f"{self._decode([[i]])[0]!r} ({i})"

    def _decode(self, sequences: list) -> list[str]:
        return self.tokenizer.batch_decode(sequences, skip_special_tokens=False, clean_up_tokenization_spaces=False) \
            if sequences else []

    def texts(self, sequences: list[np.ndarray]) -> list[str]:
        """The texts of answers, without the id that ended them. Every other special token stays: it may be </think>."""
        return self._decode([tokens[:-1] if len(tokens) and tokens[-1] in self.ids else tokens for tokens in sequences])

    def find(self, tokens: np.ndarray, before: np.ndarray, count: np.ndarray, owner) -> np.ndarray:
        """[S] bool: the slots of `owner` that ended by an id or a string.

        tokens [S, N]; before [S] and count [S]: the tokens of each slot before this block, and with it. Where a
        string ended an answer, `count` is set back in place, to the token that completed the string."""
        if self.stop:
            # Only where the tail of an answer holds a stop string is the whole answer decoded.
            fresh = [slot for slot in owner if count[slot] > before[slot]]
            tails = self._decode([tokens[slot, max(before[slot] - self.reach, 0):count[slot]] for slot in fresh])
            hits = {slot for slot, tail in zip(fresh, tails, strict=True)
                    if any(stop in tail for stop in self.stop)}
            hits = {slot for slot in hits if self._complete(tokens[slot, :count[slot]])}
        else:
            hits = set()
        for slot in hits:
            # The text grows with every token, so bisection finds the first that completes the string.
            low, high = before[slot], count[slot]
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self._complete(tokens[slot, :middle]) else (middle, high)
            count[slot] = high
        stopped = np.isin(tokens[np.arange(len(count)), np.maximum(count - 1, 0)], self.ids) & (count > 0)
        stopped[list(hits)] = True
        return stopped

    def _complete(self, tokens: np.ndarray) -> bool:
        text, = self._decode([tokens])
        return any(stop in text for stop in self.stop)
