"""From a row of stored answers to an answer with token ids, and a report on every row.

Given ids stay as they are. A question is rendered and tokenised as those of data.source are. An answer of text is
tokenised once, with the end-of-sequence token where it ended."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from nft_jax.config import Config
from nft_jax.data.prompts import LONGEST_DETAIL, render, token_ids, turn_end
from nft_jax.data.questions import Unusable, gold_reader, half_pair, read_question
from nft_jax.rollout.ends import Ends
from nft_jax.rollout.stored_rows import NAMES, Place
from nft_jax.types import OUTCOMES, InputError, Prompt, Rollout, Verdict
from nft_jax.verify.maths.judge import verdict as verdict_of

ROUNDING = 1e-4         # log-probs so far above 0 are rounding
CHECKED = 256           # answers whose ids are compared with their text
PI_OLD = {"sampler": ("old_logprobs", "logprobs"), "truncated": ("truncated_logprobs",), "trainer": ()}
"""rollout.old_logprobs -> the columns of its stored log-probs; the first with a value counts."""


@dataclass(frozen=True)
class StoredAnswer:
    """One usable answer. verdict: None: it has a gold, to be judged by. old: [n] float32, the stored log-probs that
    are pi_old; None: to be scored."""
    rollout: Rollout
    verdict: Verdict | None
    old: np.ndarray | None
    place: Place


@dataclass
class StoredReport:
    """How many rows were read, and what became of them."""
    source: str
    files: int = 0
    rows: int = 0                     # answers: a row of a server may have several
    used: int = 0
    groups: int = 0
    tokens: int = 0                   # of the used answers
    unjudged: int = 0                 # used answers without a reward: the verifier judges them
    tokenised: int = 0                # answers that came as text
    ended: int = 0                    # of these, answers that were given the end-of-sequence token
    unplaced: int = 0                 # answers whose log-probs have no token ids to stand at
    beyond: int = 0                   # answers that are too long for a row: they count in r alone
    alike: int = 0                    # answers equal to another of their group, which count as samples
    single: int = 0                   # groups of one answer
    skipped: list[dict[str, str]] = field(default_factory=list)     # row, reason, detail

    def skip(self, place: Place, unusable: Unusable) -> None:
        reason, detail = unusable.args
        self.skipped.append({"row": str(place), "reason": reason, "detail": detail[:LONGEST_DETAIL]})

    @property
    def counts(self) -> dict[str, int]:
        """Skipped rows by reason."""
        return dict(Counter(row["reason"] for row in self.skipped))

    def to_json(self) -> dict:
        return asdict(self) | {"counts": self.counts}

    def __str__(self) -> str:
        parts = [f"{self.used:,} answers in {self.groups:,} groups from {self.rows:,} answers of {self.source} "
                 f"({self.files} file{'s' * (self.files > 1)})"]
        for count, what in (
                (self.unjudged, "have a gold and no reward: the verifier judges them"),
                (self.tokenised, f"came as text and were tokenised, {self.ended:,} with the end-of-sequence token"),
                (self.unplaced, "have log-probs without token ids, which are not used"),
                (self.beyond, "are longer than rollout.max_new_tokens: they count in the group accuracy alone"),
                (self.alike, "equal another of their group, and count as samples of their own"),
                (self.single, "are alone in their group")):
            if count:
                parts.append(f"{count:,} {what}")
        parts += [f"{count:,} skipped: {reason.replace('_', ' ')}" for reason, count in self.counts.items()]
        return ", ".join(parts)


class Reader:
    """Makes answers of rows, for a tokenizer and the settings of a run."""

    def __init__(self, config: Config, tokenizer, eos: Sequence[int], vocabulary: int):
        self.config, self.tokenizer, self.vocabulary = config, tokenizer, vocabulary
        self.ends = Ends(tokenizer, tuple(eos), config.rollout, vocabulary)
        self.end = next(i for i in (turn_end(tokenizer), tokenizer.eos_token_id, *eos) if i in eos)
        self.golds = gold_reader(config.verifier.reward)
        self.report = StoredReport(config.rollout.answers)
        self.prompts: dict[str, Prompt] = {}             # by what their rows say of them
        self.checked = self.strange = 0
        self.first_strange = ""

    def answer(self, place: Place, row: dict) -> StoredAnswer:
        """The answer of a row with the names of NAMES. Raises Unusable."""
        verdict, gold = self.judged(row)
        prompt = replace(self.prompt(row), gold=gold)
        tokens, text, reason = self.response(place, row)
        numbers = {name: _numbers(row, name, len(tokens)) for name in
                   ("logprobs", "old_logprobs", "truncated_logprobs", "entropies")}
        if row["response_tokens"] is None and len(numbers["logprobs"]):
            self.report.unplaced += 1
            numbers = dict.fromkeys(numbers, np.zeros(0, np.float32))
        mask = _mask(row, len(tokens))
        for name in ("logprobs", "old_logprobs", "truncated_logprobs"):
            numbers[name] = _checked(name, numbers[name], mask)
        old = next((numbers[name] for name in PI_OLD[self.config.rollout.old_logprobs] if len(numbers[name])), None)
        if len(tokens) > self.config.rollout.max_new_tokens:
            self.report.beyond += 1
            mask = np.zeros(len(tokens), bool)
        return StoredAnswer(Rollout(prompt, 0, text, tokens, numbers["logprobs"], numbers["truncated_logprobs"],
                                    numbers["entropies"], reason, mask), verdict, old, place)

    def judged(self, row: dict) -> tuple[Verdict | None, str]:
        """The verdict of a row with a reward, and its gold ("" where a row with a reward has none)."""
        reward, gold = row["reward"], row["gold"]
        try:
            gold = gold if isinstance(gold, str) and gold.strip() else self.golds(row)
        except Unusable as unusable:
            if reward is None:
                reason, detail = unusable.args
                raise Unusable(reason, f"it has no reward, and {detail}") from unusable
            gold = ""
        if reward is None:
            return None, gold
        if not isinstance(reward, bool | int | float) or not 0 <= reward <= 1:
            raise Unusable("bad_reward", f"reward is {reward!r}: it must be a number from 0 to 1")
        extracted, reason = (value if isinstance(value, str) else "" for value in (row["extracted"], row["reason"]))
        found = verdict_of("right", extracted or None, reason, float(reward))
        outcome = row["outcome"]
        known = outcome in OUTCOMES and outcome != "error" and (outcome == "right") == (found.outcome == "right")
        return replace(found, outcome=outcome) if known else found, gold

    def prompt(self, row: dict) -> Prompt:
        """The prompt of a row: its ids, or its question rendered like those of data.source. Raises Unusable."""
        ids, asked, raw = row["prompt_tokens"], row["prompt"], row.get("raw_prompt")
        key = json.dumps([ids, asked, raw, row["problem"]], default=repr)
        if key not in self.prompts:
            self.prompts[key] = self._prompt(row, ids, asked, raw)
        return self.prompts[key]

    def _prompt(self, row: dict, ids: Any, asked: Any, raw: str | None) -> Prompt:
        data, question = self.config.data, ""
        if ids is not None:
            tokens = self.ids(ids, "prompt_tokens")
            text = self.text(tokens)
            # Our tables have the text of the prompt beside the question.
            if isinstance(asked, str) and row["problem"] not in (None, asked):
                text = asked
        elif raw is not None:
            text, tokens = raw, token_ids(self.tokenizer, [raw], raw=True)[0]
        elif asked is None:
            raise Unusable("no_prompt", f"no value in prompt_tokens, {', '.join(NAMES['prompt'])}")
        else:
            question = read_question({"prompt": asked})
            try:
                text = render(self.tokenizer, question, template=data.template, system=data.system,
                              thinking=data.thinking, date=data.date)
            except InputError as error:
                raise Unusable("bad_chat", str(error)) from error
            if broken := half_pair(text):
                raise Unusable("unreadable", broken)
            tokens = token_ids(self.tokenizer, [text], raw=self.tokenizer.chat_template is None)[0]
        if len(tokens) > data.max_prompt_tokens:
            raise Unusable("too_long", f"a prompt of {len(tokens)} tokens; data.max_prompt_tokens is "
                                       f"{data.max_prompt_tokens}")
        return Prompt(0, _problem(row, text), "", text, np.asarray(tokens, np.int32))

    def response(self, place: Place, row: dict) -> tuple[np.ndarray, str, str]:
        """Ids, text and finish_reason of a row's answer. Raises Unusable."""
        ids, text, reason = row["response_tokens"], row["response"], row["finish_reason"]
        if text is not None and not isinstance(text, str):
            raise Unusable("no_response", f"the response is of type {type(text).__name__}, not text")
        if ids is not None:
            tokens = self.ids(ids, "response_tokens")
            ended = tokens[-1] in self.ends.ids if reason is None else reason != "length"
            decoded = self.text(tokens)
            self.compare(place, tokens, decoded, text)
            return tokens, decoded, "stop" if ended else "length"
        if not text:
            raise Unusable("no_response", f"no value in {', '.join(NAMES['response_tokens'] + NAMES['response'])}")
        if broken := half_pair(text):
            raise Unusable("unreadable", broken)
        tokens, ended = self.tokenizer(text, add_special_tokens=False)["input_ids"], reason != "length"
        self.report.tokenised += 1
        if ended and not (tokens and tokens[-1] in self.ends.ids):
            tokens.append(self.end)
            self.report.ended += 1
        return np.asarray(tokens, np.int32), text, "stop" if ended else "length"

    def text(self, tokens: np.ndarray, plain: bool = False) -> str:
        """The text of ids, as `Ends.texts` has it; `plain`: without special tokens."""
        ids = tokens.tolist()
        # Not the tokenizer of transformers itself, which looks at every id in Python.
        return self.tokenizer.backend_tokenizer.decode(ids[:-1] if ids[-1] in self.ends.ids else ids,
                                                       skip_special_tokens=plain)

    def ids(self, value: Any, name: str) -> np.ndarray:
        """Token ids [n] int32. Raises Unusable for none, and for ids that the model lacks."""
        try:
            found = np.asarray(value)
        except (ValueError, OverflowError) as error:
            raise Unusable("bad_tokens", f"{name} is no list of ids ({error})") from error
        if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
            raise Unusable("bad_tokens", f"{name} is no list of ids")
        if found.min() < 0 or found.max() >= self.vocabulary:
            raise Unusable("bad_tokens", f"{name} has the id {found.max() if found.min() >= 0 else found.min()}; the "
                                         f"model has 0 to {self.vocabulary - 1}")
        return found.astype(np.int32)

    def compare(self, place: Place, tokens: np.ndarray, decoded: str, text: str | None) -> None:
        """Counts, among the first answers, texts that their ids do not say: another tokenizer made these."""
        if not text or self.checked >= CHECKED:
            return
        self.checked += 1
        # Servers cut stop strings and blanks off, and leave special tokens out. A reasoning parser leaves the end.
        if "�" not in decoded and not any(text.strip() in told for told in (decoded, self.text(tokens, plain=True))):
            self.strange += 1
            self.first_strange = self.first_strange or f"{place}: {decoded[:80]!r}, and its text is {text[:80]!r}"


def _problem(row: dict, text: str) -> str:
    """The question of a row, for the verifier and the report: without one, the text of the prompt."""
    for value in (row["problem"], row["prompt"]):
        # Of messages, the last.
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1].get("content")
        if isinstance(value, str):
            return value
    return text


def _numbers(row: dict, name: str, count: int) -> np.ndarray:
    """A number for each token, [n] float32 with nan for none; [0] where the row has none. Raises Unusable."""
    values = row[name]
    # An empty list is what tables of runs have for none.
    if values is None or (isinstance(values, list) and not values):
        return np.zeros(0, np.float32)
    try:
        found = np.array(values, np.float32)
    except (TypeError, ValueError) as error:
        raise Unusable("bad_logprobs", f"{name} is no list of numbers ({error})") from error
    if found.shape != (count,) and row["response_tokens"] is not None:
        raise Unusable("bad_logprobs", f"{name} has {found.size} values for {count} tokens")
    return found


def _mask(row: dict, count: int) -> np.ndarray | None:
    """The tokens that are trained on, [n] bool. Raises Unusable."""
    values = row["mask"]
    if values is None:
        return None
    if row["response_tokens"] is None:
        raise Unusable("bad_mask", "a mask needs the ids that it masks: give response_tokens")
    if not isinstance(values, list) or len(values) != count or any(value not in (0, 1) for value in values):
        raise Unusable("bad_mask", f"mask must have a 0 or 1 for each of the {count} tokens")
    return np.array(values, bool)


def _checked(name: str, values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The log-probs with 0 where nothing is trained on. Raises Unusable for a trained token without a log-prob."""
    if not len(values):
        return values
    values = values if mask is None else np.where(mask, values, 0).astype(np.float32)
    for told, wrong in ((np.isfinite(values), "finite"), (values <= ROUNDING, "0 or less")):
        if not told.all():
            place = int(np.argmin(told))
            raise Unusable("bad_logprobs", f"{name} is {values[place]} at token {place + 1}: it must be {wrong}")
    return values
